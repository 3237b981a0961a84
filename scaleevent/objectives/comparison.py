"""An encoder before and after pretraining, on pairs it has not seen: probe and picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scaleevent.encoders.encoder import Encoder, encode_all
from scaleevent.objectives.objective import Compared
from scaleevent.objectives.probe_comparison import PLACE, SCENE, probe_encoders
from scaleevent.objectives.probe_scenes import ProbeScenes
from scaleevent.pairs.drawing import pair_name
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.samples import PairSamples, Split, evenly_spaced, in_order
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import FeatureColours, brightened, draw_voxel
from scaleevent.system.files import Json

LOOKED_FOR = 16  # training pairs at most whose labels are looked for where none is held out
BEFORE, AFTER, TEACHER = "student before", "student after", "teacher on images"
DIFFERENCES = ((AFTER, BEFORE), (AFTER, PLACE), (AFTER, SCENE))
PANEL_ROWS = 4
COLUMNS = ("image", "events", "teacher", "student before", "student after")


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on which pairs."""

    samples: PairSamples  # all pairs
    split: Split  # which of them were held out
    teacher: Encoder  # frozen image encoder
    before: Encoder  # the student as it started, on voxels
    after: Encoder  # the trained student, on voxels
    batch: int  # samples encoded together

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.after.grid(self.samples.settings.height, self.samples.settings.width)

    def probe(self) -> Compared:
        """Linear probes of student and teacher beside what knows no events, where labels exist.

        They are fitted and scored on held-out pairs alone. Rows have the numbers before and after;
        tables and facts have the controls, intervals and classes.
        """
        rows, columns = self.grid
        pool, seed = self.split.validation, self.split.seed
        scenes = ProbeScenes.of(self.samples, pool, seed, rows * columns)
        encoders = {BEFORE: (self.before, "voxel"), AFTER: (self.after, "voxel"),
                    TEACHER: (self.teacher, "image")}  # fmt: skip
        probed = probe_encoders(self.samples, scenes, encoders, self.grid, self.batch, seed)
        if probed is None:
            trained = evenly_spaced(self.split.train, LOOKED_FOR)
            if not len(pool) and ProbeScenes.of(self.samples, trained, seed).labelled:
                return Compared(notes=["no probe: no labelled pair is held out (--validation)"])
            return Compared(notes=scenes.refusal())
        numbers = [
            (f"probe {name}", probed.number(BEFORE, name), probed.number(AFTER, name))
            for name in probed.probes
        ]
        facts: Json = {"probes": probed.facts(DIFFERENCES)}
        return Compared(numbers, probed.notes(), probed.sections(DIFFERENCES), facts)

    def picture(self, path: Path) -> None:
        """PNG: images, events, and features of teacher and student in the teacher's colours."""
        pool = self.split.validation if len(self.split.validation) else self.split.train
        indices = evenly_spaced(pool, min(PANEL_ROWS, self.batch))
        batch = next(in_order(self.samples, indices, self.batch))
        tokens = [
            encode_all(encoder, [batch[key]]).numpy()
            for encoder, key in (
                (self.teacher, "image"), (self.before, "voxel"), (self.after, "voxel"),
            )
        ]  # fmt: skip
        colours = FeatureColours(tokens[0])
        rows = []
        for i, index in enumerate(indices):
            shard, row = self.samples.shard(int(index))
            image, lifted = brightened(decode_image(shard.image(row)))
            fit = self.samples.settings.fit(*image.shape[:2])
            events = draw_voxel(fit.crop_array(shard.voxel(row, self.samples.settings.bins)))
            shown = [
                fit.crop_picture(image),
                events,
                *(colours.draw(t[i], self.grid) for t in tokens),
            ]
            rows.append(Row(pair_name(shard, row) + lifted, shown))
        kind = "held-out" if len(self.split.validation) else "training"
        title = f"Tokens on {kind} pairs, in the colours of the teacher's principal components"
        save_picture(path, panel(title, COLUMNS, rows))
