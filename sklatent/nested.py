"""Probabilistic PCA scored for every number of components at once."""

__all__ = ["NestedScores"]

import numpy as np
from numpy.typing import NDArray

from sklatent.linalg import center
from sklatent.spectrum import Spectrum, log_density, model_variances

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
