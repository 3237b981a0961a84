"""Events while they are recorded: from a pipe, a growing file, UDP, or a file at its own speed.

A source gives blocks of `Events` as they arrive. Windows that are cut from them wait in a bounded
queue, in which the newest wins where the network is slower than the camera.
"""
