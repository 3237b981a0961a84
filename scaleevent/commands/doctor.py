"""`scaleevent doctor`: what works here."""

from __future__ import annotations

from scaleevent.config.doctor import DoctorConfig
from scaleevent.system.doctor import examine
from scaleevent.system.reports import Report


def run(cfg: DoctorConfig, quiet: bool = False) -> Report:
    """Versions, devices, extras, caches, disk and variables, and what is broken.

    Args:
        cfg: Where output would go.
        quiet: Unused, since there is no progress to show.
    """
    return examine(cfg.out)
