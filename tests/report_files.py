"""Small run folders as the commands leave them, for the tests of `report`."""

import json

import numpy as np
import yaml
from PIL import Image

from scaleevent.system.files import MARKER, append_json_line


def write_run(folder, command="pretrain", *, kind="run", rows=None, log=(), pictures=(),
              finished=True, origins=None, facts=None, title="a title", notes=("a note",),
              **settings):  # fmt: skip
    """A run with these settings, table rows, log records and pictures (names)."""
    folder.mkdir(parents=True)
    (folder / MARKER).write_text(f"{kind}\n")
    (folder / "config.yaml").write_text(yaml.safe_dump({"out": str(folder), **settings}))
    if origins is not None:
        (folder / "origins.json").write_text(json.dumps(origins))
    for record in log:
        append_json_line(folder / "log.jsonl", record)
    for name in pictures:
        Image.fromarray(np.full((20, 900, 3), 120, np.uint8)).save(folder / name)
    if finished:
        report = {"schema": f"scaleevent.{command}/1", "version": "0.1.0", "title": title,
                  "rows": rows or [], "notes": list(notes), **(facts or {})}  # fmt: skip
        (folder / "report.json").write_text(json.dumps(report))
    return folder


def pretraining(folder, seed=0, lr=1e-4, loss=1.0, **more):
    """A finished pretraining; `loss` is the number that it ends with."""
    log = [{"step": 0, "epoch": 0, "val_loss": 2.0}]
    log += [{"step": k, "loss": 2.0 - k / 10, "l1": 0.1 * k, "lr": lr} for k in range(1, 9)]
    log.append({"step": 8, "epoch": 1, "val_loss": loss})
    named = {"held-out loss": (2.0, loss), "probe mIoU": (10.0, 20.0 + 2 * loss)}
    rows = [{"on held-out pairs": name, "before": before, "after": after}
            for name, (before, after) in named.items()]  # fmt: skip
    made = {"rows": rows, "log": log, "pictures": ["panel.png"]} | more
    return write_run(folder, objective="scaleevent", arch="tiny", epochs=1, lr=lr, seed=seed,
                     world_seed=None, **made)  # fmt: skip


def probing(folder, checkpoint, miou=30.0, seed=0, **more):
    """A finished probe of the classes sky and road."""
    rows = [{"": "ours, all classes", "miou": miou, "acc": 50.0},
            {"": "place only", "miou": 9.0, "acc": 31.0},
            {"": "Paper, as published", "miou": 60.0, "acc": None}]  # fmt: skip
    facts = {
        "benchmark": "street-semantic",
        "metrics": {"miou": miou, "acc": 50.0, "pixels": 1234567,
                    "iou sky": 40.0, "iou road": 20.0},
        "intervals": {"of": "miou", "covers": "95%", "ours": [miou - 1, miou + 1],
                      "place only": [8.0, 10.0]},
    }  # fmt: skip
    return write_run(folder, "probe", rows=rows, facts=facts, benchmark="street-semantic",
                     checkpoint=str(checkpoint), seed=seed, **more)  # fmt: skip
