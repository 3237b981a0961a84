"""From events in time to the numbers a network sees."""
