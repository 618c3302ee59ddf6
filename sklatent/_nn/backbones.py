"""Encoders and decoders: a multilayer perceptron (MLP) and a convolutional network, for any input size."""

__all__ = ["ACTIVATIONS", "BACKBONES", "Backbone", "Scale", "add_indicators", "build_backbone"]

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sklatent._nn.randomness import global_draws_from

Backbone = Callable[[tuple[int, ...], int, int], tuple[nn.Module, nn.Module]]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}

# Number of samples for checking a user's networks. Some networks do not accept a single sample.
N_TRIAL = 2


class Scale(nn.Module):
    """Multiply by a constant.

    Standardized samples with d features have a norm of about sqrt(d), and one step of Adam changes the output of a
    first layer in proportion to it. Samples scaled to a norm of 8 train alike for every d. On MNIST at 32 x 32 this
    gains 2 to 4 nats.
    """

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Values times the factor, in the shape of x."""
        return self.factor * x


def add_indicators(encoder: nn.Module) -> None:
    """Give an encoder of `BACKBONES` as many inputs again, which tell the values that are missing.

    Their weights start at zero, so the output is at first what it was. Those of features that are never missing in
    training stay there, since their gradient is zero.
    """
    first = next(layer for layer in encoder.modules() if isinstance(layer, (nn.Linear, nn.Conv2d)))
    first.weight = nn.Parameter(torch.cat([first.weight.data, torch.zeros_like(first.weight.data)], dim=1))
    if isinstance(first, nn.Linear):
        first.in_features *= 2
    else:
        first.in_channels *= 2


def build_backbone(
    backbone: str | Backbone,
    input_shape: tuple[int, ...],
    nz: int,
    code_parts: Mapping[str, int],
    *,
    hidden_sizes: Sequence[int] | None,
    activation: str,
    seed: int | None,
) -> tuple[nn.Module, nn.Module]:
    """Build an encoder and a decoder, with weights from a generator of their own.

    Parameters
    ----------
    backbone : str or callable
        A key of `BACKBONES`, or a function (input_shape, nz, n_code) -> (encoder, decoder).
    input_shape : tuple of int
    nz : int
        Latent dimension, the width of the decoder's input.
    code_parts : dict from str to int
        Names and widths of the parts of the encoder's output, in their order.
    hidden_sizes : sequence of int or None
        Widths of the MLP, or channels of the convolutions. None selects the default of the backbone.
    activation : str
        A key of `ACTIVATIONS`.
    seed : int or None
        None leaves the weights on the meta device, where they take no memory, for others that are put in their place.

    Raises
    ------
    ValueError
        If a callable does not return an encoder and a decoder with outputs of the right widths.
    """
    n_code = sum(code_parts.values())
    if callable(backbone):  # its layers use the global generator, which is restored
        with global_draws_from(torch.Generator().manual_seed(seed or 0)):
            return _checked(backbone(input_shape, nz, n_code), input_shape, nz, code_parts)
    with torch.device("meta"):  # allocates no memory and uses no random numbers
        encoder, decoder = BACKBONES[backbone](input_shape, nz, n_code, hidden_sizes, ACTIVATIONS[activation])
    if seed is None:
        return encoder, decoder
    generator = torch.Generator().manual_seed(seed)
    for module in (encoder, decoder):
        module.to_empty(device="cpu")
        _initialize(module, generator)
    return encoder, decoder


def _checked(
    networks: Any, input_shape: tuple[int, ...], nz: int, code_parts: Mapping[str, int]
) -> tuple[nn.Module, nn.Module]:
    """Return the networks of a user's backbone; raise ValueError unless they are a pair with the right widths."""
    if not (isinstance(networks, (tuple, list)) and [isinstance(net, nn.Module) for net in networks] == [True, True]):
        raise ValueError(
            f"backbone must return a pair (encoder, decoder) of torch.nn.Module. Got {networks!r} instead."
        )
    encoder, decoder = networks
    n_code, n_features = sum(code_parts.values()), math.prod(input_shape)
    words = ", ".join(f"{n} {name}" for name, n in code_parts.items() if n)
    shape = _output_shape(encoder, input_shape)
    if shape != (N_TRIAL, n_code):
        raise ValueError(
            f"The encoder that backbone returns must have n_code={n_code} outputs for each sample: {words}. Got an "
            f"output of shape {shape} for {N_TRIAL} samples instead."
        )
    shape = _output_shape(decoder, (nz,))
    if shape[:1] != (N_TRIAL,) or math.prod(shape[1:]) != n_features:
        raise ValueError(
            f"The decoder that backbone returns must have n_features={n_features} outputs, in any shape, for each "
            f"latent code of dimension nz={nz}. Got an output of shape {shape} for {N_TRIAL} latent codes instead."
        )
    return encoder, decoder


