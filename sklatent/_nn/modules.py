"""The trained modules: encoder and decoder, joined with a likelihood, a prior and a posterior."""

__all__ = ["CORRUPTIONS", "Autoencoder", "Corruption", "Noise", "Offset", "ParameterGroup", "VariationalAutoencoder"]

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklatent._nn.derivatives import is_plain
from sklatent._nn.likelihoods import Likelihood, Standardizer
from sklatent._nn.objectives import ImportanceTerms, Terms, elbo_terms, importance_terms, reconstruction_terms
from sklatent._nn.posteriors import NormalPosterior
from sklatent._nn.priors import Prior


class Noise(NamedTuple):
    """The random numbers of a training step, from N(0, 1)."""

    latent: Tensor
    """For the samples of each posterior, (n, nz * n_train_draws), those of a latent dimension side by side.

    It is (n, 0) without a posterior.
    """
    corruption: Tensor
    """For the corruption of the inputs, (n, n_features); (n, 0) if they are not corrupted."""


class ParameterGroup(NamedTuple):
    """Names of parameters that training treats alike."""

    names: list[str]
    is_decayed: bool = False


class Autoencoder(nn.Module):
    """Encoder and decoder with a latent space of dimension nz, and the likelihood of the decoder's output.

    Values of samples that are NaN are missing. The likelihood leaves them out, and the encoder sees the feature mean in
    their place, which is 0 in standardized units, and beside all values which ones are missing if it `sees_missing`.

    Parameters
    ----------
    encoder : Module
        Maps (n, *input_shape) to (n, n_code), or (n, 2 * input_shape[0], *input_shape[1:]) if it `sees_missing`.
    decoder : Module
        Maps (n, nz) to n_features outputs for each sample, in any shape.
    standardizer : Standardizer
        Applied to the samples before the encoder.
    likelihood : Likelihood
        Its `start` at the feature means is added to the output of the decoder.
    prior : Prior
        Density of the latent codes.
    input_shape : tuple of int
    corrupt : Corruption or None
        Corruption of the encoder's input in training.
    sees_missing : bool, default=False
        Whether the encoder sees which values are missing: 1 for those that are and 0 for others, after all values.

    Attributes
    ----------
    noise_widths : tuple of int
        Number of random values that `forward` takes for each sample, for each field of `Noise`.
    beta : float
        Weight of the KL divergence in the loss; 0 without a posterior.
    n_train_draws : int
        Number of latent codes for each sample in the loss.
    """

    beta = 0.0
    n_train_draws = 1

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        standardizer: Standardizer,
        likelihood: Likelihood,
        prior: Prior,
        input_shape: tuple[int, ...],
        corrupt: "Corruption | None",
        sees_missing: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = _starting_at(likelihood.start(standardizer.loc).float(), decoder)
        self.standardizer = standardizer
        self.likelihood = likelihood
        self.prior = prior
        self.input_shape = input_shape
        self.corrupt = corrupt
        self.sees_missing = sees_missing
        self.noise_widths = 0, 0 if corrupt is None else len(standardizer.loc)

    def observing(self, has_missing: bool) -> "Autoencoder":
        """The same module for samples with missing values, or for samples without. They share all weights."""
        if has_missing == self.likelihood.has_missing:
            return self
        twin = copy(self)
        twin._modules = {**self._modules, "likelihood": copy(self.likelihood)}
        twin.likelihood.has_missing = has_missing
        return twin

    def encode(self, x: Tensor) -> Tensor:
        """Latent codes (n, nz) of samples (n, n_features)."""
        return self.read(self.standardizer(x))

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of the likelihood, (..., n_features), for latent codes (..., nz)."""
        if z.ndim > 2:  # a user's decoder may take matrices only
            return self.decode(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        return self.decoder(z).flatten(1).to(z.dtype)

    def target(self, x: Tensor) -> Tensor:
        """Samples as the likelihood takes them."""
        return self.standardizer(x) if self.likelihood.is_standardized else x

    def log_likelihood(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Ln p(x | z) of samples (n, n_features), as a function of latent codes (..., n, nz)."""
        return partial(self._log_prob, self.target(x))

    def forward(self, x: Tensor, noise: Noise) -> Terms | ImportanceTerms:
        """Loss terms of each sample, which is standardized once."""
        h = self.standardizer(x)
        return self.terms(h, h if self.likelihood.is_standardized else x, noise)

    def terms(self, h: Tensor, target: Tensor, noise: Noise) -> Terms | ImportanceTerms:
        """Loss terms of each sample, standardized and as the likelihood takes it."""
        return reconstruction_terms(partial(self._log_prob, target), self.read(self.corrupted(h, noise.corruption)))

    def loss(self, terms: Terms | ImportanceTerms, kl_weight: float = 1.0, weight: Tensor | None = None) -> Tensor:
        """Mean loss of the samples, in nats, with the KL divergence multiplied by `beta` and by `kl_weight`.

        The loss of each sample is multiplied by its weight (n,), whose mean over the training samples is one. So the
        expected gradient of a batch is that of all samples, each counted as often as its weight says.
        """
        losses = terms.weighted(self.beta * kl_weight)
        return (losses if weight is None else losses * weight).mean()

    def update_noise_variance(
        self, log_prob: float, factor: Callable[[float], float], observed: Tensor | None = None
    ) -> float:
        """As `Likelihood.update_noise_variance`. Return the mean noise variance, or NaN if there is none."""
        self.likelihood.update_noise_variance(log_prob, factor, observed)
        return float(np.mean(self.likelihood.noise_variance))

    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameters, by how they are trained: only matrices and kernels of the networks have weight decay."""
        parameters = dict(self.named_parameters())
        decayed = [name for name, p in parameters.items() if p.ndim > 1 and not name.startswith("prior.")]
        others = [name for name in parameters if name not in decayed]
        return [ParameterGroup(decayed, is_decayed=True), ParameterGroup(others)]

    def code_blocks(self, nz: int) -> tuple[int, ...]:
        """Widths of the parts of the encoder's output for a latent dimension nz."""
        return (nz,)

    def prior_density(self) -> Any:
        """p(z), with `log_prob` and `sample`."""
        return self.prior

    def corrupted(self, h: Tensor, noise: Tensor) -> Tensor:
        """Standardized samples h, corrupted in training."""
        if not self.training or self.corrupt is None:
            return h
        return self.corrupt(h, noise, self.relative_deviations)

    @property
    def relative_deviations(self) -> Tensor | float:
        """Standard deviation of x given z in standardized units, (1,) or (n_features,); 0 if there is none.

        It is at most 1, the deviation of the samples: the more noise the encoder sees, the larger the errors become.
        """
        return torch.clamp(self.likelihood.deviations / self.standardizer.scale32, max=1.0)

    def read(self, h: Tensor) -> Tensor:
        """The encoder's output (n, n_code) for its inputs (n, n_features), of which those that are NaN are missing."""
        h = h if len(self.input_shape) == 1 else h.unflatten(1, self.input_shape)
        if self.likelihood.has_missing or self.sees_missing:
            missing = h.isnan()
            h = torch.where(missing, 0.0, h)
            h = torch.cat([h, missing.to(h.dtype)], dim=1) if self.sees_missing else h
        return self.encoder(h).to(self.standardizer.loc32.dtype)  # autocast may have left another precision

    def _log_prob(self, target: Tensor, z: Tensor) -> Tensor:
        return self.likelihood.log_prob(target, self.decode(z))


