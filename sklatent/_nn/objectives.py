"""Objectives of training and scores of `score_samples`, as one number per sample."""

__all__ = [
    "Expansion",
    "GaussNewton",
    "ImportanceTerms",
    "Terms",
    "climb",
    "elbo_terms",
    "expansion_slices",
    "finite_or_minus_infinity",
    "gauss_newton",
    "gauss_newton_codes",
    "importance_bound",
    "importance_shares",
    "importance_terms",
    "laplace_evidence",
    "laplace_terms",
    "latent_codes",
    "leverages",
    "log_weights",
    "most_probable",
    "most_probable_codes",
    "reconstruction_terms",
    "residual_density",
]

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sklatent._nn.derivatives import linearize, taylor_expansion
from sklatent._nn.posteriors import NormalPosterior
from sklatent._ppca.chunks import slices

# ln p(x | z) of given samples x in nats, as a function of latent codes z.
LogLikelihood = Callable[[Tensor], Tensor]

# The search for the most probable latent code of a sample ends if the predicted gain of the next step, in nats, is
# below the tolerance, after the maximum number of evaluations, or if no step of at least the minimum size increases the
# density. The omitted step would change ln det H by about the square root of its gain: by less than 1e-6 in float64,
# and by less than the rounding error of a score in float32.
GAIN_TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-9}
MAX_EVALUATIONS = 100
MIN_STEP_SIZE = 1e-6

# The tolerance after a step has been shortened. If the maximum lies on a kink of the decoder ("relu"), every step is
# shortened, and ln det H differs between the two sides. A search that came within rounding of the kink would end on a
# random side, which could be a different one in another batch.
CUT_GAIN_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}

# Maximum number of samples, and of values of their Jacobians, for which a decoder is expanded at a time: the outputs of
# each layer then stay in the cache.
EXPANSION_ROWS = 512
EXPANSION_SIZE = 2**20

# Fractions of its Gauss-Newton step that `gauss_newton_codes` tries.
STEP_SIZES = (0.0, 0.1, 0.3, 1.0)


class Terms(NamedTuple):
    """The two terms of an objective, each of shape (n,), in nats."""

    log_prob: Tensor
    """ln p(x | z)."""
    kl: Tensor
    """KL divergence of q(z | x) from p(z); zeros for a model without a posterior."""

    def weighted(self, kl_factor: float | Tensor) -> Tensor:
        """Loss of each sample, of shape (n,)."""
        return kl_factor * self.kl - self.log_prob

    def averages(self) -> "Terms":
        """The two terms of each sample, which these are already."""
        return self


class ImportanceTerms(NamedTuple):
    r"""The terms of the importance weights p(x | z) p(z) / q(z | x), each of shape (n_draws, ..., n), in nats."""

    log_prob: Tensor
    """ln p(x | z)."""
    log_prior: Tensor
    """ln p(z)."""
    log_posterior: Tensor
    """ln q(z | x)."""

    def log_weights(self, kl_factor: float | Tensor = 1.0) -> Tensor:
        """Logarithms of the weights p(x | z) (p(z) / q(z | x))^kl_factor; -inf for those that overflow."""
        return finite_or_minus_infinity(self.log_prob + kl_factor * self.log_prior - kl_factor * self.log_posterior)

    def bound(self, kl_factor: float | Tensor = 1.0) -> Tensor:
        r"""Logarithm of the mean weight of each sample, (..., n): for a factor of 1, the importance-weighted bound.

        For a factor t in (0, 1) it is the same bound for another prior: the geometric mean
        :math:`q(z | x)^{1 - t} p(z)^t`, not normalized, which leads from the posterior itself to the prior. Its mean
        over one importance sample is the evidence lower bound with t times the KL divergence, since

        .. math:: \mathrm{KL}(q \| q^{1 - t} p^t) = \mathrm{E}_q [\ln q - (1 - t) \ln q - t \ln p]
            = t \, \mathrm{KL}(q \| p).
        """
        return self.log_weights(kl_factor).logsumexp(0) - math.log(len(self.log_prob))

    def weighted(self, kl_factor: float | Tensor) -> Tensor:
        """Loss of each sample, (..., n): minus the bound."""
        return -self.bound(kl_factor)

    def averages(self) -> Terms:
        """The bound of each sample as a difference of two terms: what the weights say of the posterior p(z | x).

        The normalized weights turn importance samples from q(z | x) into samples from p(z | x). So the first term
        estimates the mean of ln p(x | z) over p(z | x), and what it exceeds the bound by estimates the KL divergence of
        p(z | x) from p(z).
        """
        shares = self.log_weights().softmax(0)
        log_prob = torch.where(shares > 0, shares * self.log_prob, 0.0).sum(0)
        return Terms(log_prob, log_prob - self.bound())


