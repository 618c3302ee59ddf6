"""First and second derivatives of a decoder with respect to its latent codes."""

__all__ = ["TaylorExpansion", "is_plain", "linearize", "taylor_expansion"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = TypeVar("Kind", bound=nn.Module)


class TaylorExpansion(NamedTuple):
    """Expansion of the decoder about latent codes z, along n_directions directions of the latent space."""

    eta: Tensor
    """Output of the decoder, shape (n, d)."""
    gradient: Tensor
    """Derivative of r'eta along each direction, shape (n, n_directions)."""
    tangents: Tensor
    """Derivative of eta along each direction, shape (n, n_directions, d)."""
    bend: Tensor
    """Second derivatives of r'eta along each pair of directions, shape (n, n_directions, n_directions)."""


@torch.no_grad()
def taylor_expansion(model: Any, z: Tensor, directions: Tensor, slope: Callable[[Tensor], Tensor]) -> TaylorExpansion:
    """Expand a decoder to first order, and its products with a vector r for each sample to second order.

    A multilayer perceptron is expanded layer by layer: the tangents are propagated forward with the values, r is
    propagated backward, and each activation adds the product of its second derivative with both. The total cost is that
    of n_directions + 2 forward passes. Other decoders are differentiated by PyTorch, at about three times the cost.

    Parameters
    ----------
    model : module with `decode` and `decoder`
    z : Tensor of shape (n, nz)
    directions : Tensor of shape (n_directions, nz)
        Directions in latent space, in the precision of z.
    slope : callable
        Maps eta (n, d) to r (n, d), the derivative of the objective with respect to eta.
    """
    layers = _known_layers(model.decoder)
    return (
        _expand_layers(layers, z, directions, slope) if layers else _differentiate(model.decode, z, directions, slope)
    )


@torch.no_grad()
def linearize(model: Any, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Output of a decoder (n, d), and its derivatives (n, n_directions, d): `taylor_expansion` to first order alone.

    Parameters
    ----------
    model : module with `decode` and `decoder`
    z : Tensor of shape (n, nz)
    directions : Tensor of shape (n_directions, nz)
    """
    if layers := _known_layers(model.decoder):
        eta, tangents, _ = _propagate(layers, z, directions)
        return eta, tangents.expand(len(z), -1, -1)
    expansion = _differentiate(model.decode, z, directions, torch.zeros_like)
    return expansion.eta, expansion.tangents


def is_plain(module: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether a module is of this very class, without hooks or a `forward` of its own, so that its output is known."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return type(module) is kind and "forward" not in vars(module) and not any(hooks)


def _known_layers(decoder: nn.Module) -> list[nn.Module]:
    """Layers of a multilayer perceptron, whose derivatives are known; none of another decoder."""
    layers = list(decoder) if is_plain(decoder, nn.Sequential) else [decoder]
    return layers if all(is_plain(layer, nn.Linear) or _is_activation(layer) for layer in layers) else []


def _propagate(layers: list[nn.Module], z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, list[Any]]:
    """Values and tangents after all layers, and what each activation adds to the second derivatives."""
    value, tangents, bends = z, directions[None], []  # all samples have the same tangents up to the first activation
    for layer in layers:
        if isinstance(layer, nn.Linear):
            value, tangents = layer(value), F.linear(tangents, layer.weight)
        else:
            value, first, second = _ACTIVATIONS[type(layer)](value)
            bends.append((tangents, first, second))
            tangents = tangents * first[:, None]
    return value, tangents, bends


def _expand_layers(
    layers: list[nn.Module], z: Tensor, directions: Tensor, slope: Callable[[Tensor], Tensor]
) -> TaylorExpansion:
    value, tangents, bends = _propagate(layers, z, directions)
    pulled = slope(value)
    bend = tangents.new_zeros(len(z), len(directions), len(directions))
    for layer in reversed(layers):
        if isinstance(layer, nn.Linear):
            pulled = pulled @ layer.weight
        else:
            inner, first, second = bends.pop()
            bend += (inner * (pulled * second)[:, None]) @ inner.mT
            pulled = pulled * first
    return TaylorExpansion(value, pulled @ directions.mT, tangents.expand(len(z), -1, -1), bend)


def _differentiate(
    decode: Callable[[Tensor], Tensor], z: Tensor, directions: Tensor, slope: Callable[[Tensor], Tensor]
) -> TaylorExpansion:
    """The expansion of an arbitrary decoder.

    The gradient is linear in r, so the derivative of each of its entries with respect to r is a tangent; its derivative
    with respect to the position along the directions is a row of the matrix `bend`. This takes one backward pass, and
    n_directions passes through it, instead of d backward passes. Forward mode would be an alternative, but it raises
    PyTorch's own deprecation warnings.
    """
    with torch.enable_grad():
        way = z.new_zeros(len(z), len(directions), requires_grad=True)
        eta = decode(z + way @ directions)
        r = slope(eta.detach()).to(eta.dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(eta, way, r, create_graph=True)
        pairs = [
            torch.autograd.grad(entry.sum(), (r, way), retain_graph=True, materialize_grads=True)
            for entry in gradient.unbind(-1)
        ]
    tangents, bends = (torch.stack(parts, dim=1) for parts in zip(*pairs, strict=True))
    return TaylorExpansion(eta.detach(), gradient.detach(), tangents, bends)


def _is_activation(layer: nn.Module) -> bool:
    return any(is_plain(layer, kind) for kind in _ACTIVATIONS) and getattr(layer, "approximate", "none") == "none"


def _relu(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return h.relu(), (h > 0).to(h.dtype), torch.zeros_like(h)


def _silu(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.sigmoid(h)
    value, rest = h * s, 1 - s
    return value, torch.addcmul(s, value, rest), (h - 2 * value + 2) * s * rest


def _tanh(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.tanh(h)
    first = 1 - value.square()
    return value, first, -2 * value * first


def _gelu(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """GELU in terms of the distribution function and the density of N(0, 1)."""
    share, density = torch.special.ndtr(h), torch.exp(-0.5 * h.square()) / math.sqrt(2 * math.pi)
    return h * share, share + h * density, density * (2 - h.square())


# Value, first and second derivative of each activation function.
_ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    nn.ReLU: _relu,
    nn.SiLU: _silu,
    nn.Tanh: _tanh,
    nn.GELU: _gelu,
}
