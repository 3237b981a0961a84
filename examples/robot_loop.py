"""A robot's loop with numpy and onnxruntime alone: events in, the numbers of `predict` out.

Usage: python robot_loop.py deploy/encoder.onnx recording.npz 480x640 [MILLISECONDS_BACK]
"""

import json
import sys

import numpy as np
import onnxruntime

RANGE = {  # normaliser: middle and length of the values that become 0 to 1
    "none": lambda v: (0.5, 1),
    "minmax": lambda v: ((v.max() + v.min()) / 2, np.ptp(v)),
    "symmetric": lambda v: (0, 2 * np.abs(v).max()),
    "contrast": lambda v: (0, np.sqrt((v**2).sum() / max(np.count_nonzero(v), 1)) / 0.225),
}
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["scaleevent"])
own, rule, sensor = about["input"], about["window"], [int(n) for n in sys.argv[3].split("x")]
if sys.argv[4:]:  # instead of the windows that the model was trained on
    rule |= {"kind": "time", "duration_us": round(1000 * float(sys.argv[4]))}
if lacking := {rule["kind"], own["normaliser"]} - {"time", "count", *RANGE}:
    raise SystemExit(f"this loop has time, count, {', '.join(RANGE)}; it lacks {lacking}")
# rows and columns of the input as weighted means of those of a centred box of the sensor
targets, maps = np.array([own["height"], own["width"]]), []
scales = targets / sensor
if abs(scales[0] / scales[1] - 1) > own["stretch"]:
    scales[:] = min(scales) if own["pad"] else max(scales)
    down, across = np.rint(targets / scales) / targets
    if abs(across / down - 1) > 0.01:
        raise SystemExit(f"a sensor of {sensor} pixels does not fit {targets} unstretched")
for size, target, scale in zip(sensor, targets, scales, strict=True):
    length = round(target / scale)
    first = (size - length) // 2
    pixels = np.arange(min(first, 0), max(first + length, size))
    centres = first + (np.arange(target)[:, None] + 0.5) * length / target
    near = np.maximum(1 - np.abs(pixels + 0.5 - centres) * min(target / length, 1), 0)
    maps.append((near / near.sum(1, keepdims=True))[:, (pixels >= 0) & (pixels < size)])

# t in microseconds, ascending; p is 1 where it got brighter, else 0
t, x, y, p = (np.load(sys.argv[2])[name].astype(np.int64) for name in "txyp")
many = max(round(rule["events_per_pixel"] * sensor[0] * sensor[1]), 1)
outputs, feed, (mean, std) = {}, {}, (np.reshape(own[name], (3, 1, 1)) for name in ("mean", "std"))
for now in range(t[0] + 50_000, t[-1] + 1, 50_000):  # 20 times a second
    first = max(np.searchsorted(t, now) - many, 0)
    begin = t[first] if rule["kind"] == "count" else now - rule["duration_us"]
    spans = {"voxel": (begin, now), "after": (now, 2 * now - begin)}  # the latter for flow
    for name in about["inputs"]:
        start, end = spans[name]
        part = slice(*np.searchsorted(t, [start, end]))
        time = (own["bins"] - 1) * (t[part] - start) / max(end - start, 1)
        low, grid = time.astype(int), np.zeros((own["bins"] + 1, *sensor))
        share = (2 * p[part] - 1) * [1 - time + low, time - low]  # between two bins
        np.add.at(grid, (low + [[0], [1]], y[part], x[part]), share)
        grid = maps[0] @ grid[:-1] @ maps[1].T
        middle, length = RANGE[own["normaliser"]](grid)
        feed[name] = np.float32([((grid - middle) / (length or 1) + 0.5 - mean) / std])
    outputs[now] = session.run(None, feed)[0][0]  # act on it here
np.savez("outputs.npz", at=[*outputs], output=[*outputs.values()])
