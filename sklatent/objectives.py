"""What training maximizes and scoring reports: one number for each row."""

__all__ = [
    "Terms",
    "elbo_terms",
    "gauss_newton_codes",
    "importance_bound",
    "laplace_evidence",
    "reconstruction_terms",
]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Gauss-Newton steps from the encoder's code to the most probable one, and how far along each the search looks.
LAPLACE_STEPS = 5
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


def reconstruction_terms(model: Any, x: Tensor, noise: Tensor | None = None) -> Terms:
    """Density ln p(x | z) at the one code z that the encoder of an autoencoder gives.

    Parameters
    ----------
    model : module with `encode`, `decode` and `likelihood`
    x : Tensor of shape (n, n_features)
    noise : Tensor of shape (n, n_features) or None
        Draws from N(0, 1) with which the encoder's input, and not the target, is corrupted.
    """
    log_prob = model.likelihood.log_prob(x, model.decode(model.encode(x, noise)))
    return Terms(log_prob, torch.zeros_like(log_prob))


def elbo_terms(model: Any, x: Tensor, eps: Tensor, noise: Tensor | None = None) -> Terms:
    """The two parts of the evidence lower bound, by one draw of z a row.

    ELBO = E_q ln p(x | z) - KL(q(z | x) || p(z)) <= ln p(x), the divergence in closed form where there is one.

    Parameters
    ----------
    model : module with `posterior`, `decode`, `likelihood` and `prior_density`
    x : Tensor of shape (n, n_features)
    eps : Tensor of shape (n, nz)
        Draws from N(0, I).
    noise : Tensor of shape (n, n_features) or None
        As for `reconstruction_terms`.

    References
    ----------
    Chaudhury (2024), 14.7.6; Kingma & Welling (2014), eq. 10.
    """
    q = model.posterior(x, noise)
    log_prob = model.likelihood.log_prob(x, model.decode(q.sample(eps)))
    return Terms(log_prob, model.prior_density().kl(q, eps))


def importance_bound(model: Any, x: Tensor, eps: Tensor) -> Tensor:
    r"""Importance-weighted lower bound on ln p(x): tighter with more draws, exact in their limit.

    .. math:: \ln \frac1K \sum_k \frac{p(x | z_k) p(z_k)}{q(z_k | x)}, \quad z_k \sim q(z | x)

    Parameters
    ----------
    model : module with `posterior`, `decode`, `likelihood` and `prior_density`
    x : Tensor of shape (n, n_features)
    eps : Tensor of shape (n_draws, n, nz)
        Draws from N(0, I).

    Returns
    -------
    bound : Tensor of shape (n,)
        Nats.

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", eq. 8.
    """
    q = model.posterior(x)
    z = q.sample(eps)  # (n_draws, n, nz)
    eta = model.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])  # (n_draws, n, n_features)
    log_weights = model.likelihood.log_prob(x, eta) + model.prior_density().log_prob(z) - q.log_prob_of(eps)
    return torch.logsumexp(log_weights, dim=0) - math.log(len(eps))


def laplace_evidence(model: Any, x: Tensor) -> Tensor:
    r"""Laplace's approximation to ln p(x), about the most probable code of each row.

    A few damped Gauss-Newton steps lead from the code that the encoder gives to the maximum z of ln p(x, z): with the
    quadratic about the encoder's code in its place, rows that the encoder has not seen come out nats too low. There,
    with the latent density N(m, S), the Jacobian J of the decoder and the Fisher information C of the likelihood about
    the decoder's output,

    .. math::
        \ln p(x) \approx \ln p(x, z) + \tfrac{n_z}{2} \ln 2\pi - \tfrac12 \ln \det H, \quad H = S^{-1} + J' C J.

    It is exact for a linear decoder with Gaussian noise, wherever the encoder puts z. Each step costs nz + 5 passes
    through the decoder, and n * n_features * nz numbers are held.

    Parameters
    ----------
    model : module with `encode`, `decode`, `likelihood` and a normal `prior`
    x : Tensor of shape (n, n_features)

    Returns
    -------
    log_evidence : Tensor of shape (n,), float64
        Nats: an estimate, neither a bound nor normalized.

    References
    ----------
    Tierney & Kadane (1986), "Accurate approximations for posterior moments and marginal densities", JASA 81.
    """

    def log_joint(z: Tensor) -> Tensor:
        return model.likelihood.log_prob(x, model.decode(z)) + model.prior.log_prob(z)

    z = model.encode(x)
    for _ in range(LAPLACE_STEPS):
        gradient, factor = _joint_curvature(model, x, z)
        z = _climb(log_joint, z, torch.cholesky_solve(gradient[..., None], factor)[..., 0])
    _, factor = _joint_curvature(model, x, z)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return log_joint(z) + 0.5 * (z.shape[-1] * math.log(2 * math.pi) - log_det)


