"""The training loop: skorch's, with rows gathered on the device and losses read once an epoch."""

__all__ = ["LatentNet"]

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, EpochTimer, PrintLog
from skorch.helper import predefined_split
from skorch.history import History
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklatent._nn.callbacks import EarlyStop
from sklatent._nn.data import Batches, Draws
from sklatent._nn.objectives import Terms
from sklatent._nn.randomness import global_draws_from

# What a step runs in: float32, or the layers in bfloat16 where autocast finds them safe.
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}

# Steps whose terms are kept before they are added up: many small tensors that stay leave holes in the heap.
N_STEPS = 64


class LatentNet(NeuralNet):
    """Train a module whose forward gives the `Terms` of each row.

    The order of the rows and the noise come from generators of the net's own, many at a time, so that training
    neither reads nor moves PyTorch's global one. The history holds, for each epoch, the mean over the rows of the
    loss, of its reconstruction and of its KL part, as `train_loss`, `train_reconstruction`, `train_kl`, and the same
    for `valid_`.

    Parameters
    ----------
    module : Module
        Called with rows (n, n_features) and noise (n, module.n_noise); `module.loss` turns its `Terms` into a scalar.
    seeds : tuple of int
        For the order of the rows, the noise in training, and the noise in validation.
    weight_decay : float, default=0.0
        Share of each weight that a step takes away, times the learning rate; matrices and kernels only.
    max_gradient_norm : float or None, default=None
        Norm at which the gradient by the weights is clipped, apart from that by the parameters of the likelihood: its
        variance has to learn what extreme samples cost, and clipped it would only learn what the others do.
    precision : {"float32", "bf16"}, default="float32"
    module_seed : int or None, default=None
        Of what layers draw from PyTorch's global generator, such as dropout; None for a module that draws nothing.
    lr, max_epochs, batch_size, device, verbose, callbacks
        As for :class:`skorch.NeuralNet`.

    Attributes
    ----------
    step_ : int
        Steps of the optimizer so far.
    """

    n_stack_dims = 0  # of the parameters, before their own

    def __init__(
        self,
        module: nn.Module,
        *,
        seeds: tuple[int, int, int],
        weight_decay: float = 0.0,
        max_gradient_norm: float | None = None,
        precision: str = "float32",
        module_seed: int | None = None,
        device: str = "cpu",
        **kwargs: Any,
    ):
        self.order, self.noise, _ = (torch.Generator(device).manual_seed(seed) for seed in seeds)
        self.layers = None if module_seed is None else torch.Generator(device).manual_seed(module_seed)
        self.module_seed = module_seed
        self.seeds = seeds
        self.weight_decay = weight_decay
        self.max_gradient_norm = max_gradient_norm
        self.precision = precision
        super().__init__(
            module,
            criterion=nn.Identity,  # the module has its own loss
            optimizer=torch.optim.AdamW,
            iterator_train=Batches,
            iterator_train__generator=self.order,
            iterator_valid=Batches,
            device=device,
            **kwargs,
        )

    def train(self, rows: Any, valid: Any = None, state: dict[str, Any] | None = None) -> "LatentNet":
        """Train on `Rows` or `MappedRows`, from a former state if there is one; unlike skorch's `fit`, Ctrl-C raises.

        Raises
        ------
        FloatingPointError
            When the loss of an epoch is not finite.
        """
        self.set_params(train_split=None if valid is None else predefined_split(valid))
        self.initialize()
        self.step_ = 0
        self.is_lone_ = min(self.batch_size, len(rows)) == 1
        self.module_.eval()  # so that the first step finds a mode to change
        self.load_state(state or {})
        self.notify("on_train_begin", X=rows, y=None)  # where a checkpoint puts back what it holds
        with suppress(EarlyStop):
            self.fit_loop(rows, epochs=self.max_epochs - len(self.history))
        self.notify("on_train_end", X=rows, y=None)
        return self

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: tensors, numbers and the history."""
        return {
            "module": self.module_.state_dict(),
            "optimizer": self.optimizer_.state_dict()["state"],
            "generators": {name: generator.get_state() for name, generator in self._generators().items()},
            "step": self.step_,
            "history": list(self.history),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a copy of what `state` gave, or of those of its entries that are there."""
        if "module" in state:
            self.module_.load_state_dict(state["module"])
        if "optimizer" in state:
            # The optimizer keeps the tensors that it is given, and its steps write to them.
            moments = {int(number): deepcopy(moment) for number, moment in state["optimizer"].items()}
            groups = self.optimizer_.state_dict()["param_groups"]
            self.optimizer_.load_state_dict({"state": moments, "param_groups": groups})
        for name, value in state.get("generators", {}).items():
            self._generators()[name].set_state(value)
        self.step_ = state.get("step", self.step_)
        if "history" in state:
            self.history_ = History(deepcopy(state["history"]))

    def _generators(self) -> dict[str, torch.Generator]:
        named = {"order": self.order, "noise": self.noise, "layers": self.layers}
        return {name: generator for name, generator in named.items() if generator is not None}

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> "LatentNet":
        """Fused AdamW; only matrices decay, and the variance of the likelihood learns ten times faster.

        That one number has as far to go as a weight has, and no network to help it.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.module_.named_parameters():
            lr = 10 * self.lr if name == "likelihood.log_variance" else self.lr
            decay = 0.0 if parameter.ndim - self.n_stack_dims < 2 or name.startswith("prior.") else self.weight_decay
            groups.setdefault((lr, decay), []).append(parameter)
        self.optimizer_ = torch.optim.AdamW(
            [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()], fused=True
        )
        return self

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        # Without PassthroughScoring, which goes through a Python record of every batch; PrintLog lays out its table
        # for nobody when it is not to be printed.
        log = [("print_log", PrintLog())] if self.verbose else []
        return [("epoch_timer", EpochTimer()), *log]

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call the callbacks. skorch's early stopping raises what Ctrl-C does; here `EarlyStop` tells them apart."""
        try:
            super().notify(method_name, **kwargs)
        except KeyboardInterrupt:
            stops = [callback for _, callback in self.callbacks_ if isinstance(callback, EarlyStopping)]
            # Ctrl-C may come before they have begun to count.
            if not any(getattr(callback, "misses_", -1) >= callback.patience for callback in stops):
                raise
            raise EarlyStop from None

    def run_single_epoch(
        self, iterator: Batches | None, training: bool, prefix: str, step_fn: Callable, **fit_params: Any
    ) -> None:
        """One pass over the rows; nothing is read from the device before its end."""
        if iterator is None:
            return
        noise = self.noise if training else torch.Generator(self.device).manual_seed(self.seeds[2])
        draws = Draws(self.module_.n_noise, noise, len(iterator.rows))
        steps, sums = [], []
        for x in iterator:
            batch = (x, draws.take(len(x)))
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            steps.append((step["loss"].detach(), *step["terms"]))
            self.notify("on_batch_end", batch=batch, training=training, **step)
            if len(steps) == N_STEPS:
                sums.append(_sums(steps))
                steps = []
        sums += [_sums(steps)] if steps else []
        means = (torch.stack(sums).sum(dim=0) / len(iterator.rows)).tolist()  # the one time that the device is read
        self.record(prefix, means)

    def record(self, prefix: str, means: Sequence[float]) -> None:
        """Note the means of an epoch, and as skorch does whether its loss is the best so far.

        Of its batches no record is kept but an empty one, since some callbacks of skorch look at the last.
        """
        if not self.history[-1]["batches"]:
            self.history.new_batch()
        for name, value in zip(("loss", "reconstruction", "kl"), means, strict=True):
            self.history.record(f"{prefix}_{name}", value)
        losses = self.history[:, f"{prefix}_loss"]
        self._check_finite(losses[-1])
        self.history.record(f"{prefix}_loss_best", losses[-1] <= min(losses))

    def on_batch_begin(self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """Leave out skorch's record of each batch."""

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} in epoch {len(self.history)} with lr={self.lr}. "
                "Try a smaller lr, or rescale columns with extreme values."
            )

    def train_step(self, batch: tuple[Tensor, Tensor], **fit_params: Any) -> dict[str, Any]:
        """One step of the optimizer."""
        self._set_training(True)
        for group in self.optimizer_.param_groups:  # as zero_grad does, without its record for the profiler
            for parameter in group["params"]:
                parameter.grad = None
        with self._draws_of_layers():
            step = self._evaluate(batch)
            step["loss"].backward()
        if self.max_gradient_norm is not None:
            self._clip_gradient(self.max_gradient_norm)
        self.optimizer_.step()
        self.step_ += 1
        return step

    def _clip_gradient(self, max_norm: float) -> None:
        """Scale the gradient of each network down to a norm."""
        named = self.module_.named_parameters()
        gradients = [p.grad for name, p in named if p.grad is not None and not name.startswith("likelihood.")]
        squares = [
            gradient.flatten(self.n_stack_dims).square().sum(-1) for gradient in gradients
        ]  # () or (n_networks,)
        scale = (max_norm / torch.stack(squares).sum(0).sqrt()).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)) if self.n_stack_dims else scale)

    def validation_step(self, batch: tuple[Tensor, Tensor], **fit_params: Any) -> dict[str, Any]:
        """The loss of a batch, with nothing learned from it."""
        self._set_training(False)
        with torch.no_grad(), self._draws_of_layers():
            return self._evaluate(batch)

    def _set_training(self, training: bool = True) -> None:
        """Train or evaluate; batch norm has no variance to take from one sample, and uses its running statistics."""
        if self.module_.training == training:  # a walk over all submodules costs a tenth of a small step
            return
        self.module_.train(training)
        if self.is_lone_:
            for layer in self._submodules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()

    def _submodules(self) -> Iterable[nn.Module]:
        return self.module_.modules()

    def _draws_of_layers(self) -> Any:
        """Where layers draw, they draw from a generator of this net."""
        return nullcontext() if self.layers is None else global_draws_from(self.layers)

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        with self._precision():
            terms: Terms = self.module_(*batch)
            loss = self.module_.loss(terms)
        return {"loss": loss, "terms": Terms(*(term.detach() for term in terms))}

    def _precision(self) -> Any:
        """What the products of a step run in."""
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(torch.device(self.device).type, dtype)


def _sums(steps: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Sums over the rows of the loss, of minus ln p(x | z) and of the KL divergence, from some batches of an epoch."""
    losses, log_prob, kl = zip(*steps, strict=True)
    sizes = torch.tensor([len(batch) for batch in kl], device=kl[0].device)
    log_prob_sum, kl_sum = (torch.cat(terms).sum(dtype=torch.float64) for terms in (log_prob, kl))
    return torch.stack([torch.stack(losses).double() @ sizes.double(), -log_prob_sum, kl_sum])
