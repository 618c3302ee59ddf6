"""Factor analysis: a few common factors, and the variance that they leave to each feature."""

__all__ = ["Factors", "factor_analysis", "shrink"]

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklatent._ppca.density import initial_loadings
from sklatent._ppca.moments import total_weight
from sklatent._ppca.solvers import decompose

# Samples for which the prior of the variances counts: the weight of a unit information prior (Kass & Wasserman 1995).
# Without it held-out digits lose 700 nats. Three samples gain 4 nats on a VAE of digits and at most 0.4 elsewhere; ten
# cost an autoencoder of digits or breast cancer 2 to 3 nats.
N_PRIOR_SAMPLES = 1

# From probabilistic PCA so many steps lead to within 0.01 nats of the limit, on simulated factors, digits and tables.
N_STEPS = 50

# Least variance, over the mean variance of the columns: factors that explain everything leave none to shrink towards.
MIN_RATIO = 1e-6


class Factors(NamedTuple):
    """Parameters of factor analysis, x ~ N(mean, W W' + diag psi)."""

    loadings: NDArray[np.float64]
    """W, of shape (n_features, n_factors)."""
    noise: NDArray[np.float64]
    """psi, of shape (n_features,), in squared units of X; positive."""


def shrink(errors: NDArray[Any], n_samples: float | NDArray[Any]) -> NDArray[Any]:
    r"""Noise variances from mean squared errors, drawn towards their mean by a prior.

    Nothing in the data bounds the variance of a column that is constant, or nearly so: its density grows without limit
    and outweighs all other columns. So each variance :math:`\psi_j` has an inverse-gamma prior that counts as
    :math:`\nu` samples more, whose mean squared error is the mean :math:`\bar e` of those of all columns,

    .. math::
        p(\psi_j) = \mathrm{InvGamma}(\nu / 2, \nu \bar e / 2), \quad
        \hat\psi_j = \frac{n e_j + \nu \bar e}{n + \nu},

    which is the mode of the posterior density of :math:`\ln \psi_j`. With :math:`\nu = 1` no variance is below
    1 / (n + 1) of the mean, and the mean stays what it is.

    Parameters
    ----------
    errors : ndarray of shape (n_features,)
        Mean squared errors e.
    n_samples : float or ndarray of shape (n_features,)
        Number of samples n that they are means of, or the sum of their weights.

    Returns
    -------
    variances : ndarray of shape (n_features,)

    References
    ----------
    Gelman et al. (2013), "Bayesian data analysis", 3rd edition, section 2.6, for the prior. Kass & Wasserman (1995),
    "A reference Bayesian test for nested hypotheses and its relationship to the Schwarz criterion", JASA 90, for the
    weight of one sample.
    """
    weight = N_PRIOR_SAMPLES / n_samples
    return (errors + weight * errors.mean()) / (1 + weight)


def factor_analysis(X: NDArray[Any], n_factors: int, weights: NDArray[Any] | None = None) -> Factors:
    r"""Fit factor analysis, x ~ N(mean, W W' + diag psi), by EM from probabilistic PCA.

    With the posterior means Z and the posterior covariance :math:`H = (I + W' \Psi^{-1} W)^{-1}` of the factors, a step
    is

    .. math::
        W = X'Z (Z'Z + n H)^{-1}, \quad \psi_j = \frac1n \sum_i x_{ij} (x_{ij} - (W z_i)_j),

    and then `shrink`: without a prior the likelihood may have no maximum, as when two columns are equal. A step costs
    O(n_samples * n_features * n_factors); scikit-learn's FactorAnalysis needs fewer, but each is a singular value
    decomposition of X, and it has no prior.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float64
    n_factors : int
        At most min(n_samples, n_features) - 1 of them are used.
    weights : ndarray of shape (n_samples,) or None, default=None
        Sample weights, with which n is their sum.

    Returns
    -------
    factors : Factors

    References
    ----------
    Rubin & Thayer (1982), "EM algorithms for ML factor analysis", Psychometrika 47.
    """
    n_features = X.shape[1]
    n_samples, n_distinct = total_weight(weights, len(X))
    centred = X - np.average(X, axis=0, weights=weights)
    # With the roots of the weights every product below is a weighted sum.
    X = centred if weights is None else centred * np.sqrt(weights)[:, None]
    variances = np.einsum("ij,ij->j", X, X) / n_samples
    floor = MIN_RATIO * (variances.mean() or 1.0)
    n_factors = min(n_factors, n_distinct - 1, n_features - 1)
    if n_factors < 1:
        return Factors(np.zeros((n_features, 0)), np.maximum(shrink(variances, n_samples), floor))
    spectrum = decompose(centred, nz=n_factors, weights=weights)
    noise = np.full(n_features, max(spectrum.noise_variance(n_factors), floor))
    loadings = initial_loadings(spectrum, n_factors, noise[0])
    for _ in range(N_STEPS):
        weighted = loadings / noise[:, None]
        covariance = np.linalg.inv(np.eye(n_factors) + loadings.T @ weighted)
        Z = X @ (weighted @ covariance)
        cross = X.T @ Z / n_samples
        loadings = np.linalg.solve(Z.T @ Z / n_samples + covariance, cross.T).T
        noise = np.maximum(shrink(variances - (cross * loadings).sum(axis=1), n_samples), floor)
    return Factors(loadings, noise)
