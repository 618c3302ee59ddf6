"""Samples that are read by slices: large memory maps, HDF5, zarr, and what else is not in memory."""

__all__ = ["StoredBlocks", "block_slices", "is_sliceable", "is_stored", "read", "row_blocks"]

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklatent._ppca.blocks import Blocks
from sklatent._ppca.centered import is_mapped
from sklatent._ppca.chunks import slices

# Memory maps with more bytes are read in blocks, and the bytes of a block.
MAPPED_SIZE = 2**30
BLOCK_SIZE = 2**25


def is_sliceable(X: Any) -> bool:
    """Whether to read X by slices: a large memory map, or what is not in memory."""
    return X.nbytes > MAPPED_SIZE and is_mapped(X) if isinstance(X, np.ndarray) else is_stored(X)


def is_stored(X: Any) -> bool:
    """Whether X is an array that is not in memory, such as a dataset of HDF5."""
    in_memory = any(hasattr(X, name) for name in ("__array_interface__", "__dlpack__", "__dataframe__", "toarray"))
    return not in_memory and hasattr(X, "__getitem__") and len(getattr(X, "shape", ())) == 2 and hasattr(X, "dtype")


def block_slices(X: Any, size: int | None = None) -> Iterator[slice]:
    """Slices of so many bytes each, by default of a block."""
    return slices(X.shape[0], size or BLOCK_SIZE, X.shape[1] * X.dtype.itemsize)


def row_blocks(X: Any) -> Iterator[NDArray[Any]]:
    """Blocks of the samples of an array or of sliceable data, small enough to hold a few copies of each in memory."""
    for cut in block_slices(X, BLOCK_SIZE // 4) if X.shape[0] else [slice(0, 0)]:  # one of no samples is empty
        yield read(X, cut)


def read(X: Any, cut: slice | NDArray[Any]) -> NDArray[Any]:
    """Samples of sliceable data, as float32 or float64."""
    rows = np.asarray(X[cut])
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)


class StoredBlocks(Blocks):
    """Blocks of an array that is not in memory, read one after the other.

    Parameters
    ----------
    X : sliceable of shape (n_samples, n_features)
    """

    def __init__(self, X: Any):
        self.X = X
        self.n_features = X.shape[1]
        self.dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.X.shape[0])

    def total(
        self, function: Callable[..., Any], merge: Callable[[Any, Any], Any], weights: Any, *arguments: Any
    ) -> Any:
        """What a function gives for each block, merged in their order."""
        return reduce(merge, self._each(function, weights, arguments))

    def _each(self, function: Callable[..., Any], weights: Any, arguments: tuple[Any, ...]) -> Iterator[Any]:
        start = 0
        for block in row_blocks(self.X):
            stop = start + len(block)
            yield function(block, None if weights is None else weights[start:stop], *arguments)
            start = stop

    def every(self, step: int) -> NDArray[Any]:
        """Each `step`-th sample, in memory."""
        return read(self.X, slice(None, None, step))
