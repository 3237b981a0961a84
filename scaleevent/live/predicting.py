"""Live sources for `predict`: its windows come from a `Feed`, everything else stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from scaleevent.config.live import live_address
from scaleevent.config.predict import PredictConfig
from scaleevent.errors import ConfigError
from scaleevent.live.feed import Feed
from scaleevent.live.latest import WhenSlow
from scaleevent.live.pace import Pace, SystemTimer, Timer
from scaleevent.live.source import LiveSource, open_live
from scaleevent.prediction.cutting import Cut, Tally, cut_windows
from scaleevent.prediction.sources import EventSource
from scaleevent.prediction.streaming import Plan
from scaleevent.prediction.views import View
from scaleevent.system.signals import Stop, on_stop
