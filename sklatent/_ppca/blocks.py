"""Samples in blocks that are never in memory together, and the operator that PCA decomposes, of any container."""

__all__ = ["BlockRows", "Blocks", "centered_rows"]

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from sklatent._ppca.centered import CenteredRows, SparseRows
from sklatent._ppca.moments import Moments, check_variance, total_weight

Array = Any


class Blocks(ABC):
    """Samples in blocks, of which nobody asks for more than totals: where and when a block is read is its own affair.

    Attributes
    ----------
    n_features : int
    dtype : dtype
        float32 or float64.
    """

    n_features: int
    dtype: Any

    @abstractmethod
    def total(
        self, function: Callable[..., Any], merge: Callable[[Any, Any], Any], weights: Any, *arguments: Any
    ) -> Any:
        """What `function(block, weights of the block, *arguments)` gives, merged over the blocks in a fixed order.

        Parameters
        ----------
        function, merge : callable
            Functions that pickle. `merge` takes what two blocks, or two unions of blocks, gave. Blocks without samples
            are left out.
        weights : object
            Of the samples, as the container takes them; None stands for weights of 1.
        *arguments
            The same for all blocks, and sent once to where they are read.

        Raises
        ------
        ValueError
            If there are no samples at all.
        """

    @property
    @abstractmethod
    def n_samples(self) -> int:
        """Number of samples, which may have to be counted."""

    @abstractmethod
    def every(self, step: int) -> NDArray[Any]:
        """Each `step`-th sample, in memory."""

    def size(self, weights: Any) -> tuple[float, int]:
        """Sum of the weights, and the number of weights above zero."""
        weight, n_samples = self.total(_size, operator.add, weights)
        return float(weight), int(n_samples)

    def has_missing(self) -> bool:
        """Whether a value is NaN.

        Raises
        ------
        ValueError
            If a value is infinite.
        """
        has_infinite, has_missing = self.total(_not_finite, operator.or_, None)
        if has_infinite:
            raise ValueError(f"Input X contains infinity or a value too large for dtype({self.dtype.name!r}).")
        return bool(has_missing)


class BlockRows(CenteredRows):
    """Centred samples in blocks as a tall matrix. Each method reads all blocks once, and computes in float64.

    Parameters
    ----------
    X : Blocks
    weights : object, default=None
        Sample weights, as X takes them.
    diagonal : bool, default=False
        Whether the first method that reads the blocks computes only the variances of the columns, and not the scatter.
    """

    def __init__(self, X: Blocks, weights: Any = None, *, diagonal: bool = False):
        self.X, self.weights, self.diagonal = X, weights, diagonal
        self.is_tall, self.long, self.short = True, math.inf, X.n_features
        self.xp, self.dtype = array_namespace(np.empty(0)), np.dtype(np.float64)

    @cached_property
    def _first(self) -> Moments:
        return self._total_moments(self.diagonal)

    def _total_moments(self, diagonal: bool) -> Moments:
        moments: Moments = self.X.total(_moments, Moments.merge, self.weights, diagonal)
        spread = moments.scatter if diagonal else np.diagonal(moments.scatter)
        check_variance(float(np.sum(spread) + np.sum(moments.mean**2)))
        return moments

    def moments(self, dtype: Any = None, *, diagonal: bool = False) -> Moments:
        """Moments of all samples."""
        if diagonal == self.diagonal:
            return self._first
        if diagonal:
            return replace(self._first, scatter=np.diagonal(self._first.scatter).copy())
        return self._total_moments(diagonal=False)

    def columns(self, dtype: Any = None) -> Moments:
        """Moments of each column on its own."""
        return self.moments(diagonal=True)

    def size(self) -> tuple[float, int]:
        """Sum of the weights, and the number of weights above zero."""
        return self._first.weight, self._first.n_samples

    def gram_times(self, Q: Array, dtype: Any = None) -> Array:
        """A'A Q of the centred samples A."""
        return self.X.total(_gram_times, operator.add, self.weights, self.columns(), Q)

    def triangle(self) -> Array:
        """R of the QR decomposition of the centred samples: of what is left of each block, two at a time."""
        return self.X.total(_triangle, _triangle_of_both, self.weights, self.columns())


def centered_rows(X: Any, weights: Any = None, load: Callable[[Any], Array] | None = None) -> CenteredRows:
    """Centred samples as an operator, by what X is: `Blocks`, a SciPy sparse array, or any other array.

    X may also be such an operator already, which is returned.
    """
    if isinstance(X, CenteredRows):
        return X
    if isinstance(X, Blocks):
        return BlockRows(X, weights)
    return SparseRows(X, weights) if hasattr(X, "tocsr") else CenteredRows(X, weights, load)


def _size(block: Array, weights: Array | None) -> NDArray[np.float64]:
    return np.array(total_weight(weights, block.shape[0]))


def _not_finite(block: Array, weights: Array | None) -> NDArray[np.bool_]:
    return np.array([np.isinf(block).any(), np.isnan(block).any()])


def _moments(block: Array, weights: Array | None, diagonal: bool) -> Moments:
    return CenteredRows(block, weights).moments(np.float64, diagonal=diagonal)


def _gram_times(block: Array, weights: Array | None, common: Moments, Q: Array) -> Array:
    return CenteredRows(block, weights, common=common).gram_times(Q, np.float64)


def _triangle(block: Array, weights: Array | None, common: Moments) -> Array:
    return CenteredRows(block, weights, common=common).triangle()


def _triangle_of_both(R: Array, other: Array) -> Array:
    return np.linalg.qr(np.concatenate([R, other]), mode="r")
