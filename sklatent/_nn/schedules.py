"""How each step of a training goes: learning rate, weight of the KL divergence, and precision of the layers."""

__all__ = ["PRECISIONS", "SCHEDULES", "Schedule"]

import math
from collections.abc import Callable

import torch

# float32, or bfloat16 for the layers for which autocast considers it safe.
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}


class Schedule:
    """Learning rate and weight of the KL divergence in each step. By default both are constant.

    Parameters
    ----------
    n_steps : int, default=1
        Number of steps of the whole training.
    lr_schedule : {"constant", "cosine"}, default="constant"
        Learning rate schedule.
    kl_warmup : float, default=0.0
        Fraction of the steps over which the weight of the KL divergence increases from 0 to 1.
    """

    def __init__(self, n_steps: int = 1, lr_schedule: str = "constant", kl_warmup: float = 0.0):
        self.n_steps = n_steps
        self.lr_schedule = lr_schedule
        self.kl_warmup = kl_warmup

    def lr_factor(self, step: int) -> float:
        """Learning rate after the given number of steps, relative to its peak."""
        return SCHEDULES[self.lr_schedule](step, self.n_steps)

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