def gauss_newton_codes(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of larger likelihood, by one damped Gauss-Newton step from those of the encoder, and their error.

    The step is (J' C J)^-1 J' d ln p(x | z) / d eta, to the maximum for a linear decoder with Gaussian noise, and the
    covariance of the code given the decoder (J' C J)^-1. Directions in which the decoder hardly moves, with less than
    1e-9 of the largest information, count as having that.

    Parameters
    ----------
    model : module with `encode`, `decode` and `likelihood`
    x : Tensor of shape (n, n_features)

    Returns
    -------
    z : Tensor of shape (n, nz), float64
    covariance : Tensor of shape (n, nz, nz), float64
    """
    z = model.encode(x)
    gradient, information = _pull_back(model, x, z)
    values, vectors = torch.linalg.eigh(information)
    values = torch.maximum(values, 1e-9 * values[:, -1:]).clamp(min=torch.finfo(values.dtype).tiny)
    covariance = (vectors / values[:, None, :]) @ vectors.mT
    step = (covariance @ gradient[..., None])[..., 0]
    return _climb(lambda z: model.likelihood.log_prob(x, model.decode(z)), z, step).double(), covariance


def _climb(objective: Callable[[Tensor], Tensor], z: Tensor, step: Tensor) -> Tensor:
    """Each row of z moved by that of `STEP_SIZES` times its step where its objective is largest."""
    candidates = torch.stack([z + size * step for size in STEP_SIZES]).to(z.dtype)  # (n_sizes, n, nz)
    best = torch.stack([objective(candidate) for candidate in candidates]).argmax(dim=0)
    return candidates[best, torch.arange(len(z), device=z.device)]


def _joint_curvature(model: Any, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (n, nz) of ln p(x, z) by z, and the Cholesky factor of H = S^-1 + J' C J."""
    gradient, information = _pull_back(model, x, z)
    return gradient + model.prior.gradient(z), torch.linalg.cholesky(information + model.prior.precision)


def _pull_back(model: Any, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (n, nz) and information (n, nz, nz) of ln p(x | z) about z, in float64."""
    eta, jacobian = _linearize(model.decode, z)
    gradient = torch.einsum("nd,ndz->nz", model.likelihood.gradient(x, eta), jacobian)
    # J' C J a column at a time: the product of each row's matrices at once rounds by their place in the batch.
    weights = model.likelihood.information(eta)
    columns = [torch.einsum("nd,ndz->nz", weights * column, jacobian) for column in jacobian.unbind(-1)]
    information = torch.stack(columns, dim=-1)
    return gradient.double(), information.double()


def _linearize(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n, d) of a function of each row of z, and its Jacobian (n, d, nz).

    J'u is linear in u, so the derivative of each of its nz entries by u is a column of J: one backward pass and nz
    through it, in place of d backward passes. Forward mode would do it too, but warns of PyTorch's own deprecations.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        eta = function(z)
        u = torch.zeros_like(eta, requires_grad=True)
        (pulled,) = torch.autograd.grad(eta, z, u, create_graph=True)  # J'u, (n, nz)
        columns = [torch.autograd.grad(entry.sum(), u, retain_graph=True)[0] for entry in pulled.unbind(-1)]
    return eta.detach(), torch.stack(columns, dim=-1)
