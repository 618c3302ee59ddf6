"""Likelihoods p(x | z): what a decoder's output eta says of a row."""

__all__ = [
    "GAUSSIANS",
    "LIKELIHOODS",
    "SUPPORTS",
    "Bernoulli",
    "ContinuousBernoulli",
    "Gaussian",
    "Likelihood",
    "Poisson",
    "Standardizer",
    "diagonal_gaussian",
]

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

# Least s^2 in standardized units: data that the decoder can copy would drive it to zero and the density to infinity.
MIN_VARIANCE = 1e-6

# What X has to be, in words and as a test.
SUPPORTS: dict[str, tuple[str, Callable[[NDArray], bool]]] = {
    "reals": ("be finite", lambda X: True),
    "unit interval": ("lie in [0, 1]", lambda X: bool(X.min() >= 0 and X.max() <= 1)),
    "counts": ("be counts (0, 1, 2, ...)", lambda X: bool(X.min() >= 0 and (np.floor(X) == X).all())),
}


class Standardizer(nn.Module):
    """Centre columns and divide by their scale.

    One scale for all of them keeps a linear autoencoder PCA, and units do not matter.

    Parameters
    ----------
    loc : Tensor of shape (n_features,), float64
        Column means.
    scale : float or array of shape (n_features,)
        Root of the mean column variance, or a unit for each column.
    variances : Tensor of shape (n_features,), float64
        Column variances.
    """

    loc: Tensor
    scale: Tensor
    loc32: Tensor
    scale32: Tensor

    def __init__(self, loc: Tensor, scale: float | NDArray, variances: Tensor):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64))
        # Cast once, and not in each step of the training.
        self.register_buffer("loc32", self.loc.float())
        self.register_buffer("scale32", self.scale.float())
        self.variances = variances

    def forward(self, x: Tensor) -> Tensor:
        """(x - loc) / scale in the precision of x, so that float64 rows keep the digits that an offset costs.

        The result is in the precision of the module that this one is a part of.
        """
        if x.dtype == torch.float32:
            return (x - self.loc32) / self.scale32
        return ((x - self.loc) / self.scale).to(self.loc32.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Back to the units of the data, in the precision of x."""
        return (x * self.scale + self.loc).to(x.dtype)


class Likelihood(nn.Module):
    """x given z, through the output eta (..., n, d) that a decoder gives for z.

    Samples x (n, d) are standardized if `is_standardized`, and in the units of X otherwise. Densities and means are in
    the units of X in both cases.
    """

    support: ClassVar[str]
    """Key of `SUPPORTS`: where x may lie."""

    is_standardized = False
    """Whether `log_prob` and `gradient` take standardized samples."""

    noise_variance: float | NDArray[np.float64] = math.nan
    """Variance of x given z, where it is a number or one for each feature."""

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log density of each row of x: nats, shape (..., n)."""
        raise NotImplementedError

    def gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        """Derivative of `log_prob` by eta, (n, d)."""
        raise NotImplementedError

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d): the expected square of the `gradient`."""
        raise NotImplementedError

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        raise NotImplementedError

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x given z for each row of eta."""
        raise NotImplementedError

    def start(self, mean: Tensor) -> Tensor:
        """The eta that stands for the column means (d,): what a decoder that knows nothing of z should give."""
        raise NotImplementedError


