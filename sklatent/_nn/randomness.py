"""PyTorch's global generator: lent to layers that know no other, and put back."""

__all__ = ["global_draws_from"]

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

# There is one global generator a device, so two threads must not lend it at once.
_lock = Lock()


@contextmanager
def global_draws_from(generator: torch.Generator) -> Iterator[None]:
    """Within the block, what draws from the global generator of a device draws from `generator`, which moves on.

    Layers that draw, such as dropout and the initial weights of `torch.nn`, know the global generator only. After the
    block it is as it was before, when the block raises too.

    Parameters
    ----------
    generator : torch.Generator
        Says the device too.
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
