"""The peak of a process's own memory, for code that runs in a child process."""

import re
from pathlib import Path


def peak_mib() -> float:
    """Most resident memory since this program began (`ru_maxrss` starts from the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
