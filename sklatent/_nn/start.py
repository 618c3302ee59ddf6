"""The start of training at probabilistic PCA: a linear map that the layers of a multilayer perceptron carry."""

__all__ = ["leading_components", "start", "start_at_pca"]

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklatent._nn.architecture import Architecture
from sklatent._nn.backbones import Scale
from sklatent._nn.likelihoods import MIN_VARIANCE, Gaussian
from sklatent._nn.modules import Autoencoder
from sklatent._nn.summaries import rough_spectrum, some_standardized
from sklatent._ppca.density import bound_noise_variance, initial_loadings
from sklatent._ppca.factors import Factors, factor_analysis
from sklatent._ppca.missing_values import factors_of_incomplete
from sklatent._ppca.solvers import Spectrum, decompose

# Smallest posterior variance to start from. With beta=0 that of a linear model is zero.
MIN_POSTERIOR_VARIANCE = 1e-8
# Smallest deviation, relative to the noise, of a factor that is carried.
MIN_STRENGTH = 1e-3
# Activations with f(t) - f(-t) = t: a pair of units passes on any number. A pair of others passes on small ones.
EXACT = (nn.SiLU, nn.GELU, nn.ReLU)
SMALL = 0.25


def leading_components(module: Autoencoder, train: Any, nz: int) -> Spectrum:
    """At most nz leading principal components of the standardized training samples."""
    rows, weights = some_standardized(train, module.standardizer)
    solve = rough_spectrum if module.likelihood.has_missing else decompose
    return solve(rows, nz=min(nz, *rows.shape), weights=weights)


def start(
    module: Autoencoder, architecture: Architecture, spectrum: Spectrum, train: Any, *, is_carried: bool
) -> Factors | None:
    """Set the noise variance from which training starts, and the weights if the linear model `is_carried` by them.

    Returns
    -------
    factors : Factors or None
        The linear model of the standardized samples, if the module is this model now.
    """
    standardizer, likelihood = module.standardizer, module.likelihood
    is_linear = architecture.is_gaussian and architecture.output_activation is None
    if not (is_carried or architecture.is_diagonal):
        return None
    factors = _linear_model(module, architecture, spectrum, train)
    noise = torch.from_numpy(factors.noise) * standardizer.scale**2
    if not (is_carried and is_linear):  # the level is that of the data
        noise *= standardizer.variances.mean() / noise.mean()
    if is_carried:
        # A logit changes by at least four times as much as the probability. A quarter of that is enough of a start, and
        # better on MNIST; with the other links the decoder's share costs up to 13 nats on digits.
        is_logit = architecture.likelihood == "bernoulli"
        unit = 1.0 if is_linear else float(standardizer.scale) if is_logit else None
        origin = likelihood.start(standardizer.loc)
        # Without a KL divergence, beta = 1 gives the best codes of samples with as much noise again. With beta = 0 the
        # gradient of the encoder would be zero but for rounding, which Adam turns into whole steps.
        parts = module.encoder, module.decoder, factors, architecture.nz, module.beta or 1.0
        start_at_pca(*parts, is_linear=is_linear, unit=unit, origin=origin)
    if isinstance(likelihood, Gaussian):
        likelihood.set_noise_variance(noise)
    return factors if is_carried and is_linear else None


def _linear_model(module: Autoencoder, architecture: Architecture, spectrum: Spectrum, train: Any) -> Factors:
    """Factor analysis for a variance for each feature, or PCA."""
    nz, has_missing = architecture.nz, module.likelihood.has_missing
    if architecture.is_diagonal:
        rows, weights = some_standardized(train, module.standardizer)
        fit_factors = factors_of_incomplete if has_missing else factor_analysis
        return fit_factors(rows.astype(np.float64), nz, weights)
    noise = max(bound_noise_variance(spectrum, nz, module.beta), MIN_VARIANCE)
    k = min(nz, len(spectrum.components))
    return Factors(initial_loadings(spectrum, k, module.beta * noise), np.full(len(module.standardizer.loc), noise))


