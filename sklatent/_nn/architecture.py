"""The parameters from which a network is built, and what follows from them for its parts."""

__all__ = ["Architecture"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklatent._nn.backbones import Backbone, add_indicators, build_backbone
from sklatent._nn.likelihoods import GAUSSIANS, LIKELIHOODS, SUPPORTS, Likelihood, Standardizer
from sklatent._nn.modules import Corruption
from sklatent._sources.stored import row_blocks

# With a variance for each feature a network sees each in units of its own standard deviation: in one unit for all it
# learns those of small variance too slowly, and a linear VAE of the digits is 9 nats worse. But a nearly constant one
# would be large where it varies, and throw training about: so much of the common unit is added in squares.
MIN_UNIT = 0.1


@dataclass(frozen=True)
class Architecture:
    """The parameters of an estimator from which its network is built; what each means is said there.

    What is forbidden by itself the estimator has refused before. What is forbidden beside another parameter, or for the
    number of features, raises ValueError here.
    """

    nz: int
    backbone: str | Backbone
    hidden_sizes: Sequence[int] | None
    activation: str
    image_shape: tuple[int, ...] | None
    likelihood: str
    output_activation: str | None
    noise: float | str
    noise_kind: str

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def of(cls, model: Any) -> Self:
        """That of an estimator as it is set now."""
        return cls(**{name: getattr(model, name) for name in cls.names()})

    @property
    def is_gaussian(self) -> bool:
        """Whether there is a noise variance."""
        return self.likelihood in GAUSSIANS

    @property
    def is_diagonal(self) -> bool:
        """Whether there is one for each feature."""
        return self.likelihood == "gaussian_diagonal"

    @property
    def is_linear(self) -> bool:
        """Whether encoder and decoder are linear up to the link."""
        return self.backbone == "mlp" and self.hidden_sizes is not None and len(self.hidden_sizes) == 0

    def input_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape in which the encoder takes a sample."""
        if self.image_shape is not None:
            if math.prod(self.image_shape) != n_features:
                raise ValueError(
                    f"image_shape={self.image_shape} must multiply to n_features={n_features}, "
                    f"got {math.prod(self.image_shape)}."
                )
            return tuple(self.image_shape)
        if self.backbone != "conv":
            return (n_features,)
        side = math.isqrt(n_features)
        if side**2 != n_features:
            raise ValueError(
                "image_shape=None with backbone='conv' stands for a square image of one channel, but "
                f"n_features={n_features} is not a square. Pass image_shape=(channels, height, width)."
            )
        return (1, side, side)

    def scale(self, variances: NDArray[Any]) -> float | NDArray[Any]:
        """Units in which the network sees the columns: one for all, or with a variance for each one for each."""
        scale = float(np.sqrt(variances.mean())) or 1.0
        return np.sqrt(variances + (MIN_UNIT * scale) ** 2) if self.is_diagonal else scale

    def build_likelihood(self, standardizer: Standardizer) -> Likelihood:
        """The density of a sample given the decoder's output."""
        if self.output_activation is None:
            return LIKELIHOODS[self.likelihood](standardizer)
        if not self.is_gaussian:
            raise ValueError(
                f"output_activation={self.output_activation!r} is only supported with likelihood in {GAUSSIANS}, got "
                f"likelihood={self.likelihood!r}, which has a link of its own."
            )
        return LIKELIHOODS[self.likelihood](standardizer, link=self.output_activation)

    def check_support(self, X: Any, support: str) -> None:
        """Raise ValueError unless the observed values of X are in a support, a key of `SUPPORTS`."""
        words, holds = SUPPORTS[support]
        for rows in row_blocks(X):
            if np.isnan(rows).any():
                rows = rows[~np.isnan(rows)]
            if rows.size and not holds(rows):
                raise ValueError(
                    f"X must {words} with likelihood={self.likelihood!r} and "
                    f"output_activation={self.output_activation!r}, got values from {rows.min().item()!r} "
                    f"to {rows.max().item()!r}."
                )

    def build_corruption(self) -> Corruption | None:
        """What is done to the encoder's input in training.

        "auto" is nothing where there is no noise variance, or no layer to overfit.
        """
        if self.noise_kind == "masking" and self.noise != "auto" and float(self.noise) >= 1:
            raise ValueError(f"noise={self.noise} must be a fraction in [0, 1) with noise_kind='masking'.")
        is_for_auto = self.is_gaussian and not self.is_linear and self.noise_kind == "gaussian"
        noise = 0.0 if self.noise == "auto" and not is_for_auto else self.noise
        return Corruption(self.noise_kind, noise) if noise else None

    def build_networks(
        self, input_shape: tuple[int, ...], code_parts: Mapping[str, int], sees_missing: bool, seed: int | None
    ) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder; without a seed their weights are on the meta device."""
        encoder, decoder = build_backbone(
            self.backbone,
            input_shape,
            self.nz,
            code_parts,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            seed=seed,
        )
        if sees_missing:
            add_indicators(encoder)
        return encoder, decoder
