r"""Conditional log-densities ln p(x_j | x_-j) of each value given the others: which values made a sample improbable.

Features are independent given z, so to leave one out is to divide the joint density by its term,

.. math:: \ln p(x_j | x_{-j}) = \ln p(x) - \ln p(x_{-j}) = -\ln \mathrm{E}_{p(z | x)} \frac{1}{p(x_j | z)},

and what is known of one posterior density p(z | x) serves all features (Gelfand, Dey & Chang 1992).
"""

__all__ = ["importance_conditionals", "laplace_conditionals", "residual_conditionals"]

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sklatent._nn.derivatives import taylor_expansion
from sklatent._nn.objectives import expansion_slices, finite_or_minus_infinity, latent_codes, log_weights, most_probable

# Largest leverage of a feature that the importance samples are compared with. A posterior q(z | x) that is wider than
# p(z | x) can give more than 1, and then the mean of the approximate inverse density does not exist.
MAX_LEVERAGE = 0.95


def importance_conditionals(model: Any, x: Tensor, eps: Tensor) -> Tensor:
    r"""Conditional log-densities from the importance samples of z that estimate ln p(x).

    With the importance weights w_k = p(x | z_k) p(z_k) / q(z_k | x), the mean of w estimates p(x), and the mean of w f
    estimates p(x_-j), where f(z) = 1 / p(x_j | z). But f grows as fast as q falls: if x_j holds more than half of the
    information about some direction of z, w f has no variance, and its mean is far too small for an outlier. So f is
    compared with an approximation g whose mean is known: the decoder is linear about the mean of q, and ln p(x_j | z)
    quadratic,

    .. math::
        \ln p(x_{-j}) \approx \ln \frac1K \sum_k w_k f(z_k)
        + \tau \Big( \ln \mathrm{E}_q[g] - \ln \frac1K \sum_k g(z_k) \Big).

    The correction vanishes for many importance samples, so the estimate converges for any g and :math:`\tau`. With
    :math:`\tau = 1` it is a ratio estimate, which is exact for any number of importance samples if the decoder is
    linear, the noise normal and q the posterior. Otherwise :math:`\tau = 1 / (1 + (s D)^2)` for the standard deviation
    s of ln w f / g, and the distance D, in standard deviations of q, to the mean of q g: the difference between f and g
    is known near the mean of q, and extrapolated that far. For networks fitted to a plane, the mean error with 32
    importance samples is below that of the mean of w f with 1,000.

    Parameters
    ----------
    model : module with `posterior`, `decode`, `target`, `likelihood` and `prior_density`
    x : Tensor of shape (n, n_features)
    eps : Tensor of shape (n_draws, n, nz)
        Samples from N(0, I).

    Returns
    -------
    log_prob : Tensor of shape (n, n_features)
        Estimates in nats, neither bounds nor normalized; -inf where no finite value is found.

    References
    ----------
    Cochran (1977), "Sampling techniques", 3rd edition, chapter 6, for ratio estimates.
    Vehtari, Gelman & Gabry (2017), "Practical Bayesian model evaluation using leave-one-out cross-validation and
    WAIC", section 2.1, for the variance of w f.
    """
    q, target, likelihood = model.posterior(x), model.target(x), model.likelihood
    z = q.sample(eps)
    log_probs = likelihood.feature_log_probs(target, model.decode(z))  # (n_draws, n, n_features)
    weights = log_weights(log_probs.sum(-1), q, model.prior_density(), z, eps)
    eta, tangents = _linearize(model, q.mu, torch.eye(q.mu.shape[-1], dtype=q.mu.dtype, device=q.mu.device))
    tangents = q.pull_back(tangents)
    changes = (eps.transpose(0, 1) @ tangents).transpose(0, 1).contiguous()  # (n_draws, n, n_features)
    terms = _feature_terms(likelihood, target, eta, tangents.square().sum(1), MAX_LEVERAGE)
    exact = (weights[..., None] - log_probs).nan_to_num(-math.inf, neginf=-math.inf)  # ln w f
    approximate = -terms.at(changes)  # ln g
    spread = _variance(exact - approximate) * terms.distance.square().clamp(min=1)
    correction = (terms.log_mean_inverse - _log_mean_exp(approximate)) / (1 + spread.nan_to_num(math.inf))
    return finite_or_minus_infinity(_log_mean_exp(weights)[:, None] - _log_mean_exp(exact) - correction)


