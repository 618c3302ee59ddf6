"""What training maximizes and scoring reports: one number for each row."""

__all__ = [
    "Terms",
    "elbo_terms",
    "finite_or_minus_infinity",
    "gauss_newton_codes",
    "importance_bound",
    "laplace_evidence",
    "leverages",
    "reconstruction_terms",
    "residual_density",
]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sklatent._nn.derivatives import taylor_expansion
from sklatent._nn.posteriors import NormalPosterior
from sklatent._ppca.chunks import slices

# ln p(x | z) of given samples x in nats, as a function of latent codes z.
LogLikelihood = Callable[[Tensor], Tensor]

# The search for the most probable code of a sample ends when the next step promises less than so many nats, after so
# many evaluations, or when no step of at least so small a size rises. A step that is left out moves ln det H by about
# the square root of its gain: less than 1e-6 in float64, and less than the rounding of a score in float32.
GAIN_TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-9}
MAX_EVALUATIONS = 100
MIN_STEP_SIZE = 1e-6

# The same for a step that has been cut. Where the maximum lies on a kink of the decoder ("relu") each step is cut again
# and again, and ln det H is another on either side: a search that came within rounding of the kink would take a side by
# chance, another one in other batches.
CUT_GAIN_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}

# A decoder is expanded about so many samples at a time, or about so few that the Jacobians have so many values: what a
# layer gives for them stays in the cache.
EXPANSION_ROWS = 512
EXPANSION_SIZE = 2**20

# How far along its one Gauss-Newton step `gauss_newton_codes` looks.
STEP_SIZES = (0.0, 0.1, 0.3, 1.0)


class Terms(NamedTuple):
    """The two parts of an objective, each of shape (n,), in nats: a row gains the first and pays for the second."""

    log_prob: Tensor
    """ln p(x | z)."""
    kl: Tensor
    """KL divergence of q(z | x) from p(z); zeros for a model without a posterior."""

    def weighted(self, kl_factor: float | Tensor) -> Tensor:
        """Loss of each row, shape (n,)."""
        return kl_factor * self.kl - self.log_prob


def reconstruction_terms(log_likelihood: LogLikelihood, z: Tensor) -> Terms:
    """The log-density ln p(x | z) at one latent code z (n, nz) of each sample."""
    log_prob = log_likelihood(z)
    return Terms(log_prob, torch.zeros_like(log_prob))


def elbo_terms(log_likelihood: LogLikelihood, q: NormalPosterior, prior: Any, eps: Tensor) -> Terms:
    """The two parts of the evidence lower bound, by one draw of z a row.

    ELBO = E_q ln p(x | z) - KL(q(z | x) || p(z)) <= ln p(x), the divergence in closed form where there is one.

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


def importance_bound(log_likelihood: LogLikelihood, q: NormalPosterior, prior: Any, eps: Tensor) -> Tensor:
    r"""Importance-weighted lower bound on ln p(x): tighter with more draws, exact in their limit.

    .. math:: \ln \frac1K \sum_k \frac{p(x | z_k) p(z_k)}{q(z_k | x)}, \quad z_k \sim q(z | x)

    Weights that overflow count as zero, so the bound stays below ln p(x) and is -inf where all of them do.

    Parameters
    ----------
    log_likelihood : callable
        Maps latent codes (n_draws, n, nz) to ln p(x | z), of shape (n_draws, n).
    q : NormalPosterior
        The posterior q(z | x) of each sample.
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
    z = q.sample(eps)  # (n_draws, n, nz)
    log_weights = log_likelihood(z) + prior.log_prob(z) - q.log_prob_of(eps)
    return torch.logsumexp(finite_or_minus_infinity(log_weights), dim=0) - math.log(len(eps))


def laplace_evidence(model: Any, x: Tensor) -> Tensor:
    r"""Laplace's approximation to ln p(x), about the most probable code of each sample.

    Newton steps lead from the code that the encoder gives to the maximum z of ln p(x, z): with the quadratic
    about the encoder's code in its place, samples that the encoder has not seen come out nats too low. There, with the
    latent density N(m, S), the Jacobian J of the decoder and the Fisher information C of the likelihood about the
    decoder's output,

    .. math::
        \ln p(x) \approx \ln p(x, z) + \tfrac{n_z}{2} \ln 2\pi - \tfrac12 \ln \det H, \quad H = S^{-1} + J' C J.

    It is exact for a linear decoder with Gaussian noise, wherever the encoder puts z. The search ends for a sample when
    half its squared Newton decrement, the gain that the next step promises, is below `GAIN_TOLERANCE`, or after
    `MAX_EVALUATIONS`. A step that lowers ln p(x, z) is cut to a quarter, and the next one starts there. An evaluation
    costs nz + 2 passes through an MLP, for the samples still under way only, and holds `EXPANSION_SIZE` numbers or
    n_features * nz. A sample for which nothing finite is found has -inf.

    Parameters
    ----------
    model : module with `encode`, `decode`, `target`, `likelihood` and a normal `prior`
    x : Tensor of shape (n, n_features)

    Returns
    -------
    log_evidence : Tensor of shape (n,), float64
        Nats: an estimate, neither a bound nor normalized.

    References
    ----------
    Tierney & Kadane (1986), "Accurate approximations for posterior moments and marginal densities", JASA 81.
    Boyd & Vandenberghe (2004), "Convex optimization", section 9.5.1, for the decrement.
    """
    best = _most_probable(model, x)
    return best.log_joint - best.half_log_det


