"""Encoders and decoders: a multilayer perceptron and the chapter's convolutional pair, for any size of input."""

__all__ = [
    "ACTIVATIONS",
    "BACKBONES",
    "CORRUPTIONS",
    "Autoencoder",
    "Corruption",
    "VariationalAutoencoder",
    "build_backbone",
]

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sklatent.derivatives import is_plain
from sklatent.likelihoods import Likelihood, Standardizer
from sklatent.objectives import Terms, elbo_terms, reconstruction_terms
from sklatent.posteriors import NormalPosterior
from sklatent.priors import Prior
from sklatent.randomness import global_draws_from

Backbone = Callable[[tuple[int, ...], int, int], tuple[nn.Module, nn.Module]]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}

# Samples that a user's networks are tried on: some refuse one.
N_TRIAL = 2


class Autoencoder(nn.Module):
    """Encoder and decoder about a code of nz numbers, with the likelihood that reads the decoder's output.

    Parameters
    ----------
    encoder, decoder : Module
        From (n, *input_shape) to (n, n_code), and from (n, nz) to n rows of n_features numbers in any shape.
    standardizer : Standardizer
        Applied to the rows before the encoder.
    likelihood : Likelihood
        Its `start` at the column means is added to what the decoder gives.
    prior : Prior
        Density of the codes.
    input_shape : tuple of int
    corrupt : callable (h, noise) -> h or None
        What training does to the encoder's input.

    Attributes
    ----------
    n_noise : int
        Random numbers that `forward` takes for each row.
    kl_weight : float
        What the KL divergence, if there is one, is multiplied by in training, for a warm-up.
    """

    kl_weight = 1.0

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        standardizer: Standardizer,
        likelihood: Likelihood,
        prior: Prior,
        input_shape: tuple[int, ...],
        corrupt: Callable[[Tensor, Tensor], Tensor] | None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = _starting_at(likelihood.start(standardizer.loc).float(), decoder)
        self.standardizer = standardizer
        self.likelihood = likelihood
        self.prior = prior
        self.input_shape = input_shape
        self.corrupt = corrupt
        self.n_noise = 0 if corrupt is None else len(standardizer.loc)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Codes (n, nz) of rows (n, n_features)."""
        return self.read(self.inputs(x, noise))

    def decode(self, z: Tensor) -> Tensor:
        """What the likelihood reads, (n, n_features), for codes (n, nz)."""
        return self.decoder(z).flatten(1).to(z.dtype)

    def forward(self, x: Tensor, eps: Tensor) -> Terms:
        """Parts of the loss of each row, with the draws eps (n, n_noise)."""
        return reconstruction_terms(self, x, self._corruption(eps))

    def loss(self, terms: Terms) -> Tensor:
        """Mean loss of the rows, in nats."""
        return terms.weighted(self.kl_factor(self.training)).mean()

    def kl_factor(self, training: bool) -> float:
        """What the KL divergence is multiplied by in the loss."""
        return 0.0

    def code_blocks(self, nz: int) -> tuple[int, ...]:
        """Widths of what lies side by side in the encoder's output for codes of nz numbers."""
        return (nz,)

    def prior_density(self) -> Any:
        """p(z), with `log_prob` and `sample`."""
        return self.prior

    def inputs(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """What the encoder sees of rows (n, n_features): standardized, and corrupted where there is noise."""
        h = self.standardizer(x)
        return h if noise is None or self.corrupt is None else self.corrupt(h, noise)

    def read(self, h: Tensor) -> Tensor:
        """The encoder's output (n, n_code) for its inputs (n, n_features)."""
        h = h if len(self.input_shape) == 1 else h.unflatten(1, self.input_shape)
        return self.encoder(h).to(self.standardizer.loc32.dtype)  # autocast may have left another precision

    def _corruption(self, eps: Tensor) -> Tensor | None:
        """The draws for the corruption of the inputs, which come last; none outside training."""
        return eps[:, -len(self.standardizer.loc) :] if self.training and self.corrupt is not None else None


class VariationalAutoencoder(Autoencoder):
    """The encoder gives a posterior q(z | x).

    Parameters
    ----------
    *args : as for `Autoencoder`
    posterior : class of `posteriors`
    nz : int
    beta : float
        Weight of the KL divergence in the loss.
    """

    def __init__(self, *args, posterior: Any, nz: int, beta: float):
        super().__init__(*args)
        self.posterior_class = posterior
        self.nz = nz
        self.n_noise += nz
        self.beta = beta

    def posterior(self, x: Tensor, noise: Tensor | None = None) -> NormalPosterior:
        """q(z | x) of rows (n, n_features)."""
        return self.posterior_class.from_code(self.read(self.inputs(x, noise)))

    def prior_density(self) -> Any:
        """p(z), with `log_prob`, `sample`, `kl` and `kl_per_dimension`."""
        return self.prior.density(lambda h: self.posterior_class.from_code(self.read(h)))

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Posterior means (n, nz): at inference nothing is drawn (14.7.2)."""
        return self.posterior(x, noise).mu

    def forward(self, x: Tensor, eps: Tensor) -> Terms:
        """Parts of minus the ELBO of each row, with the draws eps (n, n_noise)."""
        return elbo_terms(self, x, eps[:, : self.nz], self._corruption(eps))

    def kl_factor(self, training: bool) -> float:
        """Beta, times the weight of the warm-up in training."""
        return self.beta * self.kl_weight if training else self.beta

    def code_blocks(self, nz: int) -> tuple[int, ...]:
        """Widths of the parts of a posterior over codes of nz numbers."""
        return self.posterior_class.blocks(nz)


class Offset(nn.Module):
    """Flatten the rows and add a constant one."""

    constant: Tensor

    def __init__(self, constant: Tensor):
        super().__init__()
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        """Rows (n, n_features)."""
        return x.flatten(1) + self.constant


class Corruption(nn.Module):
    """What training does to the encoder's input.

    Parameters
    ----------
    kind : str
        A key of `CORRUPTIONS`.
    amount : float
    """

    amount: Tensor

    def __init__(self, kind: str, amount: float):
        super().__init__()
        self.kind = kind
        # A tensor, so that networks which differ in it can be stacked; no state, since it is a parameter of the fit.
        self.register_buffer("amount", torch.tensor(amount, dtype=torch.float32), persistent=False)

    def forward(self, h: Tensor, eps: Tensor) -> Tensor:
        """Corrupted rows h by the draws eps from N(0, 1), both (n, n_features)."""
        return CORRUPTIONS[self.kind](h, eps, self.amount)


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


def _add_noise(h: Tensor, eps: Tensor, amount: Tensor) -> Tensor:
    return h + amount * eps


def _mask(h: Tensor, eps: Tensor, amount: Tensor) -> Tensor:
    """Put the column mean, 0 in standardized units, in place of a share of the entries."""
    return torch.where(torch.special.ndtr(eps) < amount, 0.0, h)


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {"gaussian": _add_noise, "masking": _mask}


def _padding(image_shape: tuple[int, ...], multiple: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Margins left, right, top, bottom that make height and width multiples of a number, and how many times it."""
    _, height, width = image_shape
    n_rows, n_columns = -(-height // multiple), -(-width // multiple)
    rows, columns = n_rows * multiple - height, n_columns * multiple - width
    return (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), (n_rows, n_columns)


def _starting_at(constant: Tensor, decoder: nn.Module) -> nn.Module:
    """The decoder plus a constant row, which the bias of its last layer takes up where it has one."""
    last: nn.Module = decoder[-1] if is_plain(decoder, nn.Sequential) and len(decoder) else decoder
    if is_plain(last, nn.Linear) and last.bias is not None:
        with torch.no_grad():
            last.bias.add_(constant)
        return decoder
    return nn.Sequential(decoder, Offset(constant))


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
