"""The layers of a network's decoder, for the page."""

__all__ = ["network_layers"]

import math
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from sklatent._nn.derivatives import is_plain
from sklatent._nn.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian, Likelihood, Poisson
from sklatent._nn.modules import Autoencoder, Offset
from sklatent.report._layers import Layer, affine, convolution, crop, function, linear

Shape = tuple[int, ...]
# Layers, and the shape of their output for a sample.
Found = tuple[list[Layer], Shape]


def network_layers(module: Autoencoder, nz: int) -> list[Layer] | None:
    """Layers from latent codes to E[x | z]; None if one of them is not among `_LAYERS`."""
    found, mean = _module_layers(module.decoder, (nz,)), _MEANS.get(type(module.likelihood))
    return None if found is None or mean is None else found[0] + mean(module.likelihood)


def _module_layers(module: nn.Module, shape: Shape) -> Found | None:
    layers_of = _LAYERS.get(type(module))
    return layers_of(module, shape) if layers_of and is_plain(module, type(module)) else None


def _sequential(module: nn.Module, shape: Shape) -> Found | None:
    layers: list[Layer] = []
    for part in module.children():
        found = _module_layers(part, shape)
        if found is None:
            return None
        layers, shape = layers + found[0], found[1]
    return layers, shape


def _linear(module: nn.Linear, shape: Shape) -> Found | None:
    if len(shape) > 1:  # it would hold for each line of an image
        return None
    return [linear(_array(module.weight), _optional(module.bias))], (module.out_features,)


def _convolution(module: nn.ConvTranspose2d, shape: Shape) -> Found | None:
    settings = module.padding, module.output_padding, module.dilation, module.groups
    if settings != ((0, 0), (0, 0), (1, 1), 1):
        return None
    size = [(n - 1) * stride + k for n, stride, k in zip(shape[1:], module.stride, module.kernel_size, strict=True)]
    out = (module.out_channels, *size)
    weight, bias = _array(module.weight), _optional(module.bias)
    return [convolution(weight, bias, module.stride, (shape[1], shape[2]), out)], out  # type: ignore[arg-type]


def _batch_norm(module: nn.BatchNorm2d, shape: Shape) -> Found | None:
    if module.running_var is None or module.running_mean is None or not module.affine:
        return None
    scale = _array(module.weight) / (_array(module.running_var) + module.eps) ** 0.5
    return [affine(scale, _array(module.bias) - scale * _array(module.running_mean), math.prod(shape[1:]))], shape


def _crop(module: nn.ZeroPad2d, shape: Shape) -> Found | None:
    left, right, top, bottom = (-margin for margin in module.padding)
    if min(left, right, top, bottom) < 0:
        return None
    size = shape[1] - top - bottom, shape[2] - left - right
    return [crop(shape, left, top, size)], (shape[0], *size)


def _unflatten(module: nn.Unflatten, shape: Shape) -> Found | None:
    return ([], tuple(module.unflattened_size)) if len(shape) == 1 and module.dim == 1 else None


def _flatten(module: nn.Flatten, shape: Shape) -> Found | None:
    return ([], (math.prod(shape),)) if (module.start_dim, module.end_dim) == (1, -1) else None


def _offset(module: Offset, shape: Shape) -> Found:
    return [affine([1.0] * len(module.constant), _array(module.constant))], (math.prod(shape),)


def _gelu(module: nn.GELU, shape: Shape) -> Found | None:
    return ([function("gelu")], shape) if module.approximate == "none" else None


def _elementwise(name: str) -> Callable[[nn.Module, Shape], Found]:
    return lambda module, shape: ([function(name)], shape)


def _unchanged(module: nn.Module, shape: Shape) -> Found:
    return [], shape


_LAYERS: dict[type[nn.Module], Callable[..., Found | None]] = {
    nn.Sequential: _sequential,
    nn.Linear: _linear,
    nn.ConvTranspose2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.ZeroPad2d: _crop,
    nn.Unflatten: _unflatten,
    nn.Flatten: _flatten,
    Offset: _offset,
    nn.ReLU: _elementwise("relu"),
    nn.SiLU: _elementwise("silu"),
    nn.Tanh: _elementwise("tanh"),
    nn.Sigmoid: _elementwise("sigmoid"),
    nn.GELU: _gelu,
    # In evaluation mode.
    nn.Dropout: _unchanged,
    nn.Identity: _unchanged,
}


def _gaussian_mean(likelihood: Gaussian) -> list[Layer]:
    if likelihood.link == "sigmoid":
        return [function("sigmoid")]
    standardizer = likelihood.standardizer
    return [affine(_array(standardizer.scale.expand_as(standardizer.loc)), _array(standardizer.loc))]


_MEANS: dict[type[Likelihood], Callable[..., list[Layer]]] = {
    Gaussian: _gaussian_mean,
    Bernoulli: lambda likelihood: [function("sigmoid")],
    ContinuousBernoulli: lambda likelihood: [function("continuous_bernoulli")],
    Poisson: lambda likelihood: [function("exp")],
}


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().double().cpu().numpy()


def _optional(tensor: Tensor | None) -> NDArray[Any] | None:
    return None if tensor is None else _array(tensor)