def reconstruction_terms(log_likelihood: LogLikelihood, z: Tensor) -> Terms:
    """The log-density ln p(x | z) at one latent code z (n, nz) of each sample."""
    log_prob = log_likelihood(z)
    return Terms(log_prob, torch.zeros_like(log_prob))


def elbo_terms(log_likelihood: LogLikelihood, q: NormalPosterior, prior: Any, eps: Tensor) -> Terms:
    """The two terms of the evidence lower bound (ELBO), estimated with one sample of z for each x.

    ELBO = E_q ln p(x | z) - KL(q(z | x) || p(z)) <= ln p(x). The KL divergence has a closed form for some priors.

    Parameters
    ----------
    log_likelihood : callable
        Maps latent codes (n, nz) to ln p(x | z) of each sample, of shape (n,).
    q : NormalPosterior
        The posterior q(z | x) of each sample.
    prior : density with `kl`
        The prior p(z).
    eps : Tensor of shape (n, nz)
        Samples from N(0, I).

    References
    ----------
    Chaudhury (2024), 14.7.6; Kingma & Welling (2014), eq. 10.
    """
    return Terms(log_likelihood(q.sample(eps)), prior.kl(q, eps))


def importance_bound(log_likelihood: LogLikelihood, q: Any, prior: Any, eps: Tensor) -> Tensor:
    r"""Importance-weighted lower bound on ln p(x): tighter with more samples of z, and exact in the limit.

    .. math:: \ln \frac1K \sum_k \frac{p(x | z_k) p(z_k)}{q(z_k | x)}, \quad z_k \sim q(z | x)

    Weights that overflow count as zero, so the bound remains below ln p(x). It is -inf if all of them overflow.

    Parameters
    ----------
    log_likelihood : callable
        Maps latent codes (n_draws, n, nz) to ln p(x | z), of shape (n_draws, n).
    q : density with `sample` and `log_prob_of`
        The posterior q(z | x) of each sample, or another density near it.
    prior : density with `log_prob`
        The prior p(z).
    eps : Tensor of shape (n_draws, n, nz)
        Samples from N(0, I).

    Returns
    -------
    bound : Tensor of shape (n,)
        Nats.

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", eq. 8.
    """
    return importance_terms(log_likelihood, q, prior, eps).bound()


def importance_terms(log_likelihood: LogLikelihood, q: NormalPosterior, prior: Any, eps: Tensor) -> ImportanceTerms:
    """The terms of `importance_bound`, by which it is an objective of training too: `ImportanceTerms.weighted`."""
    z = q.sample(eps)  # (n_draws, n, nz)
    return ImportanceTerms(log_likelihood(z), prior.log_prob(z), q.log_prob_of(eps))


