"""First and second derivatives of a decoder by its latent codes."""

__all__ = ["TaylorExpansion", "is_plain", "taylor_expansion"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = TypeVar("Kind", bound=nn.Module)


class TaylorExpansion(NamedTuple):
    """The decoder about codes z, along n_directions directions of the latent space."""

    eta: Tensor
    """What the decoder gives, shape (n, d)."""
    gradient: Tensor
    """Derivative of r'eta along each direction, shape (n, n_directions)."""
    tangents: Tensor
    """Derivative of eta along each direction, shape (n, n_directions, d)."""
    bend: Tensor
    """Second derivatives of r'eta along each two of them, shape (n, n_directions, n_directions)."""


@torch.no_grad()
def taylor_expansion(model: Any, z: Tensor, directions: Tensor, slope: Callable[[Tensor], Tensor]) -> TaylorExpansion:
    """Expand a decoder to the first order, and its products with a vector r for each sample to the second.

    A multilayer perceptron is expanded a layer at a time: the tangents go forward with the values, r goes backward, and
    each activation adds its own second derivative times the two, in n_directions + 2 forward passes altogether. Other
    decoders are differentiated by PyTorch, in some three times as many.

    Parameters
    ----------
    model : module with `decode` and `decoder`
    z : Tensor of shape (n, nz)
    directions : Tensor of shape (n_directions, nz)
        In the precision of z.
    slope : callable
        From eta (n, d) to r (n, d), the derivative of what the decoder is a part of.
    """
    layers = list(model.decoder) if is_plain(model.decoder, nn.Sequential) else [model.decoder]
    if all(is_plain(layer, nn.Linear) or _is_activation(layer) for layer in layers):
        return _expand_layers(layers, z, directions, slope)
    return _differentiate(model.decode, z, directions, slope)


def is_plain(module: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether a module does what its class does: a subclass, a hook or a `forward` of its own may do anything."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return type(module) is kind and "forward" not in vars(module) and not any(hooks)


def _expand_layers(
    layers: list[nn.Module], z: Tensor, directions: Tensor, slope: Callable[[Tensor], Tensor]
) -> TaylorExpansion:
    value, tangents, bends = z, directions[None], []  # the same tangents for all samples up to the first activation
    for layer in layers:
        if isinstance(layer, nn.Linear):
            value, tangents = layer(value), F.linear(tangents, layer.weight)
        else:
            value, first, second = _ACTIVATIONS[type(layer)](value)
            bends.append((tangents, first, second))
            tangents = tangents * first[:, None]
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
    """The expansion of any function.

    The gradient is linear in r, so the derivative of each of its entries by r is a tangent, and that by the way along
    the directions a row of the bend: one backward pass and n_directions through it, in place of d backward passes.
    Forward mode would do it too, but warns of PyTorch's own deprecations.
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
    """With the distribution function and the density of N(0, 1)."""
    share, density = torch.special.ndtr(h), torch.exp(-0.5 * h.square()) / math.sqrt(2 * math.pi)
    return h * share, share + h * density, density * (2 - h.square())


# Value, first and second derivative of each.
_ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    nn.ReLU: _relu,
    nn.SiLU: _silu,
    nn.Tanh: _tanh,
    nn.GELU: _gelu,
}
