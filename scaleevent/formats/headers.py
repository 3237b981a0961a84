"""Headers of marked text lines before binary data: Prophesee's "% key value", jAER's "#..."."""

from __future__ import annotations

import re

MAX_HEADER_BYTES = 1 << 22
"""Maximum size of a header: some recorders write all their settings into it."""

_ENDS = ("end", "end of ascii header", "!end-header")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f]")


def header_lines(head: bytes, mark: bytes) -> tuple[list[str], int]:
    """The lines that begin with a mark, and the position of the byte after the last of them.

    A header ends at a line such as "end", because the first data byte may look like a mark, and
    before a line that is not text.

    Args:
        head: First bytes of the file.
        mark: First bytes of every header line.

    Returns:
        The lines without marks and line ends, and the position where they end.
    """
    lines: list[str] = []
    at = 0
    while head.startswith(mark, at):
        end = head.find(b"\n", at)
        if end < 0:
            break
        line = head[at + len(mark) : end].rstrip(b"\r")
        if _CONTROL.search(line):
            break
        lines.append(line.decode("latin-1"))
        at = end + 1
        if lines[-1].strip().lower() in _ENDS:
            break
    return lines, at


def key_values(lines: list[str]) -> dict[str, str]:
    """Map the first word of each line to the rest of the line."""
    parts = (line.strip().partition(" ") for line in lines)
    return {key: value for key, _, value in parts}


def is_whole(head: bytes, mark: bytes) -> bool:
    """Whether more bytes after `head` would change nothing about what `header_lines` finds."""
    lines, at = header_lines(head, mark)
    rest = head[at:]
    if (lines and lines[-1].strip().lower() in _ENDS) or len(head) >= MAX_HEADER_BYTES:
        return True
    begins = rest[: len(mark)] == mark[: len(rest)]  # perhaps another line, perhaps half a mark
    return not begins or bool(_CONTROL.search(rest))
