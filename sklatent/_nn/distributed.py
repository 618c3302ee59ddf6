"""Data-parallel training: what each process takes of every batch, and what all processes add up or decide together."""

__all__ = ["ALONE", "DataParallel", "Share", "SingleProcess", "is_parallel", "process_group"]

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from hashlib import sha256
from itertools import count
from multiprocessing import parent_process
from threading import RLock, current_thread, main_thread
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Time after which a process that waits for another one raises an error.
TIMEOUT = timedelta(minutes=5)
# Largest relative difference between processes in the norm of a weight that rounding may explain.
TOLERANCE = 1e-3

_lock = RLock()  # of the threads of a process only one may train at a time: the operations are matched by their order
_numbers = count()  # for the names of the process groups of this process, so that none finds the traces of another


class Share(NamedTuple):
    """What a process takes of a batch."""

    places: slice
    """Places of the samples in the batch. A process for which none is left takes the first one."""
    size: int
    """Number of samples in the batch."""
    fraction: float
    """Number of the samples over that of the batch; 0 for a process for which none is left."""


class SingleProcess:
    """Training in one process, which takes whole batches and decides alone.

    Parameters
    ----------
    device : str, default="cpu"
        Where the process trains.
    """

    rank = 0
    size = 1

    def __init__(self, device: str = "cpu"):
        self.device = device

    def share(self, n_samples: int) -> Share:
        """What this process takes of a batch of so many samples."""
        return Share(slice(0, n_samples), n_samples, 1.0)

    @contextmanager
    def batch_norms_joined(self, module: nn.Module) -> Iterator[None]:
        """Within the block, batch norm uses the statistics of the batch of all processes."""
        yield

    def begin(self, fraction: float) -> None:
        """Begin a step with this fraction of the samples of a batch."""

    def backward(self, loss: Tensor, fraction: float, parameters: Iterable[nn.Parameter]) -> None:
        """Compute the gradient of the mean loss of a batch, given the mean over this fraction of its samples."""
        loss.backward()

    def generator(self, shared: torch.Generator) -> torch.Generator:
        """Random generator for one step of this process, derived from one whose state all processes share."""
        return shared

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        return flag

    def from_first(self, value: Any) -> Any:
        """The value in the first process."""
        return value

    def check_equal(self, describe: Callable[[], dict[str, str]]) -> None:
        """Raise ValueError unless the described strings are those of all other processes."""

    def start_equal(self, module: nn.Module) -> None:
        """Give a module the weights that it has in the first process."""

    def end_equal(self, module: nn.Module) -> None:
        """Wait for all processes, and raise RuntimeError if their weights differ by more than rounding."""


ALONE = SingleProcess()