def log_weights(log_prob: Tensor, q: Any, prior: Any, z: Tensor, eps: Tensor) -> Tensor:
    """Logarithms of the importance weights p(x | z) p(z) / q(z | x), (n_draws, n); -inf for those that overflow.

    Parameters
    ----------
    log_prob : Tensor of shape (n_draws, n)
        Ln p(x | z).
    q : density with `log_prob_of`
    prior : density with `log_prob`
    z : Tensor of shape (n_draws, n, nz)
        The latent codes `q.sample(eps)`.
    eps : Tensor of shape (n_draws, n, nz)
    """
    return ImportanceTerms(log_prob, prior.log_prob(z), q.log_prob_of(eps)).log_weights()


def importance_shares(log_prob: Tensor, q: Any, prior: Any, z: Tensor, eps: Tensor) -> Tensor:
    """The weights of `log_weights` over their sum for each sample, (n_draws, n); equal where all of them overflow."""
    shares = log_weights(log_prob, q, prior, z, eps).softmax(0)
    return torch.where(shares.isnan(), 1 / len(eps), shares)


def laplace_evidence(model: Any, x: Tensor) -> Tensor:
    r"""Laplace's approximation to ln p(x), about the most probable latent code of each sample.

    Newton steps lead from the latent code of the encoder to the maximum z of ln p(x, z). (A quadratic approximation
    about the code of the encoder itself would be several nats too low for samples that are not training samples.) At
    the maximum, with the latent density N(m, S), the Jacobian J of the decoder and the Fisher information C of the
    likelihood with respect to the output of the decoder,

    .. math::
        \ln p(x) \approx \ln p(x, z) + \tfrac{n_z}{2} \ln 2\pi - \tfrac12 \ln \det H, \quad H = S^{-1} + J' C J.

    It is exact for a linear decoder with Gaussian noise, for any encoder. The search ends for a sample if half its
    squared Newton decrement, which is the predicted gain of the next step, is below `GAIN_TOLERANCE`, or after
    `MAX_EVALUATIONS`. A step that decreases ln p(x, z) is shortened to a quarter. An evaluation takes nz + 2 forward
    passes through an MLP, for the samples whose search has not ended, and `EXPANSION_SIZE` or n_features * nz values of
    memory. A sample without any finite value scores -inf.

    Parameters
    ----------
    model : module with `encode`, `decode`, `target`, `likelihood` and a normal `prior`
    x : Tensor of shape (n, n_features)

    Returns
    -------
    log_evidence : Tensor of shape (n,), float64
        Estimate in nats. It is not a bound, and not normalized.

    References
    ----------
    Tierney & Kadane (1986), "Accurate approximations for posterior moments and marginal densities", JASA 81.
    Boyd & Vandenberghe (2004), "Convex optimization", section 9.5.1, for the decrement.
    """
    best = most_probable(model, x)
    return best.log_joint - best.half_log_det


def laplace_terms(model: Any, x: Tensor) -> Terms:
    r"""The two terms of Laplace's approximation: ln p(x | z) averaged over the posterior, and its KL divergence.

    The approximate posterior is N(z, H^-1), with z and H as in `laplace_evidence`, and its KL divergence from the
    latent density N(m, S) is

    .. math:: \tfrac12 [\mathrm{tr}(S^{-1} H^{-1}) + (z - m)' S^{-1} (z - m) - n_z + \ln \det S H].

    For the second-order expansion of ln p(x, z) it is the exact posterior, and so the evidence is the difference of the
    two terms.

    Parameters
    ----------
    model : module with `encode`, `decode`, `target`, `likelihood` and a normal `prior`
    x : Tensor of shape (n, n_features)
    """
    best = most_probable(model, x)
    inverse = torch.cholesky_inverse(best.factor)
    kl = best.half_log_det + 0.5 * (_trace(inverse) + best.u.square().sum(-1) - best.u.shape[-1])
    return Terms(best.log_joint - best.half_log_det + kl, kl)


def most_probable_codes(model: Any, x: Tensor) -> Tensor:
    """Most probable latent code of each sample, (n, nz), in coordinates in which the latent density is N(0, I)."""
    return most_probable(model, x).u


