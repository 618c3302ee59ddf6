"""Log-density of probabilistic PCA: of one model, of its features, and for every number of components at once."""

__all__ = [
    "NestedScores",
    "bound_noise_variance",
    "conditional_log_density",
    "feature_log_density",
    "feature_precisions",
    "initial_loadings",
    "log_density",
    "model_variances",
    "normal_log_density",
    "scaled_axes",
    "squared_distances",
    "squared_residuals",
    "variance_scale",
]

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from sklatent._ppca.centered import center
from sklatent._ppca.chunks import CHUNK_SIZE, slices
from sklatent._ppca.solvers import Spectrum

Array = Any

# A feature with at most this fraction of its variance outside the span of the components lies within the span up to
# rounding, in units of eps. The measured values are below 5.
NOTHING = 16


class NestedScores:
    r"""Mean log-density of samples under the models with k components, for every k, from one projection.

    A score depends on the samples only through :math:`\sum_n y_{ni}^2` along each component i, and the squared residual
    of all components. The sums along the components after the k-th are part of the residual of the first k.

    Parameters
    ----------
    spectrum : Spectrum
    X : ndarray of shape (n_samples, n_features)
    """

    def __init__(self, spectrum: Spectrum, X: NDArray[Any]):
        self.spectrum = spectrum
        self.n_samples, self.n_features = X.shape
        with np.errstate(over="ignore"):  # a sample far away has no finite score
            sums = [self._sums(X[cut]) for cut in slices(len(X), CHUNK_SIZE, self.n_features)]
        self.squares = np.sum([squares for squares, _ in sums], axis=0)  # (n_components,)
        self.residual = float(sum(residual for _, residual in sums))

    def score(self, k: int) -> float:
        """Mean log-likelihood of the model with k components, in nats per sample."""
        spectrum = self.spectrum
        variances, noise = model_variances(spectrum.variances[:k], spectrum.noise_variance(k), spectrum.mean)
        distance = (self.squares[:k] / variances).sum()
        if k < self.n_features:
            distance += (self.squares[k:].sum() + self.residual) / noise
        return float(log_density(distance / self.n_samples, variances, noise, self.n_features))

    def _sums(self, X: NDArray[Any]) -> tuple[NDArray[Any], float]:
        rows = center(X, [self.spectrum.mean])
        codes = rows @ self.spectrum.components.T
        squares = (codes**2).sum(axis=0)
        if len(self.spectrum.components) < self.n_features:  # a difference of squares would lose precision
            rows -= codes @ self.spectrum.components
            return squares, float(np.vdot(rows, rows))
        return squares, 0.0


def model_variances(variances: Array, noise: float, mean: Array) -> tuple[Array, float]:
    """Variances of a model along its axes and orthogonal to them, with a floor that keeps their logarithms finite.

    The floor is eps times `variance_scale`.
    """
    xp = array_namespace(variances)
    noise = max(noise, float(np.finfo(np.float64).eps) * variance_scale(variances, mean))
    return xp.clip(variances, min=noise), noise


def scaled_axes(axes: Array, variances: Array, power: int) -> Array:
    """Axes times the standard deviations along them to a power: of whitened codes, -1 encodes and 1 decodes."""
    return variances[:, None] ** (power / 2) * axes


def squared_distances(rows: Array, axes: Array, variances: Array, noise: float) -> Array:
    r"""Squared Mahalanobis distance of centred samples from the mean of the model, in float64.

    With the projection :math:`y = V'r` of a centred sample r, it is
    :math:`\sum_i y_i^2 / \lambda_i + \|r - V y\|^2 / \sigma^2`.

    Parameters
    ----------
    rows : array of shape (n_samples, n_features)
        Overwritten by the residuals.
    axes : array of shape (n_components, n_features)
        V', with orthonormal rows, in the precision of the matrix products.
    variances : array of shape (n_components,)
    noise : float
        The variances of `model_variances`.

    Returns
    -------
    distances : array of shape (n_samples,), float64
    """
    xp = array_namespace(rows)
    codes = rows @ axes.T
    distances = xp.astype(codes, xp.float64) ** 2 @ (1 / variances)
    if axes.shape[0] < axes.shape[1]:
        rows -= codes @ axes
        distances += xp.astype(xp.vecdot(rows, rows), xp.float64) / noise
    return distances


def log_density(distance: Any, variances: Array, noise: float, n_features: int) -> Any:
    """Log-density in nats of samples with the given squared Mahalanobis distance from the mean of the model."""
    xp = array_namespace(variances)
    log_det = float(xp.sum(xp.log(variances))) + (n_features - variances.shape[0]) * float(np.log(noise))
    return normal_log_density(distance, log_det, n_features)


def normal_log_density(distance: Any, log_det: Any, n_values: Any) -> Any:
    """Log-density in nats of n_values values, with the log-determinant of their covariance, at a squared distance."""
    return -0.5 * (n_values * float(np.log(2 * np.pi)) + log_det + distance)


