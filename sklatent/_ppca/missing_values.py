"""Probabilistic PCA with missing values: the EM algorithm, imputation and log-densities."""

__all__ = [
    "LEAST_NOISE",
    "ROUGH_TOLERANCE",
    "FactorModel",
    "column_moments",
    "factor_model",
    "factors_of_incomplete",
    "fit_factors",
    "held_out_dimension",
    "spectrum_of_incomplete",
]

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from numpy.typing import NDArray

from sklatent._ppca.blocks import Blocks
from sklatent._ppca.chunks import slices
from sklatent._ppca.density import conditional_log_density, initial_loadings, normal_log_density, variance_scale
from sklatent._ppca.factors import Factors, factor_analysis
from sklatent._ppca.moments import check_variance, total_weight
from sklatent._ppca.solvers import Spectrum, decompose, fix_signs, orthonormal

Array = Any

# Number of values of the posterior covariances that are in memory at a time.
CHUNK_SIZE = 2**20
MAX_ITER = 1000
# EM has converged if a step increases the log-likelihood by less than this, in nats per sample.
TOLERANCE = 1e-6
# The same where the model is a start, or is compared with others.
ROUGH_TOLERANCE = 1e-2
# Folds, and largest number of samples, by which the number of components is chosen.
N_FOLDS = 3
MAX_ROWS = 3000
# Smallest noise variance, as a fraction of the largest variance of a feature. Below it rounding errors dominate the
# posterior.
LEAST_NOISE = 1e-12


@dataclass(frozen=True)
class FactorModel:
    """The normal density of x = mean + W z + noise with z from N(0, I), for samples with NaN as missing values.

    Attributes
    ----------
    mean : array of shape (n_features,)
    loadings : array of shape (n_features, n_factors)
        The matrix W.
    noise : float
        Variance of the noise, larger than zero.
    """

    mean: Array
    loadings: Array
    noise: float

    def fill(self, X: Array) -> Array:
        """X in float64, with missing values replaced by their expectation given the observed values of the sample."""
        return self._by_chunks(X, lambda given: given.filled)

    def draw(self, X: Array, rng: np.random.Generator) -> Array:
        """A sample of all values given the observed values of each sample: z from its posterior, then x given z."""
        return self._by_chunks(X, lambda given: given.draw(rng))

    def log_density(self, X: Array) -> Array:
        """Log-density of the observed values of each sample, in nats; 0.0 if there are none."""
        return self._by_chunks(X, lambda given: given.log_density)

    def encode(self, X: Array) -> Array:
        """Posterior mean of z given the observed values of each sample."""
        return self._by_chunks(X, lambda given: given.z)

    def kl(self, X: Array) -> Array:
        """KL divergence of the posterior of z given the observed values of each sample from N(0, I), in nats."""
        return self._by_chunks(X, lambda given: given.kl)

    def feature_log_density(self, X: Array) -> Array:
        """Log-density of each observed value given the others of the sample, in nats; NaN for missing values."""
        return self._by_chunks(X, lambda given: given.feature_log_density)

    def squared_residuals(self, X: Array) -> Array:
        """Sum over the observed values of each sample of their squared distance from their expectation given z."""
        return self._by_chunks(X, lambda given: array_namespace(X).sum(given.residual**2, axis=1))

    def _by_chunks(self, X: Array, function: Callable[["_Posterior"], Array]) -> Array:
        cuts = slices(X.shape[0], CHUNK_SIZE, max(self.loadings.shape[1] ** 2, X.shape[1]))
        return array_namespace(X).concat([function(_Posterior(self, X[cut])) for cut in cuts])


