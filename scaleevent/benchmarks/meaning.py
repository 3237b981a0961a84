"""Between a task and what files say of their labels: stores of own labels, and task models."""

from __future__ import annotations

import numpy as np

from scaleevent.config.labels import LabelFacts, NamedClass, checked_facts
from scaleevent.system.files import Json
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import Task


def task_of(facts: LabelFacts) -> Task:
    """The task that labels of this meaning are for."""
    if facts.task == "segmentation":
        colours = np.array([one.colour for one in facts.classes], np.uint8)
        return Segmentation(tuple(one.name for one in facts.classes), colours)
    if facts.task == "depth":
        assert facts.max_depth is not None  # checked by the model
        return Depth(facts.max_depth)
    return Flow()


def facts_of(task: Task) -> LabelFacts:
    """What a task's predictions mean, as a file stores it."""
    if isinstance(task, Segmentation):
        colours = task.palette.tolist()
        named = [
            NamedClass(name=name, colour=colour)
            for name, colour in zip(task.classes, colours, strict=True)
        ]
        return LabelFacts(task="segmentation", classes=named)
    if isinstance(task, Depth):
        return LabelFacts(task="depth", max_depth=task.max_depth)
    return LabelFacts(task="flow")


def described_task(description: Json, where: object) -> Task | None:
    """The task of a checkpoint with its classes and colours; None of files that do not tell it.

    Raises:
        DataError: What is said there cannot be; `where` names the file.
    """
    facts = description.get("labels")
    return None if facts is None else task_of(checked_facts(facts, where))
