"""One module a command, each with `run(settings, quiet) -> Report`."""