class Gaussian(Likelihood):
    r"""x given z is normal about the decoder's output, with one variance for all features or one for each:

    .. math:: \ln p(x | z) = -\frac12 \sum_j \frac{(x_j - \mu_j(\eta))^2}{s_j^2} + \ln(2 \pi s_j^2).

    With the identity link the mean is `loc + scale * eta` in terms of the standardizer; with the sigmoid it is
    `sigmoid(eta)`, which is the chapter's listing 14.3, and X has to lie in [0, 1].

    Parameters
    ----------
    standardizer : Standardizer
    link : {"identity", "sigmoid"}, default="identity"
    diagonal : bool, default=False
        Whether each feature has a variance of its own.

    Attributes
    ----------
    log_variance : Parameter, of shape (1,)
        ln s^2, in standardized units under the identity link; starts at the variance of the data.
    log_ratios : Tensor of shape (n_features,)
        With `diagonal`, what is added to it for each feature. No parameter: while the codes are free, or nearly so,
        gradient steps copy nz of the features, leave them no variance, and take the others for noise. The likelihood
        has no maximum then (Anderson & Rubin 1956).

    References
    ----------
    Anderson & Rubin (1956), "Statistical inference in factor analysis", third Berkeley symposium, volume 5.
    """

    support = "reals"
    log_unit: Tensor
    log_ratios: Tensor

    def __init__(self, standardizer: Standardizer, link: str = "identity", diagonal: bool = False):
        super().__init__()
        self.link = link
        self.is_standardized = link == "identity"
        self.is_diagonal = diagonal
        if link == "sigmoid":  # the output is in the units of X as it is
            standardizer = Standardizer(torch.zeros_like(standardizer.loc), 1.0, standardizer.variances)
        self.standardizer = standardizer
        variances = standardizer.variances / standardizer.scale**2
        self.log_variance = nn.Parameter(variances.mean(0, keepdim=True).clamp(min=MIN_VARIANCE).log().float())
        if diagonal:
            self.register_buffer("log_ratios", torch.zeros_like(variances).float())
            self.set_noise_variance(standardizer.variances)
        # ln 2 pi and the Jacobian of the standardizer.
        self.register_buffer("log_unit", 2 * standardizer.scale.log() + math.log(2 * math.pi))

    @property
    def noise_variance(self) -> float | NDArray[np.float64]:  # type: ignore[override]
        """s^2 in squared units of X: a number, or one for each feature."""
        variance = (self._log_variance().detach().double().exp() * self.standardizer.scale**2).cpu().numpy()
        return variance if self.is_diagonal else float(variance[0])

    def set_noise_variance(self, variances: Tensor) -> None:
        """Put the variances (n_features,), in squared units of X, or their mean, in place of the learned ones."""
        scale = self.standardizer.scale
        relative = (variances.to(scale.device) / scale**2).clamp(min=MIN_VARIANCE)
        mean = relative.mean(0, keepdim=True)
        with torch.no_grad():
            self.log_variance.copy_(mean.log())
            if self.is_diagonal:
                self.log_ratios.copy_((relative / mean).log())

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log density of each row of x, with respect to Lebesgue measure in the units of X."""
        log_variance = self._log_variance()
        squares = (x.to(eta.dtype) - self._mean(eta)).square()
        precision = (-log_variance).exp()
        one = len(log_variance) == 1  # then the squares are weighted by it when they have been added
        distance = squares.sum(-1) * precision if one else (squares * precision).sum(-1)
        constants = (log_variance + self.log_unit).sum() * (x.shape[-1] / len(log_variance))
        return -0.5 * (distance + constants)

    def gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        """Derivative of `log_prob` by eta, (n, d)."""
        mean = self._mean(eta)
        return self._slope(mean) * (x.to(eta.dtype) - mean) / self._log_variance().exp()

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d)."""
        return self._slope(self._mean(eta)).square() / self._log_variance().exp()

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z] in the units of X, shape of eta."""
        return self.standardizer.inverse(self._mean(eta))

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x given z for each row of eta."""
        noise = torch.randn(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        deviation = (self._log_variance() / 2).exp() * self.standardizer.scale
        return self.mean(eta) + deviation.to(eta.dtype) * noise

    def start(self, mean: Tensor) -> Tensor:
        """Zeros: the column means under the identity link.

        Not under the sigmoid, whose slope is flat at pixels that are nearly always blank: from there the squared error
        hardly moves them (0.4 more of it on MNIST, median of six seeds).
        """
        return torch.zeros_like(mean)

    def _mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta) if self.link == "sigmoid" else eta

    def _slope(self, mean: Tensor) -> Tensor:
        """Derivative of the mean by eta."""
        return mean * (1 - mean) if self.link == "sigmoid" else torch.ones_like(mean)

    def _log_variance(self) -> Tensor:
        log_variance = self.log_variance + self.log_ratios if self.is_diagonal else self.log_variance
        return log_variance.clamp(min=math.log(MIN_VARIANCE))


def diagonal_gaussian(standardizer: Standardizer, link: str = "identity") -> Gaussian:
    """`Gaussian` with a variance for each feature."""
    return Gaussian(standardizer, link, diagonal=True)


class _ExponentialFamily(Likelihood):
    """x given z from a one-parameter exponential family in each feature, eta its natural parameter.

    The gradient of the log likelihood is x - mean(eta) and the information the slope of the mean.

    Parameters
    ----------
    standardizer : Standardizer
        Not used: eta speaks of X as it is.
    """

    def __init__(self, standardizer: Standardizer):
        super().__init__()

    def gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        """Derivative of `log_prob` by eta, (n, d)."""
        return x.to(eta.dtype) - self.mean(eta)


