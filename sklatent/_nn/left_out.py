"""Samples that are left out of a training, from which the noise variance is estimated."""

__all__ = ["LeftOut", "left_out_samples"]

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklatent._nn.data import some_weights
from sklatent._nn.likelihoods import Standardizer
from sklatent._nn.summaries import MAX_SAMPLES, some_standardized
from sklatent._ppca.density import squared_residuals
from sklatent._ppca.missing_values import factor_model
from sklatent._ppca.moments import total_weight, weighted_sum
from sklatent._ppca.solvers import Spectrum

# Number of samples left out for which their errors count as much as the prior about the errors of the training samples.
N_PRIOR_LEFT_OUT = 5
# Smallest squared residual of PCA, as a fraction of the variance, that differs from rounding errors.
MIN_RESIDUAL = 1e-6


@dataclass(frozen=True)
class LeftOut:
    r"""Samples that a network with noise variance was not trained on.

    The network fits its training samples better than others, so their mean squared error e is too small for a noise
    variance. The mean squared error q of the m samples that are left out is not, but it varies, the more so the heavier
    the tails are. So the noise variance is

    .. math::
        s^2 = (e_1)^{1 - w} (c q)^w, \quad w = \frac{m}{m + m_0}, \quad e_1 = \frac{n + n_z + 1}{n - n_z - 1} e,

    which is the most probable value for a normal error of ln q with variance v / m, and a normal prior of
    :math:`\ln s^2` about :math:`\ln e_1` with variance v / m0. There e1 is the expected error of a linear model, which
    has nz + 1 parameters for each feature (Mallows 1973; Akaike 1970, eq. 4.7). The correction c is the mean squared
    error of all samples over that of the m samples under PCA: a ratio estimator (Cochran 1977, chapter 6), since a few
    extreme samples among them have large errors under either model.

    Attributes
    ----------
    X : ndarray of shape (m, n_features)
    correction : float
        The number c.
    prior_ratio : float
        The ratio e1 / e.
    weights : ndarray of shape (m,) or None, default=None
        Sample weights. With weights, n and m are their sums.
    """

    X: NDArray[Any]
    correction: float
    prior_ratio: float
    weights: NDArray[Any] | None = None

    def factor(self, ratio: float) -> float:
        """The ratio s^2 / e for a ratio q / e."""
        n_samples, _ = total_weight(self.weights, len(self.X))
        weight = n_samples / (n_samples + N_PRIOR_LEFT_OUT)
        return self.prior_ratio ** (1 - weight) * (self.correction * max(ratio, 0.0)) ** weight


def left_out_samples(spectrum: Spectrum, standardizer: Standardizer, train: Any, valid: Any, nz: int) -> LeftOut:
    """The samples left out, with the correction by PCA of the others."""
    X, weights = valid.some(MAX_SAMPLES), some_weights(valid, MAX_SAMPLES)
    is_complete = train.observed is None and valid.observed is None
    squared_errors = _squared_errors if is_complete else _squared_errors_of_incomplete
    (theirs, n_left_out), (others, n_train) = squared_errors(spectrum, standardizer, valid, train)
    mean = (theirs + others) / (n_left_out + n_train)
    is_exact = min(theirs / n_left_out, others / n_train) <= MIN_RESIDUAL * spectrum.total
    n_samples, _ = total_weight(train.weights, len(train))
    n_samples *= 1.0 if train.observed is None else float(train.observed.mean())
    n_parameters = nz + 1
    # The noise of the latent codes, or of the encoder's input, is part of the error, as nz / n_features of the noise
    # variance. If this part were multiplied by more than its inverse, it would grow from epoch to epoch.
    largest = max(math.sqrt(X.shape[1] / nz), 1.0)
    return LeftOut(
        X,
        correction=1.0 if is_exact else float(mean / (theirs / n_left_out)),
        prior_ratio=min((n_samples + n_parameters) / max(n_samples - n_parameters, 1), largest),
        weights=weights,
    )


def _squared_errors(
    spectrum: Spectrum, standardizer: Standardizer, valid: Any, train: Any
) -> list[tuple[float, float]]:
    """Sums of the squared errors under PCA, and numbers of samples: those left out, and those trained on."""
    rows, weights = some_standardized(valid, standardizer)
    theirs = weighted_sum(squared_residuals(spectrum, rows), weights)
    others = (spectrum.total - spectrum.variances[: len(spectrum.components)].sum()) * spectrum.divisor
    n_train, _ = total_weight(some_weights(train, MAX_SAMPLES), spectrum.n_samples)
    return [(theirs, total_weight(weights, len(rows))[0]), (others, n_train)]


def _squared_errors_of_incomplete(
    spectrum: Spectrum, standardizer: Standardizer, valid: Any, train: Any
) -> list[tuple[float, float]]:
    """The same for the observed values. Samples with half of them count as half as many samples."""
    model = factor_model(spectrum, len(spectrum.components))
    parts = []
    for rows, weights in (some_standardized(part, standardizer) for part in (valid, train)):
        size = weighted_sum((~np.isnan(rows)).mean(axis=1), weights)
        parts.append((weighted_sum(model.squared_residuals(rows), weights), max(float(size), 1 / rows.shape[1])))
    return parts
