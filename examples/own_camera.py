"""From a recording of your own camera to an event encoder and its features, in four steps.

    python examples/own_camera.py RECORDING FOLDER [EPOCHS]

RECORDING is anything `scaleevent prepare custom` takes: a file with events and frames (AEDAT4, ROS
bag), or a folder with a recording beside its frames. FOLDER takes the pairs and the run. The tiny
encoder and the embedded teacher are used, which need neither a GPU nor a download.
"""

import sys
from pathlib import Path

import scaleevent
from scaleevent.config.pretrain import pretrain_config


def main(recording: Path, folder: Path, epochs: int = 20) -> None:
    pairs, run = folder / "pairs", folder / "run"
    # 1. every frame with the events that lead up to it
    scaleevent.prepare(scaleevent.PrepareConfig(name="custom", roots=[recording], out=pairs))
    # 2. the teacher looks at the frames, the student at the events; the last 30 % are held out
    flags = {"preset": "demo", "validation": 0.3, "batch": 2, "draws": 8, "epochs": epochs}
    report = scaleevent.pretrain(pretrain_config({"data": [pairs], "out": run, **flags}))
    report.show(as_json=False)
    # 3. what pretraining has written is a timm ViT that knows how its input is made
    predictor = scaleevent.Predictor.load(run / "encoder.safetensors")
    # 4. features of any window of events, here of the one before the last frame
    store = scaleevent.PairStore(pairs)
    shard, row = store.locate(len(store) - 1)
    features = predictor.features(*shard.events(row))
    print(f"features before the last frame: {tuple(features.shape)} rows, columns, channels")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