def _output_shape(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the output of a network for an input of ones. The mode of each layer is restored afterwards."""
    training = {layer: layer.training for layer in network.modules()}
    device = next((parameter.device for parameter in network.parameters()), None)
    try:
        with torch.no_grad():
            output = network.eval()(torch.ones(N_TRIAL, *input_shape, device=device))
    except Exception as error:  # a user's network may raise anything
        shape = (N_TRIAL, *input_shape)
        raise ValueError(f"A network that backbone returned fails for an input of shape {shape}: {error}") from error
    finally:
        for layer, mode in training.items():
            layer.training = mode
    if not isinstance(output, Tensor):
        raise ValueError(f"The networks that backbone returns must return a torch.Tensor. Got {type(output)} instead.")
    return tuple(output.shape)


def _mlp(
    input_shape: tuple[int, ...], nz: int, n_code: int, hidden_sizes: Sequence[int] | None, activation: type[nn.Module]
) -> tuple[nn.Module, nn.Module]:
    n_features = math.prod(input_shape)
    sizes = [n_features, *(_mlp_widths(n_features) if hidden_sizes is None else hidden_sizes)]
    flatten = [nn.Flatten()] if len(input_shape) > 1 else []
    shrink = [Scale(8 / math.sqrt(n_features))] if n_features > 64 else []
    encoder = nn.Sequential(*flatten, *shrink, *_dense([*sizes, n_code], activation))
    return encoder, nn.Sequential(*_dense([nz, *reversed(sizes)], activation))


def _mlp_widths(n_features: int) -> tuple[int, ...]:
    """About four times n_features but at least 64, then half of it; (512, 256, 128) for many features."""
    width = max(2 ** round(math.log2(4 * n_features)), 64)
    return (width, width // 2) if width < 512 else (512, 256, 128)


def _dense(sizes: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    layers = [layer for n_in, n_out in pairwise(sizes) for layer in (nn.Linear(n_in, n_out), activation())]
    return layers[:-1]  # the output is linear


def _conv(
    image_shape: tuple[int, ...], nz: int, n_code: int, channels: Sequence[int] | None, activation: type[nn.Module]
) -> tuple[nn.Module, nn.Module]:
    """The networks of Chaudhury (2024), listings 14.2 and 14.3, for any image size: images are padded, then cropped.

    The encoder has blocks of [3x3 convolution, batch norm, activation, 2x2 max pool] and a linear layer. The decoder
    has a transposed convolution from the latent code to the coarse grid, then 2x2 transposed convolutions with stride 2
    up to the image. Layers before a batch norm have no bias, since the norm would subtract it.
    """
    channels = (32, 128, 256) if channels is None else channels
    if not channels:
        raise ValueError("hidden_sizes=() must have at least one element with backbone='conv'.")
    padding, coarse_size = _padding(image_shape, 2 ** len(channels))
    blocks = [
        nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), activation(), nn.MaxPool2d(2)
        )
        for n_in, n_out in pairwise([image_shape[0], *channels])
    ]
    n_flat = channels[-1] * math.prod(coarse_size)
    encoder = nn.Sequential(nn.ZeroPad2d(padding), *blocks, nn.Flatten(), nn.Linear(n_flat, n_code))
    upwards = [
        nn.Sequential(nn.BatchNorm2d(n_in), activation(), nn.ConvTranspose2d(n_in, n_out, 2, stride=2, bias=False))
        for n_in, n_out in pairwise([*reversed(channels), image_shape[0]])
    ]
    coarse = nn.ConvTranspose2d(nz, channels[-1], coarse_size, bias=False)
    left, right, top, bottom = padding
    crop = nn.ZeroPad2d((-left, -right, -top, -bottom))
    return encoder, nn.Sequential(nn.Unflatten(1, (nz, 1, 1)), coarse, *upwards, crop)


BACKBONES = {"mlp": _mlp, "conv": _conv}


def _padding(image_shape: tuple[int, ...], multiple: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Margins (left, right, top, bottom) that make height and width multiples of a number, and the two factors."""
    _, height, width = image_shape
    n_rows, n_columns = -(-height // multiple), -(-width // multiple)
    rows, columns = n_rows * multiple - height, n_columns * multiple - width
    return (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), (n_rows, n_columns)


def _initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Initialize every layer from PyTorch's default distribution, with `generator` instead of the global one."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