def residual_density(model: Any, x: Tensor) -> Tensor:
    """Log-density ln p(x | z) at the latent code of the encoder, (n,), in nats; -inf if it is not finite."""
    return finite_or_minus_infinity(model.log_likelihood(x)(model.encode(x)))


def finite_or_minus_infinity(log_prob: Tensor) -> Tensor:
    """Replace log-densities that are infinite or NaN by -inf."""
    return torch.where(log_prob.isfinite(), log_prob, -math.inf)


def gauss_newton_codes(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Improve the latent codes of the encoder by one damped Gauss-Newton step, and estimate their covariance.

    The step is (J' C J)^-1 J' d ln p(x | z) / d eta, which leads to the maximum of the likelihood for a linear decoder
    with Gaussian noise. The covariance of the latent code is (J' C J)^-1. The information in each direction is at least
    1e-9 of the largest. If the information or the gradient is not finite, the latent code is left unchanged and its
    covariance is zero.

    Parameters
    ----------
    model : module with `encode`, `decode`, `target` and `likelihood`
    x : Tensor of shape (n, n_features)

    Returns
    -------
    z : Tensor of shape (n, nz), float64
    covariance : Tensor of shape (n, nz, nz), float64
    """
    z, x = model.encode(x), model.target(x)
    gradient, information = gauss_newton(model, x, z)
    sound = (gradient.sum(-1) + _trace(information)).isfinite()
    covariance = torch.where(sound[:, None, None], _inverse(torch.where(sound[:, None, None], information, 0.0)), 0.0)
    step = (covariance @ torch.where(sound[:, None], gradient, 0.0)[..., None])[..., 0]
    return climb(
        lambda z: finite_or_minus_infinity(model.likelihood.log_prob(x, model.decode(z))), z, step
    ).double(), covariance


def _inverse(information: Tensor) -> Tensor:
    """Inverses of positive semidefinite matrices, whose eigenvalues count as at least 1e-9 of the largest."""
    factor, fails = torch.linalg.cholesky_ex(information)
    inverse = torch.cholesky_inverse(torch.where((fails == 0)[:, None, None], factor, _axes(factor[0])))
    # The product of the traces is at least the condition number: no eigenvalue is raised where it is below 1e9.
    (raised,) = ((fails != 0) | ~(_trace(information) * _trace(inverse) < 1e9)).nonzero(as_tuple=True)
    if len(raised):  # eigenvalues take ten times as long
        values, vectors = torch.linalg.eigh(information[raised])
        values = torch.maximum(values, 1e-9 * values[:, -1:]).clamp(min=torch.finfo(values.dtype).tiny)
        inverse[raised] = (vectors / values[:, None, :]) @ vectors.mT
    return inverse


def leverages(model: Any, x: Tensor, covariance: Tensor) -> Tensor:
    """Fraction of the noise of each feature that the fitted latent codes absorb, (n, n_features), float64.

    With the Jacobian J of the decoder at the latent code of the encoder and the information C, it is the diagonal of
    J (J' C J)^-1 J' C, the hat matrix of least squares. Each value is between 0 and 1, and their sum is nz.

    Parameters
    ----------
    model : module with `encode`, `decode`, `target` and `likelihood`
    x : Tensor of shape (n, n_features)
    covariance : Tensor of shape (n, nz, nz), float64
        Covariance (J' C J)^-1 of the latent codes, from `gauss_newton_codes`.
    """
    z, x = model.encode(x), model.target(x)
    eta, tangents = linearize(model, z, _axes(z))
    tangents = tangents.double()  # (n, nz, n_features)
    return model.likelihood.observed_information(x, eta).double() * ((covariance @ tangents) * tangents).sum(1)


def climb(objective: Callable[[Tensor], Tensor], z: Tensor, step: Tensor) -> Tensor:
    """Move each latent code by the fraction of its step, among `STEP_SIZES`, with the largest objective."""
    candidates = torch.stack([z + size * step for size in STEP_SIZES]).to(z.dtype)  # (n_sizes, n, nz)
    best = torch.stack([objective(candidate) for candidate in candidates]).argmax(dim=0)
    return candidates[best, torch.arange(len(z), device=z.device)]


class Expansion(NamedTuple):
    """Second-order expansion of ln p(x, z) at a latent code z = m + L u of each sample, with S = L L'.

    In terms of u the latent density is N(0, I), so L cancels in ln p(x), and I + L' J' C J L is positive definite for
    any S.
    """

    u: Tensor
    """Shape (n, nz)."""
    log_joint: Tensor
    """ln p(x | z) - |u|^2 / 2, shape (n,); -inf if this or the expansion is not finite."""
    factor: Tensor
    """Cholesky factor of I + L' J' C J L, shape (n, nz, nz)."""
    step: Tensor
    """Step to the maximum of the expansion, or to the mean m if it is not finite, shape (n, nz)."""
    gain: Tensor
    """Predicted gain of the step, shape (n,): half the squared Newton decrement."""

    @property
    def half_log_det(self) -> Tensor:
        """Half the log-determinant of I + L' J' C J L, shape (n,)."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def most_probable(model: Any, x: Tensor) -> Expansion:
    """Expansion at the most probable latent code of each sample."""
    z, x = model.encode(x), model.target(x)
    # The search starts at the mean if the latent code of the encoder is not finite.
    offset = (z - model.prior.mean).mT
    u = torch.linalg.solve_triangular(model.prior.factor, offset, upper=False).mT.nan_to_num(0.0, 0.0, 0.0)
    best = _expand(model, x, u, z.dtype)
    sizes = torch.ones_like(best.gain)
    for _ in range(MAX_EVALUATIONS - 1):
        tolerance = torch.where(sizes < 1, CUT_GAIN_TOLERANCE[z.dtype], GAIN_TOLERANCE[z.dtype])
        (active,) = ((sizes * best.gain > tolerance) & (sizes > MIN_STEP_SIZE)).nonzero(as_tuple=True)
        if not len(active):
            break
        old = Expansion(*(field[active] for field in best))
        new = _expand(model, x[active], old.u + sizes[active, None] * old.step, z.dtype)
        # A decrease within the rounding error of ln p(x, z) is accepted, since the gradient is more accurate. The
        # search of such samples ends if their gain, which is within the rounding error too, does not decrease any more.
        rounding = 8 * torch.finfo(z.dtype).eps * old.log_joint.abs()
        rises = new.log_joint.isfinite() & (new.log_joint >= old.log_joint - rounding)
        ends = (old.gain <= rounding) & (new.gain > 0.25 * old.gain)
        sizes[active] = torch.where(ends, 0.0, sizes[active] * torch.where(rises, 4.0, 0.25)).clamp(max=1.0)
        for field, found in zip(best, new, strict=True):
            field[active[rises]] = found[rises]
    return best


def latent_codes(model: Any, u: Tensor) -> Tensor:
    """The latent codes z = m + L u, (n, nz)."""
    return model.prior.mean + u @ model.prior.factor.mT


def _expand(model: Any, x: Tensor, u: Tensor, dtype: torch.dtype) -> Expansion:
    """Expansion at u, with the decoder evaluated in `dtype`."""
    z, directions = latent_codes(model, u).to(dtype), model.prior.factor.mT.to(dtype)
    log_prob, gradient, information, bend = quadratic(model, x, z, directions)
    log_joint = log_prob - 0.5 * u.square().sum(-1)
    gradient = gradient - u
    sound = (log_joint + gradient.sum(-1) + _trace(information)).isfinite()
    # The rounding error of its entries, added to the diagonal, keeps the matrix positive definite.
    information = torch.where(sound[:, None, None], information, 0.0)
    ridge = 1 + 4 * u.shape[-1] * torch.finfo(u.dtype).eps * _trace(information)
    curvature = information + torch.diag_embed(ridge[:, None].expand_as(u))
    factor, _ = torch.linalg.cholesky_ex(curvature)
    # Newton's step if the second derivatives of the decoder leave a maximum, and the Gauss-Newton step otherwise.
    newton, fails = torch.linalg.cholesky_ex(curvature - bend.nan_to_num())
    newton = torch.where((fails == 0)[:, None, None], newton, factor)
    step = torch.cholesky_solve(gradient[..., None], newton)[..., 0]
    return Expansion(
        u,
        torch.where(sound, log_joint, -math.inf),
        factor,
        torch.where(sound[:, None], step, -u),
        torch.where(sound, 0.5 * (gradient * step).sum(-1), math.inf),
    )


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


class GaussNewton(NamedTuple):
    """Derivatives of ln p(x | z) in z, the second ones for a decoder that is linear."""

    gradient: Tensor
    """J' r, with r the derivative of ln p(x | z) with respect to eta, shape (n, nz), float64."""
    information: Tensor
    """J' C J, shape (n, nz, nz), float64."""


def gauss_newton(model: Any, x: Tensor, z: Tensor) -> GaussNewton:
    """Derivatives of ln p(x | z) of targets x (n, n_features) at z (n, nz): `quadratic` without the decoder's bend."""
    cuts = expansion_slices(len(x), x.shape[-1], z.shape[-1])
    parts = [_gauss_newton_of_some(model, x[cut], z[cut]) for cut in cuts]
    return GaussNewton(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def _gauss_newton_of_some(model: Any, x: Tensor, z: Tensor) -> GaussNewton:
    eta, tangents = linearize(model, z, _axes(z))
    gradient = (tangents @ model.likelihood.gradient(x, eta)[..., None])[..., 0]
    return GaussNewton(gradient.double(), _information(model.likelihood, x, eta, tangents))


def _axes(z: Tensor) -> Tensor:
    """The directions of the latent dimensions, (nz, nz)."""
    return torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)


def _information(likelihood: Any, x: Tensor, eta: Tensor, tangents: Tensor) -> Tensor:
    """J' C J for the derivatives (n, n_directions, n_features) of eta."""
    root = likelihood.observed_information(x, eta).double().sqrt()[:, None] * tangents.double()
    return root @ root.mT


class Quadratic(NamedTuple):
    """Second-order expansion of ln p(x | z) in z along some directions."""

    log_prob: Tensor
    """ln p(x | z), shape (n,), float64."""
    gradient: Tensor
    """J' r, with r the derivative of ln p(x | z) with respect to eta, shape (n, n_directions), float64."""
    information: Tensor
    """J' C J, shape (n, n_directions, n_directions), float64."""
    bend: Tensor
    """Second derivatives of the decoder, weighted by r, shape (n, n_directions, n_directions), float64."""


def quadratic(model: Any, x: Tensor, z: Tensor, directions: Tensor) -> Quadratic:
    """Expand ln p(x | z) of targets x (n, n_features) about z (n, nz), along directions (n_directions, nz)."""
    cuts = expansion_slices(len(x), x.shape[-1], len(directions))
    parts = [_quadratic_of_some(model, x[cut], z[cut], directions) for cut in cuts]
    return Quadratic(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def expansion_slices(n_samples: int, n_features: int, n_directions: int) -> Iterator[slice]:
    """Slices of the samples for which a decoder is expanded at a time."""
    return slices(n_samples, EXPANSION_SIZE, n_features * n_directions, max_samples=EXPANSION_ROWS)


def _quadratic_of_some(model: Any, x: Tensor, z: Tensor, directions: Tensor) -> Quadratic:
    likelihood = model.likelihood
    eta, gradient, tangents, bend = taylor_expansion(model, z, directions, lambda eta: likelihood.gradient(x, eta))
    information = _information(likelihood, x, eta, tangents)
    return Quadratic(likelihood.log_prob(x, eta).double(), gradient.double(), information, bend.double())
