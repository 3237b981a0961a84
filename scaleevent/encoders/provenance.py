"""What an encoder was pretrained on, where its file does not say so itself."""

from __future__ import annotations

from scaleevent.system.files import Json

UNKNOWN = "unknown"
AUTHORS = "authors' encoder, which of two is unknown; their lists hold 13_a, 14_c, 15_a and dir1"
"""zhiwen-xdu/ScaleEvent fine-tunes on DSEC and on DDD17 from two encoders (DINO21 and DINO20:
scale_event/downstream/transfer_*_eomt.py), and publishes one of each size."""

AUTHORS_RECORDINGS = frozenset({
    *("dir1", "outdoor_day1", "thun_00_a", "thun_01_a", "thun_01_b"),
    *("interlaken_00_a", "interlaken_00_b", "interlaken_00_f", "interlaken_00_g"),
    *(
        f"zurich_city_{name}"
        for name in "05_a 05_b 06_a 07_a 08_a 11_b 13_a 13_b 14_a 14_b 14_c 15_a".split()
    ),
})  # fmt: skip
"""Those of their pretraining that test benchmarks here, from zhiwen-xdu/ScaleEvent:
scale_event/dataset/data_specs/{dsec,ddd17,mvsec}.txt."""

_AUTHORS_NAME = "event_encoder"  # in the names of scale_event/pretrain/pretrain_ddp.py's files


def history_of(prefix: str) -> Json:
    """Of a file of another origin, whose names of the encoder's tensors begin with `prefix`."""
    authors = _AUTHORS_NAME in prefix.split(".")
    return {"provenance": AUTHORS if authors else UNKNOWN}


def history_in(data: Json | None) -> Json:
    """Of a file of ours, from the `data` in its description."""
    known: Json = {}
    for key in ("recordings", "provenance"):
        if data and key in data:
            known[key] = data[key]
    return known or {"provenance": UNKNOWN}
