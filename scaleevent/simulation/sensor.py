"""A real sensor around the ESIM model: mismatch, bandwidth, leak, shot noise, refractory time.

Light is turned to its logarithm, follows it with a first-order low pass that is slower in the dark,
and drifts by the leak; ESIM then finds the crossings. Shot noise joins the stream; an event too
soon after another of its pixel is lost, signal or noise. Bandwidth, leak and shot noise follow
Hu, Liu, Delbruck: "v2e: From Video Frames to Realistic DVS Events", CVPRW 2021, and its code,
SensorsINI/v2e:v2ecore/emulator_utils.py; in difference to it, the low pass is solved exactly and
times are not tied to frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numba as nb
import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.simulation.esim import THRESHOLD_FLOOR, EventSimulator, spread_thresholds

SHOT_IN_WHITE = 0.25  # shot noise of a white pixel relative to a dark one, as in v2e
DARKEST = 20 / 275  # bandwidth of a dark pixel relative to a white one, as in v2e
LEVEL_MARGIN = 0.999  # of a threshold: how far a level may be from the first picture

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Sensor:
    """What makes the events of a camera model its own.

    Args:
        source: Where values are published.
        assumed: What is not published there, or could not be read again: assumptions of ours.
        threshold: Range of the threshold for brighter events, log units; one value is drawn for
            each clip.
        balance: Mean and deviation over clips of the other threshold, relative to this one.
        spread: Deviation of a threshold over the pixels, relative to its mean.
        refractory: Seconds that a pixel stays silent after an event.
        cutoff_hz: Bandwidth of a white pixel in full light; infinity for none.
        leak_hz: Brighter events of a pixel in constant light.
        leak_spread: Deviation of the logarithm of the leak over the pixels.
        shot_hz: Noise events of a dark pixel, of both signs together.
        dark: Light that a pixel sees in the dark, relative to white in full light.
        settled: Whether a pixel's remembered level may lie anywhere between its thresholds when a
            clip begins, as in a camera that has been running; else it is the first picture.
    """

    source: str
    assumed: str = field(default="", kw_only=True)
    threshold: tuple[float, float] = (0.2, 0.2)
    balance: tuple[float, float] = (1.0, 0.0)
    spread: float = 0.0
    refractory: float = 0.0
    cutoff_hz: float = math.inf
    leak_hz: float = 0.0
    leak_spread: float = 0.0
    shot_hz: float = 0.0
    dark: float = 1e-3
    settled: bool = True

    def __post_init__(self) -> None:
        low, high = self.threshold
        limits = {
            "threshold": THRESHOLD_FLOOR <= low <= high <= 10,
            "balance": 0.1 <= self.balance[0] <= 10 and 0 <= self.balance[1] <= 1,
            "spread": 0 <= self.spread <= 1,
            "refractory": 0 <= self.refractory <= 1,
            "cutoff_hz": self.cutoff_hz > 0,
            "leak_hz": 0 <= self.leak_hz <= 1000,
            "leak_spread": 0 <= self.leak_spread <= 3,
            "shot_hz": 0 <= self.shot_hz <= 1000,
            "dark": 1e-9 <= self.dark <= 1,
        }
        for name, fits in limits.items():
            if not fits:
                raise ConfigError(f"sensor: {name} is out of range", found=getattr(self, name))

    def describe(self) -> str:
        """Where the values come from, for people."""
        return self.source + (f"; assumed: {self.assumed}" if self.assumed else "")


SENSORS: dict[str, Sensor] = {
    "ideal": Sensor(
        "the model alone; light added in the dark: log_eps of "
        "uzh-rpg/rpg_esim:event_camera_simulator/esim_ros/src/esim_node.cpp",
        assumed="a threshold of 0.2",
        settled=False,
    ),
    "vid2e": Sensor(
        "how a user of VID2E draws thresholds and sets the refractory time: "
        "DachunKai/EvTexture:datasets/DataPreparation.md",
        assumed="no limits of 0.02 and 0.5 to the thresholds, as there are there",
        threshold=(0.05, 0.5), balance=(1.0, 0.1), refractory=1e-4,
    ),
    "davis346": Sensor(
        "defaults of SensorsINI/v2e:v2ecore/v2e_args.py",
        assumed="that thresholds of clips vary by a quarter around v2e's 0.2",
        threshold=(0.15, 0.25), spread=0.15, refractory=5e-4, cutoff_hz=300.0, leak_hz=0.01,
        leak_spread=0.1, shot_hz=0.001,
    ),
    "dvxplorer": Sensor(
        "no published value could be checked",
        assumed="all; thresholds after iniVation's specifications as remembered (half of the "
        "pixels respond at 13 % contrast, all at 27.5 %), noise after Gallego et al. 2022, "
        "table 1, as remembered",
        threshold=(0.12, 0.25), spread=0.2, refractory=5e-4, cutoff_hz=500.0, leak_hz=0.01,
        leak_spread=0.1, shot_hz=0.03,
    ),
    "gen4": Sensor(
        "threshold: 25 % contrast, data sheet of SENSING's SE1-S4-USB with Sony's IMX646; "
        "refractory time of 50 us, front end of 300 us and mismatch of 0.05 in 0.3: first example "
        "of neuromorphicsystems/IEBCS:README.md, which names no camera",
        assumed="that thresholds of clips vary by a fifth, leak, and noise after Gallego et al. "
        "2022, table 1, as remembered",
        threshold=(0.18, 0.28), spread=0.17, refractory=5e-5, cutoff_hz=530.0, leak_hz=0.05,
        leak_spread=0.1, shot_hz=0.1,
    ),
    "davis-fitted": Sensor(
        "fitted by examples/simulator_realism.py to linear frames and events of three DAVIS "
        "recordings: KugaMaxx/cuke-emlb (demo-01), shiba24/event-vision-library (sample) and RPG's "
        "slider_depth. It was chosen by its score on these very recordings, so that this score is "
        "no evidence for others",
        assumed="that thresholds of clips vary by a sixth around the fit",
        threshold=(0.42, 0.58), balance=(1.1, 0.05), spread=0.35, refractory=8e-4,
        cutoff_hz=580.0, leak_hz=0.031, leak_spread=0.1, shot_hz=0.024, dark=0.035,
    ),
}  # fmt: skip
"""Camera models by name. Each tells which of its values are published and which are assumed; that a
camera has been running when a clip begins (`settled`) is assumed for all but `ideal`."""


class SimulatedCamera:
    """The events of one clip, filmed by one copy of a sensor; a function of its random numbers.

    Args:
        sensor: The camera model.
        rng: Draws thresholds, levels and noise.
        height: Rows.
        width: Columns.
        illumination: Light on the scene relative to full light: less of it means lower bandwidth,
            more noise and weaker contrast.

    Attributes:
        positive: (H, W) float64 thresholds of this copy, log units.
        negative: (H, W) float64, likewise.

    Raises:
        ConfigError: An illumination that is not positive.
    """

    def __init__(
        self,
        sensor: Sensor,
        rng: np.random.Generator,
        height: int,
        width: int,
        illumination: float = 1.0,
    ) -> None:
        if not illumination > 0:
            raise ConfigError("the illumination is not above 0", found=illumination)
        self.sensor, self._rng, self._illumination = sensor, rng, illumination
        mean = rng.uniform(*sensor.threshold)
        other = max(mean * rng.normal(*sensor.balance), THRESHOLD_FLOOR)
        size = height, width
        self.positive = spread_thresholds(rng, mean, sensor.spread * mean, *size)
        self.negative = spread_thresholds(rng, other, sensor.spread * other, *size)
        leak = np.exp(sensor.leak_spread * rng.standard_normal(size))
        self._drift = sensor.leak_hz * leak * self.positive  # log units a second
        self._noisy = np.stack((mean / self.positive, other / self.negative)).clip(max=4.0)
        self._noisiest = float(self._noisy.sum(axis=0).max())
        self._light = np.zeros(size)  # its logarithm, of the last picture
        self._filtered = np.zeros(size)
        self._signal = np.zeros(size)
        self._last = np.full(size, -np.inf)
        self._start = self._t = -math.inf
        self._esim: EventSimulator | None = None

    def start(self, light: np.ndarray, t: float) -> None:
        """Begin anew with a picture, which causes no events: at the start and after a scene cut.

        Args:
            light: (H, W) linear light, 1 = white.
            t: Seconds.

        Raises:
            DataError: A picture of another size or with values that are not finite.
        """
        np.copyto(self._light, self._log(light))
        np.copyto(self._filtered, self._light)
        level = self._filtered.copy()
        if self.sensor.settled:
            level -= LEVEL_MARGIN * self._rng.uniform(-self.negative, self.positive)
        thresholds = self.positive, self.negative
        self._esim = EventSimulator(self._filtered, t, *thresholds, level=level)
        self._start = self._t = t

    def advance(self, light: np.ndarray, t: float) -> Columns:
        """Events between the previous picture (exclusive) and this one (inclusive).

        Args:
            light: (H, W) linear light, 1 = white.
            t: Seconds, later than the previous picture.

        Returns:
            t (K,) float64 seconds, ascending; x, y (K,) uint16; p (K,) uint8, 1 = brighter.

        Raises:
            DataError: As `start`, or a time that does not advance, or nothing was started.
        """
        if self._esim is None:
            raise DataError("the simulated camera was not started")
        if not t > self._t:
            raise DataError("frame times must increase", found=f"{t} s",
                            expected=f"after {self._t} s")  # fmt: skip
        log = self._log(light)
        rate = 2 * math.pi * self.sensor.cutoff_hz  # infinite without a low pass
        _follow(
            self._light, log, self._filtered, light, self._illumination, rate, t - self._t,
            self._drift, t - self._start, self._signal,
        )  # fmt: skip
        events = self._esim.advance(self._signal, t)
        if self.sensor.shot_hz or self.sensor.refractory:
            noise = self._shot_noise(light, self._t, t)
            events = _merged(*events, *noise, self._last, self.sensor.refractory)
        np.copyto(self._light, log)
        self._t = t
        return events

    def _log(self, light: np.ndarray) -> np.ndarray:
        """(H, W) float64 logarithm of what the pixels see."""
        if np.shape(light) != self._light.shape:
            raise DataError("frames differ in size", found=np.shape(light),
                            expected=self._light.shape)  # fmt: skip
        seen = np.maximum(light, 0.0, dtype=np.float64)
        seen *= self._illumination
        seen += self.sensor.dark
        return np.asarray(np.log(seen, out=seen))

    def _shot_noise(self, light: np.ndarray, start: float, end: float) -> Columns:
        """Noise of an interval: Poisson, drawn at the highest rate and thinned to each pixel's."""
        rng, (height, width) = self._rng, self._light.shape
        highest = 0.5 * self.sensor.shot_hz * self._noisiest
        count = rng.poisson(highest * (end - start) * height * width)
        pixel = rng.integers(0, height * width, count)
        t = np.sort(rng.uniform(start, end, count))
        draw = rng.uniform(0, highest, count)
        shown = np.clip(np.asarray(light).ravel()[pixel] * self._illumination, 0.0, 1.0)
        rates = 0.5 * self.sensor.shot_hz * (1.0 + (SHOT_IN_WHITE - 1.0) * shown)
        on, off = (rates * one.ravel()[pixel] for one in self._noisy)
        kept = draw < on + off
        y, x = np.divmod(pixel[kept], width)
        p = (draw < on)[kept]
        return t[kept], x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8)


