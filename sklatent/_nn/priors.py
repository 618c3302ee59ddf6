"""Priors: densities p(z) of the latent codes."""

__all__ = ["GaussianMixturePrior", "Mixture", "Normal", "Prior", "StandardNormal", "VampPrior"]

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from sklatent._nn.posteriors import DiagonalNormal, NormalPosterior


class Prior(nn.Module):
    """Base class: the parameters of p(z)."""

    def density(self, posterior: Callable[[Tensor], NormalPosterior]) -> Any:
        """The density p(z), which may depend on the posterior that the encoder gives for an input."""
        return self


class StandardNormal(Prior):
    """z ~ N(0, I), the prior of Chaudhury (2024), section 14.7.4.

    Parameters
    ----------
    nz : int
    """

    def __init__(self, nz: int):
        super().__init__()
        self.nz = nz

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of latent codes of shape (..., nz), in nats, of shape (...)."""
        return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))

    def sample_from(self, eps: Tensor, places: Tensor) -> Tensor:
        """As `Mixture.sample_from`; one component needs no places."""
        return eps

    def normal_near(self, z: Tensor) -> DiagonalNormal:
        """Normal density with the derivatives of this one at each latent code (n, nz): N(0, I)."""
        return DiagonalNormal(torch.zeros_like(z), torch.zeros_like(z))

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Latent codes of shape (n_samples, nz), in float64."""
        shape = (n_samples, self.nz)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)

    def kl(self, q: NormalPosterior, eps: Tensor) -> Tensor:
        """KL divergence of q from this prior in closed form, in nats, of shape (n,). `eps` is not used."""
        return q.kl_standard_normal()

    def kl_per_dimension(self, q: NormalPosterior, eps: Tensor) -> Tensor:
        """KL divergence of each marginal of q from that of this prior, (n, nz)."""
        return q.marginals().kl_terms()


class Mixture:
    """A mixture of normal densities of latent codes.

    Parameters
    ----------
    log_weights : Tensor of shape (n_components,)
    components : NormalPosterior
        With `mu` of shape (n_components, nz).
    """

    def __init__(self, log_weights: Tensor, components: NormalPosterior):
        self.log_weights = log_weights
        self.components = components

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of latent codes of shape (..., nz), in nats, of shape (...)."""
        return torch.logsumexp(self.log_weights + self.components.log_prob(z[..., None, :]), dim=-1)

    def sample_from(self, eps: Tensor, places: Tensor) -> Tensor:
        """Latent codes (n_draws, n, nz) as a function of random numbers.

        The components of the n_draws codes of a sample are chosen at equal distances along their cumulative weights,
        from a random place on: so each has its share of the codes, up to one (systematic sampling).

        Parameters
        ----------
        eps : Tensor of shape (n_draws, n, nz)
            Samples of N(0, I).
        places : Tensor of shape (n,)
            Uniform in [0, 1].
        """
        cumulative = self.log_weights.exp().cumsum(0).to(eps.dtype)
        positions = (torch.arange(len(eps), device=eps.device)[:, None] + places) / len(eps)
        chosen = torch.searchsorted(cumulative, positions).clamp(max=len(cumulative) - 1)
        every = self.components.sample(eps[..., None, :])  # (n_draws, n, n_components, nz)
        return every.take_along_dim(chosen[..., None, None], dim=-2)[..., 0, :]

    def normal_near(self, z: Tensor) -> DiagonalNormal:
        """Normal density with the gradient of this one at each latent code (n, nz), if the components are diagonal.

        The components are weighted by their posterior probabilities at z. Its precision is their mean precision: the
        curvature of the mixture may be negative between them.
        """
        marginals = self.components.marginals()
        shares = torch.softmax(self.log_weights + self.components.log_prob(z[..., None, :]), dim=-1)
        precision = shares @ (1 / marginals.variances)
        return DiagonalNormal(shares @ (marginals.mu / marginals.variances) / precision, -precision.log())

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Latent codes of shape (n_samples, nz), in float64."""
        component = torch.multinomial(self.log_weights.exp(), n_samples, replacement=True, generator=generator)
        nz = self.components.mu.shape[-1]
        eps = StandardNormal(nz).sample(n_samples, generator)
        every = self.components.sample(eps[:, None, :].to(self.components.mu.dtype))  # (n_samples, n_components, nz)
        return every[torch.arange(n_samples, device=every.device), component].double()

    def kl(self, q: NormalPosterior, eps: Tensor) -> Tensor:
        """KL divergence of q from this mixture, estimated with the sample `q.sample(eps)`, in nats, of shape (n,)."""
        return q.log_prob_of(eps) - self.log_prob(q.sample(eps))

    def kl_per_dimension(self, q: NormalPosterior, eps: Tensor) -> Tensor:
        """KL divergence of each marginal of q from that of this mixture, with the same sample, (n, nz)."""
        z = q.sample(eps)
        log_q = _normal_log_prob(z, q.mu, q.variances)
        log_p = _normal_log_prob(z[:, None], self.components.mu, self.components.variances)
        return log_q - torch.logsumexp(self.log_weights[:, None] + log_p, dim=1)


class GaussianMixturePrior(Prior):
    """A mixture of diagonal normal densities that is learned with the decoder (Chaudhury 2024, section 14.7.7).

    Parameters
    ----------
    means : Tensor of shape (n_components, nz)
        Initial means of the components. The initial variances are 1, and the initial weights are equal.
    """

    def __init__(self, means: Tensor):
        super().__init__()
        self.logits = nn.Parameter(means.new_zeros(len(means)))
        self.means = nn.Parameter(means)
        self.log_var = nn.Parameter(torch.zeros_like(means))

    def density(self, posterior: Callable[[Tensor], NormalPosterior]) -> Mixture:
        """The mixture. `posterior` is not used."""
        return Mixture(torch.log_softmax(self.logits, dim=0), DiagonalNormal(self.means, self.log_var))


class VampPrior(Prior):
    """VampPrior: the mean of the posteriors of pseudo-inputs that are learned with the network.

    Parameters
    ----------
    pseudo_inputs : Tensor of shape (n_components, n_features)
        Initial pseudo-inputs, in the standardized units of the encoder's input.

    References
    ----------
    Tomczak & Welling (2018), "VAE with a VampPrior", eq. 9.
    """

    def __init__(self, pseudo_inputs: Tensor):
        super().__init__()
        self.pseudo_inputs = nn.Parameter(pseudo_inputs)

    def density(self, posterior: Callable[[Tensor], NormalPosterior]) -> Mixture:
        """The mixture of the posteriors of the pseudo-inputs."""
        n_components = len(self.pseudo_inputs)
        log_weights = self.pseudo_inputs.new_full((n_components,), -math.log(n_components))
        return Mixture(log_weights, posterior(self.pseudo_inputs))


class Normal(Prior):
    """z ~ N(mean, covariance), fitted to the latent codes of a trained autoencoder.

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
        """Log-density of latent codes of shape (..., nz), in nats, of shape (...), in float64."""
        return MultivariateNormal(self.mean, scale_tril=self.factor).log_prob(z.double())

    @property
    def factor(self) -> Tensor:
        """Lower triangular L with L L' the covariance, (nz, nz)."""
        return torch.linalg.cholesky(self.covariance)

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Latent codes of shape (n_samples, nz), in float64."""
        standard = StandardNormal(len(self.mean)).sample(n_samples, generator)
        return self.mean + standard @ self.factor.mT


def _normal_log_prob(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((z - mean).square() / variance + variance.log() + math.log(2 * math.pi))
