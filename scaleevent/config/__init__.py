"""Settings of the commands: flags, YAML keys and run record in one."""
