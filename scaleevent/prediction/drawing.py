"""Predictions as pictures: colours on the events or the frame, with a caption and a legend."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scaleevent.legends import captioned, legend_strip
from scaleevent.pictures import brightened, draw_events, overlay_events
from scaleevent.prediction.cutting import Cut
from scaleevent.prediction.sources import LatestFrame
from scaleevent.prediction.views import View

WIDE = 480  # pixels of a picture at least; smaller sensors are drawn larger
TALL = 1440  # but not to more rows than this
GAP = 4  # pixels between two pictures
BARE, PLAIN = 0.5, 0.7  # brightness of colours where a frame is black, and where events are
UNSEEN = "outside the network's view"
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


class Painter:
    """Draws the predictions of one recording, all with one legend.

    Args:
        view: What is drawn.
        frames: What it is drawn on.
        name: Of the recording.
        beside: Whether events and frame are drawn beside the prediction.
    """

    def __init__(self, view: View, frames: LatestFrame, name: str, beside: bool) -> None:
        self.view, self.frames, self.name, self.beside = view, frames, name, beside
        self._strip: Image.Image | None = None

    def draw(self, cut: Cut, values: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8; all of one recording have one size."""
        found = self.frames.at(cut.window.end_us) if cut.stretch == 0 else None
        frame, lifted = (None, "") if found is None else brightened(_coloured(found.image))
        seen = self.view.seen(values)
        picture = _shaded(self.view.colours(values), cut, frame)
        self.view.mark(picture)
        rows, columns = picture.shape[:2]
        factor = max(1, min(-(-WIDE // columns), TALL // rows))
        picture = _enlarged(picture, factor)
        if self.beside:
            events = draw_events(cut.events)
            left = events if frame is None else overlay_events(frame // 2, cut.events)
            gap = np.full((len(picture), GAP, 3), 255, np.uint8)
            picture = np.concatenate([_enlarged(left, factor), gap, picture], 1)
        narrow = max(WIDE - picture.shape[1], 0)  # words need room
        picture = np.pad(picture, ((0, 0), (0, narrow), (0, 0)), constant_values=255)
        if self._strip is None:
            legend = self.view.legend()
            if not seen.all():
                unseen = (UNSEEN, (0, 0, 0))
                legend = legend._replace(swatches=[*legend.swatches, unseen])
            self._strip = legend_strip(legend, picture.shape[1])
        return captioned(picture, self._caption(cut) + lifted, self._strip)

    def _caption(self, cut: Cut) -> str:
        window = cut.window
        seconds = (window.end_us - cut.first_us) / 1e6
        stretch = f", stretch {cut.stretch + 1}" if cut.stretch else ""
        return (
            f"{self.name}{stretch}   {seconds:.3f} s   {len(cut.events):,} events in "
            f"{(window.end_us - window.start_us) / 1000:.1f} ms"
        )


def _shaded(colours: np.ndarray, cut: Cut, frame: np.ndarray | None) -> np.ndarray:
    """Colours with the brightness of the frame, or darker where events are."""
    if frame is not None:
        shade = (BARE * 256 + ((1 - BARE) * 256 / 255) * (frame @ _LUMINANCE)).astype(np.uint16)
    else:
        shade = np.full(colours.shape[:2], 256, np.uint16)
        shade[cut.events.y, cut.events.x] = round(PLAIN * 256)
    return ((colours * shade[..., None]) >> 8).astype(np.uint8)


def _coloured(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    return np.repeat(np.repeat(picture, factor, 0), factor, 1)
