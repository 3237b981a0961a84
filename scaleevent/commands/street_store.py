"""The embedded `street` data as a store in the cache folder, made on first use."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from scaleevent.config.catalog import EMBEDDED
from scaleevent.config.data import PrepareConfig
from scaleevent.pairs.manifest import MANIFEST
from scaleevent.system.files import Json, fingerprint
from scaleevent.system.locations import cache_folder

SCENES = 1250
SOURCES = ("street/*.py", "simulation/*.py", "pairs/store.py", "datasets/street.py")


def street_store(size: tuple[int, int], quiet: bool = False, settings: Json | None = None) -> Path:
    """Folder of a pair store of `street`, prepared unless it is there.

    Larger than 480x640 is rendered at 480x640. `settings` are unusual ones of `prepare street`.
    """
    from scaleevent.commands import prepare

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
    if not (folder / MANIFEST).exists():
        chosen |= {"out": folder, "size": (height, width), "jobs": os.cpu_count() or 1}
        prepare.run(PrepareConfig(name=EMBEDDED, resume=True, **chosen), quiet)
    return folder
