"""`coesot`: COESOT, videos of a colour DAVIS346 for tracking; reading: `datasets.tracking`.

    SUBSET/VIDEO/{VIDEO_aps/*, VIDEO_dvs/*, groundtruth.txt, start_end_index.txt, VIDEO.aedat4}

Event-AHU/COESOT:README.md. `start_end_index.txt` says which frames were given boxes; it is not
read, since frames without boxes are as good for pretraining.
"""

from __future__ import annotations

from scaleevent.datasets.tracking import TrackingSettings, Video, find_videos


class Settings(TrackingSettings):
    """What `coesot` adds to the settings of `prepare`."""


def sources(config: Settings) -> list[Video]:
    """The videos found under the roots.

    Raises:
        ConfigError: No root, or a video that is not there.
        DataError: No video, one that is found twice, or a damaged recording.
        MissingPackageError: The package aedat is not installed.
    """
    return find_videos(config)
