r"""Samples with missing values: importance samples of z given what is observed, imputation, and the latent density.

A sample x has observed values :math:`x^\mathrm{obs}` and missing ones, whose conditional density is

.. math:: p(x^\mathrm{mis} | x^\mathrm{obs}) = \int p(x^\mathrm{mis} | z) \, p(z | x^\mathrm{obs}) \, dz.

The encoder has seen few of the many patterns in which values are missing, or none. So its posterior is corrected by the
decoder, which knows what each value says about z.
"""

__all__ = [
    "CodeStatistics",
    "LatentDensity",
    "Proposal",
    "code_statistics",
    "expected_squared_errors",
    "fit_latent_density",
    "importance_draw",
    "importance_mean",
    "incomplete_bound",
    "incomplete_conditionals",
    "laplace_draw",
    "laplace_mean",
    "mode_statistics",
]

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklatent._nn.conditionals import eta_variances, importance_conditionals
from sklatent._nn.derivatives import linearize
from sklatent._nn.objectives import (
    climb,
    gauss_newton,
    importance_bound,
    importance_shares,
    latent_codes,
    most_probable,
)
from sklatent._nn.posteriors import FullNormal, NormalPosterior
from sklatent._ppca.moments import total_weight, weighted_sum

# Fraction of the importance samples that come from the prior.
PRIOR_FRACTION = 0.25
# Gauss-Newton steps from the mean of the encoder's posterior. One is enough for a linear decoder.
N_STEPS = 3
# EM for the latent density has converged if no variance changes by more than this fraction in a step.
TOLERANCE = 1e-4
MAX_ITER = 200