class VariationalAutoencoder(Autoencoder):
    """Autoencoder whose encoder gives the parameters of a posterior q(z | x).

    Parameters
    ----------
    *args
        The parameters of `Autoencoder`.
    posterior : a class of `posteriors`
    nz : int
    beta : float
        Weight of the KL divergence in the loss.
    n_train_draws : int, default=1
        Number of importance samples in the loss. With 1 it is the negative evidence lower bound.
    """

    def __init__(self, *args: Any, posterior: Any, nz: int, beta: float, n_train_draws: int = 1):
        super().__init__(*args)
        self.posterior_class = posterior
        self.nz = nz
        self.noise_widths = nz * n_train_draws, self.noise_widths[1]
        self.beta = beta
        self.n_train_draws = n_train_draws

    def posterior(self, x: Tensor) -> NormalPosterior:
        """Posterior q(z | x) of samples (n, n_features)."""
        return self.posterior_of(self.standardizer(x))

    def posterior_of(self, h: Tensor) -> NormalPosterior:
        """Posterior for inputs (n, n_features) of the encoder, such as standardized samples."""
        return self.posterior_class.from_code(self.read(h))

    def prior_density(self) -> Any:
        """p(z), with `log_prob`, `sample`, `kl` and `kl_per_dimension`."""
        return self.prior.density(self.posterior_of)

    def encode(self, x: Tensor) -> Tensor:
        """Posterior means (n, nz): inference is deterministic (Chaudhury 2024, section 14.7.2)."""
        return self.posterior(x).mu

    def terms(self, h: Tensor, target: Tensor, noise: Noise) -> Terms | ImportanceTerms:
        """Terms of the negative bound of each sample, standardized and as the likelihood takes it."""
        q = self.posterior_of(self.corrupted(h, noise.corruption))
        log_likelihood = partial(self._log_prob, target)
        if self.n_train_draws == 1:
            return elbo_terms(log_likelihood, q, self.prior_density(), noise.latent)
        eps = noise.latent.unflatten(1, (-1, self.n_train_draws)).movedim(-1, 0)  # (n_train_draws, n, nz)
        return importance_terms(log_likelihood, q, self.prior_density(), eps)

    def code_blocks(self, nz: int) -> tuple[int, ...]:
        """Widths of the parts of the posterior for a latent dimension nz."""
        return self.posterior_class.blocks(nz)