class _Posterior:
    """Posterior of z given the observed values of each sample: normal with mean `z` and covariance noise * `inverse`.

    `inverse` is the inverse of M = noise I + sum of w_j w_j' over the observed features j. If all features of all
    samples are observed, M is the same for all, and both arrays have length one.
    """

    def __init__(self, model: FactorModel, X: Array):
        xp = array_namespace(X)
        self.model = model
        self.observed = ~xp.isnan(X)
        self.mask = xp.astype(self.observed, xp.float64)
        self.rows = xp.where(self.observed, xp.astype(X, xp.float64) - model.mean, 0.0)
        W, identity = model.loadings, xp.eye(model.loadings.shape[1], dtype=xp.float64, device=device_of(model.mean))
        mask = self.mask[:1, :] if xp.all(self.observed) else self.mask
        self.M = model.noise * identity + _unpack(mask @ _pack(W), W.shape[1])  # (n or 1, k, k)
        self.inverse = xp.linalg.inv(self.M)
        self.z = (self.inverse @ (self.rows @ W)[:, :, None])[:, :, 0]

    @property
    def filled(self) -> Array:
        """The samples, with missing values replaced by their expectation given the observed values."""
        xp, model = array_namespace(self.z), self.model
        return model.mean + xp.where(self.observed, self.rows, self.z @ model.loadings.T)

    def draw(self, rng: np.random.Generator) -> Array:
        """A sample of x given z, with z from its posterior."""
        xp, model = array_namespace(self.z), self.model
        normals = [rng.standard_normal(shape) for shape in (self.z.shape, self.mask.shape)]
        eps, noise = (xp.asarray(numbers, device=device_of(self.z)) for numbers in normals)
        factor = xp.linalg.cholesky(model.noise * self.inverse)
        z = self.z + (factor @ eps[:, :, None])[:, :, 0]
        return model.mean + z @ model.loadings.T + float(np.sqrt(model.noise)) * noise

    @property
    def kl(self) -> Array:
        """KL divergence from N(0, I): (tr C + ||z||^2 - k - ln det C) / 2 with the covariance C = noise * `inverse`."""
        xp, noise, k = array_namespace(self.z), self.model.noise, self.z.shape[1]
        log_det = k * float(np.log(noise)) - xp.linalg.slogdet(self.M).logabsdet
        return 0.5 * (noise * xp.linalg.trace(self.inverse) + xp.sum(self.z**2, axis=1) - k - log_det)

    @property
    def log_density(self) -> Array:
        """Log-density of the observed values of each sample.

        The squared Mahalanobis distance is the minimum of ||r - W z||^2 / noise + ||z||^2 over z. Unlike the formula
        with the inverse of M, it does not suffer from cancellation.
        """
        xp, model = array_namespace(self.z), self.model
        n_observed = xp.sum(self.mask, axis=1)
        distance = xp.sum(self.residual**2, axis=1) / model.noise + xp.sum(self.z**2, axis=1)
        log_det = xp.linalg.slogdet(self.M).logabsdet + (n_observed - self.z.shape[1]) * float(np.log(model.noise))
        return normal_log_density(distance, log_det, n_observed)

    @property
    def feature_log_density(self) -> Array:
        """Log-density of each observed value given the others of the sample.

        The precision matrix of the observed values r is P = (I - W inverse W') / noise, so P r = (r - W z) / noise. A
        precision is at least that of the feature without the others, below which only rounding errors take it.
        """
        xp, noise, W = array_namespace(self.z), self.model.noise, self.model.loadings
        precisions = (1 - _quadratic_forms(self.inverse, W)) / noise
        precisions = xp.maximum(precisions, 1 / (noise + xp.sum(W**2, axis=1)))
        return xp.where(self.observed, conditional_log_density(self.residual / noise, precisions), xp.nan)

    @property
    def residual(self) -> Array:
        """Observed values minus their expectation given z, and zeros."""
        return self.rows - self.mask * (self.z @ self.model.loadings.T)


def factor_model(spectrum: Spectrum, k: int) -> FactorModel:
    """The model with the k leading components of a spectrum."""
    xp = array_namespace(spectrum.variances)
    least = LEAST_NOISE * variance_scale(spectrum.variances, spectrum.mean)
    noise = max(spectrum.noise_variance(k), least)
    deviations = xp.sqrt(xp.clip(spectrum.variances[:k] - noise, min=0.0))
    return FactorModel(spectrum.mean, spectrum.components[:k, :].T * deviations, noise)


def factors_of_incomplete(X: NDArray[Any], n_factors: int, weights: NDArray[Any] | None = None) -> Factors:
    """Factor analysis of samples with missing values, from their expectations under probabilistic PCA.

    Missing values have no error there, so the noise variance of each feature is divided by the fraction of the samples
    in which it is observed.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64
        Samples, with NaN as missing values. A feature that is never observed is held for constant.
    n_factors : int
        At most min(n_samples, n_features) - 1 of them are used.
    weights : ndarray of shape (n_samples,) or None, default=None
        Sample weights.
    """
    observed = ~np.isnan(X)
    X = np.where(observed.any(axis=0), X, 0.0)
    model, _ = fit_factors(X, min(n_factors, min(X.shape) - 1), weights, ROUGH_TOLERANCE)
    factors = factor_analysis(model.fill(X), n_factors, weights)
    fractions = np.average(observed, axis=0, weights=weights)
    return Factors(factors.loadings, factors.noise / np.maximum(fractions, 1 / total_weight(weights, len(X))[0]))


