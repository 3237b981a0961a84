"""What every stage stands on: files, signals, memory, ranks, reports."""
