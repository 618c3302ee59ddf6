"""The density of probabilistic PCA, of one model and of those of every dimension at once."""

__all__ = ["NestedScores", "log_density", "model_variances"]

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from sklatent._ppca.centered import center
from sklatent._ppca.solvers import Spectrum

Array = Any

# Values of a chunk of rows in float64, 32 MB.
CHUNK_SIZE = 2**22


class NestedScores:
    r"""Mean log density of rows under the leading k components, for any k, from one projection.

    A score needs no more of the rows than :math:`\sum_n y_{ni}^2` along each component, and the squared residual beyond
    all of them; what the components after the k-th find is the residual of the k first.

    Parameters
    ----------
    spectrum : Spectrum
    X : ndarray of shape (n_samples, n_features)
    """

    def __init__(self, spectrum: Spectrum, X: NDArray):
        self.spectrum = spectrum
        self.n_samples, self.n_features = X.shape
        n_rows = max(1, CHUNK_SIZE // self.n_features)
        sums = [self._sums(X[start : start + n_rows]) for start in range(0, len(X), n_rows)]
        self.squares = np.sum([squares for squares, _ in sums], axis=0)  # (n_components,)
        self.residual = float(sum(residual for _, residual in sums))

    def score(self, k: int) -> float:
        """Mean log p(x), in nats."""
        spectrum = self.spectrum
        variances, noise = model_variances(spectrum.variances[:k], spectrum.noise_variance(k), spectrum.mean)
        distance = (self.squares[:k] / variances).sum()
        if k < self.n_features:
            distance += (self.squares[k:].sum() + self.residual) / noise
        return float(log_density(distance / self.n_samples, variances, noise, self.n_features))

    def _sums(self, X: NDArray) -> tuple[NDArray, float]:
        rows = center(X, [self.spectrum.mean])
        codes = rows @ self.spectrum.components.T
        squares = (codes**2).sum(axis=0)
        if len(self.spectrum.components) < self.n_features:  # as a difference of squares it would lose its digits
            rows -= codes @ self.spectrum.components
            return squares, float(np.vdot(rows, rows))
        return squares, 0.0


def model_variances(variances: Array, noise: float, mean: Array) -> tuple[Array, float]:
    """Variances of a model along its axes and orthogonal to them, with a floor that leaves their logarithms finite.

    The floor is eps of the largest one; of the largest squared mean where nothing varies, of 1 where all is zero.
    """
    xp = array_namespace(variances)
    largest = float(variances[0]) or float(xp.max(mean**2)) or 1.0
    noise = max(noise, float(np.finfo(np.float64).eps) * largest)
    return xp.clip(variances, min=noise), noise


def log_density(distance: Any, variances: Array, noise: float, n_features: int) -> Any:
    """Log density, in nats, of rows at a squared Mahalanobis distance from the mean of the model."""
    xp = array_namespace(variances)
    log_det = float(xp.sum(xp.log(variances))) + (n_features - variances.shape[0]) * float(np.log(noise))
    return -0.5 * (n_features * float(np.log(2 * np.pi)) + log_det + distance)
