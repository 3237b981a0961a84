"""Do events lie on the edges of their images? Run: python check_alignment.py STORE [-o OUT.png].

What `scaleevent info STORE --picture OUT.png` says of some pairs, here of all of them one by one:
see `scaleevent.pairs.alignment`. Where the best shift is far off, try `prepare --offset-us`,
`--homography` or `--calibration`.
"""

import argparse
from pathlib import Path

from scaleevent.pairs.alignment import measure, scenes_of_store
from scaleevent.pairs.drawing import draw_pairs
from scaleevent.pairs.store import PairStore
from scaleevent.panels import save_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="PNG of events over frames")
    args = parser.parse_args()
    store = PairStore(args.store)
    scenes = scenes_of_store(store, len(store))
    for scene in scenes:
        print(f"{scene.image_us / 1e6:.3f} s: {measure([scene]).describe()}")
    print(measure(scenes).describe())
    if args.out:
        save_picture(args.out, draw_pairs(store)[0])
        print(args.out)


if __name__ == "__main__":
    main()
