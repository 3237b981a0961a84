"""The random state of the program that calls us, which is not ours to change."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the global generators of a block as they were; also a decorator.

    Those of `random`, of NumPy and, where it is imported, of torch: its CPU's and, once CUDA is in
    use, those of its GPUs.
    """
    plain, arrays = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")  # commands on recordings do without it
    tensors = torch.get_rng_state() if torch else None
    gpus = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)
        if torch:
            torch.set_rng_state(tensors)
            torch.cuda.set_rng_state_all(gpus)
