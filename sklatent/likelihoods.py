"""Likelihoods p(x | z): what a decoder's output says of a row."""

__all__ = ["LIKELIHOODS", "Bernoulli", "Gaussian", "Standardizer"]

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Least s^2 in standardized units: data that the decoder can copy would drive it to zero and the density to infinity.
MIN_VARIANCE = 1e-6


class Standardizer(nn.Module):
    """Centre columns and divide by one scale, so that units do not matter and a linear autoencoder is still PCA.

    Parameters
    ----------
    loc : Tensor of shape (n_features,), float64
    scale : float
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: float):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(x - loc) / scale in the precision of x, then cast: float64 rows keep the digits that an offset costs."""
        return ((x - self.loc.to(x.dtype)) / self.scale.to(x.dtype)).to(dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Back to the units of the data, in the precision of x."""
        return (x * self.scale + self.loc).to(x.dtype)


class Gaussian(nn.Module):
    r"""x given z is normal about the decoder's output with one variance for all features:

    .. math:: \ln p(x | z) = -\frac{\|x - \mu(\eta)\|^2}{2 s^2} - \frac{d}{2} \ln(2 \pi s^2).

    With the identity link the mean is `loc + scale * eta`; with the sigmoid it is `sigmoid(eta)`, which is the
    chapter's listing 14.3, and X has to lie in [0, 1].

    Parameters
    ----------
    standardizer : Standardizer
    link : {"identity", "sigmoid"}, default="identity"

    Attributes
    ----------
    log_variance : Parameter, scalar
        ln s^2, in standardized units under the identity link.
    """

    unit_range: ClassVar[bool] = False

    def __init__(self, standardizer: Standardizer, link: str = "identity"):
        super().__init__()
        if link == "sigmoid":  # the output is in the units of X as it is
            standardizer = Standardizer(torch.zeros_like(standardizer.loc), 1.0)
        self.standardizer = standardizer
        self.link = link
        self.log_variance = nn.Parameter(torch.zeros(()))

    @property
    def noise_variance(self) -> float:
        """s^2 in squared units of X."""
        return float(self._log_variance().detach().double().exp() * self.standardizer.scale**2)

    def set_noise_variance(self, variance: float) -> None:
        """Put s^2, in squared units of X, in place of the learned one."""
        relative = variance / float(self.standardizer.scale) ** 2
        with torch.no_grad():
            self.log_variance.fill_(math.log(max(relative, MIN_VARIANCE)))

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log density of each row of x (n, d) given the decoder's output eta (..., n, d): nats, shape (..., n)."""
        residual = self.standardizer(x, eta.dtype) - self._mean(eta)
        log_scale = self.standardizer.scale.log().to(eta.dtype)
        log_variance = self._log_variance()
        constant = x.shape[-1] * (log_variance + 2 * log_scale + math.log(2 * math.pi))
        return -0.5 * (residual.square().sum(-1) / log_variance.exp() + constant)

    def gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        """Derivative of `log_prob` by eta, (n, d)."""
        mean = self._mean(eta)
        return self._slope(mean) * (self.standardizer(x, eta.dtype) - mean) / self._log_variance().exp()

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d): the expected square of its `gradient`."""
        return self._slope(self._mean(eta)).square() / self._log_variance().exp()

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z] in the units of X, shape of eta."""
        return self.standardizer.inverse(self._mean(eta))

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x given z for each row of eta."""
        noise = torch.randn(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        return self.mean(eta) + math.sqrt(self.noise_variance) * noise

    def _mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta) if self.link == "sigmoid" else eta

    def _slope(self, mean: Tensor) -> Tensor:
        """Derivative of the mean by eta."""
        return mean * (1 - mean) if self.link == "sigmoid" else torch.ones_like(mean)

    def _log_variance(self) -> Tensor:
        return self.log_variance.clamp(min=math.log(MIN_VARIANCE))


class Bernoulli(nn.Module):
    r"""x given z is a row of independent Bernoulli variables with logits eta:

    .. math:: \ln p(x | z) = \sum_j x_j \ln p_j + (1 - x_j) \ln(1 - p_j), \quad p = \mathrm{sigmoid}(\eta).

    This is minus the binary cross-entropy, the loss of the chapter's listing 14.9. For x of zeros and ones it is the
    logarithm of a probability. Grey levels between them are accepted as the chapter does, but then it is a loss
    that does not integrate to one: compare it only with itself.

    Parameters
    ----------
    standardizer : Standardizer
        Not used: X is in [0, 1] already.
    link : "sigmoid", default="sigmoid"
    """

    unit_range: ClassVar[bool] = True
    noise_variance: ClassVar[float] = math.nan

    def __init__(self, standardizer: Standardizer, link: str = "sigmoid"):
        super().__init__()

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log probability of each row of x (n, d) given the logits eta (..., n, d): nats, shape (..., n)."""
        target = x.to(eta.dtype).expand(eta.shape)
        return -F.binary_cross_entropy_with_logits(eta, target, reduction="none").sum(-1)

    def gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        """Derivative of `log_prob` by eta, (n, d)."""
        return x.to(eta.dtype) - torch.sigmoid(eta)

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d): the expected square of its `gradient`."""
        return torch.sigmoid(eta) * torch.sigmoid(-eta)

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        return torch.sigmoid(eta)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x given z for each row of eta."""
        return torch.bernoulli(torch.sigmoid(eta), generator=generator)


LIKELIHOODS: dict[str, type[Gaussian] | type[Bernoulli]] = {"gaussian": Gaussian, "bernoulli": Bernoulli}
