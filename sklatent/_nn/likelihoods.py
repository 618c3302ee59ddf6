"""Likelihoods p(x | z), with parameters eta that are the output of a decoder."""

__all__ = [
    "GAUSSIANS",
    "LIKELIHOODS",
    "MIN_VARIANCE",
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
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

# Smallest s^2 in standardized units. For data that the decoder reconstructs exactly it would otherwise become zero.
MIN_VARIANCE = 1e-6


def _rounding(X: NDArray[Any]) -> float:
    """What a scaler to the unit interval, such as `MinMaxScaler`, may exceed it by."""
    return 4 * float(np.finfo(X.dtype).eps) if X.dtype.kind == "f" else 0.0


# Requirements on X, as a phrase and as a test.
SUPPORTS: dict[str, tuple[str, Callable[[NDArray[Any]], bool]]] = {
    "reals": ("be finite", lambda X: True),
    "unit interval": ("lie in [0, 1]", lambda X: bool(X.min() >= -_rounding(X) and X.max() <= 1 + _rounding(X))),
    "counts": ("be counts (0, 1, 2, ...)", lambda X: bool(X.min() >= 0 and (np.floor(X) == X).all())),
}


class Standardizer(nn.Module):
    """Subtract the mean of each feature and divide by its scale.

    With one scale for all features a linear autoencoder is equivalent to PCA, and a common unit has no effect.

    Parameters
    ----------
    loc : Tensor of shape (n_features,), float64
        Feature means.
    scale : float or array of shape (n_features,)
        Square root of the mean variance of the features, or a scale for each feature.
    variances : Tensor of shape (n_features,), float64
        Feature variances.
    """

    loc: Tensor
    scale: Tensor
    loc32: Tensor
    scale32: Tensor

    def __init__(self, loc: Tensor, scale: float | NDArray[Any], variances: Tensor):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64, device=loc.device))
        # Converted once, instead of in each training step.
        self.register_buffer("loc32", self.loc.float())
        self.register_buffer("scale32", self.scale.float())
        self.variances = variances

    def forward(self, x: Tensor) -> Tensor:
        """(x - loc) / scale, in the precision of x, so that float64 samples far from the origin keep their digits.

        The result has the precision of the module.
        """
        if x.dtype == torch.float32:
            return (x - self.loc32) / self.scale32
        return ((x - self.loc) / self.scale).to(self.loc32.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Transform standardized samples back to the units of X, in the precision of x."""
        return (x * self.scale + self.loc).to(x.dtype)


class Likelihood(nn.Module):
    r"""Base class: distribution of x given z, with parameters eta (..., n, d) that a decoder gives for z.

    Samples x (n, d) are standardized if `is_standardized`, and in the units of X otherwise. Densities and means are in
    the units of X in both cases.

    Values of x that are NaN are missing. If `has_missing`, the density is that of the observed values, in which those
    that are missing are integrated out: features are independent given z, so their terms are left out of the sum. That
    they are missing may depend on the values that are observed, but not on their own (missing at random).

    .. math:: \ln p(x^\mathrm{obs} | z) = \sum_{j \text{ observed}} \ln p(x_j | z)

    A subclass defines `_feature_log_probs` and `_gradient` for values that are all observed, and the other methods.

    References
    ----------
    Mattei & Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets", eq. 4.
    """

    support: ClassVar[str]
    """Key of `SUPPORTS`: the values that x may have."""

    is_standardized = False
    """Whether `log_prob`, `feature_log_probs` and `gradient` take standardized samples."""

    has_missing = False
    """Whether x may have missing values. It is not looked for in each call, which would cost time in each step."""

    noise_variance: float | NDArray[np.float64] = math.nan
    """Variance of x given z, as a number or one for each feature; NaN for likelihoods without one."""

    @property
    def deviations(self) -> Tensor | float:
        """Standard deviation of x given z in the units of X, (1,) or (n_features,); 0 if it is not a parameter."""
        return 0.0

    def update_noise_variance(
        self, log_prob: float, factor: Callable[[float], float] = float, observed: Tensor | None = None
    ) -> None:
        """Multiply the noise variance, if there is one, by a factor that depends on the squared errors of some samples.

        Parameters
        ----------
        log_prob : float
            Mean of `log_prob` over the samples.
        factor : callable, default=float
            Maps their mean squared error, relative to the present noise variance, to the factor. By default the factor
            is this number, so the new noise variance is the mean squared error.
        observed : Tensor of shape (n_features,) or None, default=None
            Fraction of the samples in which each feature is observed. None stands for ones.
        """

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-density of each sample in nats, of shape (..., n): features are independent given z."""
        return self.feature_log_probs(x, eta).sum(-1)

    def feature_log_probs(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-density of each value in nats, with respect to the base measure in the units of X, shape of eta.

        It is 0 for missing values.
        """
        return self._where_observed(self._feature_log_probs, x, eta)

    def gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        """Derivative of `log_prob` with respect to eta, (n, d)."""
        return self._where_observed(self._gradient, x, eta)

    def observed_information(self, x: Tensor, eta: Tensor) -> Tensor:
        """Fisher information of the observed values about each entry of eta, (n, d)."""
        return self._where_observed(lambda x, eta: self.information(eta), x, eta)

    def _where_observed(self, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, eta: Tensor) -> Tensor:
        """The function of x and eta where x is observed, and 0 elsewhere, where NaN does not reach its gradient."""
        if not self.has_missing:
            return function(x, eta)
        observed = ~x.isnan()
        return torch.where(observed, function(torch.where(observed, x, 0.0), eta), 0.0)

    def _feature_log_probs(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-density of each value, all of them observed, shape of eta."""
        raise NotImplementedError

    def _gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        """Derivative of the log-density of each value, all of them observed, with respect to eta, (n, d)."""
        raise NotImplementedError

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information of an observed value about each entry of eta, (n, d): the expected squared gradient."""
        raise NotImplementedError

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        raise NotImplementedError

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Sample x given z, once for each latent code."""
        raise NotImplementedError

    def start(self, mean: Tensor) -> Tensor:
        """Parameters eta for the feature means (d,), from which the output of the decoder starts."""
        raise NotImplementedError


class Gaussian(Likelihood):
    r"""Normal distribution about the output of the decoder, with one variance for all features or one for each:

    .. math:: \ln p(x | z) = -\frac12 \sum_j \frac{(x_j - \mu_j(\eta))^2}{s_j^2} + \ln(2 \pi s_j^2).

    With the identity link the mean is `loc + scale * eta` in terms of the standardizer; with the sigmoid it is
    `sigmoid(eta)`, as in Chaudhury (2024), listing 14.3, and X has to lie in [0, 1].

    Parameters
    ----------
    standardizer : Standardizer
    link : {"identity", "sigmoid"}, default="identity"
    diagonal : bool, default=False
        Whether each feature has its own variance.

    Attributes
    ----------
    log_variance : Tensor of shape (1,)
        ln s^2, in standardized units for the identity link. Its initial value is the variance of the data. It is not
        trained by gradients: each epoch sets it by `update_noise_variance`.
    log_ratios : Tensor of shape (n_features,)
        With `diagonal`, the difference between the log-variance of each feature and `log_variance`. It is not trained:
        with latent codes that are free or nearly so, the network would reconstruct nz features exactly, leave them no
        variance and treat the others as noise. The likelihood has no maximum then (Anderson & Rubin 1956).

    References
    ----------
    Anderson & Rubin (1956), "Statistical inference in factor analysis", third Berkeley symposium, volume 5.
    """

    support = "reals"
    log_variance: Tensor
    log_unit: Tensor
    log_ratios: Tensor

    def __init__(self, standardizer: Standardizer, link: str = "identity", diagonal: bool = False):
        super().__init__()
        self.link = link
        self.is_standardized = link == "identity"
        self.is_diagonal = diagonal
        if link == "sigmoid":  # the output is already in the units of X
            standardizer = Standardizer(torch.zeros_like(standardizer.loc), 1.0, standardizer.variances)
        self.standardizer = standardizer
        variances = standardizer.variances / standardizer.scale**2
        self.register_buffer("log_variance", variances.mean(0, keepdim=True).clamp(min=MIN_VARIANCE).log().float())
        if diagonal:
            self.register_buffer("log_ratios", torch.zeros_like(variances).float())
            self.set_noise_variance(standardizer.variances)
        # ln 2 pi and the Jacobian of the standardizer.
        self.register_buffer("log_unit", 2 * standardizer.scale.log() + math.log(2 * math.pi))

    @property
    def noise_variance(self) -> float | NDArray[np.float64]:  # type: ignore[override]
        """Variance s^2 in squared units of X, as a number or one for each feature."""
        variance = (self._log_variance().detach().cpu().double().exp() * self.standardizer.scale.cpu() ** 2).numpy()
        return variance if self.is_diagonal else float(variance[0])

    def set_noise_variance(self, variances: Tensor) -> None:
        """Replace the learned variances by the given ones (n_features,), in squared units of X, or by their mean."""
        scale = self.standardizer.scale
        relative = (variances.to(scale.device) / scale**2).clamp(min=MIN_VARIANCE)
        mean = relative.mean(0, keepdim=True)
        self.log_variance.copy_(mean.log())
        if self.is_diagonal:
            self.log_ratios.copy_((relative / mean).log())

    def rescale(self, factor: float) -> None:
        """Multiply the noise variances by a factor."""
        self.log_variance.add_(math.log(max(factor, MIN_VARIANCE))).clamp_(min=math.log(MIN_VARIANCE))

    def update_noise_variance(
        self, log_prob: float, factor: Callable[[float], float] = float, observed: Tensor | None = None
    ) -> None:
        r"""Multiply the noise variance by a factor that depends on the squared errors of some samples.

        Their mean q, relative to the present variances, follows from the mean log-density L and the fraction
        :math:`f_j` of the samples in which each feature is observed:

        .. math:: q = -\frac{2 L + \sum_j f_j \ln 2 \pi s_j^2}{\sum_j f_j}
        """
        constants = (self._log_variance() + self.log_unit).cpu().double()
        if observed is None:
            n_observed, constant = float(len(self.standardizer.loc)), float(constants.mean())
        else:
            n_observed = float(observed.sum())
            if not n_observed:  # samples without any value tell nothing
                return
            constant = float((observed * constants).sum()) / n_observed
        self.rescale(factor(-2 * log_prob / n_observed - constant))

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-density of each sample, with respect to Lebesgue measure in the units of X.

        It is the sum of the `feature_log_probs`, with fewer passes over all values in each training step: the constants
        are summed apart, and the sum of the squares is multiplied by the precision if there is one for all features.
        """
        if self.has_missing:
            return super().log_prob(x, eta)
        log_variance = self._log_variance()
        squares, precision = self._squares(x, eta), (-log_variance).exp()
        one = len(log_variance) == 1
        distance = squares.sum(-1) * precision if one else (squares * precision).sum(-1)
        constants = (log_variance + self.log_unit).sum() * (x.shape[-1] / len(log_variance))
        return _normal_log_density(distance, constants)

    def _feature_log_probs(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-density of each value, with respect to Lebesgue measure in the units of X, shape of eta."""
        log_variance = self._log_variance()
        distances = self._squares(x, eta) * (-log_variance).exp()
        return _normal_log_density(distances, log_variance + self.log_unit)

    def _gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        mean = self._mean(eta)
        return self._slope(mean) * (x.to(eta.dtype) - mean) / self._log_variance().exp()

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d)."""
        return self._slope(self._mean(eta)).square() / self._log_variance().exp()

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z] in the units of X, shape of eta."""
        return self.standardizer.inverse(self._mean(eta))

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Sample x given z, once for each latent code."""
        noise = torch.randn(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        return self.mean(eta) + self.deviations.to(eta.dtype) * noise

    def start(self, mean: Tensor) -> Tensor:
        """Zeros, which are the feature means for the identity link.

        The sigmoid link starts there too, with a mean of 1/2. If it started at the feature means, training would hardly
        change pixels that are nearly always blank, since its slope is almost zero there (the squared error on MNIST was
        larger by 0.4, median of six seeds).
        """
        return torch.zeros_like(mean)

    @property
    def deviations(self) -> Tensor:
        """Standard deviation of x given z in the units of X."""
        return (self._log_variance() / 2).exp() * self.standardizer.scale32

    def _squares(self, x: Tensor, eta: Tensor) -> Tensor:
        return (x.to(eta.dtype) - self._mean(eta)).square()

    def _mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta) if self.link == "sigmoid" else eta

    def _slope(self, mean: Tensor) -> Tensor:
        """Derivative of the mean with respect to eta."""
        return mean * (1 - mean) if self.link == "sigmoid" else torch.ones_like(mean)

    def _log_variance(self) -> Tensor:
        log_variance = self.log_variance + self.log_ratios if self.is_diagonal else self.log_variance
        return log_variance.clamp(min=math.log(MIN_VARIANCE))


def diagonal_gaussian(standardizer: Standardizer, link: str = "identity") -> Gaussian:
    """`Gaussian` with a variance for each feature."""
    return Gaussian(standardizer, link, diagonal=True)


class _ExponentialFamily(Likelihood):
    """One-parameter exponential family for each feature, with natural parameter eta.

    The gradient of the log-likelihood is x - mean(eta), and the information is the derivative of the mean.

    Parameters
    ----------
    standardizer : Standardizer
        Not used, since eta refers to X in its own units.
    """

    def __init__(self, standardizer: Standardizer):
        super().__init__()

    def _gradient(self, x: Tensor, eta: Tensor) -> Tensor:
        return x.to(eta.dtype) - self.mean(eta)


class Bernoulli(_ExponentialFamily):
    r"""Independent Bernoulli variables with logits eta:

    .. math:: \ln p(x | z) = \sum_j x_j \ln p_j + (1 - x_j) \ln(1 - p_j), \quad p = \mathrm{sigmoid}(\eta).

    This is minus the binary cross-entropy, the loss of Chaudhury (2024), listing 14.9. For x of zeros and ones it is
    the logarithm of a probability. Grey levels between them are accepted, as there, but then it is a loss and not a
    density: compare it only with itself, or use `ContinuousBernoulli`.
    """

    support = "unit interval"

    def _feature_log_probs(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-probability of each value, shape of eta."""
        # The same as binary_cross_entropy_with_logits, in a quarter of its time for several latent codes per sample.
        return x.to(eta.dtype) * eta - F.softplus(eta, threshold=40)

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d)."""
        return torch.sigmoid(eta) * torch.sigmoid(-eta)

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        return torch.sigmoid(eta)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Sample x given z, once for each latent code."""
        return torch.bernoulli(torch.sigmoid(eta), generator=generator)

    def start(self, mean: Tensor) -> Tensor:
        """Parameters eta for the feature means."""
        return _logit(mean)


