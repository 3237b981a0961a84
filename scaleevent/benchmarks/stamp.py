"""The protocol stamp: under which rules a number was made, so that only like stands beside like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from scaleevent.system.files import Json

EVERY_LABEL_ONCE = "every label once"
_CHOICE_FLAGS = ("labels", "label_skip", "label_stride", "dt", "all_frames")  # of `prepare`
_MANY_SEQUENCES, _SHOWN_OF_MANY = 12, 3


@dataclass(frozen=True)
class Stamp:
    """What a number depends on besides the model. None: not published, or not found."""

    labels: Mapping[str, int] | int | None = None  # number by sequence, or in all
    choice: str | None = None  # which labels of a sequence these are
    draw: str | None = None  # how the scored samples come from the labels
    input: str | None = None  # rows x columns that the network sees
    scored: str | None = None  # rows x columns on which predictions are compared
    metric: tuple[str, ...] = ()  # forms of the metric that stand in the table
    window: str | None = None  # rule for the events of a label

    def to_json(self) -> Json:
        """For reports and checkpoints."""
        found: Json = asdict(self)
        return found | {"metric": list(self.metric)}

    def against(self, published: Stamp) -> str:
        """Where a published number's protocol differs from this one's or is unknown, else empty."""
        differing: list[str] = []
        unknown: list[str] = []
        labels: dict[str, tuple[str | None, str | None]] = {"labels": _labels(self, published)}
        texts = {key: (getattr(self, key), getattr(published, key)) for key in _TEXTS}
        for name, (here, there) in (labels | texts).items():
            if there is None:
                unknown.append(name)
            elif here != there:
                differing.append(f"{name}: {there} (here {here})")
        if not published.metric:
            unknown.append("metric")
        elif not set(published.metric) <= set(self.metric):
            own = " and ".join(self.metric)
            differing.append(f"metric: {' and '.join(published.metric)} (here {own})")
        if unknown:
            differing.append(f"not known: {', '.join(unknown)}")
        return "; ".join(differing)


_TEXTS = ("draw", "input", "scored", "window")
UNKNOWN = Stamp()


def size_text(size: Sequence[int]) -> str:
    """Rows x columns."""
    return f"{size[0]}x{size[1]}"


def choice_text(settings: Json) -> str:
    """Which labels `prepare` took, from the settings of a store.

    Stores of DSEC-Semantic from before there was a choice hold ESS's test labels.
    """
    given = {key: settings.get(key) for key in _CHOICE_FLAGS}
    usual = "ess" if settings.get("name") == "dsec-semantic" else "all"
    rule = given.pop("labels") or usual
    if settings.get("name") == "custom":  # whose setting of this name is a folder
        rule = usual
    if (given["label_skip"], given["label_stride"]) == (0, 1):
        rule, given["label_skip"], given["label_stride"] = "all", None, None
    flags = [
        f"{key.replace('_', ' ')}{'' if value is True else f' {value}'}"
        for key, value in given.items()
        if value is not None and value is not False
    ]
    return ", ".join([str(rule), *flags])


def counts_text(labels: Mapping[str, int]) -> str:
    """How many labels of which sequences; of many sequences only the first are named."""
    named = list(labels)[: None if len(labels) <= _MANY_SEQUENCES else _SHOWN_OF_MANY]
    shown = ", ".join(f"{name} {labels[name]:,}" for name in named)
    more = f" and {len(labels) - len(named):,} more" if len(named) < len(labels) else ""
    plural = "sequence" if len(labels) == 1 else "sequences"
    return f"{sum(labels.values()):,} labels of {len(labels):,} {plural}: {shown}{more}"


def _labels(here: Stamp, there: Stamp) -> tuple[str | None, str | None]:
    """The labels of two stamps in words, by sequence where nothing shorter tells them apart."""
    totals = [_total(stamp) for stamp in (here, there)]
    counts = [stamp.labels for stamp in (here, there)]
    known = not any(isinstance(labels, int | None) for labels in counts)
    if totals[0] == totals[1] and known and counts[0] != counts[1]:
        return str(counts[0]), str(counts[1])
    return totals[0], totals[1]


def _total(stamp: Stamp) -> str | None:
    """Number of labels and how they are chosen."""
    labels = stamp.labels
    if labels is None:
        return None
    return f"{labels if isinstance(labels, int) else sum(labels.values()):,}, {stamp.choice}"
