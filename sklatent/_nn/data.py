"""Data loading: samples to train on and to leave out, minibatches, and the random numbers for each sample."""

__all__ = [
    "Batch",
    "Batches",
    "Draws",
    "MappedRows",
    "Rows",
    "Samples",
    "as_tensor",
    "batch_sizes",
    "has_values",
    "some_weights",
    "split",
]

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from sklatent._nn.distributed import ALONE, Share, SingleProcess
from sklatent._nn.modules import Noise
from sklatent._ppca.moments import total_weight
from sklatent._sources.stored import block_slices, is_sliceable, read

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


class Block(NamedTuple):
    """Samples that are read at once."""

    samples: Samples
    order: Tensor | None
    """Indices of the samples in the order in which they are used; None for all as they are."""


# From the number of samples in a block to the order of those that are chosen.
Choice = Callable[[int], Tensor | None]


def no_choice(n_samples: int) -> None:
    """All samples as they are."""


class Batch(NamedTuple):
    """What a step of training takes."""

    x: Tensor
    """Samples (n, n_features)."""
    noise: Noise
    weight: Tensor | None = None
    """As in `Samples`."""
    fraction: float = 1.0
    """Number of these samples over that of the batch of all processes."""


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

    def blocks(self, generator: torch.Generator | None, choose: Choice = no_choice) -> Iterator[Block]:
        """All samples as one block."""
        yield Block(Samples(self.X, self.relative), choose(len(self)))

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

    def blocks(self, generator: torch.Generator | None, choose: Choice = no_choice) -> Iterator[Block]:
        """Blocks of samples, in shuffled order if there is a generator. Samples that are not chosen may be left out."""
        numbers = torch.arange(len(self.cuts), device="cpu")
        if generator is not None:
            numbers = torch.randperm(len(numbers), generator=generator, device=generator.device)
        for number in numbers.tolist():
            cut = self.cuts[number]
            n_read = len(range(*cut.indices(self.X.shape[0])))
            used = np.arange(n_read) if self.keep is None else np.flatnonzero(self.keep[cut])
            if len(used):
                order = choose(len(used))
                if order is not None and len(order) < len(used):
                    chosen, order = order.unique(return_inverse=True)
                    used = used[chosen.cpu().numpy()]
                yield Block(self._read(cut, used if len(used) < n_read else slice(None)), order)

    def _read(self, cut: slice, used: slice | NDArray[Any]) -> Samples:
        """Some samples of a block. Of a memory map only these are read."""
        weight = None if self.relative is None else self.relative[cut][used]
        return Samples(as_tensor(read(self.X[cut], used)), weight).map(lambda tensor: tensor.to(self.device))

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
    processes : SingleProcess or DataParallel, default=SingleProcess()
        Of several processes each takes its share of the samples of a batch.

    Attributes
    ----------
    shares : list of Share
        What this process takes of each batch of an epoch. Its length is the number of steps.

    Notes
    -----
    A batch may span two blocks of `MappedRows`, so the number of steps does not depend on the size of the blocks.
    """

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        generator: torch.Generator | None = None,
        processes: SingleProcess = ALONE,
    ):
        self.rows = rows
        self.batch_size = batch_size
        self.generator = generator
        self.processes = processes
        self.shares = [processes.share(size) for size in batch_sizes(len(rows), batch_size)]

    def __iter__(self) -> Iterator[Samples]:
        shares = iter(self.shares)
        share = next(shares)
        begun, missing = [], _length(share.places)
        for block in self.rows.blocks(self.generator, self._choice()):
            start, stop = 0, len(block.samples.x if block.order is None else block.order)
            while start < stop:
                end = min(start + missing, stop)
                begun.append(_take(block, start, end))
                missing -= end - start
                start = end
                if not missing:
                    yield _joined(begun, share)
                    share = next(shares, share)
                    begun, missing = [], _length(share.places)
            del block  # before the next one is read

    def _choice(self) -> Choice:
        """Which samples of the next block this process takes, in an order shuffled if there is a generator."""
        if self.processes.size == 1:
            return no_choice if self.generator is None else self._shuffled
        is_taken = torch.cat([_is_taken(share) for share in self.shares])

        def choose(n_samples: int) -> Tensor:
            nonlocal is_taken
            order = torch.arange(n_samples, device="cpu") if self.generator is None else self._shuffled(n_samples)
            taken, is_taken = is_taken[:n_samples], is_taken[n_samples:]
            return order[taken.to(order.device)].to(self.processes.device)

        return choose

    def _shuffled(self, n_samples: int) -> Tensor:
        assert self.generator is not None
        return torch.randperm(n_samples, generator=self.generator, device=self.generator.device)


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

    def take(self, n_rows: int, places: slice = slice(None)) -> Noise:
        """The next random numbers, for n_rows samples, of which those in some places are returned."""
        if n_rows > len(self.rest):
            shape = (max(n_rows, self.n_rows), self.n_values)
            self.rest = torch.randn(shape, generator=self.generator, device=self.generator.device)
        eps, self.rest = self.rest[:n_rows], self.rest[n_rows:]
        return Noise(*eps[places].split(self.widths, dim=1))


def split(
    X: Any,
    n_left_out: int | float,
    seed: int,
    device: str | torch.device,
    weights: NDArray[Any] | None = None,
    has_missing: bool = False,
) -> tuple[Any, Any]:
    """Samples to train on, and a number or fraction of them that is left out; None for the latter if it is 0.

    Of data that are read by slices, those without weight are left out of both.
    """
    if not is_sliceable(X):
        if not n_left_out:
            return Rows(X, device, weights), None
        parts = train_test_split(np.arange(len(X)), test_size=n_left_out, random_state=seed)
        train, valid = (Rows(X[part], device, None if weights is None else weights[part]) for part in parts)
        return train, valid
    used = None if weights is None else weights > 0
    if not n_left_out:
        return MappedRows(X, device, used, weights, has_missing), None
    numbers = np.arange(X.shape[0]) if used is None else np.flatnonzero(used)
    left_out = np.zeros(X.shape[0], dtype=bool)
    left_out[train_test_split(numbers, test_size=n_left_out, random_state=seed)[1]] = True
    kept = ~left_out if used is None else used & ~left_out
    given: dict[str, Any] = {"weights": weights, "has_missing": has_missing}
    return MappedRows(X, device, kept, **given), MappedRows(X, device, left_out, **given)


def has_values(rows: Rows | MappedRows) -> bool:
    """Whether any value is observed. Samples without do not tell the noise variance."""
    return rows.observed is None or bool(rows.observed.any())


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


def _take(block: Block, start: int, stop: int) -> Samples:
    """The samples start to stop of a block, in its order."""
    if block.order is None:
        return block.samples.map(lambda tensor: tensor[start:stop])
    # index_select takes half the time of tensor[index].
    return block.samples.map(partial(torch.index_select, dim=0, index=block.order[start:stop]))


def _joined(parts: list[Samples], share: Share) -> Samples:
    """The samples of a batch; with weights of zero if they only stand for a share that is empty."""
    samples = parts[0] if len(parts) == 1 else Samples.join(parts)
    return samples if share.fraction else samples._replace(weight=torch.zeros_like(samples.x[:, 0]))


def _length(places: slice) -> int:
    return int(places.stop - places.start)


def _is_taken(share: Share) -> Tensor:
    """Mask of the samples of a batch that a process takes."""
    mask = torch.zeros(share.size, dtype=torch.bool, device="cpu")
    mask[share.places] = True
    return mask


def _relative(weights: NDArray[Any], of: NDArray[Any]) -> Tensor:
    """Weights over the mean of some of them."""
    return torch.from_numpy(weights / of.mean()).float()


def observed_fractions(rows: Rows | MappedRows) -> Tensor | None:
    """Fraction of the samples, as their weights count them, in which each feature is not NaN; None if no value is."""
    n_observed: Any = 0.0
    has_missing, start = False, 0
    for (x, _), _ in rows.blocks(None):
        observed = ~x.isnan()
        has_missing = has_missing or not bool(observed.all())
        if rows.weights is None:
            n_observed = n_observed + observed.sum(0).cpu().double()
        else:
            weights = torch.from_numpy(rows.weights[start : start + len(x)])
            n_observed = n_observed + weights @ observed.cpu().double()
        start += len(x)
    return n_observed / total_weight(rows.weights, len(rows))[0] if has_missing else None