class DataParallel(SingleProcess):
    """One of several processes that train a network together, each with a copy of it and with all samples.

    The processes go through the same batches and draw the same noise for them, and each evaluates some of the samples
    of a batch. The sum of their gradients, weighted by their fractions of the batch, is the gradient of the batch. So a
    step is that of a single process, but for rounding. A process that raises an exception leaves, and the others raise
    one where they wait for it.

    Parameters
    ----------
    device : str
        Where the processes train. "cuda" stands for one GPU for each process.

    Attributes
    ----------
    rank, size : int
        Number of this process, and the number of processes.
    """

    def __init__(self, device: str):
        super().__init__(_own_device(device))
        is_cpu = torch.device(device).type == "cpu"  # on which NCCL does not work
        with _waiting():
            self._group: Any = distributed.new_group(backend="gloo" if is_cpu else None, timeout=TIMEOUT)
        self.rank, self.size = distributed.get_rank(self._group), distributed.get_world_size(self._group)
        self.is_idle = False  # in a step for which no sample is left
        self._gradient = torch.empty(0)

    def close(self) -> None:
        """Leave the group. Processes that wait for this one raise an exception instead."""
        distributed.destroy_process_group(self._group)
        self._group = None  # the connections are closed once nothing refers to it, be it a traceback that is kept

    def __deepcopy__(self, memo: dict[int, Any]) -> "DataParallel":
        return self

    def share(self, n_samples: int) -> Share:
        """What this process takes: neighbouring samples, as many as the others take but for one."""
        start, stop = (rank * n_samples // self.size for rank in (self.rank, self.rank + 1))
        places = slice(start, stop) if start < stop else slice(0, 1)
        return Share(places, n_samples, (stop - start) / n_samples)

    @contextmanager
    def batch_norms_joined(self, module: nn.Module) -> Iterator[None]:
        """Within the block, batch norm uses the statistics of the batch of all processes."""
        layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
        try:
            for layer in layers:
                vars(layer)["forward"] = partial(self._batch_norm, layer)
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)

    def begin(self, fraction: float) -> None:
        """Begin a step with this fraction of the samples of a batch."""
        self.is_idle = fraction == 0

    def backward(self, loss: Tensor, fraction: float, parameters: Iterable[nn.Parameter]) -> None:
        """Compute the gradient of the mean loss of a batch, given the mean over this fraction of its samples."""
        loss.backward(torch.full_like(loss, fraction))
        gradients = {parameter: parameter.grad.flatten() for parameter in parameters if parameter.grad is not None}
        sizes = [len(part) for part in gradients.values()]
        total = self.sum(self._joined(list(gradients.values())))  # one message for all of them
        for parameter, part in zip(gradients, total.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Gradients as one tensor, in memory that is used again: to allocate it takes as long as to fill it."""
        if len(self._gradient) != sum(map(len, parts)):
            self._gradient = torch.cat(list(parts))
        return torch.cat(list(parts), out=self._gradient)

    def generator(self, shared: torch.Generator) -> torch.Generator:
        """Random generator for one step of this process, derived from one whose state all processes share."""
        seeds = torch.randint(2**62, (self.size,), generator=shared, device=shared.device)
        return torch.Generator(shared.device).manual_seed(int(seeds[self.rank]))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in the memory of the values."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        return bool(self._range(torch.tensor([flag], dtype=torch.int64, device="cpu"))[1])

    def from_first(self, value: Any) -> Any:
        """The value in the first process."""
        values = [value]
        with _waiting():
            distributed.broadcast_object_list(values, 0, self._group, device=torch.device(self.device))
        return values[0]

    def check_equal(self, describe: Callable[[], dict[str, str]]) -> None:
        """Raise ValueError unless the described strings are those of all other processes."""
        strings = describe()
        digests = [int.from_bytes(sha256(text.encode()).digest()[:7]) for text in strings.values()]
        least, largest = self._range(torch.tensor(digests, device="cpu"))
        differing = [name for name, differs in zip(strings, least != largest, strict=True) if differs]
        if differing:
            raise ValueError(
                f"The {self.size} processes of a data-parallel training must all be given the same X, sample_weight "
                f"and parameters. Their {' and '.join(differing)} differ."
            )

    def start_equal(self, module: nn.Module) -> None:
        """Give a module the weights that it has in the first process."""
        with _waiting():
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, 0, self._group)

    def end_equal(self, module: nn.Module) -> None:
        """Wait for all processes, and raise RuntimeError if their weights differ by more than rounding."""
        norms = torch.stack([tensor.double().norm() for tensor in module.state_dict().values()])
        least, largest = self._range(norms)
        if not torch.allclose(least, largest, rtol=TOLERANCE):
            raise RuntimeError(
                f"The {self.size} processes of a data-parallel training ended with different weights. A layer or a "
                "callback may depend on the process."
            )

    def _range(self, values: Tensor) -> Tensor:
        """Least and largest values of all processes, (2, n)."""
        both = torch.stack([-values, values]).to(self.device)
        self._reduce(both, distributed.ReduceOp.MAX)
        return torch.stack([-both[0], both[1]]).cpu()

    def _reduce(self, values: Tensor, operation: Any) -> Tensor:
        with _waiting():
            distributed.all_reduce(values, operation, self._group)
        return values

    def _batch_norm(self, layer: _BatchNorm, x: Tensor) -> Tensor:
        """Batch norm with the mean and the variance of the batch of all processes."""
        if not layer.training:
            return type(layer).forward(layer, x)
        mean, variance, n = self._moments(x.detach())
        _update_running_moments(layer, mean, variance * n / (n - 1))
        weight = torch.ones_like(mean) if layer.weight is None else layer.weight
        normed: Tensor = _Normed.apply(x, weight, layer.bias, mean, variance, n, layer.eps, self)  # type: ignore[no-untyped-call]
        return normed

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance (divisor n) of each channel over all processes, and the number n."""
        x, dims = x.to(torch.promote_types(x.dtype, torch.float32)), _all_but_channels(x)
        mean = x.mean(dims)
        variance = (x - _per_channel(mean, x)).square_().mean(dims)  # `var_mean` takes ten times as long on a CPU
        mean, variance = mean.double(), variance.double()  # so that the squares of large means cancel
        n = torch.full_like(mean, 0 if self.is_idle else x.numel() // x.shape[1])
        n, total, squares = self.sum(torch.stack([n, n * mean, n * (variance + mean.square())]))
        mean = total / n
        return mean.to(x.dtype), (squares / n - mean.square()).clamp(min=0).to(x.dtype), n[0].to(x.dtype)


@contextmanager
def process_group(device: str) -> Iterator[SingleProcess]:
    """What trains a network on a device: this process, or all processes of its group.

    Parameters
    ----------
    device : str

    Raises
    ------
    ValueError
        If there are several processes, and no way to add up their gradients on the device.
    """
    if not is_parallel():
        yield SingleProcess(device)
        return
    if (kind := torch.device(device).type) not in ("cpu", "cuda"):
        raise ValueError(f"device={kind!r} is not supported for a data-parallel training. Use 'cuda' or 'cpu'.")
    with _lock, _default_group(device):
        processes = DataParallel(device)
        try:
            yield processes
        finally:
            processes.close()


def is_parallel() -> bool:
    """Whether this is one of several processes that train together.

    They are the default process group of PyTorch if it is initialized, or else the processes that torchrun has started.
    Processes and threads that these start, such as joblib's workers, inherit the environment, but train by themselves.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size() > 1
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    return current_thread() is main_thread() and parent_process() is None


@contextmanager
def _default_group(device: str) -> Iterator[None]:
    """The default process group: that of the user, or one for the block."""
    if distributed.is_initialized():
        yield
        return
    is_alone = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "nccl" if torch.device(device).type == "cuda" and is_alone else "gloo"  # NCCL shares no GPU
    with _waiting():
        store, rank, size = next(distributed.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
        store = distributed.PrefixStore(f"sklatent/{next(_numbers)}", store)  # type: ignore[attr-defined]
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _own_device(device: str) -> str:
    """The device of this process: torchrun numbers the processes of each machine."""
    number = int(os.environ.get("LOCAL_RANK", torch.cuda.device_count()))
    return f"cuda:{number}" if device == "cuda" and number < torch.cuda.device_count() else device


@contextmanager
def _waiting() -> Iterator[None]:
    """Raise RuntimeError, in words, if another process does not take its part in an operation."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "Another process of the data-parallel training raised an error, ended, or did not arrive within "
            f"{TIMEOUT.seconds // 60} minutes. Its own output tells why. All processes have to fit the same models in "
            "the same order."
        ) from error


class _Normed(torch.autograd.Function):
    """Batch norm with given moments, whose gradient takes into account that the values of all processes make them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        n: Tensor,
        eps: float,
        processes: DataParallel,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, n)
        ctx.eps, ctx.processes = eps, processes
        return nn.functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, variance, n = ctx.saved_tensors
        constants = weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        # With y = weight h + bias for normed values h: dx for constant moments, and the sums of dy h and of dy in this
        # process. The moments add terms to dx that are linear in x.
        dx, dy_h, dy = torch.ops.aten.native_batch_norm_backward(gradient, x, *constants)
        mean_dy_h, mean_dy = ctx.processes.sum(torch.stack([dy_h, dy])) / n
        scale = (variance + ctx.eps).rsqrt()
        slope = -weight * scale.square() * mean_dy_h
        offset = -weight * scale * mean_dy - slope * mean
        if not ctx.processes.is_idle:  # the moments do not depend on a sample that is not counted
            dx.add_(_per_channel(offset, x)).addcmul_(x, _per_channel(slope, x))
        return dx, dy_h, dy, None, None, None, None, None


def _update_running_moments(layer: Any, mean: Tensor, variance: Tensor) -> None:
    """Move the running moments of a layer towards those of a batch, as PyTorch does."""
    if not layer.track_running_stats:
        return
    layer.num_batches_tracked += 1
    momentum = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, momentum)
    layer.running_var.lerp_(variance, momentum)


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Values (n_channels,) in the shape and the precision of x, (n, n_channels, ...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype)
