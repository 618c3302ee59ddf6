"""What comes of a training: what was learned, and in words what is wrong with it."""

__all__ = ["Learned", "loss_curve", "problem_of"]

from dataclasses import dataclass
from typing import Any

from sklatent._nn.modules import Autoencoder

# Increase of the loss over the training that causes a warning, in nats per feature and as a fraction of the first loss.
# Random fluctuations are smaller.
WORSE_BY = 0.02
# Mean squared error that causes a warning, as a multiple of the mean variance of the features.
WORSE_THAN_MEAN = 1.5


@dataclass(frozen=True)
class Learned:
    """What a network learns from samples.

    Attributes
    ----------
    module : Autoencoder
        Trained, in evaluation mode.
    history : list of dict
        A record of each epoch.
    draw_seed : int
        For the Monte Carlo samples of scores.
    latent_space : dict
        Fitted attributes that describe the latent codes of the training samples.
    improved : bool
        Whether it is what was trained, and not the linear model that training started from.
    training_state : dict or None
        What the next call of `partial_fit` goes on from, after one.
    """

    module: Autoencoder
    history: list[dict[str, Any]]
    draw_seed: int
    latent_space: dict[str, Any]
    improved: bool = True
    training_state: dict[str, Any] | None = None


def loss_curve(history: list[dict[str, Any]]) -> list[float]:
    """Mean loss of each epoch."""
    return [epoch["train_loss"] for epoch in history]


def problem_of(module: Autoencoder, first: dict[str, Any], last: dict[str, Any]) -> str | None:
    """In words, whether reconstructions are worse than the mean, or the loss is worse than after the first epoch.

    Where there is a noise variance the loss does not tell, since the samples left out may raise the variance.
    """
    variances = module.standardizer.variances
    variance, n_features = float(variances.mean()), len(variances)
    if not variance:
        return None
    if "noise_variance" in last:
        before, after = first["noise_variance"], last["noise_variance"]
        words = f"a mean squared error of {after:.6g}, more than {before:.6g} after the first epoch"
        return words if after > max(2 * before, WORSE_THAN_MEAN * variance) else None
    before, after = (end["train_reconstruction"] + module.beta * end["train_kl"] for end in (first, last))
    words = f"a loss of {after:.6g} nats per sample, worse than {before:.6g} after the first epoch"
    return words if after > before + WORSE_BY * (abs(before) + n_features) else None
