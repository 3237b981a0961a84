"""Imported first by the process that forks loader workers: it ends with its parent."""

import sys

from scaleevent.system.platform import end_with_starter

if sys.argv[0] == "-c":  # as multiprocessing starts it
    end_with_starter()
