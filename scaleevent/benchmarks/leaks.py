"""Who has seen test recordings: data for pretraining, and what encoders say of themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from scaleevent.datasets.held_out import SCORED, Tests, listed, scored_recordings
from scaleevent.encoders.provenance import AUTHORS, AUTHORS_RECORDINGS, UNKNOWN
from scaleevent.errors import ConfigError
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import Json
from scaleevent.system.reports import say

OWN_NAMES = "custom"  # the data set whose recordings are named by users


def check_pretraining(folders: Sequence[Path], allowed: bool, quiet: bool = False) -> Tests:
    """Refuse stores that hold test recordings of benchmarks, or give these for the record.

    Of users' own recordings a name may be that of another by chance: then it is only said.

    Args:
        folders: Pair stores.
        allowed: Whether test recordings were asked for.
        quiet: Say nothing.

    Raises:
        ConfigError: There are some, and they are not allowed.
        DataError: A store that cannot be read.
    """
    found: Tests = {}
    holders: list[str] = []
    for store in map(PairStore, folders):
        name = str(store.manifest["settings"].get("name", OWN_NAMES))
        own = name == OWN_NAMES
        tests = scored_recordings(None if own else name)
        names = set(store.recordings.tolist()) if len(store) else set()
        held = {recording: tests[recording] for recording in sorted(names & tests.keys())}
        if held and own and not quiet:
            say(
                f"warning: {store.where}: named like test recordings of benchmarks, which will "
                f"refuse the encoder: {listed(held)}"
            )
        mine = own_tests(store.manifest) if own else held
        if mine:
            found |= mine
            holders.append(store.where)
    if found and not allowed:
        raise ConfigError(
            "the data hold test recordings of benchmarks, which would refuse the encoder later",
            where=", ".join(holders),
            found=f"{len(found)} recordings: {listed(found)}",
            hint="name other stores, or prepare these again: what is prepared for pretraining now "
            "leaves them out; --transductive trains on them all the same, which is recorded",
        )
    return found


def own_tests(manifest: Json) -> Tests:
    """The recordings of a store of users' own labels that its split holds out."""
    split = (manifest.get("labels") or {}).get("split", {})
    return {name: [OWN_NAMES] for name, part in sorted(split.items()) if part in SCORED}


def leak_notes(data: Json) -> list[str]:
    """What a report says of test recordings in the `data` of a description, if there are any."""
    tests = data.get("transductive")
    return [f"transductive: pretrained on test recordings: {listed(tests)}"] if tests else []


def seen_with(history: Json, recordings: Collection[str]) -> Json:
    """The `history` of an encoder that was then pretrained on pairs of some recordings."""
    return history | {"recordings": sorted({*recordings, *history.get("recordings", ())})}


def task_history(description: Json) -> Json:
    """What the encoder of a task checkpoint was pretrained on, see `Encoder.history`.

    Files of earlier versions say nothing for encoders of other origins.
    """
    known: Json = description.get("pretraining") or {}
    source = (description.get("encoder") or {}).get("source")
    return known if known or source == "random" else {"provenance": UNKNOWN}


def provenance_notes(history: Json, tested: Collection[str]) -> list[str]:
    """What a report says where nobody recorded what an encoder has seen.

    Args:
        history: Of the encoder, see `Encoder.history`.
        tested: The benchmark's test recordings.
    """
    known = history.get("provenance")
    if known is None:
        return []
    note = f"pretraining data: {known}"
    if known == AUTHORS:
        here = len(AUTHORS_RECORDINGS.intersection(tested))
        return [f"{note} ({here} of {len(tested)} test recordings here)"]
    return [f"{note}, so is whether they hold test recordings"]
