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
    is_cpu = generator.device.type == "cpu"
    shared = torch.random if is_cpu else torch.get_device_module(generator.device)
    where = () if is_cpu else (generator.device,)
    with _lock:
        before = shared.get_rng_state(*where)
        shared.set_rng_state(generator.get_state(), *where)
        try:
            yield
        finally:
            generator.set_state(shared.get_rng_state(*where))
            shared.set_rng_state(before, *where)
