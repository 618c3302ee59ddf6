"""Posteriors q(z | x): normal, read from the numbers that an encoder gives."""

__all__ = ["POSTERIORS", "DiagonalNormal", "FullNormal", "NormalPosterior"]

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

# Where log variances are cut off. An encoder extrapolates linearly, so one extreme sample would have exp of hundreds as
# its variance: an infinite loss, and an infinite score. Variances that help lie well within, near 1 and below.
LOG_VARIANCES = -20.0, 4.0


class NormalPosterior:
    """What both forms share: a normal density of codes for each row, with mean `mu`."""

    mu: Tensor
    names: ClassVar[tuple[str, ...]]
    """What the `blocks` hold."""

    @staticmethod
    def blocks(nz: int) -> tuple[int, ...]:
        """Widths of the parts that `from_code` finds side by side."""
        raise NotImplementedError

    @classmethod
    def parts(cls, nz: int) -> dict[str, int]:
        """What an encoder gives for it, and how many numbers of each."""
        return dict(zip(cls.names, cls.blocks(nz), strict=True))

    def sample(self, eps: Tensor) -> Tensor:
        """Codes as a differentiable function of draws eps (..., nz) from N(0, I)."""
        raise NotImplementedError

    @property
    def variances(self) -> Tensor:
        """Variance of each code, (..., nz)."""
        raise NotImplementedError

    @property
    def excess_variances(self) -> Tensor:
        """Variance of each code less that of N(0, I), (..., nz)."""
        return self.variances - 1

    @property
    def log_pivots(self) -> Tensor:
        """What the log determinant of the covariance is the sum of, (..., nz)."""
        raise NotImplementedError

    def whiten(self, z: Tensor) -> Tensor:
        """The eps that `sample` turns into z."""
        raise NotImplementedError

    def log_prob_of(self, eps: Tensor) -> Tensor:
        """Log density of the codes that `sample` makes of eps (..., nz): nats, shape (...)."""
        return -0.5 * (eps.square().sum(-1) + eps.shape[-1] * math.log(2 * math.pi) + self.log_pivots.sum(-1))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of codes z (..., nz): nats, shape (...)."""
        return self.log_prob_of(self.whiten(z))

    def kl_standard_normal(self) -> Tensor:
        r"""KL divergence from N(0, I), (...), in nats.

        .. math:: \frac12 [\mathrm{tr} S + \mu'\mu - n_z - \ln \det S]

        References
        ----------
        Chaudhury (2024), "Math and Architectures of Deep Learning", eq. 14.1 with a standard normal.
        """
        return 0.5 * (self.excess_variances + self.mu.square() - self.log_pivots).sum(-1)


class _Diagonal(NamedTuple):
    mu: Tensor
    log_var: Tensor


class DiagonalNormal(_Diagonal, NormalPosterior):
    """N(mu, diag exp log_var), both (..., nz): the chapter's posterior (14.7)."""

    names = ("means", "log variances")

    @staticmethod
    def blocks(nz: int) -> tuple[int, ...]:
        """Mean and log variances."""
        return nz, nz

    @classmethod
    def from_code(cls, code: Tensor) -> "DiagonalNormal":
        """Mean and log variances side by side, (..., 2 nz); the latter are cut off at `LOG_VARIANCES`."""
        mu, log_var = code.chunk(2, dim=-1)
        return cls(mu, log_var.clamp(*LOG_VARIANCES))

    @property
    def variances(self) -> Tensor:
        """Variance of each code, (..., nz)."""
        return self.log_var.exp()

    @property
    def excess_variances(self) -> Tensor:
        """Variance of each code less that of N(0, I), (..., nz), with its digits where that is small."""
        return self.log_var.expm1()

    @property
    def log_pivots(self) -> Tensor:
        """What the log determinant of the covariance is the sum of, (..., nz)."""
        return self.log_var

    def sample(self, eps: Tensor) -> Tensor:
        """Codes as a differentiable function of draws eps from N(0, I): the reparameterization of listing 14.5."""
        return torch.addcmul(self.mu, torch.exp(self.log_var / 2), eps)

    def whiten(self, z: Tensor) -> Tensor:
        """The eps that `sample` turns into z."""
        return (z - self.mu) * torch.exp(-self.log_var / 2)


class _Full(NamedTuple):
    mu: Tensor
    factor: Tensor


class FullNormal(_Full, NormalPosterior):
    """N(mu, L L') with a lower triangular L (..., nz, nz), its diagonal positive."""

    names = ("means", "logarithms of the squared diagonal of the covariance's Cholesky factor", "entries below it")

    @staticmethod
    def blocks(nz: int) -> tuple[int, ...]:
        """Mean, logarithms of the squared diagonal of L, and its entries below, row by row."""
        return nz, nz, nz * (nz - 1) // 2

    @classmethod
    def from_code(cls, code: Tensor) -> "FullNormal":
        """Mean, logarithms of the squared diagonal of L, cut off likewise, and the entries below, side by side."""
        nz = (math.isqrt(9 + 8 * code.shape[-1]) - 3) // 2
        mu, log_diagonal, below = code.split([nz, nz, code.shape[-1] - 2 * nz], dim=-1)
        rows, columns = torch.tril_indices(nz, nz, -1, device=code.device)
        entries = code.new_zeros(*code.shape[:-1], nz * nz).index_copy(-1, rows * nz + columns, below)
        return cls(
            mu, entries.unflatten(-1, (nz, nz)) + torch.diag_embed(torch.exp(log_diagonal.clamp(*LOG_VARIANCES) / 2))
        )

    @property
    def variances(self) -> Tensor:
        """Variance of each code, (..., nz)."""
        return self.factor.square().sum(-1)

    @property
    def log_pivots(self) -> Tensor:
        """What the log determinant of the covariance is the sum of, (..., nz)."""
        return 2 * self.factor.diagonal(dim1=-2, dim2=-1).log()

    def sample(self, eps: Tensor) -> Tensor:
        """Codes as a differentiable function of draws eps from N(0, I)."""
        return self.mu + (self.factor @ eps[..., None])[..., 0]

    def whiten(self, z: Tensor) -> Tensor:
        """The eps that `sample` turns into z."""
        return torch.linalg.solve_triangular(self.factor, (z - self.mu)[..., None], upper=False)[..., 0]


POSTERIORS: dict[str, Any] = {"diagonal": DiagonalNormal, "full": FullNormal}