class Proposal(NamedTuple):
    r"""Defensive importance sampling: most samples come from a density near the posterior, and some from the prior.

    .. math:: q(z) = (1 - \alpha) \, q_1(z) + \alpha \, p(z)

    No weight p(x | z) p(z) / q(z) is larger than p(x | z) / alpha, so a posterior with a second mode, or with longer
    tails than the normal density q1, costs accuracy but does not go unnoticed. The numbers of samples from q1 and p are
    fixed, and those from q1 are pairs that mirror each other: if the decoder is linear, their mean is that of q1.

    References
    ----------
    Hesterberg (1995), "Weighted average importance sampling and defensive mixture distributions", Technometrics 37.
    """

    local: NormalPosterior
    prior: Any
    """With `sample_from` and `log_prob`."""

    def sample(self, eps: Tensor) -> Tensor:
        """Latent codes (n_draws, n, nz) as a function of samples eps of N(0, I)."""
        n_prior = _n_prior(len(eps))
        n_local = len(eps) - n_prior
        half = eps[: -(-n_local // 2)]
        local = self.local.sample(torch.cat([half, -half])[:n_local])
        if n_prior == 0:
            return local
        places = torch.special.ndtr(eps[n_local - 1, :, 0])  # numbers that the mirrored half leaves over
        return torch.cat([local, self.prior.sample_from(eps[n_local:], places)])

    def log_prob_of(self, eps: Tensor) -> Tensor:
        """Log-density of `sample(eps)` under the mixture, (n_draws, n), in nats."""
        z, share = self.sample(eps), eps.new_tensor(_n_prior(len(eps)) / len(eps))
        return torch.logaddexp(self.local.log_prob(z) + (1 - share).log(), self.prior.log_prob(z) + share.log())


def proposal(model: Any, x: Tensor) -> Proposal:
    r"""Laplace's approximation to p(z | x) of the observed values, beside the prior.

    From the mean of the encoder's posterior, `N_STEPS` Gauss-Newton steps lead towards the maximum z of ln p(x, z).
    With the prior replaced by a normal density of precision S^-1 near z, the Jacobian J of the decoder and the
    information C of the observed values, the approximation is N(z, (S^-1 + J' C J)^-1). It is exact for a linear
    decoder with Gaussian noise.

    Parameters
    ----------
    model : module with `posterior`, `decode`, `target`, `likelihood` and `prior_density`
    x : Tensor of shape (n, n_features)
    """
    z, prior, target = model.posterior(x).mu, model.prior_density(), model.target(x)
    for _ in range(N_STEPS):
        factor, gradient = _curvature(model, prior, target, z)
        step = torch.cholesky_solve(gradient[..., None], factor)[..., 0].to(z.dtype)
        z = climb(lambda z: model.likelihood.log_prob(target, model.decode(z)) + prior.log_prob(z), z, step)
    factor, _ = _curvature(model, prior, target, z)
    local = FullNormal(z, torch.linalg.cholesky(torch.cholesky_inverse(factor)).to(z.dtype))
    return Proposal(local, prior)


def incomplete_bound(model: Any, x: Tensor, eps: Tensor) -> Tensor:
    """Importance-weighted lower bound on ln p(x) of the observed values, (n,), in nats; 0 where there are none."""
    bound = importance_bound(model.log_likelihood(x), proposal(model, x), model.prior_density(), eps)
    return torch.where(x.isnan().all(-1), 0.0, bound)


def incomplete_conditionals(model: Any, x: Tensor, eps: Tensor) -> Tensor:
    """As `importance_conditionals`, with Laplace's approximation in place of the encoder's posterior."""
    return importance_conditionals(model, x, eps, proposal(model, x).local)


def importance_mean(model: Any, x: Tensor, eps: Tensor) -> Tensor:
    r"""Expectation of each value given the observed values of its sample, by self-normalized importance weights.

    .. math:: \mathrm{E}[x | x^\mathrm{obs}] \approx \sum_k w_k \, \mathrm{E}[x | z_k] \Big/ \sum_k w_k

    Parameters
    ----------
    model : module with `posterior`, `decode`, `target`, `likelihood` and `prior_density`
    x : Tensor of shape (n, n_features)
    eps : Tensor of shape (n_draws, n, nz)
        Samples from N(0, I).

    Returns
    -------
    mean : Tensor of shape (n, n_features)
        In the units of X.

    References
    ----------
    Mattei & Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets", eq. 12.
    """
    weights, eta = _weighted(model, x, eps)
    return (weights[..., None] * model.likelihood.mean(eta)).sum(0)


def importance_draw(model: Any, x: Tensor, eps: Tensor, generator: torch.Generator) -> Tensor:
    """A sample of p(x | x observed), (n, n_features): z by sampling importance resampling, then x given z.

    References
    ----------
    Rubin (1987), "The calculation of posterior distributions by data augmentation: comment", JASA 82.
    """
    weights, eta = _weighted(model, x, eps)
    chosen = torch.multinomial(weights.T, 1, generator=generator)[:, 0]
    return model.likelihood.sample(eta[chosen, torch.arange(len(x), device=x.device)], generator)


def laplace_mean(model: Any, x: Tensor) -> Tensor:
    """Expectation of each value given the most probable latent code for the observed values, (n, n_features)."""
    return model.likelihood.mean(model.decode(latent_codes(model, most_probable(model, x).u).to(x.dtype)))


def laplace_draw(model: Any, x: Tensor, generator: torch.Generator) -> Tensor:
    """A sample of x given z, with z from Laplace's approximation to its posterior, (n, n_features)."""
    best = most_probable(model, x)
    eps = torch.randn(best.u.shape, generator=generator, dtype=best.u.dtype, device=best.u.device)
    u = best.u + torch.linalg.solve_triangular(best.factor.mT, eps[..., None], upper=True)[..., 0]
    return model.likelihood.sample(model.decode(latent_codes(model, u).to(x.dtype)), generator)


def expected_squared_errors(model: Any, x: Tensor) -> Tensor:
    """Expectation of the squared error of each value under Laplace's approximation to the posterior of z.

    Returns
    -------
    squares : Tensor of shape (n, n_features), float64
        In squared units of X; NaN for missing values.
    """
    best, likelihood = most_probable(model, x), model.likelihood
    z = latent_codes(model, best.u).to(x.dtype)
    eta, tangents = linearize(model, z, model.prior.factor.mT.to(z.dtype))
    # The information is the squared slope of the mean over the noise variance, in the units of the latter.
    spread = likelihood.information(eta).double() * eta_variances(best.factor, tangents.double())
    return (x - likelihood.mean(eta)).double().square() + likelihood.deviations.double().square() * spread


class CodeStatistics(NamedTuple):
    """What the observed values of each sample say about its latent code, to second order about one."""

    z: NDArray[Any]
    """Latent codes about which it is expanded, (n, nz)."""
    gradient: NDArray[Any]
    """Derivatives of ln p(x | z), (n, nz)."""
    information: NDArray[Any]
    """Fisher information of the observed values, (n, nz, nz)."""
    squares: NDArray[Any]
    """Sums of the squared errors over the noise variances, (n,); NaN for a likelihood without one."""
    n_observed: NDArray[Any]
    """Numbers of observed values, (n,)."""

    @classmethod
    def from_columns(cls, columns: NDArray[Any], nz: int) -> "CodeStatistics":
        """From what `code_statistics` returns."""
        z, gradient, information, rest = np.split(columns, np.cumsum([nz, nz, nz**2]), axis=1)
        return cls(z, gradient, information.reshape(-1, nz, nz), rest[:, 0], rest[:, 1])


def code_statistics(model: Any, x: Tensor) -> Tensor:
    """The fields of `CodeStatistics` side by side, float64."""
    return _statistics_at(model, x, model.encode(x))


def mode_statistics(model: Any, x: Tensor) -> Tensor:
    """The same about the most probable latent codes under the prior of the model, in place of those of the encoder."""
    return _statistics_at(model, x, latent_codes(model, most_probable(model, x).u).to(x.dtype))


def _statistics_at(model: Any, x: Tensor, z: Tensor) -> Tensor:
    about = gauss_newton(model, model.target(x), z)
    errors = (x - model.likelihood.mean(model.decode(z))) / model.likelihood.deviations
    rest = torch.stack([errors.double().square().nansum(-1), (~x.isnan()).sum(-1).double()], dim=1)
    return torch.cat([z.double(), about.gradient, about.information.flatten(1), rest], dim=1)


class LatentDensity(NamedTuple):
    """Parameters of the density of latent codes, and the noise variance over the one that was assumed."""

    mean: NDArray[Any]
    covariance: NDArray[Any]
    noise_ratio: float


def fit_latent_density(
    codes: CodeStatistics, weights: NDArray[Any] | None = None, noise_ratio: float | None = None
) -> LatentDensity:
    r"""Fit N(m, S) to latent codes of which samples with missing values tell little, and the noise variance.

    The moments of the most probable latent codes, which serve for complete samples, need information about all of the
    latent dimensions from each sample. EM does not: the posterior of a latent code has the covariance
    :math:`C_i = (S^{-1} + P_i / \phi)^{-1}` for the information P_i and the noise ratio :math:`\phi`, and with its mean
    :math:`\bar z_i` the next estimate is

    .. math:: m = \frac1n \sum_i \bar z_i, \quad S = \frac1n \sum_i (\bar z_i - m)(\bar z_i - m)' + C_i,

    and :math:`\phi` the mean expected squared error. For a linear decoder with Gaussian noise its limit is the maximum
    of the likelihood.

    Parameters
    ----------
    codes : CodeStatistics
    weights : ndarray of shape (n,) or None, default=None
        Sample weights, by which each sum over the samples is weighted, so that n is their sum.
    noise_ratio : float or None, default=None
        The ratio of the noise variances, if it is known; None to estimate it.

    References
    ----------
    Dempster, Laird & Rubin (1977), "Maximum likelihood from incomplete data via the EM algorithm", JRSS B 39.
    """
    n_samples, _ = total_weight(weights, len(codes.z))
    mean = np.average(codes.z, axis=0, weights=weights)
    covariance = _positive(_scatter(codes.z - mean, weights) / n_samples)
    ratio = 1.0 if noise_ratio is None else noise_ratio
    pull = codes.gradient + (codes.information @ codes.z[..., None])[..., 0]
    for _ in range(MAX_ITER):
        precision = np.linalg.inv(covariance)
        C = np.linalg.inv(precision + codes.information / ratio)
        z = (C @ (precision @ mean + pull / ratio)[..., None])[..., 0]
        before = *covariance.diagonal(), ratio
        mean = np.average(z, axis=0, weights=weights)
        covariance = _positive(_scatter(z - mean, weights) / n_samples + np.average(C, axis=0, weights=weights))
        if noise_ratio is None:
            squares = float(weighted_sum(_expected_squares(codes, z, C), weights))
            ratio = max(squares, math.ulp(1.0)) / (weighted_sum(codes.n_observed, weights) or 1.0)
        if np.allclose((*covariance.diagonal(), ratio), before, rtol=TOLERANCE, atol=0):
            break
    return LatentDensity(mean, covariance, ratio)


def _expected_squares(codes: CodeStatistics, z: NDArray[Any], C: NDArray[Any]) -> NDArray[Any]:
    """Sums of the expected squared errors of each sample over the noise variances, (n,), for posteriors N(z, C)."""
    change = z - codes.z
    bent = np.einsum("ij,ijk,ik->i", change, codes.information, change) + np.einsum("ijk,ikj->i", codes.information, C)
    return codes.squares - 2 * (change * codes.gradient).sum(axis=1) + bent


def _scatter(centred: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    """Sum of the outer products, (nz, nz). (`np.cov` before NumPy 2 takes one sample for one variable.)"""
    return (centred if weights is None else weights[:, None] * centred).T @ centred


def _positive(covariance: NDArray[Any]) -> NDArray[Any]:
    """A covariance that can be inverted: at least the rounding error of its largest entry is added to its diagonal."""
    scale = covariance.trace() or 1.0
    return covariance + 1e-9 * scale * np.eye(len(covariance))


def _n_prior(n_draws: int) -> int:
    """How many of the importance samples come from the prior."""
    return int(PRIOR_FRACTION * n_draws)


def _weighted(model: Any, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Normalized importance weights (n_draws, n), equal where all overflow, and the decoder's output for each."""
    q, prior = proposal(model, x), model.prior_density()
    z = q.sample(eps)
    eta = model.decode(z)
    return importance_shares(model.likelihood.log_prob(model.target(x), eta), q, prior, z, eps), eta


def _curvature(model: Any, prior: Any, target: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of S^-1 + J' C J, and the gradient of ln p(x, z), in float64; the prior's if not finite."""
    about = gauss_newton(model, target, z)
    normal = prior.normal_near(z)
    precision = 1 / normal.variances.double()
    sound = (about.gradient.sum(-1) + about.information.sum((-1, -2))).isfinite()
    information = torch.where(sound[:, None, None], about.information, 0.0)
    gradient = torch.where(sound[:, None], about.gradient, 0.0) + precision * (normal.mu - z).double()
    return torch.linalg.cholesky(torch.diag_embed(precision) + information), gradient
