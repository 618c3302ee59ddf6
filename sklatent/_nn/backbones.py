"""Encoders and decoders: a multilayer perceptron and the chapter's convolutional pair, for any size of input."""

__all__ = [
    "ACTIVATIONS",
    "BACKBONES",
    "build_backbone",
]

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

# Samples that a user's networks are tried on: some refuse one.
N_TRIAL = 2


class Scale(nn.Module):
    """Multiply by a constant.

    Standardized rows of d features have a norm near sqrt(d), and so has what one step of Adam changes in a first layer
    that sees all of them. Rows of norm 8 train alike at any d: on MNIST at 32 x 32 that is worth 2 to 4 nats.
    """

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Values times the factor, shape of x."""
        return self.factor * x


def build_backbone(
    backbone: str | Backbone,
    input_shape: tuple[int, ...],
    nz: int,
    code_parts: Mapping[str, int],
    *,
    hidden_sizes: Sequence[int] | None,
    activation: str,
    seed: int,
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder with weights drawn from their own generator.

    Parameters
    ----------
    backbone : str or callable
        A key of `BACKBONES`, or a function (input_shape, nz, n_code) -> (encoder, decoder).
    input_shape : tuple of int
    nz : int
        Width of the decoder's input.
    code_parts : dict from str to int
        What lies side by side in the encoder's output, and how many numbers each part has.
    hidden_sizes : sequence of int or None
        Widths of the MLP, channels of the convolutions; None takes the backbone's own.
    activation : str
        A key of `ACTIVATIONS`.
    seed : int

    Raises
    ------
    ValueError
        Where a callable gives anything but an encoder and a decoder with outputs of the right widths.
    """
    n_code = sum(code_parts.values())
    if callable(backbone):  # its layers draw from the global generator, which is put back
        with global_draws_from(torch.Generator().manual_seed(seed)):
            return _checked(backbone(input_shape, nz, n_code), input_shape, nz, code_parts)
    with torch.device("meta"):  # no memory and no draws yet
        encoder, decoder = BACKBONES[backbone](input_shape, nz, n_code, hidden_sizes, ACTIVATIONS[activation])
    generator = torch.Generator().manual_seed(seed)
    for module in (encoder, decoder):
        module.to_empty(device="cpu")
        _initialize(module, generator)
    return encoder, decoder


def _checked(
    networks: Any, input_shape: tuple[int, ...], nz: int, code_parts: Mapping[str, int]
) -> tuple[nn.Module, nn.Module]:
    """What a user's backbone returned, once it is sure that it is a pair of networks that fit."""
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
            f"The encoder that backbone returns must give n_code={n_code} numbers for each sample: {words}. Got an "
            f"output of shape {shape} for {N_TRIAL} samples instead."
        )
    shape = _output_shape(decoder, (nz,))
    if shape[:1] != (N_TRIAL,) or math.prod(shape[1:]) != n_features:
        raise ValueError(
            f"The decoder that backbone returns must give n_features={n_features} numbers, in any shape, for each "
            f"latent code of nz={nz} numbers. Got an output of shape {shape} for {N_TRIAL} codes instead."
        )
    return encoder, decoder


def _output_shape(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what a network gives for some ones; it is left as it was, in the mode of each of its layers."""
    training = {layer: layer.training for layer in network.modules()}
    device = next((parameter.device for parameter in network.parameters()), None)
    try:
        with torch.no_grad():
            output = network.eval()(torch.ones(N_TRIAL, *input_shape, device=device))
    except Exception as error:  # whatever a network of the user's own makes of it
        shape = (N_TRIAL, *input_shape)
        raise ValueError(f"A network that backbone returned refuses an input of shape {shape}: {error}") from error
    finally:
        for layer, mode in training.items():
            layer.training = mode
    if not isinstance(output, Tensor):
        raise ValueError(f"The networks that backbone returns must give a torch.Tensor. Got {type(output)} instead.")
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
    """About four times the features, from 64 on, then half of that; (512, 256, 128) where there are many."""
    width = max(2 ** round(math.log2(4 * n_features)), 64)
    return (width, width // 2) if width < 512 else (512, 256, 128)


def _dense(sizes: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    layers = [layer for n_in, n_out in pairwise(sizes) for layer in (nn.Linear(n_in, n_out), activation())]
    return layers[:-1]  # the output is linear


def _conv(
    image_shape: tuple[int, ...], nz: int, n_code: int, channels: Sequence[int] | None, activation: type[nn.Module]
) -> tuple[nn.Module, nn.Module]:
    """The chapter's pair, listings 14.2 and 14.3, for images of any size: padded inside and cropped at the end.

    Encoder: blocks of [3x3 convolution, batch norm, activation, 2x2 max pool], then a linear layer. Decoder: a
    transposed convolution from the code to the coarse grid, then 2x2 ones of stride 2 up to the image. No layer before
    a batch norm has a bias, which the norm would take away again.
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
    """Margins left, right, top, bottom that make height and width multiples of a number, and how many times it."""
    _, height, width = image_shape
    n_rows, n_columns = -(-height // multiple), -(-width // multiple)
    rows, columns = n_rows * multiple - height, n_columns * multiple - width
    return (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), (n_rows, n_columns)


def _initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Fill every layer with PyTorch's own initial distribution, from `generator` in place of the global one."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