class ContinuousBernoulli(_ExponentialFamily):
    r"""The Bernoulli likelihood, normalized to a density on [0, 1]:

    .. math:: \ln p(x | z) = \sum_j x_j \eta_j - A(\eta_j), \quad A(\eta) = \ln \frac{e^\eta - 1}{\eta}.

    It is the exponential density truncated to [0, 1]. A(eta) - eta / 2 is an even function of eta, and smooth at 0,
    where the density is uniform.

    References
    ----------
    Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli: fixing a pervasive error in variational autoencoders".
    """

    support = "unit interval"

    def _feature_log_probs(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-density of each value, shape of eta."""
        return x.to(eta.dtype) * eta - eta / 2 - _log_sinhc(eta / 2)

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d): the variance of x."""
        return _langevin_slope(eta / 2) / 4

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        return 0.5 + _langevin(eta / 2) / 2

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Sample x given z, once for each latent code, by inversion of the distribution function."""
        u = torch.rand(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        size = eta.abs().clamp(min=1e-6)  # below that the density is uniform to rounding
        x = -torch.log1p(u * torch.expm1(-size)) / size  # of a decreasing density
        return torch.where(eta > 0, 1 - x, x)

    def start(self, mean: Tensor) -> Tensor:
        """Parameters eta for the feature means, by Newton's method."""
        mean = mean.clamp(0.01, 0.99)
        eta = _logit(mean)
        for _ in range(20):
            eta = eta - (self.mean(eta) - mean) / self.information(eta)
        return eta


class Poisson(_ExponentialFamily):
    r"""Independent Poisson counts with log-rates eta:

    .. math:: \ln p(x | z) = \sum_j x_j \eta_j - e^{\eta_j} - \ln x_j!.
    """

    support = "counts"

    def _feature_log_probs(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-probability of each value, shape of eta."""
        x = x.to(eta.dtype)
        return x * eta - eta.exp() - torch.lgamma(x + 1)

    def information(self, eta: Tensor) -> Tensor:
        """Fisher information about each entry of eta, (n, d)."""
        return eta.exp()

    def mean(self, eta: Tensor) -> Tensor:
        """E[x | z], shape of eta."""
        return eta.exp()

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Sample x given z, once for each latent code."""
        return torch.poisson(eta.exp(), generator=generator)

    def start(self, mean: Tensor) -> Tensor:
        """Parameters eta for the feature means."""
        return mean.clamp(min=1e-3).log()


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian_diagonal": diagonal_gaussian,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "poisson": Poisson,
}
# Likelihoods with a choice of the link.
GAUSSIANS = ("gaussian", "gaussian_diagonal")


def _normal_log_density(distance: Tensor, log_det: Tensor) -> Tensor:
    """Log-density of values at a squared Mahalanobis distance; log_det includes ln 2 pi for each of them."""
    return -0.5 * (distance + log_det)


def _logit(mean: Tensor) -> Tensor:
    # A feature that is always 0 or 1 in the training samples may have other values later.
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
