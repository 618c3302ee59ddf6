"""The solvers of PCA: eigenvalues and eigenvectors of the sample covariance."""

__all__ = [
    "SOLVERS",
    "Spectrum",
    "decompose",
    "fix_signs",
    "orthonormal",
    "spectrum_of_moments",
]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
from array_api_compat import array_namespace
from array_api_compat import device as device_of

from sklatent._ppca.blocks import BlockRows, centered_rows
from sklatent._ppca.centered import CenteredRows, SparseRows, is_mapped
from sklatent._ppca.moments import FactoredMoments, Moments

Array = Any

# Up to this size of the short side the exact eigenvectors are cheap enough to prefer them to a block Krylov method.
SMALL_GRAM = 1000
# Up to this size all eigenvectors take about as long as a few.
SMALL_EIGH = 1000
# Above this size "auto" does not continue from "randomized" to "full", which would be too expensive.
LARGE_TRIANGLE = 5000
# For fewer values than this, the additional time of float64 products is negligible.
SMALL_DATA = 2**14
# Number of blocks of the Krylov space.
N_ITER = 7
# Largest cosine between columns that are orthogonal up to rounding.
ORTHOGONAL = 1e-12
# Largest remainder, as a fraction of the total, that float64 sums of eigenvalues leave if the true remainder is zero.
# The measured values are below 5 eps.
NOTHING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the sample covariance, all in float64.

    Attributes
    ----------
    mean : array of shape (n_features,)
        Mean of the samples.
    components : array of shape (n, n_features)
        Orthonormal rows sorted by decreasing variance: at least as many as requested, and at most `rank`. The entry of
        largest magnitude of each row is positive, which is scikit-learn's sign convention.
    variances : array of shape (n,) or more
        Variance along each component, and possibly along further ones; never negative.
    total : float
        Sum of all variances.
    divisor : float
        Divisor of the variances: the total weight minus 1, or 1 if that is not positive.
    n_samples : int
        Number of samples. A sample with an integer weight counts that many times.
    """

    mean: Array
    components: Array
    variances: Array
    total: float
    divisor: float
    n_samples: int

    @property
    def rank(self) -> int:
        """Number of variances: min(n_samples, n_features)."""
        return min(self.n_samples, self.mean.shape[0])

    def noise_variance(self, k: int) -> float:
        """Mean of the variances after the first k; 0.0 if there are none."""
        if k >= self.rank:
            return 0.0
        xp = array_namespace(self.variances)
        is_complete = self.variances.shape[0] == self.rank
        rest = xp.sum(self.variances[k:]) if is_complete else self.total - xp.sum(self.variances[:k])
        return max(float(rest), 0.0) / (self.rank - k)


def decompose(
    X: Any,
    solver: Literal["auto", "covariance", "full", "randomized"] = "auto",
    nz: int | None = None,
    *,
    weights: Array | None = None,
    load: Callable[[Any], Array] | None = None,
    n_oversamples: int = 10,
    n_iter: int | Literal["auto"] = "auto",
    seed: Callable[[], int] = lambda: 0,
) -> Spectrum:
    """Compute the spectrum of the sample covariance of X.

    Parameters
    ----------
    X : array or sparse array of shape (n_samples, n_features), or Blocks, or CenteredRows
        An operator has its weights, and `weights` and `load` are not used.
    solver : {"auto", "covariance", "full", "randomized"}
        "covariance" computes the eigenvectors of the scatter matrix, or of the Gram matrix if there are fewer samples
        than features. It is fast, but squaring the data halves the number of accurate digits, so components of small
        variance are lost. "full" computes a QR decomposition of the centred samples and the singular vectors of its
        triangular factor in float64, which has full precision. "randomized" computes Ritz vectors from a block Krylov
        space [1]_. "auto" starts with the cheapest solver and continues with float64 products, and then with "full",
        as long as the `nz` leading components (all components if None) or the remaining variance are not well above the
        rounding error.
    nz : int or None
        Number of components to find. None finds all components, for which "randomized" is the same as "covariance".
    weights : array of shape (n_samples,) or None
        Sample weights.
    load : callable or None
        Function that moves a chunk of X to the device, see `CenteredRows`.
    n_oversamples, n_iter : int
        Parameters of the Krylov space: n_iter blocks of (nz + n_oversamples) / 2 columns, or one block of
        nz + n_oversamples columns if n_iter is 1, rounded up to a multiple of 16.
    seed : callable
        Function that returns the random seed of the first block. It is only called if there is one.

    References
    ----------
    .. [1] Musco & Musco (2015), "Randomized block Krylov methods for stronger and faster approximate singular value
       decomposition", NeurIPS 28, algorithm 2.
    """
    rows = centered_rows(X, weights, load)
    krylov = _Krylov(n_oversamples, N_ITER if n_iter == "auto" else n_iter, seed)
    steps = _plan(rows, nz, krylov) if solver == "auto" else [(solver, rows.dtype)]
    for name, dtype in steps:
        pairs = SOLVERS[name](rows, nz, dtype, krylov)
        if _is_resolved(pairs, nz, dtype):
            break
    # The product of the samples with their right singular vectors is the left ones, times the singular values.
    columns = pairs.vectors if rows.is_tall else rows.times(pairs.vectors[:, :nz], dtype)
    return _spectrum(pairs, columns, nz, *rows.size())


def spectrum_of_moments(moments: Moments | FactoredMoments, nz: int | None = None) -> Spectrum:
    """Compute the spectrum of the sample covariance from moments."""
    xp = array_namespace(moments.mean)
    if isinstance(moments, FactoredMoments):  # truncated, so its rows are orthogonal
        columns, total = moments.factor.T, moments.total
        pairs = _Pairs(xp.sum(columns**2, axis=0), None, moments.mean, total, _rounding(columns) ** 2)
    else:
        values, columns = _eigh(moments.scatter, nz)
        total = float(xp.sum(xp.linalg.diagonal(moments.scatter)))
        pairs = _Pairs(values, columns, moments.mean, total, _rounding(columns))
    return _spectrum(pairs, columns, nz, moments.weight, moments.n_samples)


def fix_signs(components: Array) -> Array:
    """Make the entry of largest magnitude in each row positive."""
    xp = array_namespace(components)
    columns = xp.arange(components.shape[1], device=device_of(components))
    largest = xp.argmax(xp.abs(components), axis=1)[:, None] == columns[None, :]
    return components * xp.sign(xp.sum(components * xp.astype(largest, components.dtype), axis=1, keepdims=True))


def orthonormal(columns: Array, values: Array, n: int, are_orthonormal: bool = False) -> Array:
    """Orthonormalize the first n columns. Columns of value zero, and missing ones, are replaced to complete the basis.

    The replacements depend only on the other columns and not on rounding, so repeated samples and weighted samples give
    the same result.
    """
    xp = array_namespace(columns)
    m = min(n, values.shape[0], columns.shape[1])
    if m == n and are_orthonormal and values[n - 1] > 0:
        return columns[:, :n]
    return xp.linalg.qr(_pad(columns[:, :m] * (values[:m] > 0), n)).Q


@dataclass(frozen=True)
class _Pairs:
    """Eigenpairs of the Gram matrix of the short side, sorted by decreasing value: the leading ones or all."""

    values: Array
    vectors: Array
    mean: Array
    total: float
    rounding: float  # error of the values, relative to the largest one


@dataclass(frozen=True)
class _Krylov:
    n_oversamples: int
    n_iter: int
    seed: Callable[[], int]

    def width(self, k: int) -> int:
        """Number of columns of a block.

        Blocks of half the number of components are more accurate for the same number of products, since there are more
        of them. A single block needs at least as many columns as components. Products are fastest for multiples of 16.
        """
        return -(-(k + self.n_oversamples) // (16 * min(self.n_iter, 2))) * 16


def _covariance(rows: CenteredRows, k: int | None, dtype: Any, krylov: _Krylov) -> _Pairs:
    if rows.is_tall:  # the moments include the mean, so the data are read once
        moments = rows.moments(dtype)
        gram, mean = moments.scatter, moments.mean
    else:
        gram, mean = rows.gram(dtype), rows.columns(dtype).mean
    total = float(rows.xp.sum(rows.xp.linalg.diagonal(gram)))
    return _Pairs(*_eigh(gram, k), mean, total, _rounding(gram))


def _full(rows: CenteredRows, k: int | None, dtype: Any, krylov: _Krylov) -> _Pairs:
    _, singular_values, components = rows.xp.linalg.svd(rows.triangle(), full_matrices=False)
    values = singular_values**2
    return _Pairs(
        values, components.T, rows.columns(rows.xp.float64).mean, float(rows.xp.sum(values)), _rounding(components) ** 2
    )


def _randomized(rows: CenteredRows, k: int | None, dtype: Any, krylov: _Krylov) -> _Pairs:
    width = krylov.width(k or rows.short)
    if width * krylov.n_iter >= rows.short:  # the Krylov space is the whole space
        return _covariance(rows, k, dtype, krylov)
    xp, columns = rows.xp, rows.columns(dtype)
    start = np.random.default_rng(krylov.seed()).standard_normal((rows.short, width))
    basis = block = xp.linalg.qr(xp.asarray(start, device=device_of(columns.mean))).Q
    image = rows.gram_times(block, dtype)
    for _ in range(krylov.n_iter - 1):
        block = _new_directions(image[:, -width:], basis)
        basis = xp.concat([basis, block], axis=1)
        image = xp.concat([image, rows.gram_times(block, dtype)], axis=1)
    ritz = basis.T @ image
    values, vectors = _eigh((ritz + ritz.T) / 2, None)
    vectors = basis @ vectors[:, :k]
    return _Pairs(values[:k], vectors, columns.mean, float(xp.sum(columns.scatter)), _rounding(vectors))


SOLVERS: dict[str, Callable[[CenteredRows, int | None, Any, _Krylov], _Pairs]] = {
    "covariance": _covariance,
    "full": _full,
    "randomized": _randomized,
}


def _plan(rows: CenteredRows, k: int | None, krylov: _Krylov) -> list[tuple[str, Any]]:
    """Solvers and precisions that "auto" tries, in this order."""
    name = "randomized" if _is_worth_krylov(rows, k, krylov) else "covariance"
    is_double = rows.dtype == rows.xp.float64 or rows.short * rows.long < SMALL_DATA
    steps = [(name, dtype) for dtype in ([] if is_double else [rows.dtype]) + [rows.xp.float64]]
    if isinstance(rows, SparseRows) or (name == "randomized" and rows.short > LARGE_TRIANGLE):
        return steps
    return [*steps, ("full", rows.xp.float64)]


def _is_worth_krylov(rows: CenteredRows, k: int | None, krylov: _Krylov) -> bool:
    """Whether a Krylov space takes less than half the operations of the Gram matrix and its eigenvectors."""
    if k is None or rows.short <= SMALL_GRAM:
        return False
    if isinstance(rows, SparseRows):  # the Gram matrix of sparse data is dense
        return True
    if isinstance(rows, BlockRows):  # the scatter matrix is read once; several that are larger do not fit on a worker
        return rows.short > LARGE_TRIANGLE
    if is_mapped(rows.X) and rows.short <= LARGE_TRIANGLE:  # each block would read the file again
        return False
    n_columns = krylov.n_iter * krylov.width(k)
    return 2 * 4 * rows.long * n_columns < rows.long * rows.short + 4 * rows.short**2


def _is_resolved(pairs: _Pairs, k: int | None, dtype: Any) -> bool:
    """Whether the k leading values, and the remaining variance, are accurate to at least half the digits of `dtype`.

    An eigenvalue of a Gram matrix has an error of eps times the largest eigenvalue.
    """
    xp = array_namespace(pairs.values)
    limit = float(xp.finfo(dtype).eps) ** 0.5 * float(pairs.values[0])
    if not float(pairs.values[:k][-1]) > limit:
        return False
    if k is None or k >= pairs.vectors.shape[0]:
        return True
    rest = pairs.total - float(xp.sum(pairs.values[:k]))
    # The remaining variance may also be zero, but only float64 can tell: with float32 products the remainder is a
    # rounding error of either sign, which hides all noise below a thousandth of the largest standard deviation.
    is_nothing = dtype == xp.float64 and rest <= NOTHING * pairs.total
    return rest >= limit or is_nothing


def _eigh(matrix: Array, k: int | None) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, sorted by decreasing value; only the k leading ones if that saves much time."""
    xp, n = array_namespace(matrix), matrix.shape[0]
    if k is not None and 4 * k < n and n > SMALL_EIGH and isinstance(matrix, np.ndarray):
        values, vectors = scipy.linalg.eigh(matrix, subset_by_index=[n - k, n - 1], driver="evr", check_finite=False)
    else:
        values, vectors = xp.linalg.eigh(matrix)
    # Rounding can make eigenvalues of a singular matrix slightly negative.
    return xp.clip(xp.flip(values, axis=0), min=0.0), xp.flip(vectors, axis=1)