def laplace_conditionals(model: Any, x: Tensor) -> Tensor:
    r"""Conditional log-densities by Laplace's approximation, from the most probable latent code of each sample.

    About this maximum of ln p(x, z), with H and C of `laplace_evidence`, the row b of the Jacobian and the derivative r
    of ln p(x_j | z) with respect to eta_j, leaving feature j out adds -r b to the gradient and -c b b' to H. A Newton
    step then has a closed form, in terms of the variance v = b' H^-1 b of eta_j and the leverage c v,

    .. math::
        \ln p(x_j | x_{-j}) \approx \ln p(x_j | z) - \frac12 \frac{r^2 v}{1 - c v} + \frac12 \ln(1 - c v).

    It is exact for a linear decoder with Gaussian noise, and costs one expansion of the decoder more than
    `laplace_evidence`.

    Parameters
    ----------
    model : module with `encode`, `decode`, `target`, `likelihood` and a normal `prior`
    x : Tensor of shape (n, n_features)

    Returns
    -------
    log_prob : Tensor of shape (n, n_features), float64
        Estimates in nats, neither bounds nor normalized; -inf where no finite value is found.

    References
    ----------
    Cook & Weisberg (1982), "Residuals and influence in regression", section 2.2, for the step of a linear model.
    """
    best, target = most_probable(model, x), model.target(x)
    cuts = expansion_slices(len(x), x.shape[-1], best.u.shape[-1])
    return torch.cat([_laplace_conditionals(model, target[cut], best.u[cut], best.factor[cut]) for cut in cuts])


def residual_conditionals(model: Any, x: Tensor) -> Tensor:
    """Log-densities ln p(x_j | z) at the latent code of the encoder, (n, n_features), in nats; -inf if not finite."""
    return finite_or_minus_infinity(model.likelihood.feature_log_probs(model.target(x), model.decode(model.encode(x))))


class _FeatureTerms(NamedTuple):
    """Quadratic approximation of ln p(x_j | z) in the change of eta_j; each field is (n, n_features)."""

    log_prob: Tensor
    gradient: Tensor
    information: Tensor
    variance: Tensor
    """Posterior variance of eta_j. Its product with the information is the leverage, which is below 1."""

    def at(self, changes: Tensor) -> Tensor:
        """The approximation for changes (..., n, n_features) of eta."""
        return self.log_prob + changes * (self.gradient - 0.5 * self.information * changes)

    @property
    def rest(self) -> Tensor:
        """One minus the leverage."""
        return (1 - self.information * self.variance).clamp(min=torch.finfo(self.variance.dtype).eps)

    @property
    def log_mean_inverse(self) -> Tensor:
        """Ln E[1 / p(x_j | z)] of the approximation, for normal changes with mean zero."""
        return 0.5 * (self.gradient.square() * self.variance / self.rest - self.rest.log()) - self.log_prob

    @property
    def distance(self) -> Tensor:
        """How far the posterior mean of eta_j without x_j is from zero, in posterior standard deviations."""
        return self.gradient.abs() * self.variance.sqrt() / self.rest


def _feature_terms(
    likelihood: Any, target: Tensor, eta: Tensor, variance: Tensor, max_leverage: float = math.inf
) -> _FeatureTerms:
    return _FeatureTerms(
        likelihood.feature_log_probs(target, eta),
        likelihood.gradient(target, eta),
        torch.minimum(likelihood.information(eta), max_leverage / variance),
        variance,
    )


def _laplace_conditionals(model: Any, target: Tensor, u: Tensor, factor: Tensor) -> Tensor:
    z = latent_codes(model, u).to(target.dtype)
    eta, tangents = _linearize(model, z, model.prior.factor.mT.to(z.dtype))
    deviations = torch.linalg.solve_triangular(factor, tangents.double(), upper=False)  # (n, nz, n_features)
    terms = _feature_terms(model.likelihood, target, eta, deviations.square().sum(1))
    return finite_or_minus_infinity(-terms.log_mean_inverse)


def _linearize(model: Any, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Output of the decoder (n, n_features), and its derivatives along directions (n_directions, nz)."""
    expansion = taylor_expansion(model, z, directions, torch.zeros_like)
    return expansion.eta, expansion.tangents


def _log_mean_exp(values: Tensor) -> Tensor:
    """Logarithm of the mean of exp(values) over the first dimension."""
    return values.logsumexp(0) - math.log(len(values))


def _variance(values: Tensor) -> Tensor:
    """Variance over the first dimension, where `Tensor.var` takes several times as long."""
    return (values - values.mean(0)).square().mean(0)
