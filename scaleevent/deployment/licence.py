"""Under which licence weights may be passed on: told by what their checkpoint records."""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent.system.files import Json
from scaleevent.system.locations import embedded_name

DINOV3_PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"


@dataclass(frozen=True)
class Licence:
    """Terms of weights.

    Attributes:
        front: The keys of a model card's front matter.
        text: For people.
        reminder: What whoever passes the weights on has to do; None where there is nothing.
    """

    front: dict[str, str]
    text: str
    reminder: str | None = None


OWN = Licence(
    {"license": "apache-2.0"},
    "The teacher and the start of these weights are those inside the ScaleEvent package (or random "
    "numbers), which ScaleEvent publishes under the Apache License 2.0. The terms of the training "
    "data apply too.",
)
DINOV3 = Licence(
    {"license": "other", "license_name": "dinov3-license", "license_link": DINOV3_PAGE},
    "These weights were distilled from, or started from, DINOv3 weights, which are under Meta's "
    f"DINOv3 License ({DINOV3_PAGE}). That licence covers derived weights too: pass a copy of it "
    "on with these files. The terms of the training data apply too.",
    f"the DINOv3 License travels with these weights: save a copy of {DINOV3_PAGE} in the folder "
    "as LICENSE.md before you pass it on",
)
UNKNOWN = Licence(
    {"license": "other", "license_name": "unknown"},
    "The checkpoint does not name DINOv3 as its teacher or start. If one of those was a DINOv3 "
    "model, Meta's DINOv3 License covers these weights; the terms of the training data apply too.",
    "whose licence covers these weights is not recorded in the checkpoint: fill in `license` in "
    "README.md before you pass them on",
)


def licence_of(description: Json) -> Licence:
    """The licence of a checkpoint, from the names of its teacher and of its start.

    Args:
        description: What the checkpoint says of itself.
    """
    origins = origins_of(description)
    if any("dinov3" in origin.lower() for origin in origins):
        return DINOV3
    ours = [origin == "random" or embedded_name(origin) is not None for origin in origins]
    return OWN if ours and all(ours) else UNKNOWN


def origins_of(description: Json) -> list[str]:
    """The weights that a checkpoint derives from, as its runs named them.

    An encoder records its teacher, and its student's start where that was not the teacher; a task
    model records its encoder, that one's teacher and start, and what its decoder began with.
    """
    config: Json = description.get("config") or {}
    finetuned: Json = description.get("finetuned") or {}
    teacher = _source(description.get("teacher")) or _source(finetuned.get("teacher"))
    encoder = _source(description.get("encoder")) or _source(finetuned.get("encoder"))
    starts = [config.get("student_init")]
    starts += [(one.get("encoder") or {}).get("student_init") for one in (description, finetuned)]
    # of an encoder of ours its teacher says what its name does not
    found = [teacher, *([] if teacher else [encoder]), *(one for one in starts if one != "teacher")]
    return [each for each in (*found, config.get("decoder_weights")) if isinstance(each, str)]


def _source(part: object) -> str | None:
    match part:
        case {"source": str(source)}:
            return source
    return None