class Bernoulli(_ExponentialFamily):
    r"""x given z is a row of independent Bernoulli variables with logits eta:

    .. math:: \ln p(x | z) = \sum_j x_j \ln p_j + (1 - x_j) \ln(1 - p_j), \quad p = \mathrm{sigmoid}(\eta).

    This is minus the binary cross-entropy, the loss of the chapter's listing 14.9. For x of zeros and ones it is the
    logarithm of a probability. Grey levels between them are accepted as the chapter does, but then it is a loss
    that does not integrate to one: compare it only with itself, or use `ContinuousBernoulli`.
    """

    support = "unit interval"

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log probability of each row of x."""
        # binary_cross_entropy_with_logits says the same in four times the time where eta has draws of z in front.
        return (x.to(eta.dtype) * eta - F.softplus(eta, threshold=40)).sum(-1)

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d)."""
        return torch.sigmoid(eta) * torch.sigmoid(-eta)

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        return torch.sigmoid(eta)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x given z for each row of eta."""
        return torch.bernoulli(torch.sigmoid(eta), generator=generator)

    def start(self, mean: Tensor) -> Tensor:
        """The eta that stands for the column means."""
        return _logit(mean)


class ContinuousBernoulli(_ExponentialFamily):
    r"""The Bernoulli likelihood made a density on [0, 1]:

    .. math:: \ln p(x | z) = \sum_j x_j \eta_j - A(\eta_j), \quad A(\eta) = \ln \frac{e^\eta - 1}{\eta}.

    In eta it is the exponential density cut off at 0 and 1; A is even about eta / 2 and smooth at 0, where the density
    is uniform.

    References
    ----------
    Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli: fixing a pervasive error in variational autoencoders".
    """

    support = "unit interval"

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log density of each row of x."""
        return (x.to(eta.dtype) * eta - eta / 2 - _log_sinhc(eta / 2)).sum(-1)

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d): the variance of x."""
        return _langevin_slope(eta / 2) / 4

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        return 0.5 + _langevin(eta / 2) / 2

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x given z for each row of eta, by inversion of the distribution function."""
        u = torch.rand(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        size = eta.abs().clamp(min=1e-6)  # below that the density is uniform to rounding
        x = -torch.log1p(u * torch.expm1(-size)) / size  # of a density that falls from 0
        return torch.where(eta > 0, 1 - x, x)

    def start(self, mean: Tensor) -> Tensor:
        """The eta that stands for the column means, by Newton's method."""
        mean = mean.clamp(0.01, 0.99)
        eta = _logit(mean)
        for _ in range(20):
            eta = eta - (self.mean(eta) - mean) / self.information(eta)
        return eta


class Poisson(_ExponentialFamily):
    r"""x given z is a row of independent counts with log rates eta:

    .. math:: \ln p(x | z) = \sum_j x_j \eta_j - e^{\eta_j} - \ln x_j!.
    """

    support = "counts"

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log probability of each row of x."""
        x = x.to(eta.dtype)
        return (x * eta - eta.exp() - torch.lgamma(x + 1)).sum(-1)

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d)."""
        return eta.exp()

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        return eta.exp()

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of x given z for each row of eta."""
        return torch.poisson(eta.exp(), generator=generator)

    def start(self, mean: Tensor) -> Tensor:
        """The eta that stands for the column means."""
        return mean.clamp(min=1e-3).log()


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian_diagonal": diagonal_gaussian,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "poisson": Poisson,
}
# Those that take a link.
GAUSSIANS = ("gaussian", "gaussian_diagonal")


def _logit(mean: Tensor) -> Tensor:
    # A column that is always 0 or 1 in training may not be so later.
    return torch.logit(mean.clamp(0.01, 0.99))


def _log_sinhc(u: Tensor) -> Tensor:
    """ln(sinh(u) / u), for any u: a series below 0.1, where the other form cancels."""
    near = u.abs() < 0.1
    square = torch.where(near, u, 0.0).square()
    series = square / 6 - square**2 / 180 + square**3 / 2835
    size = torch.where(near, 1.0, u.abs())
    return torch.where(near, series, size + torch.log1p(-torch.exp(-2 * size)) - torch.log(2 * size))


def _langevin(u: Tensor) -> Tensor:
    """coth(u) - 1 / u, the slope of ln(sinh(u) / u): a series below 0.1, where the difference cancels."""
    near = u.abs() < 0.1
    small = torch.where(near, u, 0.0)
    series = small / 3 - small**3 / 45 + 2 * small**5 / 945 - small**7 / 4725
    large = torch.where(near, 1.0, u)
    return torch.where(near, series, 1 / torch.tanh(large) - 1 / large)


def _langevin_slope(u: Tensor) -> Tensor:
    """1 / u^2 - 1 / sinh(u)^2: a series below 0.1, where the difference cancels."""
    near = u.abs() < 0.1
    square = torch.where(near, u, 0.0).square()
    series = 1 / 3 - square / 15 + 2 * square**2 / 189 - square**3 / 675
    size = torch.where(near, 1.0, u.abs())
    inverse_sinh = 2 * torch.exp(-size) / -torch.expm1(-2 * size)  # without overflow
    return torch.where(near, series, 1 / size.square() - inverse_sinh.square())
