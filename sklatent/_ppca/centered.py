"""Centred samples as a linear operator that works chunk by chunk: dense or sparse, weighted or not."""

__all__ = [
    "CenteredRows",
    "SparseRows",
    "center",
    "is_mapped",
    "is_near_origin",
    "mean_and_variance",
    "split",
]

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from array_api_compat import array_namespace, to_device
from array_api_compat import device as device_of

from sklatent._ppca.chunks import slices
from sklatent._ppca.moments import FactoredMoments, Moments, check_variance, total_weight

Array = Any

# A chunk of this many values stays in the cache, where centring it costs little compared with multiplying it.
CHUNK_SIZE = 2**19
# Sums of squares within these limits have neither overflowed nor underflowed in float32.
SQUARES_OF_FLOAT32 = 1e-20, 1e30
# Number of rows for a rough estimate of the mean.
N_ROUGH_ROWS = 256


def mean_and_variance(X: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Compute mean and variance (divisor n) of each column.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
    weights : array of shape (n_samples,) or None, default=None
        Sample weights.

    Returns
    -------
    mean : array of shape (n_features,), float64
    variance : array of shape (n_features,), float64

    Raises
    ------
    ValueError
        If the variance overflows float64.
    """
    columns = CenteredRows(X, weights).columns(array_namespace(X).float64)
    return columns.mean, columns.scatter / columns.weight


def is_mapped(X: Any) -> bool:
    """Whether X is a memory map or a view of one."""
    while X is not None and not isinstance(X, np.memmap):
        X = getattr(X, "base", None)
    return X is not None


class CenteredRows:
    """The matrix that PCA decomposes: dense rows minus their mean, times the square roots of their weights.

    The matrix is never formed as a whole. Each method reads the rows chunk by chunk, centres a chunk and multiplies it.
    Sums over chunks are in float64. The matrix is treated as tall: if there are more columns than rows, its transpose
    is used, in chunks of columns. "Short" denotes the smaller of n_samples and n_features, "long" the larger.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Data in float32 or float64, of any Array API namespace. A memory map is read, not copied.
    weights : array of shape (n_samples,) or None, default=None
        Sample weights in float64, in the namespace of the chunks.
    load : callable, default=None
        Function that moves a chunk of X to the device. None leaves it where it is.
    common : Moments or None, default=None
        Moments of each column over all samples, if X is one block of them: it is then centred by their mean, and tall.

    Attributes
    ----------
    is_tall : bool
        Whether there are at least as many rows as columns.
    """

    def __init__(
        self,
        X: Any,
        weights: Array | None = None,
        load: Callable[[Any], Array] | None = None,
        common: Moments | None = None,
    ):
        self.X = X
        self.weights = weights
        self.load = load or (lambda rows: rows)
        self.common = common
        self.is_tall = common is not None or X.shape[0] >= X.shape[1]
        self.long, self.short = X.shape if self.is_tall else X.shape[::-1]
        self._columns: dict[Any, Moments] = {}

    @cached_property
    def xp(self) -> Any:
        """Array API namespace of the chunks."""
        return array_namespace(self.load(self.X[:1]))

    @cached_property
    def dtype(self) -> Any:
        """Precision of X, in the namespace of the chunks."""
        return self.load(self.X[:1]).dtype

    def columns(self, dtype: Any = None) -> Moments:
        """Moments of each column on its own, from sums in `dtype`. The result is cached."""
        if self.common is not None:
            return self.common
        dtype = dtype or self.dtype
        if dtype not in self._columns:
            self._columns[dtype] = self.moments(dtype, diagonal=True)
        return self._columns[dtype]

    def size(self) -> tuple[float, int]:
        """Sum of the weights, and the number of weights above zero."""
        return total_weight(self.weights, self.X.shape[0])

    def moments(self, dtype: Any = None, *, diagonal: bool = False) -> Moments:
        """Moments of all rows, read once, from products in `dtype`. float64 takes twice the time of float32."""
        dtype = dtype or self.dtype
        moments = self._moments(dtype, diagonal)
        if dtype != self.xp.float64 and not _is_safe_in_float32(float(self.xp.max(moments.scatter))):
            moments = self._moments(self.xp.float64, diagonal)
        scatter = moments.scatter if diagonal else self.xp.linalg.diagonal(moments.scatter)
        check_variance(float(self.xp.sum(scatter) + self.xp.sum(moments.mean**2)))
        return moments

    def _moments(self, dtype: Any, diagonal: bool) -> Moments:
        """Moments about a rough mean.

        Subtracting it loses no precision, since a difference is rounded relative to its own size. The mean of the
        differences is then small enough to be summed in `dtype`, and the moments are corrected for it.
        """
        xp, point = self.xp, self._rough_mean(dtype)
        n_samples, n_features = self.X.shape
        size = CHUNK_SIZE if diagonal else _product_size(n_features)
        total = scatter = 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # handled by the caller
            for cut in slices(n_samples, size, n_features):
                rows = xp.astype(self.load(self.X[cut]), dtype, copy=False) - point
                weights = None if self.weights is None else self.weights[cut]
                ones = xp.ones_like(rows[:, 0])
                total += xp.astype((ones if weights is None else xp.astype(weights, dtype)) @ rows, xp.float64)
                _weigh(rows, weights)
                scatter += xp.astype(ones @ (rows * rows) if diagonal else rows.T @ rows, xp.float64)
        weight, n_samples = self.size()
        return Moments.about(xp.astype(point, xp.float64), weight, n_samples, total, scatter, diagonal)

    def _rough_mean(self, dtype: Any) -> Array:
        """Mean of some evenly spaced rows with a weight above zero."""
        xp, step = self.xp, -(-self.X.shape[0] // N_ROUGH_ROWS)
        some = slice(None, None, step)
        chosen = some if self.weights is None else np.flatnonzero(to_device(self.weights, "cpu"))[some]
        rows = xp.astype(self.load(self.X[chosen]), dtype, copy=False)
        return xp.ones_like(rows[:, 0]) / max(rows.shape[0], 1) @ rows

    def gram(self, dtype: Any = None) -> Array:
        """A'A of the tall matrix A, of shape (short, short)."""
        return self._total(part.B.T @ part.B for part in self._parts(dtype, _product_size(self.short)))

    def gram_times(self, Q: Array, dtype: Any = None) -> Array:
        """A'A Q from two thin products, of shape (short, n)."""
        return self._total(part.transposed_times(part.times(Q)) for part in self._thin_parts(dtype))

    def times(self, V: Array, dtype: Any = None) -> Array:
        """A V, of shape (long, n)."""
        products = self.xp.concat([part.times(V) for part in self._thin_parts(dtype)])
        return self.xp.astype(products, self.xp.float64, copy=False)

    def whole(self) -> Array:
        """The centred rows in float64, of shape (n_samples, n_features)."""
        A = self.xp.concat([part.B for part in self._parts(self.xp.float64, _product_size(self.short))])
        return A if self.is_tall else A.T

    def factored_moments(self) -> FactoredMoments:
        """Moments of all rows, from one centred float64 copy."""
        columns = self.columns(self.xp.float64)
        total = float(self.xp.sum(columns.scatter))
        return FactoredMoments(columns.weight, columns.n_samples, columns.mean, self.whole(), total)

    def triangle(self) -> Array:
        """R of the QR decomposition of A in float64, of shape (short or fewer, short): A'A = R'R in full precision."""
        xp = self.xp
        parts = self._parts(xp.float64, _product_size(self.short))
        start = xp.zeros((0, self.short), dtype=xp.float64, device=device_of(self.columns(xp.float64).mean))
        return reduce(lambda R, part: xp.linalg.qr(xp.concat([R, part.B]), mode="reduced").R, parts, start)

    def _thin_parts(self, dtype: Any) -> Iterator["_Part"]:
        """Chunks for products with few columns, for which centring is expensive: near the origin it is implicit."""
        columns = self.columns(dtype)
        spread = float(self.xp.sum(columns.scatter)) / columns.weight
        is_near = self.weights is None and is_near_origin(columns.mean, spread, dtype or self.dtype)
        return self._parts(dtype, CHUNK_SIZE, implicit=is_near)

    def _parts(self, dtype: Any, size: int, implicit: bool = False) -> Iterator["_Part"]:
        """Chunks of A of so many values, each of shape (n, short)."""
        xp, dtype = self.xp, self._safe(dtype or self.dtype)
        means = self._means(dtype)
        for cut in slices(self.long, size, self.short):
            B = xp.astype(self.load(self.X[cut] if self.is_tall else self.X[:, cut]), dtype, copy=False)
            local = means if self.is_tall else [mean[cut] for mean in means]
            if implicit:
                ones = xp.ones_like(B[:, 0])
                yield _Part(B, ones, local[0]) if self.is_tall else _Part(B.T, local[0], ones)
            else:
                B = _weigh(
                    center(B, local), self.weights[cut] if self.is_tall and self.weights is not None else self.weights
                )
                yield _Part(B if self.is_tall else B.T)

    def _means(self, dtype: Any) -> list[Array]:
        """The mean in `dtype` and, if it matters for products, the remainder of its rounding.

        The remainder matters if its square exceeds eps times the mean eigenvalue.
        """
        columns = self.columns(dtype)
        head, rest = split(columns.mean, dtype)
        eigenvalue = float(self.xp.sum(columns.scatter)) / columns.weight / columns.mean.shape[0]
        return [head, rest] if float(rest @ rest) > float(self.xp.finfo(dtype).eps) * eigenvalue else [head]

    def _safe(self, dtype: Any) -> Any:
        """`dtype`, or float64 if squares would exceed the range of float32."""
        return dtype if _is_safe_in_float32(float(self.xp.sum(self.columns(dtype).scatter))) else self.xp.float64

    def _total(self, products: Iterator[Array]) -> Array:
        """Sum in float64."""
        return reduce(operator.iadd, (self.xp.astype(product, self.xp.float64) for product in products))


@dataclass(frozen=True)
class _Part:
    """A chunk of the tall matrix: B - u v', or B if u and v are None."""

    B: Any
    u: Any = None
    v: Any = None

    def times(self, V: Array) -> Array:
        """(B - u v') V in the precision of B."""
        V = array_namespace(V).astype(V, self.B.dtype, copy=False)
        return self.B @ V if self.u is None else self.B @ V - self.u[:, None] * (self.v @ V)

    def transposed_times(self, U: Array) -> Array:
        """(B - u v')' U."""
        return self.B.T @ U if self.u is None else self.B.T @ U - self.v[:, None] * (self.u @ U)


class SparseRows(CenteredRows):
    """Rows of a SciPy sparse array, which stays sparse: the mean is subtracted from the products.

    Products are in float64. Their relative precision decreases with the square of the ratio of mean to standard
    deviation, which is small if most entries are zero.
    """

    def __init__(self, X: Any, weights: np.ndarray | None = None):
        X = X.tocsr().astype(np.float64, copy=False)
        if not X.has_canonical_format:  # duplicate entries stand for their sum; the user's X is not modified
            X = X.copy()
            X.sum_duplicates()
        super().__init__(X, weights)
        self.xp, self.dtype = array_namespace(np.empty(0)), np.dtype(np.float64)

    def moments(self, dtype: Any = None, *, diagonal: bool = False) -> Moments:
        """Moments of all rows."""
        weights = np.ones(self.X.shape[0]) if self.weights is None else self.weights
        weight, n_samples = self.size()
        mean = (self.X.T @ weights) / (weight or 1.0)
        if diagonal:
            stored = self.X.copy()
            stored.data = np.ones_like(stored.data)
            n_zero = weight - stored.T @ weights  # weight of the entries that are not stored
            stored.data = (self.X.data - mean[self.X.indices]) ** 2
            scatter = stored.T @ weights + n_zero * mean**2
        else:
            scatter = (self.X.T @ self.X.multiply(weights[:, None])).toarray() - weight * np.outer(mean, mean)
        check_variance(float(np.sum(scatter if diagonal else np.diagonal(scatter))))
        return Moments(weight, n_samples, mean, scatter)

    def gram(self, dtype: Any = None) -> Array:
        """A'A of the tall matrix A, of shape (short, short)."""
        if self.is_tall:
            return self.moments().scatter
        (part,) = self._thin_parts()
        products = np.outer(part.B.T @ part.u, part.v)
        return (part.B.T @ part.B).toarray() - products - products.T + (part.u @ part.u) * np.outer(part.v, part.v)

    def _thin_parts(self, dtype: Any = None) -> Iterator[_Part]:
        roots = np.ones(self.X.shape[0]) if self.weights is None else np.sqrt(self.weights)
        rows, mean = self.X.multiply(roots[:, None]).tocsr(), self.columns().mean
        yield _Part(rows, roots, mean) if self.is_tall else _Part(rows.T, mean, roots)


def split(mean: Array, dtype: Any) -> list[Array]:
    """A float64 array as the sum of two arrays in `dtype`."""
    xp = array_namespace(mean)
    head = xp.astype(mean, dtype)
    return [head, xp.astype(mean - xp.astype(head, xp.float64), dtype)]


def is_near_origin(mean: Array, spread: float, dtype: Any) -> bool:
    """Whether rows may be multiplied first and centred afterwards, which is faster.

    The loss of precision is the ratio of the norm of the mean to the square root of `spread`, the sum of the variances:
    negligible for a ratio up to 2, and two of the sixteen digits of float64 for a ratio up to 100.
    """
    return float(mean @ mean) <= (1e4 if dtype == array_namespace(mean).float64 else 4) * spread


def center(X: Array, means: list[Array]) -> Array:
    """X minus the sum of `means`, in their precision.

    The difference of two numbers is rounded relative to its own size, not to theirs. So with the mean as the sum of two
    parts, float32 rows far from the origin are centred as accurately as in float64.
    """
    rows = array_namespace(X).astype(X, means[0].dtype, copy=False) - means[0]
    for mean in means[1:]:
        rows -= mean
    return rows


def _is_safe_in_float32(squares: float) -> bool:
    """Whether a sum of squares has neither overflowed nor underflowed in float32."""
    low, high = SQUARES_OF_FLOAT32
    return low < squares < high


def _weigh(rows: Array, weights: Array | None) -> Array:
    """Rows times the square roots of their weights, in place."""
    if weights is not None:
        xp = array_namespace(rows)
        rows *= xp.astype(xp.sqrt(weights), rows.dtype)[:, None]
    return rows


def _product_size(n_columns: int) -> int:
    """Values in a chunk: enough that its products cost more than summing them, few enough to save memory."""
    return max(CHUNK_SIZE, min(8 * n_columns**2, max(8 * CHUNK_SIZE, n_columns**2)))
