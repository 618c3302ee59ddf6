"""Data loading: minibatches from memory or from larger files, and the random numbers for each sample."""

__all__ = [
    "Batch",
    "Batches",
    "Draws",
    "MappedRows",
    "Rows",
    "Samples",
    "as_tensor",
    "batch_sizes",
    "some_weights",
]

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sklatent._nn.modules import Noise
from sklatent._ppca.moments import total_weight
from sklatent._sources.stored import block_slices, read

# Maximum number of random numbers to generate at a time.
N_DRAWS = 2**22


class Samples(NamedTuple):
    """Samples and their weights."""

    x: Tensor
    """Shape (n, n_features)."""
    weight: Tensor | None = None
    """Weights over the mean weight of all training samples, (n,); None if all are equal."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Samples":
        """The samples that a function chooses, with their weights."""
        return Samples(function(self.x), None if self.weight is None else function(self.weight))

    @staticmethod
    def join(parts: Sequence["Samples"]) -> "Samples":
        """Several samples as one."""
        weights = [part.weight for part in parts if part.weight is not None]
        return Samples(torch.cat([part.x for part in parts]), torch.cat(weights) if weights else None)


class Batch(NamedTuple):
    """What a step of training takes."""

    x: Tensor
    """Samples (n, n_features)."""
    noise: Noise
    weight: Tensor | None = None
    """As in `Samples`."""


class Rows(Dataset[Any]):
    """Samples of an array, on a device and in their own precision.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Not copied if it is C-contiguous and the device is the CPU.
    device : str or torch.device
    weights : ndarray of shape (n_samples,) or None, default=None
        Sample weights.
    """

    def __init__(self, X: NDArray[Any], device: str | torch.device = "cpu", weights: NDArray[Any] | None = None):
        self.X = as_tensor(X).to(device)
        self.weights = weights
        self.relative = None if weights is None else _relative(weights, weights).to(device)

    def __len__(self) -> int:
        return len(self.X)

    def blocks(self, generator: torch.Generator | None) -> Iterator[Samples]:
        """All samples as one block."""
        yield Samples(self.X, self.relative)

    @cached_property
    def observed(self) -> Tensor | None:
        """Fraction of the samples, by weight, that observe each feature, (n_features,); None if no value is missing."""
        return observed_fractions(self)

    def some(self, n_samples: int) -> NDArray[Any]:
        """At most n_samples evenly spaced samples."""
        return self.X[:: -(-len(self) // n_samples)].cpu().numpy()


class MappedRows(Dataset[Any]):
    """Samples of data that are too large for memory and are read by slices, such as a memory map.

    Blocks of neighbouring samples are read in shuffled order, and the samples of each block are shuffled. So samples
    are never read one by one.

    Parameters
    ----------
    X : sliceable of shape (n_samples, n_features)
    device : str or torch.device
    keep : ndarray of shape (n_samples,), bool, or None
        Mask of the samples to use.
    weights : ndarray of shape (n_samples,) or None, default=None
        Sample weights.
    has_missing : bool, default=False
        Whether the samples to use may have missing values, which is known before X is read once more.

    Attributes
    ----------
    weights : ndarray or None
        Those of the samples to use.
    """

    def __init__(
        self,
        X: Any,
        device: str | torch.device = "cpu",
        keep: NDArray[Any] | None = None,
        weights: NDArray[Any] | None = None,
        has_missing: bool = False,
    ):
        self.X = X
        self.has_missing = has_missing
        self.device = device
        self.keep = keep
        used = slice(None) if keep is None else keep
        self.weights = None if weights is None else weights[used]
        self.relative = None if weights is None else _relative(weights, weights[used])
        self.cuts = list(block_slices(X))

    def __len__(self) -> int:
        return self.X.shape[0] if self.keep is None else int(self.keep.sum())

    def blocks(self, generator: torch.Generator | None) -> Iterator[Samples]:
        """Blocks of samples, in shuffled order if there is a generator."""
        order = torch.arange(len(self.cuts))
        if generator is not None:
            order = torch.randperm(len(order), generator=generator, device=generator.device)
        for number in order.tolist():
            cut = self.cuts[number]
            chosen = slice(None) if self.keep is None else self.keep[cut]
            block = read(self.X, cut)[chosen]
            if len(block):
                weight = None if self.relative is None else self.relative[cut][chosen]
                yield Samples(as_tensor(block), weight).map(lambda tensor: tensor.to(self.device))

    @cached_property
    def observed(self) -> Tensor | None:
        """Fraction of the samples, by weight, that observe each feature, (n_features,); None if no value is missing."""
        return observed_fractions(self) if self.has_missing else None

    def some(self, n_samples: int) -> NDArray[Any]:
        """At most n_samples evenly spaced samples, in memory."""
        step = -(-len(self) // n_samples)
        return read(self.X, slice(None, None, step) if self.keep is None else np.flatnonzero(self.keep)[::step])


class Batches:
    """Minibatches of `Rows` or `MappedRows`. Each batch is gathered by a single operation.

    Parameters
    ----------
    rows : Rows or MappedRows
    batch_size : int
    generator : Generator or None, default=None
        Shuffles the samples in each epoch. None keeps their order.

    Attributes
    ----------
    sizes : list of int
        Number of samples in each batch of an epoch. Its length is the number of steps.

    Notes
    -----
    A batch may span two blocks of `MappedRows`, so the number of steps does not depend on the size of the blocks.
    """

    def __init__(self, rows: Any, batch_size: int, generator: torch.Generator | None = None):
        self.rows = rows
        self.batch_size = batch_size
        self.generator = generator
        self.sizes = batch_sizes(len(rows), batch_size)

    def __iter__(self) -> Iterator[Samples]:
        sizes = iter(self.sizes)
        begun, missing = [], next(sizes)
        for block in self.rows.blocks(self.generator):
            take = self._shuffled(block)
            start = 0
            while start < len(block.x):
                stop = min(start + missing, len(block.x))
                begun.append(take(start, stop))
                missing -= stop - start
                start = stop
                if not missing:
                    yield begun[0] if len(begun) == 1 else Samples.join(begun)
                    begun, missing = [], next(sizes, 0)

    def _shuffled(self, block: Samples) -> Callable[[int, int], Samples]:
        """Function that takes samples start to stop of a block, shuffled if there is a generator."""
        if self.generator is None:
            return lambda start, stop: block.map(lambda tensor: tensor[start:stop])
        order = torch.randperm(len(block.x), generator=self.generator, device=block.x.device)
        # index_select takes half the time of tensor[index].
        return lambda start, stop: block.map(partial(torch.index_select, dim=0, index=order[start:stop]))


class Draws:
    """The noise of training: random numbers from N(0, 1), generated many at a time and handed out in batches.

    Parameters
    ----------
    widths : sequence of int
        Number of random numbers for each sample, for each field of `Noise`.
    generator : Generator
        Random generator, which also determines the device.
    n_samples : int
        Number of samples in an epoch.
    """

    def __init__(self, widths: Sequence[int], generator: torch.Generator, n_samples: int):
        self.widths = list(widths)
        self.n_values = n_values = sum(widths)
        self.generator = generator
        self.n_rows = min(n_samples, N_DRAWS // max(n_values, 1))
        self.rest = torch.empty(0, n_values, device=generator.device)

    def take(self, n_rows: int) -> Noise:
        """The next random numbers, for n_rows samples."""
        if n_rows > len(self.rest):
            shape = (max(n_rows, self.n_rows), self.n_values)
            self.rest = torch.randn(shape, generator=self.generator, device=self.generator.device)
        eps, self.rest = self.rest[:n_rows], self.rest[n_rows:]
        return Noise(*eps.split(self.widths, dim=1))


def some_weights(rows: Rows | MappedRows, n_samples: int) -> NDArray[Any] | None:
    """Weights of the samples that `rows.some(n_samples)` takes; None if there are none."""
    return None if rows.weights is None else rows.weights[:: -(-len(rows) // n_samples)]


def batch_sizes(n_samples: int, batch_size: int) -> list[int]:
    """Number of samples in each batch of an epoch.

    A last batch of less than half the size is merged into the one before: a step of few samples would be as long as the
    others, in a direction that is mostly noise.
    """
    n_full, rest = divmod(n_samples, batch_size)
    sizes = [batch_size] * n_full + [rest] * (rest > 0)
    if len(sizes) > 1 and (2 * sizes[-1] < batch_size or sizes[-1] == 1):  # batch norm needs more than one sample
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


def as_tensor(X: NDArray[Any]) -> Tensor:
    """A tensor that shares the memory of a C-contiguous array, and a copy of any other array.

    PyTorch warns of read-only memory, such as a memory map or the arrays of joblib's workers. Since nothing in this
    package writes to X, the memory is declared writable.
    """
    X = np.ascontiguousarray(X)
    if not X.flags.writeable:
        interface = {**X.__array_interface__, "data": (X.__array_interface__["data"][0], False)}
        X = np.asarray(SimpleNamespace(__array_interface__=interface, owner=X))
    return torch.from_numpy(X)


def _relative(weights: NDArray[Any], of: NDArray[Any]) -> Tensor:
    """Weights over the mean of some of them."""
    return torch.from_numpy(weights / of.mean()).float()


def observed_fractions(rows: Rows | MappedRows) -> Tensor | None:
    """Fraction of the samples, as their weights count them, in which each feature is not NaN; None if no value is."""
    n_observed: Any = 0.0
    has_missing, start = False, 0
    for x, _ in rows.blocks(None):
        observed = ~x.isnan()
        has_missing = has_missing or not bool(observed.all())
        if rows.weights is None:
            n_observed = n_observed + observed.sum(0).double()
        else:
            weights = torch.from_numpy(rows.weights[start : start + len(x)]).to(x.device)
            n_observed = n_observed + weights @ observed.double()
        start += len(x)
    return n_observed / total_weight(rows.weights, len(rows))[0] if has_missing else None