class Offset(nn.Module):
    """Flatten the outputs and add a constant vector."""

    constant: Tensor

    def __init__(self, constant: Tensor):
        super().__init__()
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, n_features)."""
        return x.flatten(1) + self.constant


class Corruption(nn.Module):
    """Corruption of the encoder's input in training.

    Parameters
    ----------
    kind : str
        A key of `CORRUPTIONS`.
    amount : float or "auto"
        Amount of noise; "auto" is the standard deviation of x given z.
    """

    amount: Tensor
    share: Tensor

    def __init__(self, kind: str, amount: float | str):
        super().__init__()
        self.kind = kind
        is_auto = isinstance(amount, str)
        # Tensors, so that networks with different amounts can be stacked. They are not part of the state, since they
        # are parameters of the fit.
        for name, value in (("amount", 0.0 if is_auto else amount), ("share", float(is_auto))):
            tensor = torch.tensor(value, dtype=torch.float32, device="cpu")
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, h: Tensor, eps: Tensor, deviations: Tensor | float) -> Tensor:
        """Corrupt inputs h with random numbers eps from N(0, 1), both (n, n_features)."""
        return CORRUPTIONS[self.kind](h, eps, self.amount + self.share * deviations)


def _add_noise(h: Tensor, eps: Tensor, amount: Tensor) -> Tensor:
    return h + amount * eps


def _mask(h: Tensor, eps: Tensor, amount: Tensor) -> Tensor:
    """Replace a fraction of the entries by the feature mean, which is 0 in standardized units."""
    return torch.where(torch.special.ndtr(eps) < amount, 0.0, h)


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {"gaussian": _add_noise, "masking": _mask}


def _starting_at(constant: Tensor, decoder: nn.Module) -> nn.Module:
    """The decoder plus a constant output, which is added to the bias of its last layer if it has one."""
    last: nn.Module = decoder[-1] if is_plain(decoder, nn.Sequential) and len(decoder) else decoder
    if is_plain(last, nn.Linear) and last.bias is not None:
        with torch.no_grad():
            last.bias.add_(constant.to(last.bias.device))
        return decoder
    return nn.Sequential(decoder, Offset(constant))