def held_out_dimension(X: NDArray[Any], weights: NDArray[Any] | None = None) -> int:
    """Number of components with the largest log-likelihood of samples that are left out, among 1, 2, 4, 8, ...

    More components are tried until the log-likelihood falls twice. Between two powers of two it hardly differs.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples, with NaN as missing values.
    weights : ndarray of shape (n_samples,) or None, default=None
    """
    step = -(-len(X) // MAX_ROWS)
    X, weights = X[::step], np.ones(len(X[::step])) if weights is None else weights[::step]
    folds = np.arange(len(X)) % N_FOLDS
    best, most, n_falls, k = 1, -np.inf, 0, 1
    while k < min(len(X) * (N_FOLDS - 1) // N_FOLDS, X.shape[1]) and n_falls < 2:
        score = sum(_held_out_score(X, weights, folds == fold, k) for fold in range(N_FOLDS))
        n_falls += score <= most
        best, most = (k, score) if score > most else (best, most)
        k *= 2
    return best


def _held_out_score(X: NDArray[Any], weights: NDArray[Any], held_out: NDArray[np.bool_], k: int) -> float:
    """Log-likelihood of some samples under the model of the others, of the features that vary in the latter."""
    train = X[~held_out]
    observed = ~np.isnan(train)
    counts = observed.sum(axis=0)
    mean = np.where(observed, train, 0.0).sum(axis=0) / np.maximum(counts, 1)
    varies = (observed & (train != mean)).any(axis=0)
    if not varies.any():
        return 0.0
    k = min(k, int(varies.sum()) - 1)
    model, _ = fit_factors(train[:, varies], k, weights[~held_out], tolerance=1e-3)
    return float(weights[held_out] @ model.log_density(X[held_out][:, varies]))


def spectrum_of_incomplete(
    X: Array, nz: int | None = None, weights: Array | None = None, tolerance: float = TOLERANCE
) -> tuple[Spectrum, bool]:
    """Spectrum of the maximum likelihood covariance of samples with missing values.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), or Blocks
        Samples, with NaN as missing values.
    nz : int or None, default=None
        Number of components. The variance orthogonal to them is the same in all directions. None for all components.
    weights : array of shape (n_samples,) or None, default=None
    tolerance : float, default=1e-6
        That of `fit_factors`.

    Returns
    -------
    spectrum : Spectrum
        Its variances are the maximum likelihood estimates times n / (n - 1), like those of complete samples.
    has_converged : bool

    Raises
    ------
    ValueError
        If a feature has no observed value.
    """
    weight, n_samples = X.size(weights) if isinstance(X, Blocks) else total_weight(weights, X.shape[0])
    divisor = weight - 1 if weight > 1 else 1.0
    n_samples = max(n_samples, int(weight))
    rank = min(n_samples, _n_features(X))
    model, has_converged = fit_factors(X, min(nz or rank, rank - 1), weights, tolerance)
    xp = array_namespace(model.mean)
    axes, deviations, _ = xp.linalg.svd(model.loadings, full_matrices=False)
    scale = weight / divisor
    noise = xp.full((rank - deviations.shape[0],), model.noise, dtype=xp.float64, device=device_of(axes))
    variances = scale * xp.concat([deviations**2 + model.noise, noise])
    components = orthonormal(axes, variances[: deviations.shape[0]], nz or rank)
    total = float(xp.sum(variances))
    return Spectrum(model.mean, fix_signs(components.T), variances, total, divisor, n_samples), has_converged


def fit_factors(
    X: Array, n_factors: int, weights: Array | None = None, tolerance: float = TOLERANCE
) -> tuple[FactorModel, bool]:
    r"""Fit the factor model to the observed values by maximum likelihood, with the EM algorithm.

    The E step computes the posterior of z given the observed values of each sample. The M step regresses each feature
    on z over the samples where it is observed. It then transfers the mean and covariance of z to the loadings, which
    accelerates EM without changing its limit (parameter expansion).

    Parameters
    ----------
    X : array of shape (n_samples, n_features), or Blocks
        Samples, with NaN as missing values. Each feature has an observed value with a weight above zero. Blocks are
        read once in each step.
    n_factors : int
        Number of factors, smaller than n_features and n_samples.
    weights : array of shape (n_samples,) or None, default=None
    tolerance : float, default=1e-6
        Increase of the log-likelihood in a step, in nats per sample, below which EM has converged.

    Returns
    -------
    model : FactorModel
    has_converged : bool

    References
    ----------
    Tipping & Bishop (1999), "Probabilistic principal component analysis", JRSS B 61, section 3.3 and appendix B.
    Roweis (1998), "EM algorithms for PCA and SPCA", NeurIPS 10, section 4.
    Liu, Rubin & Wu (1998), "Parameter expansion to accelerate EM", Biometrika 85, section 4.
    """
    model, least = _start(X, n_factors, weights)
    before = -np.inf
    for _ in range(MAX_ITER):
        model, log_density, weight = _em_step(model, X, weights, least)
        if log_density - before < tolerance * weight:
            return model, True
        before = log_density
    return model, False


def _start(X: Any, n_factors: int, weights: Any) -> tuple[FactorModel, float]:
    """Initial model, by PCA of some samples with missing values replaced by means, and the smallest noise variance."""
    mean, variance = column_moments(X, weights)
    xp = array_namespace(mean)
    step = max(1, (X.n_samples if isinstance(X, Blocks) else X.shape[0]) // max(2000, 2 * n_factors))
    some = xp.astype(X.every(step) if isinstance(X, Blocks) else X[::step, :], xp.float64) - mean
    # In a few of many samples the weights may vanish.
    weights = xp.asarray(weights, dtype=xp.float64) if step == 1 and weights is not None else None
    spectrum = decompose(xp.where(xp.isnan(some), 0.0, some), nz=n_factors or None, weights=weights)
    least = LEAST_NOISE * variance_scale(variance, mean)
    noise = max(spectrum.noise_variance(n_factors), least)
    return FactorModel(mean, initial_loadings(spectrum, n_factors, noise), noise), least


def column_moments(X: Any, weights: Any = None) -> tuple[Array, Array]:
    """Mean and variance of the observed values of each feature, in float64.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), or Blocks
    weights : array of shape (n_samples,) or None, default=None

    Raises
    ------
    ValueError
        If a feature has no observed value, or if the variance overflows float64.
    """
    count, total = _over_samples(_column_totals, _sums, X, weights)
    xp = array_namespace(count)
    if not xp.all(count > 0):
        raise ValueError(f"Input X contains no observed value in column {int(xp.argmin(count))}.")
    mean = total / count
    squares = _over_samples(_column_squares, operator.add, X, weights, mean)
    check_variance(float(xp.sum(squares) + xp.sum(mean**2)))
    return mean, squares / count


def _column_totals(X: Array, weights: Array) -> tuple[Array, Array]:
    xp = array_namespace(X)
    mask = xp.astype(~xp.isnan(X), xp.float64)
    return weights @ mask, weights @ xp.where(mask > 0, xp.astype(X, xp.float64), 0.0)


def _column_squares(X: Array, weights: Array, mean: Array) -> Array:
    xp = array_namespace(X)
    return weights @ xp.where(xp.isnan(X), 0.0, xp.astype(X, xp.float64) - mean) ** 2


def _em_step(model: FactorModel, X: Any, weights: Any, least: float) -> tuple[FactorModel, float, float]:
    """The model after one step of EM, the log-likelihood of X before the step, and the sum of the weights."""
    found = _over_samples(_em_totals, _sums, X, weights, model, n_values=model.loadings.shape[1] ** 2)
    second, everywhere, cross, squares, n_observed, log_density, weight = found
    xp, k = array_namespace(second), model.loadings.shape[1]
    regression = (xp.linalg.inv(_unpack(second, k + 1)) @ cross[:, :, None])[:, :, 0]  # (n_features, k + 1)
    noise = (squares - float(xp.sum(regression * cross))) / n_observed
    loadings, shift = _expand(regression, _unpack(everywhere[None, :], k + 1)[0, :, :])
    return FactorModel(model.mean + shift, loadings, max(noise, least)), log_density, weight


def _em_totals(X: Array, weights: Array, model: FactorModel) -> tuple[Any, ...]:
    """What a step of EM takes from samples: sums over them."""
    given = _Posterior(model, X)
    xp, weight = array_namespace(given.z), weights[:, None]
    z = xp.concat([given.z, xp.ones_like(weight)], axis=1)
    pairs = weight * (_pack(z) + model.noise * _pack_square(given.inverse))
    return (
        given.mask.T @ pairs,  # second moments of (z, 1) over the samples where a feature is observed, (d, pairs)
        xp.sum(pairs, axis=0),  # the same over all samples, (pairs,)
        given.rows.T @ (weight * z),  # cross moments of a feature and (z, 1), (d, k + 1)
        float(xp.sum(weight * given.rows**2)),
        float(xp.sum(weight * given.mask)),
        float(xp.sum(weights * given.log_density)),
        float(xp.sum(weights)),
    )


def _over_samples(
    function: Callable[..., Any], merge: Callable[[Any, Any], Any], X: Any, weights: Any, *arguments: Any, **size: int
) -> Any:
    """What a function gives for chunks of samples, merged: of an array, or of each of `Blocks`."""
    if isinstance(X, Blocks):
        return X.total(_over_block, merge, weights, function, merge, arguments, size)
    return _over_block(X, weights, function, merge, arguments, size)


def _over_block(
    X: Array,
    weights: Array | None,
    function: Callable[..., Any],
    merge: Callable[[Any, Any], Any],
    arguments: tuple[Any, ...],
    size: dict[str, int],
) -> Any:
    # X may be a file, which is read by slices.
    weights = _unit_weights(X) if weights is None else weights
    cuts = slices(X.shape[0], CHUNK_SIZE, max(X.shape[1], *size.values(), 1))
    return reduce(merge, (function(X[cut], weights[cut], *arguments) for cut in cuts))


def _sums(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(operator.add, first, second))


def _n_features(X: Any) -> int:
    return X.n_features if isinstance(X, Blocks) else int(X.shape[1])


def _unit_weights(X: Array) -> Array:
    one = X[:1]
    return array_namespace(one).ones(X.shape[0], dtype=array_namespace(one).float64, device=device_of(one))


def _expand(regression: Array, moments: Array) -> tuple[Array, Array]:
    """Loadings on z with unit covariance, and the mean, from a regression on z with the given second moments."""
    xp, k = array_namespace(regression), regression.shape[1] - 1
    moments = moments / moments[k, k]
    mean = moments[:k, k]
    values, vectors = xp.linalg.eigh(moments[:k, :k] - mean[:, None] * mean[None, :])
    root = vectors * xp.sqrt(xp.clip(values, min=0.0))
    return regression[:, :k] @ root, regression[:, k] + regression[:, :k] @ mean


def _pack(Z: Array) -> Array:
    """Products of all pairs of columns, each pair once, (n, k (k + 1) / 2)."""
    xp = array_namespace(Z)
    i, j = (xp.asarray(index, device=device_of(Z)) for index in np.triu_indices(Z.shape[1]))
    return xp.take(Z, i, axis=1) * xp.take(Z, j, axis=1)


def _quadratic_forms(matrices: Array, W: Array) -> Array:
    """Products w_j' A w_j of symmetric matrices A (n, k, k) with each row of W (n_features, k), (n, n_features)."""
    xp, k = array_namespace(W), W.shape[1]
    i, j = np.triu_indices(k)
    flat = xp.reshape(matrices, (matrices.shape[0], k * k))
    upper = xp.take(flat, xp.asarray(i * k + j, device=device_of(W)), axis=1)
    twice = xp.asarray(np.where(i == j, 1.0, 2.0), device=device_of(W))
    return upper @ (twice * _pack(W)).T


def _pack_square(matrices: Array) -> Array:
    """Upper triangles of matrices (n, k, k), extended by a row and column of zeros, in the order of `_pack`."""
    xp, k = array_namespace(matrices), matrices.shape[1] + 1
    i, j = np.triu_indices(k)
    n = matrices.shape[0]
    zero = xp.zeros((n, 1), dtype=matrices.dtype, device=device_of(matrices))
    flat = xp.concat([xp.reshape(matrices, (n, (k - 1) ** 2)), zero], axis=1)
    index = np.where(j < k - 1, i * (k - 1) + j, (k - 1) ** 2)
    return xp.take(flat, xp.asarray(index, device=device_of(matrices)), axis=1)


def _unpack(pairs: Array, k: int) -> Array:
    """Symmetric matrices (n, k, k) from their upper triangles."""
    xp = array_namespace(pairs)
    index = np.zeros((k, k), dtype=np.int64)
    index[np.triu_indices(k)] = np.arange(pairs.shape[1])
    index = np.maximum(index, index.T)
    return xp.reshape(
        xp.take(pairs, xp.asarray(index.reshape(-1), device=device_of(pairs)), axis=1), (pairs.shape[0], k, k)
    )
