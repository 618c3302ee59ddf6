"""What watches the training: schedules of the learning rate and the KL weight, and its end before the last epoch."""

__all__ = ["AnnealedTraining", "EarlyStop"]

import math
from collections.abc import Callable
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback


class AnnealedTraining(Callback):
    """Learning rate and weight of the KL divergence, as functions of the share of the steps that are done.

    Parameters
    ----------
    n_steps : int
        Steps of the whole training.
    schedule : {"constant", "cosine"}
    kl_warmup : float
        Share of the steps over which the weight of the KL divergence rises from 0 to 1.
    """

    def __init__(self, n_steps: int, schedule: str = "constant", kl_warmup: float = 0.0):
        self.n_steps = n_steps
        self.schedule = schedule
        self.kl_warmup = kl_warmup

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Note the learning rates to change."""
        self.lrs_ = [group["lr"] for group in net.optimizer_.param_groups]

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **kwargs: Any) -> None:
        """Set the rate and the weight of the step to come."""
        if not training:
            return
        factor = SCHEDULES[self.schedule](net.step_, self.n_steps)
        for group, lr in zip(net.optimizer_.param_groups, self.lrs_, strict=True):
            group["lr"] = lr * factor
        net.module_.kl_weight = self.kl_weight(net.step_)

    def kl_weight(self, step: int) -> float:
        """Weight of the KL divergence after so many steps."""
        n_warmup = math.ceil(self.kl_warmup * self.n_steps)
        return min(step / n_warmup, 1.0) if n_warmup else 1.0


def _constant(step: int, n_steps: int) -> float:
    return 1.0


def _cosine(step: int, n_steps: int) -> float:
    """Rise over the first tenth of the steps, then fall along a half cosine to 0."""
    warmup = max(n_steps / 10, 1)
    return min((step + 1) / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * min(step / n_steps, 1.0)))


SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": _constant, "cosine": _cosine}


class EarlyStop(Exception):
    """Training ended before its last epoch, since a callback said so."""