@nb.njit(nogil=True, cache=True)
def _follow(
    before: np.ndarray, after: np.ndarray, filtered: np.ndarray, light: np.ndarray,
    illumination: float, rate: float, seconds: float, drift: np.ndarray, since: float,
    signal: np.ndarray,
) -> None:  # fmt: skip
    """The low pass over an interval, and the signal that the thresholds see: filtered and drifted.

    y' = w (x - y) for x on the line from `before` to `after` gives
    y = after - s / w + (y0 - before + s / w) exp(-w seconds), with s the slope of x.
    """
    for row in range(after.shape[0]):
        for column in range(after.shape[1]):
            new = after[row, column]
            if rate != np.inf:
                shown = min(max(light[row, column] * illumination, 0.0), 1.0)
                w = rate * (DARKEST + (1.0 - DARKEST) * shown)
                old = before[row, column]
                lag = (new - old) / seconds / w
                start = filtered[row, column]
                new = new - lag + (start - old + lag) * np.exp(-w * seconds)
            filtered[row, column] = new
            signal[row, column] = new + drift[row, column] * since


@nb.njit(nogil=True, cache=True)
def _merged(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, noise_t: np.ndarray,
    noise_x: np.ndarray, noise_y: np.ndarray, noise_p: np.ndarray, last: np.ndarray,
    refractory: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Both streams by time, without events less than `refractory` after one of their pixel."""
    total = len(t) + len(noise_t)
    out_t = np.empty(total, np.float64)
    out_x = np.empty(total, np.uint16)
    out_y = np.empty(total, np.uint16)
    out_p = np.empty(total, np.uint8)
    n = i = j = 0
    while i < len(t) or j < len(noise_t):
        if j == len(noise_t) or i < len(t) and t[i] <= noise_t[j]:
            now, column, row, sign = t[i], x[i], y[i], p[i]
            i += 1
        else:
            now, column, row, sign = noise_t[j], noise_x[j], noise_y[j], noise_p[j]
            j += 1
        if now - last[row, column] < refractory:
            continue
        last[row, column] = now
        out_t[n], out_x[n], out_y[n], out_p[n] = now, column, row, sign
        n += 1
    return out_t[:n], out_x[:n], out_y[:n], out_p[:n]
