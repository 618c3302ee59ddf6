"""Decompositions behind PCA: moments of rows and their spectrum, for any Array API namespace."""

__all__ = ["Moments", "Spectrum", "check_variance", "decompose", "mean_and_variance", "minka_dimension"]

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from scipy.special import gammaln

Array = Any

# A chunk of this many float64 values is 32 MB: large enough for BLAS to run at full speed, small beside the data.
CHUNK_SIZE = 2**22


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the sample covariance of n rows, all in float64.

    Attributes
    ----------
    mean : array of shape (n_features,)
    components : array of shape (rank, n_features)
        Orthonormal rows by decreasing variance, rank = min(n_samples, n_features). The entry of largest magnitude
        in each row is positive: scikit-learn's sign convention.
    variances : array of shape (rank,)
        Variance along each component, divisor n_samples - 1 (1 for a single row); never negative.
    n_samples : int
    """

    mean: Array
    components: Array
    variances: Array
    n_samples: int


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of a set of rows, in float64.

    `scatter` is the sum of (x - mean)(x - mean)' over the rows. The moments of a union come from the moments of
    its parts, so rows may arrive in chunks of any size and need to be read once only.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", The American Statistician, eq. 2.1.
    """

    n_samples: int
    mean: Array
    scatter: Array

    @classmethod
    def from_chunk(cls, X: Array) -> "Moments":
        """Moments of rows few enough to be centred in one float64 copy.

        The product runs in the precision of X, since float64 products cost twice the time of float32 ones. Centring
        in float64 first keeps the digits that an offset would cost, and an exact power of two keeps the squares
        of large values within float32.
        """
        xp = array_namespace(X)
        rows = xp.astype(X, xp.float64)
        mean = xp.mean(rows, axis=0)
        rows = rows - mean
        unit = _power_of_two_above(float(xp.max(xp.abs(rows))))
        rows = xp.astype(rows / unit, X.dtype)
        return cls(X.shape[0], mean, xp.astype(rows.T @ rows, xp.float64) * unit * unit)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the rows of both."""
        n_samples = self.n_samples + other.n_samples
        shift = other.mean - self.mean
        between = shift[:, None] * shift[None, :] * (self.n_samples * other.n_samples / n_samples)
        mean = self.mean + shift * (other.n_samples / n_samples)
        return Moments(n_samples, mean, self.scatter + other.scatter + between)


def mean_and_variance(X: Array) -> tuple[Array, Array]:
    """Mean and variance (divisor n) of each column.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)

    Returns
    -------
    mean, variance : array of shape (n_features,), float64

    Raises
    ------
    ValueError
        If the variance overflows float64.
    """
    xp = array_namespace(X)
    mean = xp.sum(X, axis=0, dtype=xp.float64) / X.shape[0]
    squares = (xp.sum((xp.astype(rows, xp.float64) - mean) ** 2, axis=0) for rows in _chunks(X))
    variance = reduce(lambda total, part: total + part, squares) / X.shape[0]
    check_variance(float(xp.sum(variance)))
    return mean, variance


def check_variance(variance: float) -> None:
    """Refuse data whose variance, or sum of squares about the mean, is not finite."""
    if not np.isfinite(variance):
        raise ValueError("The variance of X overflows float64. Rescale X so that its largest value is below 1e150.")


def decompose(X: Array, solver: str = "auto", nz: int | None = None) -> Spectrum:
    """Spectrum of the sample covariance of X.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32 or float64
    solver : {"auto", "covariance", "full"}
        "covariance" takes the eigenvectors of the scatter matrix: fast where there are more rows than columns, but
        squaring the data halves the digits, so components of small variance are lost. "full" takes the singular
        vectors of the centred rows in float64, and loses nothing. "auto" tries the first where there are enough rows
        and keeps it if the `nz` leading components (all of them if None) are well above its rounding.
    nz : int or None
        Number of components that "auto" has to get right.
    """
    return SOLVERS[solver](X, nz)


def minka_dimension(variances: np.ndarray, n_samples: int) -> int:
    r"""Dimension of largest Bayesian evidence under Laplace's approximation.

    With :math:`v_k` the mean of the d - k smallest variances and :math:`m = dk - k(k + 1)/2`, the log evidence is

    .. math::
        \ln p(X | k) \approx \ln p(U) - \frac{n}{2} \sum_{i \le k} \ln \lambda_i - \frac{n(d - k)}{2} \ln v_k
        + \frac{m + k}{2} \ln 2\pi - \frac{1}{2} \ln |A_Z| - \frac{k}{2} \ln n.

    The cost is O(d^2) for all k together: the double sum in :math:`|A_Z|` splits into parts that accumulate.

    Parameters
    ----------
    variances : ndarray of shape (n_features,), decreasing
    n_samples : int

    Returns
    -------
    k : int, from 1 to n_features - 1

    References
    ----------
    Minka (2000), "Automatic choice of dimensionality for PCA", eq. 77 and 78 of the technical report.
    """
    n_features = len(variances)
    tiny = np.finfo(float).tiny
    k = np.arange(1, n_features)
    kept = np.maximum(variances, tiny)
    noise = np.maximum((kept.sum() - np.cumsum(kept)[:-1]) / (n_features - k), 1e-15)  # scikit-learn's floor
    log_uniform = -k * np.log(2) + np.cumsum(
        gammaln((n_features - k + 1) / 2) - (n_features - k + 1) / 2 * np.log(np.pi)
    )
    n_pairs = n_features * k - k * (k + 1) / 2
    later = np.triu(np.ones((n_features, n_features), dtype=bool), 1)
    gaps = np.log(np.maximum(kept[:, None] - kept[None, :], tiny), where=later, out=np.zeros(later.shape))
    inverse_gaps = np.log(
        np.maximum(1 / kept[None, :] - 1 / kept[:, None], tiny), where=later, out=np.zeros(later.shape)
    )
    noise_gaps = np.log(np.maximum(1 / noise[None, :] - 1 / kept[:-1, None], tiny))  # (i, k)
    log_hessian = (
        np.cumsum(gaps.sum(axis=1))[:-1]
        + np.cumsum(inverse_gaps.sum(axis=0))[:-1]
        + (n_features - k) * (noise_gaps * (k[:, None] <= k[None, :])).sum(axis=0)
        + n_pairs * np.log(n_samples)
    )
    log_evidence = (
        log_uniform
        - n_samples / 2 * (np.cumsum(np.log(kept))[:-1] + (n_features - k) * np.log(noise))
        + (n_pairs + k) / 2 * np.log(2 * np.pi)
        - log_hessian / 2
        - k / 2 * np.log(n_samples)
    )
    return int(np.argmax(np.where(variances[:-1] < 1e-15, -np.inf, log_evidence))) + 1


def _covariance_spectrum(X: Array, nz: int | None = None) -> Spectrum:
    xp = array_namespace(X)
    moments = reduce(Moments.merge, map(Moments.from_chunk, _chunks(X)))
    check_variance(float(xp.sum(xp.linalg.diagonal(moments.scatter))))
    variances, vectors = xp.linalg.eigh(moments.scatter / max(moments.n_samples - 1, 1))
    rank = min(X.shape)
    components = xp.flip(vectors, axis=1).T[:rank, :]
    # Rounding leaves eigenvalues of a singular matrix slightly below zero.
    variances = xp.clip(xp.flip(variances, axis=0)[:rank], min=0.0)
    return Spectrum(moments.mean, _fix_signs(components), variances, moments.n_samples)


def _full_spectrum(X: Array, nz: int | None = None) -> Spectrum:
    xp = array_namespace(X)
    n_samples, n_features = X.shape
    mean = xp.sum(X, axis=0, dtype=xp.float64) / n_samples
    rows = xp.astype(X, xp.float64) - mean
    check_variance(float(xp.sum(rows**2)))
    if n_samples > n_features:  # R has the singular values and right vectors of the rows, and is smaller
        rows = xp.linalg.qr(rows, mode="reduced").R
    _, singular_values, components = xp.linalg.svd(rows, full_matrices=False)
    return Spectrum(mean, _fix_signs(components), singular_values**2 / max(n_samples - 1, 1), n_samples)


def _auto_spectrum(X: Array, nz: int | None = None) -> Spectrum:
    n_samples, n_features = X.shape
    if n_samples < n_features:
        return _full_spectrum(X)
    spectrum = _covariance_spectrum(X)
    least = float(spectrum.variances[(nz or n_features) - 1])
    # An eigenvalue of the scatter carries an error of eps times the largest one; half the digits have to be right.
    resolved = float(np.sqrt(np.finfo(np.float32 if X.dtype.itemsize == 4 else np.float64).eps))
    return spectrum if least > resolved * float(spectrum.variances[0]) else _full_spectrum(X)


SOLVERS: dict[str, Callable[[Array, int | None], Spectrum]] = {
    "auto": _auto_spectrum,
    "covariance": _covariance_spectrum,
    "full": _full_spectrum,
}


def _fix_signs(components: Array) -> Array:
    """Make the entry of largest magnitude in each row positive."""
    xp = array_namespace(components)
    columns = xp.arange(components.shape[1], device=device_of(components))
    largest = xp.argmax(xp.abs(components), axis=1)[:, None] == columns[None, :]
    return components * xp.sign(xp.sum(components * xp.astype(largest, components.dtype), axis=1, keepdims=True))


def _chunks(X: Array) -> Iterator[Array]:
    n_rows = max(1, CHUNK_SIZE // X.shape[1])
    return (X[start : start + n_rows, :] for start in range(0, X.shape[0], n_rows))


def _power_of_two_above(value: float) -> float:
    """Smallest power of two above a finite value; 1.0 for zero, infinity and NaN."""
    return float(2.0 ** np.frexp(value)[1]) if np.isfinite(value) else 1.0
