"""The training loop: skorch's, with rows gathered on the device and losses read once an epoch."""

__all__ = ["LatentNet"]

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, EpochTimer, LRScheduler, PrintLog
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from sklatent.batches import Batches, Rows
from sklatent.objectives import Terms


class LatentNet(NeuralNet):
    """Train a module whose forward gives the `Terms` of each row.

    The order of the rows and the noise come from generators of the net's own, an epoch at a time, so that training
    neither reads nor moves PyTorch's global one. The history holds, for each epoch, the mean over the rows of the
    loss, of its reconstruction and of its KL part, as `train_loss`, `train_reconstruction`, `train_kl`, and the same
    for `valid_`.

    Parameters
    ----------
    module : Module
        Called with rows (n, n_features) and noise (n, module.n_noise); `module.loss` turns its `Terms` into a scalar.
    seeds : tuple of int
        For the order of the rows, the noise in training, and the noise in validation.
    lr, max_epochs, batch_size, device, verbose, callbacks
        As for :class:`skorch.NeuralNet`.
    """

    def __init__(self, module: nn.Module, *, seeds: tuple[int, int, int], device: str = "cpu", **kwargs: Any):
        order, self.noise, _ = (torch.Generator(device).manual_seed(seed) for seed in seeds)
        self.seeds = seeds
        super().__init__(
            module,
            criterion=nn.Identity,  # the module has its own loss
            optimizer=torch.optim.Adam,
            optimizer__fused=True,
            iterator_train=Batches,
            iterator_train__generator=order,
            iterator_valid=Batches,
            device=device,
            **kwargs,
        )

    def train(self, rows: Rows, valid: Rows | None = None) -> "LatentNet":
        """Train on `rows`; unlike skorch's `fit`, Ctrl-C raises.

        Raises
        ------
        FloatingPointError
            When the loss of an epoch is not finite.
        """
        self.set_params(train_split=None if valid is None else predefined_split(valid))
        self.initialize()
        self.notify("on_train_begin", X=rows, y=None)
        with suppress(EarlyStop):
            self.fit_loop(rows)
        self.notify("on_train_end", X=rows, y=None)
        return self

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        # Without PassthroughScoring, which goes through a Python record of every batch; PrintLog lays out its table
        # for nobody when it is not to be printed.
        log = [("print_log", PrintLog())] if self.verbose else []
        return [("epoch_timer", EpochTimer()), *log]

    def run_single_epoch(
        self, iterator: Batches | None, training: bool, prefix: str, step_fn: Callable, **fit_params: Any
    ) -> None:
        """One pass over the rows; sums stay on the device and are read at its end."""
        if iterator is None:
            return
        noise = self.noise if training else torch.Generator(self.device).manual_seed(self.seeds[2])
        sizes = iterator.sizes()
        eps = torch.randn((sum(sizes), self.module_.n_noise), generator=noise, device=self.device)
        totals = torch.zeros(3, device=self.device)
        for batch in zip(iterator, eps.split(sizes), strict=True):
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            totals += step["totals"]
            self.notify("on_batch_end", batch=batch, training=training, **step)
        for name, total in zip(("loss", "reconstruction", "kl"), totals.tolist(), strict=True):
            self.history.record(f"{prefix}_{name}", total / sum(sizes))
        if not math.isfinite(self.history[-1, f"{prefix}_loss"]):
            raise FloatingPointError(
                f"The loss became {self.history[-1, f'{prefix}_loss']} in epoch {len(self.history)} with lr={self.lr}. "
                "Try a smaller lr, or rescale columns with extreme values."
            )

    def train_step(self, batch: tuple[Tensor, Tensor], **fit_params: Any) -> dict[str, Any]:
        """One step of the optimizer."""
        # Batch norm has no variance to take from one row, so it uses its running statistics there.
        self._set_training(len(batch[0]) > 1)
        self.optimizer_.zero_grad()
        step = self._evaluate(batch)
        step["loss"].backward()
        self.optimizer_.step()
        return step

    def validation_step(self, batch: tuple[Tensor, Tensor], **fit_params: Any) -> dict[str, Any]:
        """The loss of a batch, with nothing learned from it."""
        self._set_training(False)
        with torch.no_grad():
            return self._evaluate(batch)

    def _set_training(self, training: bool = True) -> None:
        if self.module_.training != training:  # a walk over all submodules costs a tenth of a small step
            self.module_.train(training)

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        terms: Terms = self.module_(*batch)
        loss = self.module_.loss(terms)
        totals = torch.stack([loss * len(batch[0]), terms.reconstruction.sum(), terms.kl.sum()]).detach()
        return {"loss": loss, "totals": totals}


def lr_scheduler(schedule: str, n_steps: int) -> list[tuple[str, LRScheduler]]:
    """The callback, if any, that changes the learning rate at each of `n_steps` steps."""
    if schedule == "constant":
        return []
    factor = partial(SCHEDULES[schedule], n_steps=n_steps)
    return [("lr_schedule", LRScheduler(LambdaLR, lr_lambda=factor, step_every="batch", event_name=None))]


def _cosine(step: int, n_steps: int) -> float:
    """Rise over the first tenth of the steps, then fall along a half cosine to 0."""
    warmup = max(n_steps / 10, 1)
    return min((step + 1) / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * min(step / n_steps, 1.0)))


SCHEDULES: dict[str, Callable[..., float]] = {"cosine": _cosine}


class KLWarmup(Callback):
    """Raise the weight of the KL divergence from 0 to 1 over the first steps.

    Parameters
    ----------
    n_steps : int
        Steps until the weight is 1.
    """

    def __init__(self, n_steps: int):
        self.n_steps = n_steps

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Begin at no weight."""
        self.step_ = 0

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **kwargs: Any) -> None:
        """Set the weight of the step to come."""
        if training:
            net.module_.kl_weight = min(self.step_ / self.n_steps, 1.0)
            self.step_ += 1


class EarlyStop(Exception):
    """Training ended since the validation loss stopped improving."""


class StopEarly(EarlyStopping):
    """skorch's early stopping, told apart from Ctrl-C: skorch raises KeyboardInterrupt for both."""

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        if getattr(net.module_, "kl_weight", 1) < 1:  # in a warm-up the loss rises with the weight of the divergence
            return
        try:
            super().on_epoch_end(net, **kwargs)
        except KeyboardInterrupt:
            if self.misses_ < self.patience:
                raise
            raise EarlyStop from None
