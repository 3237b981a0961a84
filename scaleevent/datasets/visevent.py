"""`visevent`: VisEvent, videos of a DAVIS346 for tracking; layout and reading: `datasets.tracking`.

    SUBSET/VIDEO/{vis_imgs/*.bmp, event_imgs/*.bmp, groundtruth.txt, VIDEO.aedat4}

wangxiao5791509/VisEvent_SOT_Benchmark:README.md. The times that come with the pictures are not
accurate, and several videos share one recording (its issue 1): some folders have none, and copies
in others are left out.
"""

from __future__ import annotations

from scaleevent.datasets.tracking import TrackingSettings, find_videos


class Settings(TrackingSettings):
    """What `visevent` adds to the settings of `prepare`."""


sources = find_videos
