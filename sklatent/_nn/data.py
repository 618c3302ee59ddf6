"""How rows reach the model: minibatches from memory or from a file larger than it, and the noise beside them."""

__all__ = ["Batches", "Draws", "MappedRows", "Rows", "as_tensor", "is_sliceable", "row_blocks"]

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sklatent._ppca.centered import is_mapped

# Bytes of a memory map from which on it is read in blocks, and bytes of a block.
MAPPED_SIZE = 2**30
BLOCK_SIZE = 2**26
# Random numbers drawn at a time, at most.
N_DRAWS = 2**22


class Rows(Dataset):
    """Rows of an array, on a device and in their own precision.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Shared, not copied, when it is C-contiguous and the device is the CPU.
    device : str or torch.device
    """

    def __init__(self, X: NDArray, device: str | torch.device = "cpu"):
        self.X = as_tensor(X).to(device)

    def __len__(self) -> int:
        return len(self.X)

    def blocks(self, generator: torch.Generator | None) -> Iterator[Tensor]:
        """All rows at once."""
        yield self.X


class MappedRows(Dataset):
    """Rows of something that is sliced because memory does not hold it, such as a memory map.

    Blocks of neighbouring rows are read in shuffled order, and the rows of each are shuffled: no row is read by itself.

    Parameters
    ----------
    X : sliceable of shape (n_samples, n_features)
    device : str or torch.device
    keep : ndarray of shape (n_samples,), bool, or None
        Which rows take part.
    """

    def __init__(self, X: Any, device: str | torch.device = "cpu", keep: NDArray | None = None):
        self.X = X
        self.device = device
        self.keep = keep
        self.n_rows = max(2, BLOCK_SIZE // (X.shape[1] * X.dtype.itemsize))

    def __len__(self) -> int:
        return self.X.shape[0] if self.keep is None else int(self.keep.sum())

    def blocks(self, generator: torch.Generator | None) -> Iterator[Tensor]:
        """Blocks of rows, in shuffled order where there is a generator."""
        starts = torch.arange(0, self.X.shape[0], self.n_rows)
        if generator is not None:
            starts = starts[torch.randperm(len(starts), generator=generator, device=generator.device).cpu()]
        for start in starts.tolist():
            block = read(self.X, start, start + self.n_rows)
            if self.keep is not None:
                block = block[self.keep[start : start + self.n_rows]]
            if len(block):
                yield as_tensor(block).to(self.device)


class Batches:
    """Minibatches of `Rows` or `MappedRows`, each gathered at once.

    Parameters
    ----------
    rows : Rows or MappedRows
    batch_size : int
    generator : Generator or None, default=None
        Draws a new order at each pass; None keeps the order of the rows.

    Attributes
    ----------
    sizes : list of int
        Number of samples in each batch of a pass: the one count of its steps.

    Notes
    -----
    A batch may span two blocks of `MappedRows`, so blocks smaller than a batch make no more steps than memory does.
    """

    def __init__(self, rows: Any, batch_size: int, generator: torch.Generator | None = None):
        self.rows = rows
        self.batch_size = batch_size
        self.generator = generator
        self.sizes = batch_sizes(len(rows), batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        sizes = iter(self.sizes)
        begun, missing = [], next(sizes)
        for block in self.rows.blocks(self.generator):
            take = self._shuffled(block)
            start = 0
            while start < len(block):
                stop = min(start + missing, len(block))
                begun.append(take(start, stop))
                missing -= stop - start
                start = stop
                if not missing:
                    yield begun[0] if len(begun) == 1 else torch.cat(begun)
                    begun, missing = [], next(sizes, 0)

    def _shuffled(self, block: Tensor) -> Callable[[int, int], Tensor]:
        """What takes samples start to stop of a block, in a new order where there is a generator."""
        if self.generator is None:
            return lambda start, stop: block[start:stop]
        order = torch.randperm(len(block), generator=self.generator, device=block.device)
        return lambda start, stop: block.index_select(0, order[start:stop])  # in half the time of block[index]


class Draws:
    """Draws from N(0, 1), many at a time, handed out row by row.

    Parameters
    ----------
    n_values : int
        Draws for each row.
    generator : Generator
        Also says on which device.
    n_samples : int
        Rows that will want draws.
    """

    def __init__(self, n_values: int, generator: torch.Generator, n_samples: int):
        self.n_values = n_values
        self.generator = generator
        self.n_rows = min(n_samples, N_DRAWS // max(n_values, 1))
        self.rest = torch.empty(0, n_values, device=generator.device)

    def take(self, n_rows: int) -> Tensor:
        """Draws (n_rows, n_values) that were not handed out before."""
        if n_rows > len(self.rest):
            shape = (max(n_rows, self.n_rows), self.n_values)
            self.rest = torch.randn(shape, generator=self.generator, device=self.generator.device)
        eps, self.rest = self.rest[:n_rows], self.rest[n_rows:]
        return eps


def batch_sizes(n_samples: int, batch_size: int) -> list[int]:
    """Number of samples in each batch of a pass.

    A last batch of one sample joins its neighbour: batch norm has no variance to take from a single sample.
    """
    n_full, rest = divmod(n_samples, batch_size)
    sizes = [batch_size] * n_full + [rest] * (rest > 0)
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def as_tensor(X: NDArray) -> Tensor:
    """The memory of a C-contiguous array as a tensor; a copy of any other.

    PyTorch warns of memory that may not be written to, such as a memory map or what joblib hands to its workers, and
    nothing here writes to rows: so it is told that it may.
    """
    X = np.ascontiguousarray(X)
    if not X.flags.writeable:
        interface = {**X.__array_interface__, "data": (X.__array_interface__["data"][0], False)}
        X = np.asarray(SimpleNamespace(__array_interface__=interface, owner=X))
    return torch.from_numpy(X)


def is_sliceable(X: Any) -> bool:
    """Whether to read X slice by slice: a large memory map, or an array that is not one of memory, such as HDF5's."""
    if isinstance(X, np.ndarray):
        return X.nbytes > MAPPED_SIZE and is_mapped(X)
    in_memory = any(hasattr(X, name) for name in ("__array_interface__", "__dlpack__", "__dataframe__", "toarray"))
    return not in_memory and hasattr(X, "__getitem__") and len(getattr(X, "shape", ())) == 2 and hasattr(X, "dtype")


def row_blocks(X: Any) -> Iterator[NDArray]:
    """Blocks of the rows of an array, or of what is read slice by slice, small enough for a few copies of each."""
    n_rows = max(2, BLOCK_SIZE // 4 // (X.shape[1] * X.dtype.itemsize))
    for start in range(0, max(X.shape[0], 1), n_rows):
        yield read(X, start, start + n_rows)


def read(X: Any, start: int, stop: int) -> NDArray:
    """Rows of a sliceable, as float32 or float64."""
    rows = np.asarray(X[start:stop])
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
