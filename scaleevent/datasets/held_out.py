"""Test recordings: which ones benchmarks are scored on, and what pretraining leaves out for them.

Data sets of one family, named by the first word, hold the same recordings under the same names:
what `dsec-depth` is scored on lies among the sequences that `dsec` prepares for pretraining.
"""

from __future__ import annotations

from collections.abc import Collection

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import SourceConfig
from scaleevent.errors import ConfigError, DataError

SCORED = ("test", "validation")  # parts of a split that a benchmark may be scored on

Tests = dict[str, list[str]]  # recording: the data sets that hold it out, such as dsec-depth


def scored_recordings(data: str | None = None) -> Tests:
    """The test recordings among those of a data set of `prepare`, or of all where none is named."""
    found: Tests = {}
    for name, part in DATASETS.items():
        if data is None or name.partition("-")[0] == data.partition("-")[0]:
            for recording, split in getattr(part.load(), "SPLITS", {}).items():
                if split in SCORED:
                    found.setdefault(recording, []).append(name)
    return found


def leave_out(config: SourceConfig, found: Collection[str], any_family: bool = False) -> Tests:
    """Those of the wanted recordings that are left out of data for pretraining.

    Args:
        config: Which recordings were named, and whether test recordings are asked for.
        found: All that are wanted and there.
        any_family: Whether they may be of any data set, not only of the family of this one.

    Raises:
        ConfigError: One of them was named.
        DataError: None would be left.
    """
    tests = {} if config.transductive else scored_recordings(None if any_family else config.name)
    out = {name: tests[name] for name in sorted(found) if name in tests}
    hint = "--transductive takes them for pretraining all the same, which is recorded"
    if named := {name: why for name, why in out.items() if name in config.sequences}:
        raise ConfigError(
            "test recordings of benchmarks, which an encoder must not see before it is scored",
            where="--sequences", found=listed(named), hint=f"name others; {hint}",
        )  # fmt: skip
    if out and len(out) == len(found):
        raise DataError(
            "all recordings here are test recordings of benchmarks",
            where=", ".join(map(str, config.roots)), found=listed(out), hint=hint,
        )  # fmt: skip
    return out


def listed(tests: Tests) -> str:
    """Recordings with the data sets that hold them out, for people."""
    return ", ".join(f"{name} ({', '.join(why)})" for name, why in tests.items())
