"""The pictures of the README: parts of what `sh examples/quickstart.sh FOLDER` writes.

python examples/readme_pictures.py FOLDER [OUT]

Columns and rows of them, to be read at the width of a page; 256 colours keep them small.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent / "pictures"
PARTS = {  # name: picture of the quickstart, columns that are shown, (top, bottom) of what is shown
    "pretrain.png": ("encoder/panel.png", 1320, [(34, 64), (285, 735), (955, 1035)]),
    "predict.png": ("seen/pictures/000010.png", 1028, [(0, 461)]),
}


def main(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, (source, width, strips) in PARTS.items():
        picture = Image.new("RGB", (width, sum(bottom - top for top, bottom in strips)))
        with Image.open(folder / source) as opened:
            place = 0
            for top, bottom in strips:
                picture.paste(opened.convert("RGB").crop((0, top, width, bottom)), (0, place))
                place += bottom - top
        picture.quantize(256, dither=Image.Dither.NONE).save(out / name, optimize=True)
        print(out / name, *picture.size, f"{(out / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
