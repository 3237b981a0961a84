"""`coesot`: COESOT, videos of a colour DAVIS346 for tracking; reading: `datasets.tracking`.

    SUBSET/VIDEO/{VIDEO_aps/*, VIDEO_dvs/*, groundtruth.txt, start_end_index.txt, VIDEO.aedat4}

Event-AHU/COESOT:README.md. `start_end_index.txt` is not read: the README names it and says no more,
and no script of that repository opens it (event_to_voxel_coesot.py takes all frames of a
recording). By its name it says which frames were given boxes. It cannot change a pair: a frame has
the time of its exposure on the events' clock in the recording itself, and needs no box.
"""

from __future__ import annotations

from scaleevent.datasets.tracking import TrackingSettings, find_videos


class Settings(TrackingSettings):
    """What `coesot` adds to the settings of `prepare`."""


sources = find_videos