def residual_density(model: Any, x: Tensor) -> Tensor:
    """Log density ln p(x | z) at the code that the encoder gives, (n,), in nats; -inf where not finite."""
    return finite_or_minus_infinity(model.log_likelihood(x)(model.encode(x)))


def finite_or_minus_infinity(log_prob: Tensor) -> Tensor:
    """Log densities with -inf for those that overflow or are not a number."""
    return torch.where(log_prob.isfinite(), log_prob, -math.inf)


def gauss_newton_codes(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of larger likelihood, by one damped Gauss-Newton step from those of the encoder, and their error.

    The step is (J' C J)^-1 J' d ln p(x | z) / d eta, to the maximum for a linear decoder with Gaussian noise, and the
    covariance of the code given the decoder (J' C J)^-1. Directions in which the decoder hardly moves, with less than
    1e-9 of the largest information, count as having that. Where the information or the gradient is not finite, the code
    stays where it is and its error counts as zero.

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
    quadratic = _quadratic(model, x, z, torch.eye(z.shape[-1], dtype=z.dtype, device=z.device))
    gradient, information = quadratic.gradient, quadratic.information
    sound = (gradient.sum(-1) + _trace(information)).isfinite()
    values, vectors = torch.linalg.eigh(torch.where(sound[:, None, None], information, 0.0))
    values = torch.maximum(values, 1e-9 * values[:, -1:]).clamp(min=torch.finfo(values.dtype).tiny)
    covariance = torch.where(sound[:, None, None], (vectors / values[:, None, :]) @ vectors.mT, 0.0)
    step = (covariance @ torch.where(sound[:, None], gradient, 0.0)[..., None])[..., 0]
    return _climb(
        lambda z: finite_or_minus_infinity(model.likelihood.log_prob(x, model.decode(z))), z, step
    ).double(), covariance


def leverages(model: Any, x: Tensor, covariance: Tensor) -> Tensor:
    """Fraction of the noise of each feature that the codes of `gauss_newton_codes` take up, (n, n_features), float64.

    With the Jacobian J of the decoder at the encoder's code and the information C, it is the diagonal of
    J (J' C J)^-1 J' C, which least squares calls the hat matrix: between 0 and 1, and nz in sum.

    Parameters
    ----------
    model : module with `encode`, `decode`, `target` and `likelihood`
    x : Tensor of shape (n, n_features)
    covariance : Tensor of shape (n, nz, nz), float64
        The error (J' C J)^-1 of the codes.
    """
    z, x = model.encode(x), model.target(x)
    directions = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    eta, _, tangents, _ = taylor_expansion(model, z, directions, lambda eta: model.likelihood.gradient(x, eta))
    tangents = tangents.double()  # (n, nz, n_features)
    return model.likelihood.information(eta).double() * ((covariance @ tangents) * tangents).sum(1)


def _climb(objective: Callable[[Tensor], Tensor], z: Tensor, step: Tensor) -> Tensor:
    """Each row of z moved by that of `STEP_SIZES` times its step where its objective is largest."""
    candidates = torch.stack([z + size * step for size in STEP_SIZES]).to(z.dtype)  # (n_sizes, n, nz)
    best = torch.stack([objective(candidate) for candidate in candidates]).argmax(dim=0)
    return candidates[best, torch.arange(len(z), device=z.device)]


class _Expansion(NamedTuple):
    """What the search for the most probable code knows at a code z = m + L u of each sample, with S = L L'.

    In u the latent density is N(0, I): L drops out of ln p(x), and I + L' J' C J L is positive definite whatever S is.
    """

    u: Tensor
    """Shape (n, nz)."""
    log_joint: Tensor
    """ln p(x | z) - |u|^2 / 2, shape (n,); -inf where this or the quadratic about u is not finite."""
    half_log_det: Tensor
    """ln det(I + L' J' C J L) / 2, shape (n,)."""
    step: Tensor
    """To the maximum of the quadratic, shape (n, nz); to the mean m from where there is none."""
    gain: Tensor
    """What the step adds to the quadratic, shape (n,): half the squared Newton decrement."""


def _most_probable(model: Any, x: Tensor) -> _Expansion:
    """Expansion at the most probable code of each sample."""
    mean, factor = model.prior.mean, model.prior.factor
    z, x = model.encode(x), model.target(x)
    # A code that is not finite starts at the mean.
    u = torch.linalg.solve_triangular(factor, (z - mean).mT, upper=False).mT.nan_to_num(0.0, 0.0, 0.0)
    best = _expand(model, factor, x, u, z.dtype)
    sizes = torch.ones_like(best.gain)
    for _ in range(MAX_EVALUATIONS - 1):
        tolerance = torch.where(sizes < 1, CUT_GAIN_TOLERANCE[z.dtype], GAIN_TOLERANCE[z.dtype])
        (active,) = ((sizes * best.gain > tolerance) & (sizes > MIN_STEP_SIZE)).nonzero(as_tuple=True)
        if not len(active):
            break
        old = _Expansion(*(field[active] for field in best))
        new = _expand(model, factor, x[active], old.u + sizes[active, None] * old.step, z.dtype)
        # A loss that rounding explains is none, since the gradient is known to more digits than ln p(x, z): those end
        # where the gains, so small already, fall no further.
        rounding = 8 * torch.finfo(z.dtype).eps * old.log_joint.abs()
        rises = new.log_joint.isfinite() & (new.log_joint >= old.log_joint - rounding)
        ends = (old.gain <= rounding) & (new.gain > 0.25 * old.gain)
        sizes[active] = torch.where(ends, 0.0, sizes[active] * torch.where(rises, 4.0, 0.25)).clamp(max=1.0)
        for field, found in zip(best, new, strict=True):
            field[active[rises]] = found[rises]
    return best


def _expand(model: Any, factor: Tensor, x: Tensor, u: Tensor, dtype: torch.dtype) -> _Expansion:
    """Expansion at u, with the decoder in `dtype`."""
    z = (model.prior.mean + u @ factor.mT).to(dtype)
    log_prob, gradient, information, bend = _quadratic(model, x, z, factor.mT.to(dtype))
    log_joint = log_prob - 0.5 * u.square().sum(-1)
    gradient = gradient - u
    sound = (log_joint + gradient.sum(-1) + _trace(information)).isfinite()
    # With the rounding of its entries on the diagonal the sum is positive definite in floating point too.
    information = torch.where(sound[:, None, None], information, 0.0)
    ridge = 1 + 4 * u.shape[-1] * torch.finfo(u.dtype).eps * _trace(information)
    curvature = information + torch.diag_embed(ridge[:, None].expand_as(u))
    factor, _ = torch.linalg.cholesky_ex(curvature)
    # Newton's step where the bend leaves a maximum, and the one of Gauss and Newton elsewhere.
    newton, fails = torch.linalg.cholesky_ex(curvature - bend.nan_to_num())
    newton = torch.where((fails == 0)[:, None, None], newton, factor)
    step = torch.cholesky_solve(gradient[..., None], newton)[..., 0]
    return _Expansion(
        u,
        torch.where(sound, log_joint, -math.inf),
        factor.diagonal(dim1=-2, dim2=-1).log().sum(-1),
        torch.where(sound[:, None], step, -u),
        torch.where(sound, 0.5 * (gradient * step).sum(-1), math.inf),
    )


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


class _Quadratic(NamedTuple):
    """ln p(x | z) to the second order in z along some directions, and the decoder to the first."""

    log_prob: Tensor
    """ln p(x | z), shape (n,), float64."""
    gradient: Tensor
    """J' r with r the slope of ln p(x | z) by eta, shape (n, n_directions), float64."""
    information: Tensor
    """J' C J, shape (n, n_directions, n_directions), float64."""
    bend: Tensor
    """Second derivatives of the decoder, weighted by r, shape (n, n_directions, n_directions), float64."""


def _quadratic(model: Any, x: Tensor, z: Tensor, directions: Tensor) -> _Quadratic:
    cuts = slices(len(x), EXPANSION_SIZE, x.shape[-1] * len(directions), max_samples=EXPANSION_ROWS)
    parts = [_quadratic_of_some(model, x[cut], z[cut], directions) for cut in cuts]
    return _Quadratic(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def _quadratic_of_some(model: Any, x: Tensor, z: Tensor, directions: Tensor) -> _Quadratic:
    likelihood = model.likelihood
    eta, gradient, tangents, bend = taylor_expansion(model, z, directions, lambda eta: likelihood.gradient(x, eta))
    root = likelihood.information(eta).double().sqrt()[:, None] * tangents.double()  # (n, n_directions, d)
    return _Quadratic(likelihood.log_prob(x, eta).double(), gradient.double(), root @ root.mT, bend.double())
