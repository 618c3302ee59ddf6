"""Callbacks of the training: schedules of the learning rate and the KL weight, and early stopping."""

__all__ = ["SCHEDULES", "AnnealedTraining", "EarlyStop"]

import math
from collections.abc import Callable
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback


class AnnealedTraining(Callback):
    """Set the learning rate and the weight of the KL divergence in each step.

    Parameters
    ----------
    n_steps : int
        Number of steps of the whole training.
    schedule : {"constant", "cosine"}
        Learning rate schedule.
    kl_warmup : float
        Fraction of the steps over which the weight of the KL divergence increases from 0 to 1.
    """

    def __init__(self, n_steps: int, schedule: str = "constant", kl_warmup: float = 0.0):
        self.n_steps = n_steps
        self.schedule = schedule
        self.kl_warmup = kl_warmup

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Store the peak learning rates."""
        self.lrs_ = [group["lr"] for group in net.optimizer_.param_groups]

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **kwargs: Any) -> None:
        """Set the learning rate and the weight for the next step."""
        if not training:
            return
        factor = SCHEDULES[self.schedule](net.step_, self.n_steps)
        for group, lr in zip(net.optimizer_.param_groups, self.lrs_, strict=True):
            group["lr"] = lr * factor
        net.module_.kl_weight = self.kl_weight(net.step_)

    def kl_weight(self, step: int) -> float:
        """Weight of the KL divergence after the given number of steps."""
        n_warmup = math.ceil(self.kl_warmup * self.n_steps)
        return min(step / n_warmup, 1.0) if n_warmup else 1.0


def _constant(step: int, n_steps: int) -> float:
    return 1.0


def _cosine(step: int, n_steps: int) -> float:
    """Increase over the first tenth of the steps, then decrease to 0 along a half cosine."""
    warmup = max(n_steps / 10, 1)
    return min((step + 1) / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * min(step / n_steps, 1.0)))


SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": _constant, "cosine": _cosine}


class EarlyStop(Exception):
    """Raised when a callback stops the training before its last epoch."""
