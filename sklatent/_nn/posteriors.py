"""Normal posteriors q(z | x), whose parameters are the output of an encoder."""

__all__ = ["POSTERIORS", "DiagonalNormal", "FullNormal", "NormalPosterior"]

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

# Limits of the log-variances. An encoder extrapolates linearly, so the log-variance of one extreme sample could be in
# the hundreds, and its loss and score infinite. Useful variances are well within these limits, near 1 and below.
LOG_VARIANCES = -20.0, 4.0


class NormalPosterior:
    """Base class: a normal density of the latent code of each sample, with mean `mu`."""

    mu: Tensor
    names: ClassVar[tuple[str, ...]]
    """Names of the parts whose widths are the `blocks`."""

    @staticmethod
    def blocks(nz: int) -> tuple[int, ...]:
        """Widths of the parts of the input of `from_code`."""
        raise NotImplementedError

    @classmethod
    def parts(cls, nz: int) -> dict[str, int]:
        """Names and widths of the parts of the encoder's output."""
        return dict(zip(cls.names, cls.blocks(nz), strict=True))

    def sample(self, eps: Tensor) -> Tensor:
        """Latent codes as a differentiable function of samples eps (..., nz) of N(0, I)."""
        raise NotImplementedError

    @property
    def variances(self) -> Tensor:
        """Variance of each latent dimension, (..., nz)."""
        raise NotImplementedError

    @property
    def excess_variances(self) -> Tensor:
        """Variance of each latent dimension minus that of N(0, I), (..., nz)."""
        return self.variances - 1

    @property
    def log_pivots(self) -> Tensor:
        """Terms whose sum is the log-determinant of the covariance, (..., nz)."""
        raise NotImplementedError

    def whiten(self, z: Tensor) -> Tensor:
        """The eps that `sample` maps to z."""
        raise NotImplementedError

    def pull_back(self, gradients: Tensor) -> Tensor:
        """Gradients with respect to eps, by the chain rule, from those with respect to z = `sample(eps)`.

        Both are of shape (..., nz, m), for m functions of z.
        """
        raise NotImplementedError

    def log_prob_of(self, eps: Tensor) -> Tensor:
        """Log-density of `sample(eps)` for eps (..., nz), in nats, of shape (...)."""
        return -0.5 * (eps.square().sum(-1) + eps.shape[-1] * math.log(2 * math.pi) + self.log_pivots.sum(-1))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of latent codes z (..., nz), in nats, of shape (...)."""
        return self.log_prob_of(self.whiten(z))

    def kl_standard_normal(self) -> Tensor:
        r"""KL divergence from N(0, I) in nats, of shape (...).

        .. math:: \frac12 [\mathrm{tr} S + \mu'\mu - n_z - \ln \det S]

        References
        ----------
        Chaudhury (2024), "Math and Architectures of Deep Learning", eq. 14.1 with a standard normal.
        """
        return self.kl_terms().sum(-1)

    def kl_terms(self) -> Tensor:
        """Terms whose sum is `kl_standard_normal`, (..., nz).

        If the covariance is diagonal, each of them is the KL divergence of one latent dimension.
        """
        return 0.5 * (self.excess_variances + self.mu.square() - self.log_pivots)

    def marginals(self) -> "DiagonalNormal":
        """The marginal densities of the latent dimensions."""
        return DiagonalNormal(self.mu, self.variances.log())


class _Diagonal(NamedTuple):
    mu: Tensor
    log_var: Tensor


class DiagonalNormal(_Diagonal, NormalPosterior):
    """N(mu, diag exp log_var), both (..., nz): the posterior of Chaudhury (2024), section 14.7."""

    names = ("means", "log variances")

    @staticmethod
    def blocks(nz: int) -> tuple[int, ...]:
        """Widths of the means and the log-variances."""
        return nz, nz

    @classmethod
    def from_code(cls, code: Tensor) -> "DiagonalNormal":
        """From means and log-variances side by side, (..., 2 nz). The latter are limited to `LOG_VARIANCES`."""
        mu, log_var = code.chunk(2, dim=-1)
        return cls(mu, log_var.clamp(*LOG_VARIANCES))

    @property
    def variances(self) -> Tensor:
        """Variance of each latent dimension, (..., nz)."""
        return self.log_var.exp()

    @property
    def excess_variances(self) -> Tensor:
        """Variance of each latent dimension minus that of N(0, I), (..., nz), accurate also if it is small."""
        return self.log_var.expm1()

    @property
    def log_pivots(self) -> Tensor:
        """Terms whose sum is the log-determinant of the covariance, (..., nz)."""
        return self.log_var

    def marginals(self) -> "DiagonalNormal":
        """The marginal densities of the latent dimensions, which are independent."""
        return self

    def sample(self, eps: Tensor) -> Tensor:
        """Latent codes as a differentiable function of samples eps of N(0, I): the reparameterization trick."""
        return torch.addcmul(self.mu, torch.exp(self.log_var / 2), eps)

    def pull_back(self, gradients: Tensor) -> Tensor:
        """Gradients with respect to eps from those with respect to z, both (..., nz, m)."""
        return torch.exp(self.log_var / 2)[..., None] * gradients

    def whiten(self, z: Tensor) -> Tensor:
        """The eps that `sample` maps to z."""
        return (z - self.mu) * torch.exp(-self.log_var / 2)


class _Full(NamedTuple):
    mu: Tensor
    factor: Tensor


class FullNormal(_Full, NormalPosterior):
    """N(mu, L L') with a lower triangular L (..., nz, nz), its diagonal positive."""

    names = ("means", "logarithms of the squared diagonal of the covariance's Cholesky factor", "entries below it")

    @staticmethod
    def blocks(nz: int) -> tuple[int, ...]:
        """Widths of the means, the logarithms of the squared diagonal of L, and the entries of L below it, by rows."""
        return nz, nz, nz * (nz - 1) // 2

    @classmethod
    def from_code(cls, code: Tensor) -> "FullNormal":
        """From means, logarithms of the squared diagonal of L, and the entries below it, side by side.

        The logarithms are limited to `LOG_VARIANCES`.
        """
        nz = (math.isqrt(9 + 8 * code.shape[-1]) - 3) // 2
        mu, log_diagonal, below = code.split([nz, nz, code.shape[-1] - 2 * nz], dim=-1)
        rows, columns = torch.tril_indices(nz, nz, -1, device=code.device)
        entries = code.new_zeros(*code.shape[:-1], nz * nz).index_copy(-1, rows * nz + columns, below)
        return cls(
            mu, entries.unflatten(-1, (nz, nz)) + torch.diag_embed(torch.exp(log_diagonal.clamp(*LOG_VARIANCES) / 2))
        )

    @property
    def variances(self) -> Tensor:
        """Variance of each latent dimension, (..., nz)."""
        return self.factor.square().sum(-1)

    @property
    def log_pivots(self) -> Tensor:
        """Terms whose sum is the log-determinant of the covariance, (..., nz)."""
        return 2 * self.factor.diagonal(dim1=-2, dim2=-1).log()

    def sample(self, eps: Tensor) -> Tensor:
        """Latent codes as a differentiable function of samples eps of N(0, I)."""
        return self.mu + (self.factor @ eps[..., None])[..., 0]

    def pull_back(self, gradients: Tensor) -> Tensor:
        """Gradients with respect to eps from those with respect to z, both (..., nz, m)."""
        return self.factor.mT @ gradients

    def whiten(self, z: Tensor) -> Tensor:
        """The eps that `sample` maps to z."""
        return torch.linalg.solve_triangular(self.factor, (z - self.mu)[..., None], upper=False)[..., 0]


POSTERIORS: dict[str, Any] = {"diagonal": DiagonalNormal, "full": FullNormal}
