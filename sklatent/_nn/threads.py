"""How many threads PyTorch uses for a network, by a rule on the size of its matrix products."""

__all__ = ["limited_threads", "product_size", "product_sizes"]

import _thread
import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

# Number of multiply-adds in the largest layer, for a batch, from which more than one thread pays. Training with one
# thread took, over the time with two on two cores with little else to do, 0.7 to 0.9 with products of 0.1 to 4 million,
# 0.7 to 1.4 with 8 to 13 million and 1.0 to 1.5 from 17 million on; beside one busy process it took 0.2 to 0.5 of the
# time in all of these cases. A number of at most 8 million never loses to all threads on a quiet machine. The rule has
# not been measured on more than two cores. It depends on sizes only and not on timings or the load of the machine, so
# that equal fits give equal bits.
MIN_PRODUCT_SIZE = 2**23

_lock = Lock()


def product_size(module: Any, n_samples: int) -> int:
    """Number of multiply-adds of the largest layer of a module, for a batch."""
    return max(product_sizes(module, n_samples), default=0)


def product_sizes(module: Any, n_samples: int) -> list[int]:
    """Number of multiply-adds of each layer of a module, for a batch.

    The kernels of convolutions count as if they were applied at each pixel of the input, which is an upper bound where
    the layers before them reduce the image.
    """
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    return [n_samples * p.numel() * (math.prod(module.input_shape[1:]) if p.ndim == 4 else 1) for p in matrices]


@contextmanager
def limited_threads(size: int, device: Any = "cpu") -> Iterator[None]:
    """Use one thread within the block if the matrix products are small, and the setting of the caller otherwise.

    The setting is restored after the block, also if the block raises an exception. The limit applies to the calling
    thread only: other threads keep their setting. A thread that uses PyTorch for the first time during the fraction of
    a millisecond in which the limit is set may adopt it.

    Parameters
    ----------
    size : int
        The result of `product_size`.
    device : str or torch.device, default="cpu"
        On another device than the CPU nothing is changed.
    """
    if size >= MIN_PRODUCT_SIZE or torch.device(device).type != "cpu":
        yield
        return
    with _lock:  # a thread that PyTorch has not seen yet adopts the shared setting here
        before = torch.get_num_threads()
    if before == 1:
        yield
        return
    try:
        _set_for_this_thread(1, before)
        yield
    finally:
        torch.set_num_threads(before)


def _set_for_this_thread(n_threads: int, shared: int) -> None:
    """Set the number of threads of the calling thread, and that of threads that PyTorch has not seen yet.

    `torch.set_num_threads` sets both: the one that OpenMP and MKL keep for each thread, and a shared one, which a
    thread adopts at its first use of PyTorch and keeps. If such a thread began while the limit lasts it would be
    limited forever. So a short-lived thread, whose own setting does not matter, sets the shared one back. The calls
    take less than a microsecond and keep OpenMP's threads; to start a thread takes about 0.07 ms.
    """
    done = _thread.allocate_lock()
    done.acquire()

    def set_shared() -> None:
        try:
            torch.set_num_threads(shared)
        finally:
            done.release()

    with _lock:
        torch.set_num_threads(n_threads)
        _thread.start_new_thread(set_shared, ())
        done.acquire()
