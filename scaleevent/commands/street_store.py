"""The embedded `street` data as a store in the cache folder, made on first use."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from scaleevent.config.catalog import EMBEDDED
from scaleevent.config.data import PrepareConfig
from scaleevent.errors import DataError, InUseError, StoppedError
from scaleevent.pairs.store import PairStore, verify_shards
from scaleevent.system.files import MARKER, Json, fingerprint, write_bytes
from scaleevent.system.launchers import first_of_run
from scaleevent.system.locations import MANIFEST, cache_folder
from scaleevent.system.reports import say
from scaleevent.system.signals import forget_claim

SCENES = 2000  # 400 of them held out by the preset `demo`, which fit and score its probes
POLL_SECONDS = 0.5
IDLE_SECONDS = 120.0
SOURCES = ("street/*.py", "simulation/*.py", "pairs/store.py", "datasets/street.py")


def street_store(size: tuple[int, int], quiet: bool = False, settings: Json | None = None) -> Path:
    """Folder of a pair store of `street`, prepared unless it is there undamaged.

    Larger than 480x640 is rendered at 480x640. `settings` are unusual ones of `prepare street`.
    Several processes may ask for it at once: one renders, the others wait for it.
    """
    height, width = min(size[0], 480), min(size[1], 640)
    package = Path(__file__).parent.parent
    code = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in SOURCES
        for path in sorted(package.glob(pattern))
    ]
    chosen: Json = {"scenes": SCENES} | (settings or {})
    digest = fingerprint([*code, *sorted(chosen.items())])
    folder = cache_folder() / f"street-{height}x{width}-{digest}"
    cfg = PrepareConfig(
        name=EMBEDDED, out=folder, size=(height, width), jobs=os.cpu_count() or 1, resume=True,
        **chosen,
    )  # fmt: skip
    if first_of_run():
        try:
            _render(cfg, quiet)
        except StoppedError as stop:
            stop.hint = "the same command goes on from there"
            raise
        forget_claim(folder)  # a cache, not an output of the command itself
    return folder


def _render(cfg: PrepareConfig, quiet: bool) -> None:
    """Prepare the store unless it is whole, or wait until another process has done so.

    One on another host cannot be seen: it counts as dead when it has written nothing for a while.
    """
    from scaleevent.commands import prepare

    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told and not quiet:
            say(f"{line}: {cfg.out}")
        told.add(line)

    written, since = _sizes(cfg.out), time.monotonic()
    while (damage := _damage(cfg.out)) is not None:
        if damage:
            tell(f"the cached street was damaged ({damage}), rendered again")
            write_bytes(cfg.out / MARKER, f"{cfg.KIND}\n".encode())
        else:
            tell("street for this command is rendered once and kept ($SCALEEVENT_CACHE moves it)")
        idle = time.monotonic() - since > IDLE_SECONDS
        try:
            prepare.run(cfg.model_copy(update={"take_over": idle}), quiet)
            return
        except InUseError as error:
            tell(f"waiting for {error.found}, which renders the street")
        time.sleep(POLL_SECONDS)
        if (now := _sizes(cfg.out)) != written:
            written, since = now, time.monotonic()


def _damage(folder: Path) -> str | None:
    """What is wrong with a store; nothing ("") if it is not there, None if it is whole."""
    if not (folder / MANIFEST).exists():
        return ""
    try:
        verify_shards(PairStore(folder))
    except DataError as error:
        return error.what
    return None


def _sizes(folder: Path) -> set[tuple[str, int]]:
    """What a folder holds, which changes while somebody writes there."""
    found = set()
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_size))
    return found
