"""Densities p(z) of the codes."""

__all__ = ["Normal", "StandardNormal"]

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal


class StandardNormal(nn.Module):
    """z ~ N(0, I): compact and smooth, the chapter's prior (14.7.4).

    Parameters
    ----------
    nz : int
    """

    def __init__(self, nz: int):
        super().__init__()
        self.nz = nz

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of codes of shape (..., nz): nats, shape (...)."""
        return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Codes of shape (n_samples, nz), float64."""
        shape = (n_samples, self.nz)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)

    def kl(self, mu: Tensor, log_var: Tensor) -> Tensor:
        r"""KL divergence of each N(mu, diag exp log_var) from the prior.

        .. math:: -\frac12 \sum_j (1 + \ln \sigma_j^2 - \mu_j^2 - \sigma_j^2)

        Parameters
        ----------
        mu, log_var : Tensor of shape (..., nz)

        Returns
        -------
        kl : Tensor of shape (...)
            Nats; zero where mu = 0 and log_var = 0, positive elsewhere.

        References
        ----------
        Chaudhury (2024), "Math and Architectures of Deep Learning", eq. 14.1 with a standard normal and a diagonal
        covariance.
        """
        return -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(-1)


class Normal(nn.Module):
    """z ~ N(mean, covariance), fitted to the codes of a trained autoencoder.

    Parameters
    ----------
    mean : Tensor of shape (nz,), float64
    covariance : Tensor of shape (nz, nz), float64, positive definite
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("covariance", covariance)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of codes of shape (..., nz): nats, shape (...), float64."""
        return MultivariateNormal(self.mean, self.covariance).log_prob(z.double())

    def gradient(self, z: Tensor) -> Tensor:
        """Derivative of `log_prob` by z, (n, nz), float64."""
        return (self.mean - z.double()) @ self.precision

    @property
    def precision(self) -> Tensor:
        """Inverse of the covariance, (nz, nz)."""
        return torch.linalg.inv(self.covariance)

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Codes of shape (n_samples, nz), float64."""
        standard = StandardNormal(len(self.mean)).sample(n_samples, generator)
        return self.mean + standard @ torch.linalg.cholesky(self.covariance).mT
