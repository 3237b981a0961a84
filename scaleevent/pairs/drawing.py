"""Pairs as pictures: what each is called, its frame, and a sheet of some pairs of a store."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scaleevent.legends import drawn_keys, hatch_legends
from scaleevent.pairs.alignment import measure, scenes_of_store, spread
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.panels import Row, panel
from scaleevent.pictures import brightened, draw_events, draw_voxel, hatched, overlay_events

ROWS = 4
TALL = 260
LATEST_US = 5_000  # before the image: events that are drawn over it


def pair_name(shard: Shard, row: int) -> str:
    """Recording, time and window of a pair, for people."""
    recording = shard.recording_of_pairs()[row]
    start, end = shard.row("before/window_us", row).tolist()
    at = int(shard.row("image_us", row)) / 1e6
    return f"{recording}, at {at:.3f} s, {(end - start) / 1000:.1f} ms of events before it"


def frame_of(shard: Shard, row: int) -> tuple[np.ndarray | None, str]:
    """(H, W, 3) uint8 frame of a pair, dark ones brightened and words that say so; None: none."""
    encoded = shard.image(row)
    return brightened(decode_image(encoded, shard.path)) if encoded else (None, "")


def draw_pairs(store: PairStore) -> tuple[Image.Image, list[str]]:
    """A sheet of some pairs, evenly spaced, and what is to be said of it.

    Events over the image with the measured best shift; alone in a store without images. What the
    image does not show is hatched.
    """
    voxels = store.manifest["kind"] == "voxels"
    columns = ("image", "all events", f"the last {LATEST_US // 1000} ms over the image")
    rows, notes = [], []
    pictures = False
    masks: list[np.ndarray | None] = []
    for number in spread(len(store), ROWS):
        shard, row = store.locate(number)
        frame, lifted = frame_of(shard, row)
        fits = frame is not None and frame.shape[:2] == shard.sensor(row)
        masks.append(shard.valid(row) if fits else None)
        image = None if frame is None else hatched(frame, masks[-1])
        name = f"pair {number + 1:,} of {len(store):,}: {pair_name(shard, row)}{lifted}"
        if voxels:
            rows.append(Row(name, (image, draw_voxel(shard.stored_voxel(row)), None)))
            continue
        if (drawn := shard.picture(row)) is not None:
            rows.append(Row(name, (image, decode_image(drawn.voxel), decode_image(drawn.shown))))
            pictures = True
            continue
        events, window = shard.events(row)
        latest = events.between(window.end_us - LATEST_US, None)
        over = None
        if frame is not None and fits:
            over = overlay_events(hatched(frame // 2, masks[-1]), latest)
        rows.append(Row(f"{name}, {len(events):,} events", (image, draw_events(events), over)))
    if not store.image_bytes.any():
        notes.append("no images in this store: events alone, and no shift to measure")
    elif pictures:
        columns = ("image", "picture in place of events", "where it shows events")
        notes.append("pictures in place of events: no shift to measure")
    elif voxels:
        notes.append("voxels in this store, not events: no shift to measure")
    else:
        notes.append(measure(scenes_of_store(store)).describe())
    title = f"{store.folder.resolve().name}: {notes[0]}"
    return panel(title, columns, rows, TALL, drawn_keys(*hatch_legends(masks))), notes
