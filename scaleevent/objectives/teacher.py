"""The image teacher of a run and the student that starts from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scaleevent.config.catalog import DEFAULT_ARCHITECTURE
from scaleevent.encoders.colours import Colours
from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher, build_encoder
from scaleevent.encoders.hub import published_weights
from scaleevent.encoders.provenance import UNKNOWN
from scaleevent.errors import ConfigError, EnvironmentProblem
from scaleevent.system.locations import EMBEDDED_TEACHER, embedded_name
from scaleevent.training.run import Run

if TYPE_CHECKING:
    from scaleevent.objectives.scaleevent import Settings

DINOV3 = {spec["name"] for spec in ARCHS.values()}


def teacher_name(cfg: Settings) -> str:
    """The teacher as people call it."""
    arch = cfg.arch or DEFAULT_ARCHITECTURE
    name = cfg.teacher or (EMBEDDED_TEACHER if arch == "tiny" else f"DINOv3 {arch}")
    return embedded_name(name) or name


def is_dinov3(encoder: Encoder) -> bool:
    """Whether this is a DINOv3 encoder in one of its published sizes."""
    return encoder.spec["name"] in DINOV3 and "embed_dim" not in encoder.spec["kwargs"]


def chosen_colours(known: Colours, cfg: Settings) -> Colours:
    """Mean and std of the teacher's images: as asked for, else as known."""
    if cfg.teacher_mean is None and cfg.teacher_std is None:
        return known
    mean, std = cfg.teacher_mean or known.mean, cfg.teacher_std or known.std
    return Colours(mean, std, "as asked for")


def teacher_and_student(cfg: Settings, run: Run) -> tuple[Encoder, Encoder]:
    """Teacher, frozen, and student, on the run's device.

    Raises:
        ConfigError: Their tokens differ, or the teacher's name is unknown.
        EnvironmentProblem: The teacher's weights cannot be fetched.
    """
    arch = cfg.arch or (None if cfg.teacher else DEFAULT_ARCHITECTURE)
    weights = cfg.teacher or (
        EMBEDDED_TEACHER if arch == "tiny" else f"timm:{ARCHS[str(arch)]['name']}"
    )
    if str(weights).startswith("timm:") and not (run.quiet or cfg.offline):
        run.say(published_weights(str(weights).removeprefix("timm:")))
    try:
        if run.ranks.world > 1:
            if run.ranks.main:  # one download, not one a rank
                build_encoder(arch, weights, offline=cfg.offline)
            run.ranks.wait()
        teacher = build_encoder(arch, weights, offline=cfg.offline, keep_periods=True)
    except EnvironmentProblem as error:
        error.hint = f"{error.hint} with --teacher; this runs here: {cfg.command()}"
        raise
    as_teacher(teacher)
    teacher.colours = chosen_colours(teacher.colours, cfg)
    for line in (*teacher.remarks, f"teacher's colours: {teacher.colours}"):
        run.say(line)
    torch.manual_seed(cfg.seed_of("init"))  # for a random start only
    if cfg.student_init == "random":
        student = Encoder(teacher.spec)
        student.colours = teacher.colours
    elif cfg.student_init == "teacher":
        student = build_encoder(None, weights, offline=cfg.offline)
        student.colours = teacher.colours
        if student.history.get("provenance") == UNKNOWN:
            student.history = {}  # a model of images, which has seen no recording
    else:
        student = build_encoder(None, cfg.student_init, offline=cfg.offline)
        for line in (*student.remarks, f"student's channels: {student.colours}"):
            run.say(line)
    if (student.width, student.patch) != (teacher.width, teacher.patch):
        raise ConfigError(
            "student and teacher have different tokens",
            where="--student-init",
            found=f"width {student.width}, patch {student.patch}",
            expected=f"width {teacher.width}, patch {teacher.patch}",
        )
    return teacher.to(run.ranks.device), student.to(run.ranks.device)
