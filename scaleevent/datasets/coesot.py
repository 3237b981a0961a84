"""`coesot`: COESOT, videos of a colour DAVIS346 for tracking; reading: `datasets.tracking`.

    SUBSET/VIDEO/{VIDEO_aps/*, VIDEO_dvs/*, groundtruth.txt, start_end_index.txt, VIDEO.aedat4}

Event-AHU/COESOT:README.md. `start_end_index.txt` says which frames were given boxes; it is not
read, since frames without boxes are as good for pretraining.
"""

from __future__ import annotations

from scaleevent.datasets.tracking import TrackingSettings, find_videos


class Settings(TrackingSettings):
    """What `coesot` adds to the settings of `prepare`."""


sources = find_videos
