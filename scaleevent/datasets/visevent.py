"""`visevent`: VisEvent, videos of a DAVIS346 for tracking; layout and reading: `datasets.tracking`.

    SUBSET/VIDEO/{vis_imgs/*.bmp, event_imgs/*.bmp, groundtruth.txt, VIDEO.aedat4}

wangxiao5791509/VisEvent_SOT_Benchmark:README.md. The times that come with the pictures are not
accurate, and several videos share one recording (its issue 1), so that some folders have none.
"""

from __future__ import annotations

from scaleevent.datasets.tracking import TrackingSettings, Video, find_videos


class Settings(TrackingSettings):
    """What `visevent` adds to the settings of `prepare`."""


def sources(config: Settings) -> list[Video]:
    """The videos found under the roots.

    Raises:
        ConfigError: No root, or a video that is not there.
        DataError: No video, one that is found twice, or a damaged recording.
        MissingPackageError: The package aedat is not installed.
    """
    return find_videos(config)
