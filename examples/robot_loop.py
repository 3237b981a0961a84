"""A robot's loop with numpy and onnxruntime alone: events in, an output a tick, no ScaleEvent.

    scaleevent export runs/mine --format onnx -o deploy
    python robot_loop.py deploy/encoder.onnx recording.npz --size 480x640 --rate 20 --ms 50

How the input is made stands in the model file. A tick looks at the last --ms milliseconds (flow:
also at as many that follow), by default those that the model was trained with. A recording has
columns t (microseconds, ascending), x, y, p; the driver of a camera would fill the same arrays.
"""

import argparse
import json
import time

import numpy as np
import onnxruntime

UNIT = {  # normaliser: scale and shift that bring a grid to 0..1
    "none": lambda v: (1, 0),
    "minmax": lambda v: (1 / np.ptp(v), -v.min() / np.ptp(v)) if np.ptp(v) else (0, 0.5),
    "symmetric": lambda v: (0.5 / np.abs(v).max() if v.any() else 0, 0.5),
    "contrast": lambda v: (0.225 / np.sqrt((v[v != 0] ** 2).mean()) if v.any() else 0, 0.5),
}


def voxel(events, start, end, bins, rows, columns):
    """(B, H, W): each event of [start, end) in the two bins around its time; -1 for darker."""
    t, x, y, p = (each[slice(*np.searchsorted(events[0], [start, end]))] for each in events)
    place, size = (bins - 1) * (t - start) / (end - start), rows * columns
    low, sign = place.astype(int), np.where(p > 0, 1.0, -1.0)
    cell = low * size + y.astype(int) * columns + x
    grid = np.bincount(cell, sign * (1 - place + low), (bins + 1) * size)
    grid += np.bincount(cell + size, sign * (place - low), (bins + 1) * size)
    return grid.reshape(-1, rows, columns)[:bins]


def fitted(grid, own):
    """(B, H', W'): a centred box of the input's shape, in or (pad) around the sensor, scaled."""
    sizes, targets = np.array(grid.shape[1:]), np.array([own["height"], own["width"]])
    down, across = scales = targets / sizes
    box = sizes
    if abs(down / across - 1) > own["stretch"]:
        inside = np.rint(targets / (scales.min() if own["pad"] else scales.max())).astype(int)
        box = (np.maximum if own["pad"] else np.minimum)(sizes, np.maximum(inside, 1))
        if abs(targets[0] * box[1] / (targets[1] * box[0]) - 1) > 0.01:
            raise SystemExit(f"a sensor of {sizes} pixels does not fit {targets} unstretched")
    maps = []
    for size, length, target in zip(sizes, box, targets, strict=True):
        first, scale = (size - length) // 2, length / target
        pixels = np.arange(min(first, 0), max(first + length, size))  # without events beyond
        centres = first + (np.arange(target)[:, None] + 0.5) * scale
        near = np.maximum(1 - np.abs(pixels + 0.5 - centres) / max(scale, 1), 0)
        maps.append((near / near.sum(1, keepdims=True))[:, (pixels >= 0) & (pixels < size)])
    return maps[0] @ grid @ maps[1].T


def main():
    """Run a model over a recording at a rate, print the latency, keep the outputs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("recording")
    parser.add_argument("--size", default="480x640", help="rows x columns of the sensor")
    parser.add_argument("--rate", type=float, default=20, help="ticks a second")
    parser.add_argument("--ms", type=float, help="milliseconds a tick looks back")
    parser.add_argument("--out", default="outputs.npz")
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["scaleevent"])
    own, (rows, columns) = about["input"], map(int, args.size.split("x"))
    if own["normaliser"] not in UNIT:
        raise SystemExit(f"this loop lacks the normaliser {own['normaliser']}, has {list(UNIT)}")
    mean, std = (np.array(own[key])[:, None, None] for key in ("mean", "std"))
    rule = about["window"]  # others than `time` have no fixed duration
    span = int(1000 * (args.ms or 50))
    if not args.ms and rule["kind"] == "time":
        span = rule["duration_us"]
    data = np.load(args.recording)
    events = [data[name].astype(np.int64) for name in "txyp"]
    outputs, took = [], []
    shifts = {"voxel": 0, "after": span}  # of the window that each input shows
    ticks = np.arange(events[0][0] + span, events[0][-1] + 1, round(1e6 / args.rate))
    for at in ticks:
        began, feed = time.perf_counter(), {}
        for name in about["inputs"]:
            end = at + shifts[name]
            grid = fitted(voxel(events, end - span, end, own["bins"], rows, columns), own)
            scale, shift = UNIT[own["normaliser"]](grid)
            feed[name] = ((grid * scale + shift - mean) / std)[None].astype(np.float32)
        outputs.append(session.run(None, feed)[0][0])  # act on it here
        took.append(time.perf_counter() - began)
        time.sleep(max(0, 1 / args.rate - took[-1]))
    np.savez(args.out, at=ticks, output=np.stack(outputs))
    late, (median, p99) = np.mean(np.array(took) > 1 / args.rate), np.percentile(took, [50, 99])
    print(f"{len(took)} ticks: {1000 * median:.1f} ms, p99 {1000 * p99:.1f} ms, {late:.0%} late")


if __name__ == "__main__":
    main()
