"""The states of the random generators, kept and set again."""

import contextlib
import random

import numpy as np
import torch


def random_states() -> dict:
    """The states of Python's, NumPy's and PyTorch's generators in this process, as ``torch.load`` takes them with
    ``weights_only``."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict) -> None:
    """Set what :func:`random_states` gave."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextlib.contextmanager
def randomness_kept():
    """Leave the generators after the block as they were before it."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


@contextlib.contextmanager
def randomness_of(*numbers: int):
    """Inside, Python's, NumPy's and PyTorch's CPU generators depend on the numbers alone (each from 0)."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = np.random.SeedSequence(numbers).generate_state(3)
    try:
        random.seed(int(first))
        np.random.seed(second)
        # torch.manual_seed would set those of the GPUs too.
        torch.default_generator.manual_seed(int(third))
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
