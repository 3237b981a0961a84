"""An encoder before and after pretraining, on pairs it has not seen: probe and picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaleevent.encoders.encoder import Encoder, encode_all
from scaleevent.legends import Legend, drawn_keys, event_legend, hatch_legends
from scaleevent.objectives.maps import FEATURES, Shown, busiest, draw_maps, draw_scales
from scaleevent.objectives.objective import Compared
from scaleevent.objectives.probe_comparison import PLACE, SCENE, probe_encoders
from scaleevent.objectives.probe_scenes import ProbeScenes
from scaleevent.pairs.draws import evenly_spaced
from scaleevent.pairs.loading import in_order
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.splits import Split
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import FeatureColours
from scaleevent.system.files import Json

LOOKED_FOR = 16  # training pairs at most whose labels are looked for where none is held out
RANDOM, BEFORE, AFTER = "random weights", "student before", "student after"
TEACHER = "teacher on images"
DIFFERENCES = ((AFTER, RANDOM), (AFTER, BEFORE), (AFTER, PLACE), (AFTER, SCENE))
PANEL_ROWS = 4
SCALE_ROWS = 2
ENCODERS = ("teacher", "student before", "student after")
COLUMNS = ("image", "events", *ENCODERS, *(f"{name}, residual" for name in ENCODERS))
COLOUR_SAMPLES = 16  # that the principal components are those of


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on which pairs."""

    samples: PairSamples  # all pairs
    split: Split  # which of them were held out
    teacher: Encoder  # frozen image encoder
    before: Encoder  # the student as it started, on voxels
    after: Encoder  # the trained student, on voxels
    batch: int  # samples encoded together
    place: Tensor | None = None  # (L, D) the teacher's mean token of each place, on training pairs

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
        encoders = {
            RANDOM: (self.random(seed), "voxel"), BEFORE: (self.before, "voxel"),
            AFTER: (self.after, "voxel"), TEACHER: (self.teacher, "image"),
        }  # fmt: skip
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
        return Compared(
            numbers, probed.notes(), probed.sections(DIFFERENCES), facts, probed.scores()
        )

    def random(self, seed: int) -> Encoder:
        """An encoder like the student that has learned nothing: what its form alone is worth."""
        device = next(self.after.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Encoder(self.after.spec).to(device).eval()

    def pictures(self, out: Path) -> list[Path]:
        """PNGs in a folder: features, what resembles what, and larger inputs; see `maps`.

        Features of teacher and student are in the teacher's colours, once as they are, and once
        less the teacher's mean token of their place, which shows what follows the scene and not the
        usual layout.
        """
        pool = self.split.validation if len(self.split.validation) else self.split.train
        indices = evenly_spaced(pool, PANEL_ROWS)
        tokens = self._tokens(indices, self.teacher, self.before, self.after)
        (known,) = self._tokens(evenly_spaced(pool, COLOUR_SAMPLES), self.teacher)
        colours = [(FeatureColours.fitted(known), tokens)]
        if self.place is not None:
            place = self.place.cpu().numpy()
            colours.append((FeatureColours.fitted(known - place), [one - place for one in tokens]))
        shown = [Shown.of(self.samples, int(index)) for index in indices]
        rows = [
            Row(one.name, [one.image, one.events] + [
                one.tokens(basis.draw(each[i], self.grid))
                for basis, ones in colours for each in ones
            ])
            for i, one in enumerate(shown)
        ]  # fmt: skip
        kind = "held-out" if len(self.split.validation) else "training"
        title = (
            f"Tokens on {kind} pairs, in the colours of the teacher's principal components; "
            "residual: less the teacher's mean token of the place, so it shows what is of the scene"
        )
        columns = COLUMNS[: len(rows[0].pictures)]
        legends = event_legend(), Legend(FEATURES), *hatch_legends(one.valid for one in shown)
        sheet = panel(title, columns, rows, keys=drawn_keys(*legends))
        save_picture(out / "panel.png", sheet)
        draw_maps(shown, tokens, ENCODERS, self._busiest(indices), self.grid, out / "maps.png")
        drawn = draw_scales(
            self.samples, indices[:SCALE_ROWS], self.teacher, self.after, out / "scales.png"
        )
        files = ("panel.png", "maps.png", *(["scales.png"] if len(drawn) > 1 else []))
        return [out / name for name in files]

    def _busiest(self, indices: np.ndarray) -> list[int]:
        """The place of each sample with most events."""
        batches = in_order(self.samples, indices, self.batch)
        return [
            busiest(one.reshape(self.grid).numpy()) for batch in batches for one in batch["density"]
        ]

    def _tokens(self, indices: np.ndarray, *encoders: Encoder) -> list[np.ndarray]:
        """(M, L, D) of samples for each encoder: the teacher sees images, the others events."""
        batches = list(in_order(self.samples, indices, self.batch))
        keys = ["image" if encoder is self.teacher else "voxel" for encoder in encoders]
        return [
            encode_all(encoder, (batch[key] for batch in batches)).numpy()
            for encoder, key in zip(encoders, keys, strict=True)
        ]
