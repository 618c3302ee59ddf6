"""The modules that training sees: encoder and decoder joined with a likelihood, a prior and a posterior."""

__all__ = ["CORRUPTIONS", "Autoencoder", "Corruption", "VariationalAutoencoder"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sklatent._nn.derivatives import is_plain
from sklatent._nn.likelihoods import Likelihood, Standardizer
from sklatent._nn.objectives import Terms, elbo_terms, reconstruction_terms
from sklatent._nn.posteriors import NormalPosterior
from sklatent._nn.priors import Prior


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


def _add_noise(h: Tensor, eps: Tensor, amount: Tensor) -> Tensor:
    return h + amount * eps


def _mask(h: Tensor, eps: Tensor, amount: Tensor) -> Tensor:
    """Put the column mean, 0 in standardized units, in place of a share of the entries."""
    return torch.where(torch.special.ndtr(eps) < amount, 0.0, h)


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {"gaussian": _add_noise, "masking": _mask}


def _starting_at(constant: Tensor, decoder: nn.Module) -> nn.Module:
    """The decoder plus a constant row, which the bias of its last layer takes up where it has one."""
    last: nn.Module = decoder[-1] if is_plain(decoder, nn.Sequential) and len(decoder) else decoder
    if is_plain(last, nn.Linear) and last.bias is not None:
        with torch.no_grad():
            last.bias.add_(constant)
        return decoder
    return nn.Sequential(decoder, Offset(constant))