def start_at_pca(
    encoder: nn.Module,
    decoder: nn.Module,
    factors: Factors,
    nz: int,
    beta: float,
    *,
    is_linear: bool,
    unit: float | None,
    origin: Tensor,
) -> None:
    r"""Set the weights of a multilayer perceptron so that its latent codes are those of a linear model.

    With loadings W and noise variances :math:`\Psi` of probabilistic PCA or of factor analysis, in axes in which
    :math:`W' \Psi^{-1} W` is diagonal, the posterior of a latent code given standardized samples h is

    .. math::
        z | h \sim N(M^{-1} W' \Psi^{-1} h, \beta M^{-1}), \quad M = W' \Psi^{-1} W + \beta I.

    Its mean is the first part of the encoder's output and the logarithm of its variances, a constant, the second part
    if there is one. The decoder is W z. An autoencoder has beta = 0. The other units of the hidden layers keep their
    random weights, and the outputs do not depend on them yet.

    Parameters
    ----------
    encoder, decoder : Module
        With `Linear` layers and activations only, and as many as 2 nz units in each hidden layer to carry all latent
        dimensions; narrower ones carry the leading ones.
    factors : Factors
        The linear model of the samples h.
    nz : int
        Latent dimension.
    beta : float
        Weight of the KL divergence.
    is_linear : bool
        Whether x given z is normal about a linear function of the decoder's output, so that the start is the linear
        model. If not, only the means of the latent codes are set. Then, and if there are less than nz factors, the
        random output of the other units is added.
    unit : float or None
        Unit of h in the decoder's output. None leaves the decoder as it is.
    origin : Tensor of shape (n_features,)
        The decoder's output at z = 0.

    References
    ----------
    Tipping & Bishop (1999), "Probabilistic principal component analysis", JRSS B 61, eq. 6 to 8. Lucas et al. (2019),
    "Don't blame the ELBO!", NeurIPS 32, for beta = 1.
    """
    deviations = np.sqrt(factors.noise)[:, None]
    left, strengths, right = np.linalg.svd(factors.loadings / deviations, full_matrices=False)
    k = int((strengths > MIN_STRENGTH).sum())
    if not k:
        return
    precisions = np.square(strengths[:k]) + beta
    sizes = strengths[:k] / np.sqrt(precisions)  # deviations of the means of the latent codes
    inward = (left[:, :k] / deviations).T / np.sqrt(precisions)[:, None]
    last = _carry(encoder, inward, np.diag(sizes), is_alone=is_linear and k == nz)
    if is_linear and last.out_features > nz:
        log_variances = np.log(np.maximum(beta / precisions, MIN_POSTERIOR_VARIANCE))
        last.bias.data[nz : nz + k] = torch.from_numpy(log_variances)
    if unit is not None:
        loadings = (factors.loadings @ right.T)[:, :k]
        _carry(decoder, np.eye(k, nz), unit * loadings, origin, is_alone=k == nz)


def _carry(
    network: nn.Module, inward: NDArray[Any], outward: NDArray[Any], origin: Tensor | None = None, is_alone: bool = True
) -> nn.Linear:
    """Make a network compute origin + outward @ inward @ h, for inward (k, n_in) and outward (up to n_out, k).

    Each of the k numbers t of unit deviation occupies a pair of units in each hidden layer, which hold f(t) and f(-t).
    The output of the other units is added to it unless `is_alone`. Returns the last layer.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    scale = next((layer.factor for layer in network.modules() if isinstance(layer, Scale)), 1.0)
    is_exact = any(isinstance(layer, EXACT) for layer in network.modules())
    size, gain = (1.0, 1.0) if is_exact else (SMALL, 2.0)
    k = min([len(inward), *(layer.out_features // 2 for layer in layers[:-1])])
    before, after = (torch.from_numpy(np.ascontiguousarray(part)).float() for part in (inward[:k], outward[:, :k]))
    first, others, last = layers[0], layers[1:-1], layers[-1]
    n_out = len(outward)
    with torch.no_grad():
        if is_alone:
            last.weight.zero_()
        last.bias.copy_(torch.zeros_like(last.bias) if origin is None else origin)
        if first is last:
            used = before.any(dim=0)
            last.weight[:n_out, : len(used)][:, used] = (after @ before / scale)[:, used]  # not those of the indicators
            return last
        _set_pairs(first, _pair(size * before / scale))
        for layer in others:
            pair = _pair(torch.eye(k, device="cpu")) / gain
            _set_pairs(layer, torch.cat([pair, -pair], dim=1))
        last.weight[:, : 2 * k] = 0
        last.weight[:n_out, : 2 * k] = torch.cat([after, -after], dim=1) / (size * gain)
        return last


def _pair(weight: Tensor) -> Tensor:
    """Weights of the numbers t and of -t."""
    return torch.cat([weight, -weight])


def _set_pairs(layer: nn.Linear, weight: Tensor) -> None:
    """Set the weights of the first units of a layer, which depend on the first inputs only and have no bias."""
    n_units, n_inputs = weight.shape
    layer.weight[:n_units] = 0
    layer.weight[:n_units, :n_inputs] = weight
    layer.bias[:n_units] = 0
