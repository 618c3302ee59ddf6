"""The parts of a fit with a random seed of their own, and PyTorch's global generator, whose state is replaced."""

__all__ = ["SEEDS", "global_draws_from"]

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

SEEDS = ("weights", "order", "noise", "valid_noise", "split", "draws", "layers")

# There is one global generator per device, so only one thread at a time may replace its state.
_lock = Lock()


@contextmanager
def global_draws_from(generator: torch.Generator) -> Iterator[None]:
    """Within the block, random numbers of the global generator of a device come from `generator`, which advances.

    Layers such as dropout, and the initialization of the weights in `torch.nn`, can only use the global generator. Its
    state is restored after the block, also if the block raises an exception.

    Parameters
    ----------
    generator : torch.Generator
        Random generator, which also determines the device.
    """
    shared = _global_generator(generator.device)
    with _lock:
        before = shared.get_state()
        shared.set_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(shared.get_state())
            shared.set_state(before)


def _global_generator(device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