def feature_log_density(
    rows: Array, axes: Array, variances: Array, noise: float, precisions: Array, inside: Array
) -> Array:
    r"""Log-density in nats of each value of centred samples given the other values of its sample.

    With the projection :math:`y = V'r` of a centred sample r, the residual :math:`\rho = r - V y` and the precision
    matrix :math:`P = V \mathrm{diag}(1 / \lambda) V' + (I - V V') / \sigma^2`, which is not formed,

    .. math::
        (P r)_j = \sum_i \frac{v_{ji} y_i}{\lambda_i} + \frac{\rho_j}{\sigma^2}, \qquad
        P_{jj} = \sum_i \frac{v_{ji}^2}{\lambda_i} + \frac{1 - \sum_i v_{ji}^2}{\sigma^2}.

    Parameters
    ----------
    rows : array of shape (n_samples, n_features)
        The large matrix products have its precision.
    axes : array of shape (n_components, n_features), float64
        V', with orthonormal rows.
    variances : array of shape (n_components,)
    noise : float
        The variances of `model_variances`.
    precisions, inside : array of shape (n_features,)
        From `feature_precisions`.

    Returns
    -------
    log_density : array of shape (n_samples, n_features), float64
    """
    xp = array_namespace(rows)
    shared = xp.astype(axes, rows.dtype, copy=False)
    codes = rows @ shared.T
    if axes.shape[0] == axes.shape[1]:
        return conditional_log_density(codes / variances @ axes, precisions)
    # One product for the projection and the residual, P r = (r - V ((1 - noise / variances) y)) / noise.
    shrunk = codes * xp.astype(1 - noise / variances, rows.dtype, copy=False)
    weighted = rows - shrunk @ shared
    weighted *= xp.astype((0.5 / precisions) ** 0.5 / noise, rows.dtype, copy=False)
    weighted[:, inside] = (codes / variances) @ axes[:, inside] * (0.5 / precisions[inside]) ** 0.5
    weighted *= weighted
    return _at_the_mean(precisions) - weighted


def feature_precisions(axes: Array, variances: Array, noise: float, eps: float) -> tuple[Array, Array]:
    """The precisions P_jj of `feature_log_density`, and which features are within the span of the axes up to rounding.

    Otherwise the rounding errors of such features would weigh as much as all else, if the noise is tiny. `eps` is the
    rounding error of the axes.
    """
    xp = array_namespace(axes)
    squares = axes**2
    outside = 1 - xp.sum(squares, axis=0)
    inside = outside <= NOTHING * eps
    precisions = (1 / variances) @ squares
    if axes.shape[0] < axes.shape[1]:
        precisions = precisions + xp.where(inside, 0.0, outside) / noise
    return precisions, inside


def conditional_log_density(weighted: Array, precisions: Array) -> Array:
    r"""Log-density in nats of each value of a normal vector given the others, from its precision matrix P.

    Given the others, value j of a vector r with mean zero has mean :math:`r_j - (P r)_j / P_{jj}` and variance
    :math:`1 / P_{jj}`.

    Parameters
    ----------
    weighted : array of shape (n_samples, n_features)
        P r.
    precisions : array of shape (n_features,) or (n_samples, n_features)
        The diagonal of P.

    References
    ----------
    Rue & Held (2005), "Gaussian Markov random fields", theorem 2.3.
    """
    return _at_the_mean(precisions) - 0.5 * weighted**2 / precisions


def _at_the_mean(precisions: Array) -> Array:
    """The conditional log-density at its maximum."""
    return normal_log_density(0.0, -array_namespace(precisions).log(precisions), 1)


def variance_scale(variances: Array, mean: Array) -> float:
    """The variance that a floor is relative to.

    It is the largest variance. If all variances are zero it is the largest squared mean, and 1 if the mean is zero too.
    """
    xp = array_namespace(variances)
    return float(xp.max(variances)) or float(xp.max(mean**2)) or 1.0


def initial_loadings(spectrum: Spectrum, k: int, noise: float) -> Array:
    """Loadings from which EM starts, (n_features, k): those of probabilistic PCA, none zero, since it would stay so."""
    xp = array_namespace(spectrum.variances)
    excess = xp.clip(spectrum.variances[:k] - noise, min=1e-3 * noise)
    return spectrum.components[:k, :].T * xp.sqrt(excess)


def bound_noise_variance(spectrum: Spectrum, nz: int, beta: float) -> float:
    r"""Noise variance at which the evidence lower bound of a linear VAE is largest, with its KL divergence times beta.

    .. math:: s^2 = \frac{\sum_i \lambda_i - \sum_{i \le k} \lambda_i}{r - \beta k}

    for rank r and the largest k up to nz with :math:`\lambda_k > \beta s^2`: other components are not worth their KL
    divergence. With beta = 1 it is the noise variance of probabilistic PCA, and with beta = 0 the mean squared error.

    References
    ----------
    Lucas et al. (2019), "Don't blame the ELBO! A linear VAE perspective on posterior collapse", NeurIPS 32, for beta=1.
    """
    variances = spectrum.variances[:nz]
    for k in range(len(variances), 0, -1):
        freedom = spectrum.rank - beta * k
        noise = max(spectrum.total - float(variances[:k].sum()), 0.0) / freedom if freedom > 0 else 0.0
        if freedom > 0 and variances[k - 1] > beta * noise:
            return noise
    return spectrum.total / spectrum.rank


def squared_residuals(spectrum: Spectrum, X: NDArray[Any]) -> NDArray[Any]:
    """Squared distance of each sample from the plane of the components, (n_samples,)."""
    rows = X - spectrum.mean
    squares = np.square(rows).sum(axis=1) - np.square(rows @ spectrum.components.T).sum(axis=1)
    return np.maximum(squares, 0.0)