def _new_directions(block: Array, basis: Array) -> Array:
    """Orthonormal columns that span the part of the block outside the basis, or arbitrary ones if there is none."""
    xp = array_namespace(block)
    for _ in range(2):  # the second time removes the rounding errors of the first
        block = xp.linalg.qr(block - basis @ (basis.T @ block)).Q
    if float(xp.max(xp.abs(basis.T @ block))) < ORTHOGONAL:
        return block
    # The rank of the data is exhausted: the block consists of rounding errors, which lie partly within the basis.
    return xp.linalg.qr(xp.concat([basis, block], axis=1)).Q[:, basis.shape[1] :]


def _rounding(matrix: Array) -> float:
    """Relative error of the eigenvalues of a Gram matrix, or of the singular values of a matrix, in float64."""
    return max(matrix.shape) * float(np.finfo(np.float64).eps)


def _spectrum(pairs: _Pairs, columns: Array, k: int | None, weight: float, n_samples: int) -> Spectrum:
    """The spectrum of eigenpairs, whose components are the given orthogonal columns of any norm."""
    divisor = weight - 1 if weight > 1 else 1.0
    n_samples = max(n_samples, int(weight))
    rank = min(n_samples, columns.shape[0])
    n = rank if k is None else k
    values = pairs.values[:rank]
    values = values * (values > pairs.rounding * values[0])
    components = fix_signs(orthonormal(columns, values, n, columns is pairs.vectors).T)
    if values.shape[0] < n:  # a weight may count a sample several times: there can be fewer eigenvalues
        values = _pad(values, n)
    return Spectrum(pairs.mean, components, values / divisor, pairs.total / divisor, divisor, n_samples)


def _pad(array: Array, n: int) -> Array:
    """The array padded with zeros to length n along its last axis."""
    xp = array_namespace(array)
    zeros = xp.zeros((*array.shape[:-1], n - array.shape[-1]), dtype=array.dtype, device=device_of(array))
    return xp.concat([array, zeros], axis=-1)
