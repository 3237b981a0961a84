"""What `doctor` tries in a process of its own, since what is broken may end the process.

A line of JSON before each trial, which names it, and one after it, with what was found.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable

from scaleevent.system.files import Json

PACKAGES = (
    "numpy", "scipy", "numba", "h5py", "hdf5plugin", "safetensors", "PIL", "fsspec", "torch",
    "torchvision", "timm",
)  # fmt: skip


def compiles() -> Json:
    """Numba makes machine code."""
    import numba

    return {"answer": int(numba.njit(lambda number: number + 1)(41))}


def filters() -> Json:
    """Which filters of HDF5 pass an array through unharmed, in memory."""
    import h5py
    import hdf5plugin
    import numpy as np

    values, usable = np.arange(4096), {}
    codecs: dict[str, Callable[[], Json]] = {
        "blosc": lambda: dict(hdf5plugin.Blosc("lz4", 5, hdf5plugin.Blosc.BITSHUFFLE)),
        "zstd": lambda: dict(hdf5plugin.Zstd()),
        "lz4": lambda: dict(hdf5plugin.LZ4()),
        "bitshuffle": lambda: dict(hdf5plugin.Bitshuffle()),
        "gzip": lambda: {"compression": "gzip"},
    }
    for name, codec in codecs.items():
        try:
            with h5py.File(name, "w", driver="core", backing_store=False) as file:
                kept = file.create_dataset("values", data=values, **codec())
                usable[name] = bool((kept[:] == values).all())
        except Exception:  # whatever a library raises where its plug-in is not there
            usable[name] = False
    return usable


def devices() -> Json:
    """What torch computes on: each is tried."""
    import torch

    found: Json = {
        "threads": torch.get_num_threads(),
        "CUDA": torch.version.cuda,
        "mps": torch.backends.mps.is_available(),
        "gpus": [],
    }
    for number in range(torch.cuda.device_count()):
        try:
            free, whole = torch.cuda.mem_get_info(number)
            ones = torch.ones(64, 64, device=f"cuda:{number}")
            works = float((ones @ ones).sum()) == 64.0**3
        except Exception as error:
            found["gpus"].append({"number": number, "error": str(error).splitlines()[0]})
            continue
        about = torch.cuda.get_device_properties(number)
        found["gpus"].append(
            {"number": number, "name": about.name, "bytes": whole, "free": free,
             "capability": f"{about.major}.{about.minor}", "bf16": torch.cuda.is_bf16_supported(),
             "error": None if works else "a product of matrices comes out wrong"}
        )  # fmt: skip
    return found


def imported(name: str) -> Json:
    """A package can be imported."""
    importlib.import_module(name)
    return {}


def main() -> None:
    """Try everything, in the order in which parts need each other."""
    of_its_own = {"numba": compiles, "hdf5plugin": filters, "torch": devices}
    for name in PACKAGES:
        print(json.dumps({"trying": name}), flush=True)
        try:
            found = of_its_own[name]() if name in of_its_own else imported(name)
            print(json.dumps({"tried": name, "found": found}), flush=True)
        except Exception as error:
            told = (str(error).splitlines() or [""])[0]
            said = f"{type(error).__name__}: {told}"
            print(json.dumps({"tried": name, "error": said}), flush=True)


if __name__ == "__main__":
    main()
