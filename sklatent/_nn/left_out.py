"""Samples left out of a training: they tell the noise variance, and whether it was worth more than a linear model."""

__all__ = ["Baseline", "LeftOut", "left_out_samples", "linear_baseline"]

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from sklatent._nn.data import as_tensor, some_weights
from sklatent._nn.likelihoods import MIN_VARIANCE, Standardizer
from sklatent._nn.modules import Autoencoder
from sklatent._nn.summaries import MAX_SAMPLES, some_standardized
from sklatent._ppca.density import squared_residuals
from sklatent._ppca.factors import Factors
from sklatent._ppca.missing_values import FactorModel, factor_model
from sklatent._ppca.moments import total_weight, weighted_sum
from sklatent._ppca.solvers import Spectrum

# Number of samples left out for which their errors count as much as the prior about the errors of the training samples.
N_PRIOR_LEFT_OUT = 5
# Smallest squared residual of PCA, as a fraction of the variance, that differs from rounding errors.
MIN_RESIDUAL = 1e-6
# Largest number of samples left out on which a trained network is compared with the linear model that it started from:
# networks that overfit lose by far more than their error, and a comparison costs an autoencoder 1 % of a fit to digits.
MAX_COMPARED = 50
# Probability, by a t test, with which the linear model wins by chance where both are equally good. 0.025 misses two of
# seven wide tables, of which few samples are left out, and without a test networks that are 4 nats better are given up.
SIGNIFICANCE = 0.1


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


@dataclass(frozen=True)
class Baseline:
    """The linear model from which a network starts, and what it gives to samples that are left out of the training.

    With few samples for its many weights a network learns them by heart, and then the linear model has the larger
    log-likelihoods for new ones. So the trained network has to stand the comparison.

    Attributes
    ----------
    module : Autoencoder
        The network before training.
    X : ndarray of shape (m, n_features)
        Samples that neither has seen.
    log_density : ndarray of shape (m,)
        Their log-densities under the linear model, in nats, in the units of X.
    weights : ndarray of shape (m,) or None
        Sample weights.
    """

    module: Autoencoder
    X: NDArray[Any]
    log_density: NDArray[Any]
    weights: NDArray[Any] | None

    def beats(self, scores: NDArray[Any]) -> bool:
        r"""Whether the linear model is better than a model with these log-likelihoods (m,) of the samples.

        It is, by a t test of the mean difference :math:`\bar d = \sum_i w_i d_i` for weights of sum 1: with
        :math:`m = 1 / \sum_i w_i^2` samples in effect (Kish 1965, section 11.7), which is their number without weights,

        .. math:: \bar d > t_{m - 1} \sqrt{\frac{\sum_i w_i (d_i - \bar d)^2}{m - 1}}.
        """
        shares = np.full(len(scores), 1.0) if self.weights is None else self.weights
        shares = shares / shares.sum()
        freedom = 1 / np.square(shares).sum() - 1
        if freedom <= 0:
            return False
        differences = self.log_density - scores
        mean = float(shares @ differences)
        if math.isinf(mean):  # a sample without a finite score
            return mean > 0
        error = math.sqrt(shares @ np.square(differences - mean) / freedom)
        return mean > float(student_t.ppf(1 - SIGNIFICANCE, freedom)) * error


def linear_baseline(module: Autoencoder, factors: Factors, train: Any, left_out: LeftOut) -> Baseline:
    """The linear model that a network is before training, with the noise level of samples that are left out.

    The level multiplies the noise variances of the factors. It is estimated as that of a network, from the errors of
    the training samples and of those left out, of which the latent codes have taken up as many degrees of freedom.
    """
    n_features, n_factors = factors.loadings.shape
    some = slice(None, None, -(-len(left_out.X) // MAX_COMPARED))
    deviations = np.sqrt(factors.noise)
    rows = module.standardizer(as_tensor(left_out.X)).cpu().numpy() / deviations
    others, weights = some_standardized(train, module.standardizer)
    model = FactorModel(np.zeros(n_features), factors.loadings / deviations[:, None], 1.0)
    error = _mean_square(model, others / deviations, weights)
    level = error * left_out.factor(_mean_square(model, rows, left_out.weights) / error)
    level = max(level * n_features / max(n_features - n_factors, 1), MIN_VARIANCE / factors.noise.mean())
    units = np.log(deviations * module.standardizer.scale.cpu().numpy())
    log_density = replace(model, noise=level).log_density(rows[some]) - ~np.isnan(rows[some]) @ units
    start: Any = deepcopy(module)
    start.likelihood.rescale(level)
    return Baseline(start, left_out.X[some], log_density, None if left_out.weights is None else left_out.weights[some])


def _mean_square(model: FactorModel, rows: NDArray[Any], weights: NDArray[Any] | None) -> float:
    """Mean squared error of the observed values under a linear model; positive."""
    n_observed = weighted_sum((~np.isnan(rows)).sum(axis=1), weights)
    return max(float(weighted_sum(model.squared_residuals(rows), weights)) / max(float(n_observed), 1.0), MIN_VARIANCE)


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
