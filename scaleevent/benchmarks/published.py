"""Published numbers of the benchmarks, to print beside ours.

From the ScaleEvent paper (arXiv 2603.03969), tables 1-4, 6 and 10-13, unless a row says otherwise.
Settings: `full` supervision, `1%` .. `20%` of the training samples, `probe`: a linear head on the
frozen encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaleevent.benchmarks.stamp import EVERY_LABEL_ONCE, UNKNOWN, Stamp

OURS = "ScaleEvent"  # the paper's own rows start with it
FRACTIONS = {0.01: "1%", 0.05: "5%", 0.1: "10%", 0.2: "20%", 1.0: "full"}


@dataclass(frozen=True)
class Published:
    """One row of a paper."""

    method: str  # name and backbone
    numbers: dict[str, float]  # by metric, named as our own
    setting: str = "full"  # supervision
    note: str = ""  # what makes it less comparable
    stamp: Stamp = UNKNOWN  # the protocol it was made under


_SEGMENTATION = ("miou", "acc")
_DEPTH = ("d1", "d2", "d3", "abs_rel", "rmse", "rmse_log")
# EPE of indoor_flying1, 2, 3; the mean of the three is ours to take
_FLYING = ("epe indoor_flying1", "epe indoor_flying2", "epe indoor_flying3")
_METRICS: dict[str, tuple[str, ...]] = {
    "dsec-semantic": _SEGMENTATION,
    "ddd17-seg": _SEGMENTATION,
    "dsec-depth": _DEPTH,
    "mvsec-depth": _DEPTH,
    "mvsec-flow": _FLYING,
}
_ZERO_SHOT = "zero-shot, trained on synthetic data"
_NOTES = {("dsec-depth", "EReFormer"): _ZERO_SHOT, ("dsec-depth", "E2Depth"): _ZERO_SHOT}

RELEASED_DRAW = "at random with replacement, a sequence and then one of its labels"
_IOU = ("mIoU of all classes over the whole set",)
_ZURICH = ("zurich_city_13_a", "zurich_city_14_c", "zurich_city_15_a")
# disparity maps of the test sequences without each one's first: Tesla-SHT/depthanyevent
_DSEC_DEPTH = {
    "interlaken_00_f": 745, "interlaken_00_g": 667, "thun_00_a": 119, "zurich_city_05_a": 876,
    "zurich_city_05_b": 814, "zurich_city_06_a": 761, "zurich_city_07_a": 731,
    "zurich_city_08_a": 393, "zurich_city_09_d": 849, "zurich_city_10_b": 1202,
}  # fmt: skip
# of the files that E2Depth's authors processed
_MVSEC_DEPTH = {
    "outdoor_day1": 5125, "outdoor_night1": 5111, "outdoor_night2": 5478, "outdoor_night3": 5411,
}  # fmt: skip


def _released(labels: Mapping[str, int], size: str) -> Stamp:
    """The authors' scripts; that the paper's numbers are theirs is inferred.

    zhiwen-xdu/ScaleEvent at 0fd5605: scale_event/dataset/{dsec,ddd17}_seg_eomt_test.py and their
    lists in data_specs, scale_event/downstream/transfer_*_eomt.py. The window's formula (CrossEI)
    is not public.
    """
    return Stamp(labels, "all", RELEASED_DRAW, size, size, _IOU)


# uzh-rpg/ess:DSEC/dataset/sequence.py, config/settings_DSEC.yaml
_ESS = Stamp(
    dict(zip(_ZURICH, (187, 593, 617), strict=True)), "ess", EVERY_LABEL_ONCE,
    "440x640", "440x640", _IOU, "the last 2,000,000 events",
)  # fmt: skip
# ldkong1205/OpenESS:DSEC/dataset/provider.py, sequence_ov.py: after the first six labels, every one
# up to the middle
_OPENESS = Stamp(
    _ESS.labels, "the first half of each sequence", EVERY_LABEL_ONCE, metric=_IOU,
    window="the last 2,000,000 events",
)  # fmt: skip
# uzh-rpg/ess:datasets/ddd17_events_loader.py
_DDD17 = Stamp({"dir1": 3890}, "all", EVERY_LABEL_ONCE, metric=_IOU)
# Tesla-SHT/depthanyevent:evaluation.py, dataset/; its other rows are from its tables 2 and 3
_DAE = Stamp(
    _DSEC_DEPTH, "all", EVERY_LABEL_ONCE, scored="320x640", metric=("dae",), window="time, 50 ms"
)
_E2DEPTH = Stamp(
    _MVSEC_DEPTH, "all", EVERY_LABEL_ONCE, scored="260x346", metric=("dae",), window="time, 50 ms"
)
# What is known of a method's protocol, by benchmark and first word of its name.
_STAMPS: dict[str, dict[str, Stamp]] = {
    "dsec-semantic": {
        OURS: _released(dict(zip(_ZURICH, (379, 1191, 1239), strict=True)), "672x960"),
        "ESS": _ESS, "ESS-Sup": _ESS, "OpenESS": _OPENESS, "OpenESS-E2VID": _OPENESS,
        # they take ESS's labels and events (ECDDP's loader); the sizes were not found
        "ECDDP": Stamp(
            _ESS.labels, "ess", EVERY_LABEL_ONCE, metric=_IOU, window=_ESS.window
        ),
    },
    "ddd17-seg": {
        OURS: _released({"dir1": 3571}, "416x704"),
        "ESS": _DDD17, "ESS-Sup": _DDD17, "OpenESS": _DDD17, "OpenESS-E2VID": _DDD17,
    },
    # of the paper's depth and flow no evaluation code is public; it names the number of samples
    "dsec-depth": {
        OURS: Stamp(7157, "all"),
        "DepthAnyEvent-R": _DAE, "E2Depth": _DAE, "EReFormer": _DAE,
    },
    "mvsec-depth": {"DepthAnyEvent-R": _E2DEPTH, "E2Depth": _E2DEPTH},
    "mvsec-flow": {
        OURS: Stamp(7775, "all, dt 1", metric=("sparse",), window="the span of the label"),
    },
}  # fmt: skip

# Full supervision, a value for each of `_METRICS`; None where a paper does not say.
_FULL: dict[str, dict[str, tuple[float | None, ...]]] = {
    "dsec-semantic": {
        "ScaleEvent ViT-S": (61.12, 90.76),
        "ScaleEvent ViT-B": (64.93, 92.00),
        "ScaleEvent ViT-L": (69.65, 93.10),
        "STP Swin-T": (62.05, None),
        "STP R50": (61.29, None),
        "ECDDP Swin-T": (61.25, None),
        "ECDP R50": (59.16, None),
        "KWYAF": (57.75, 90.87),
        "ESEG": (57.55, 91.47),
        "OpenESS-E2VID": (57.21, 90.21),
        "ECDDP ViT-S": (56.38, None),
        "FC-CLIP": (55.67, 89.97),
        "MaskCLIP": (55.01, 89.81),
        "HMNet-L1": (55.00, 89.80),
        "ESS-Sup": (53.29, 89.37),
        "HALSIE": (52.43, 89.01),
        "Ev-SegNet": (51.76, 88.61),
        "ESS": (45.38, 84.17),
        "E2VID": (44.08, 80.06),
    },
    "ddd17-seg": {
        "ScaleEvent ViT-S": (59.64, 91.39),
        "ScaleEvent ViT-B": (62.81, 92.21),
        "ScaleEvent ViT-L": (65.08, 92.62),
        "STP Swin-T": (63.29, None),
        "OpenESS-E2VID": (63.00, 91.05),
        "ECDDP Swin-T": (62.56, None),
        "KWYAF": (62.41, 91.32),
        "STP R50": (62.13, None),
        "FC-CLIP": (62.01, 90.68),
        "ESS-Sup": (61.37, 91.08),
        "MaskCLIP": (61.27, 90.50),
        "HALSIE": (60.66, 92.50),
        "ESEG": (59.97, 90.68),
        "ECDP R50": (59.15, None),
        "DTL": (58.80, None),
        "EVDistill": (58.02, None),
        "ECDDP ViT-S": (55.73, None),
        "Ev-SegNet": (54.81, 89.76),
        "EvSegformer": (54.41, 94.72),
        "PVT-FPN": (53.89, 94.28),
        "ESS": (53.09, 88.43),
        "E2VID": (48.47, 85.84),
    },
    "dsec-depth": {
        "ScaleEvent ViT-S": (0.824, 0.965, 0.993, 0.131, 4.564, 0.184),
        "ScaleEvent ViT-B": (0.872, 0.978, 0.996, 0.109, 4.032, 0.158),
        "ScaleEvent ViT-L": (0.896, 0.983, 0.997, 0.101, 3.694, 0.144),
        "DepthAnyEvent-R ViT-S": (0.691, 0.930, 0.981, 0.191, 8.880, 0.266),
        "ECDDP ViT-S": (0.545, 0.857, 0.959, 0.263, 9.477, 0.294),
        "ECDP ViT-S": (0.528, 0.818, 0.938, 0.324, 11.473, 0.376),
        "EReFormer": (0.524, 0.824, 0.945, 0.297, 11.608, 0.334),
        "E2Depth": (0.409, 0.719, 0.891, 0.395, 13.258, 0.412),
    },
    "mvsec-depth": {
        "ScaleEvent ViT-S": (0.577, 0.800, 0.914, 0.289, 6.145, 0.378),
        "ScaleEvent ViT-B": (0.594, 0.811, 0.922, 0.280, 5.891, 0.364),
        "ScaleEvent ViT-L": (0.625, 0.834, 0.934, 0.268, 5.554, 0.343),
        "DepthAnyEvent-R ViT-S": (0.489, 0.751, 0.878, 0.365, 6.465, 0.483),
        "ECDDP ViT-S": (0.513, 0.762, 0.871, 0.428, 6.957, 0.469),
        "E2Depth": (0.432, 0.717, 0.868, 0.420, 7.268, 0.455),
        "ECDP ViT-S": (0.476, 0.772, 0.863, 0.496, 7.680, 0.506),
        "EReFormer": (0.391, 0.652, 0.810, 0.551, 8.373, 0.523),
    },
    "mvsec-flow": {
        "ScaleEvent ViT-S": (0.29, 0.38, 0.40),
        "ScaleEvent ViT-B": (0.28, 0.38, 0.39),
        "ScaleEvent ViT-L": (0.27, 0.37, 0.39),
        "STP Swin-T": (0.31, 0.41, 0.43),
        "ECDDP Swin-T": (0.36, 0.45, 0.42),
        "ECDDP ViT-S": (0.51, 0.69, 0.61),
        "STP ViT-S": (0.58, 1.22, 0.93),
        "ECDP ViT-S": (0.61, 1.26, 1.00),
        "ECDP R50": (0.60, 1.35, 1.12),
        "DCEIFlow": (0.75, 1.39, 1.13),
        "EST": (1.24, 2.05, 1.71),
    },
}

# By benchmark and metric: probe, 1%, 5%, 10%, 20%.
_FEW: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("dsec-semantic", "miou"): {
        "ScaleEvent ViT-S": (55.46, 52.97, 56.55, 58.96, 60.20),
        "ScaleEvent ViT-B": (58.42, 54.37, 62.87, 63.88, 64.15),
        "ScaleEvent ViT-L": (61.29, 59.73, 68.03, 68.51, 69.25),
        "OpenESS": (44.26, 41.41, 44.97, 46.25, 48.28),
        "FC-CLIP": (43.00, 39.12, 43.71, 44.09, 47.77),
        "MaskCLIP": (33.08, 33.89, 37.03, 38.83, 42.40),
    },
    ("ddd17-seg", "miou"): {
        "ScaleEvent ViT-S": (55.64, 53.87, 54.36, 57.29, 58.37),
        "ScaleEvent ViT-B": (57.87, 57.23, 59.54, 61.45, 62.06),
        "ScaleEvent ViT-L": (60.30, 59.23, 62.52, 63.71, 64.43),
        "OpenESS": (55.61, 57.58, 59.07, 61.03, 61.78),
        "FC-CLIP": (54.07, 56.38, 58.50, 60.05, 60.85),
        "MaskCLIP": (31.91, 53.91, 56.27, 59.32, 59.97),
    },
    ("dsec-depth", "rmse"): {
        "ScaleEvent ViT-S": (4.861, 4.983, 4.751, 4.728, 4.694),
        "ScaleEvent ViT-B": (4.352, 4.471, 4.264, 4.192, 4.154),
        "ScaleEvent ViT-L": (3.857, 3.984, 3.841, 3.759, 3.723),
        "DepthAnyEvent-R": (10.584, 10.347, 9.898, 9.534, 9.065),
    },
    ("mvsec-depth", "rmse"): {
        "ScaleEvent ViT-S": (6.756, 6.930, 6.712, 6.477, 6.352),
        "ScaleEvent ViT-B": (6.392, 6.546, 6.339, 6.012, 5.908),
        "ScaleEvent ViT-L": (5.884, 5.975, 5.855, 5.724, 5.673),
        "DepthAnyEvent-R": (7.473, 7.542, 7.261, 6.794, 6.637),
    },
}


def _stamp(benchmark: str, method: str) -> Stamp:
    return _STAMPS[benchmark].get(method.split()[0], UNKNOWN)


def _rows(benchmark: str, keys: tuple[str, ...]) -> list[Published]:
    full = [
        Published(
            method,
            {key: value for key, value in zip(keys, row, strict=True) if value is not None},
            note=_NOTES.get((benchmark, method), ""),
            stamp=_stamp(benchmark, method),
        )
        for method, row in _FULL[benchmark].items()
    ]
    settings = ("probe", "1%", "5%", "10%", "20%")
    return full + [
        Published(method, {key: value}, setting, stamp=_stamp(benchmark, method))
        for (name, key), rows in _FEW.items()
        if name == benchmark
        for method, row in rows.items()
        for setting, value in zip(settings, row, strict=True)
    ]


PUBLISHED: dict[str, list[Published]] = {name: _rows(name, keys) for name, keys in _METRICS.items()}


def comparable(benchmark: str, setting: str, rivals: int = 3) -> list[Published]:
    """The paper's rows for a setting, then the first rivals of the list, best first."""
    rows = [row for row in PUBLISHED.get(benchmark, []) if row.setting == setting]
    ours = [row for row in rows if row.method.startswith(OURS)]
    return ours + [row for row in rows if not row.method.startswith(OURS)][:rivals]
