"""The training loop of skorch, with batches gathered on the device and losses read once per epoch."""

__all__ = ["EarlyStop", "LatentNet", "averages", "clip_gradient"]

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

from sklatent._nn.data import Batch, Batches, Draws
from sklatent._nn.devices import fitting_to, sum_dtype
from sklatent._nn.distributed import ALONE, SingleProcess
from sklatent._nn.objectives import ImportanceTerms, Terms
from sklatent._nn.randomness import global_draws_from
from sklatent._nn.schedules import PRECISIONS, Schedule
from sklatent._nn.threads import limited_threads, product_size

# Number of steps whose loss terms are kept before they are summed. Many small tensors would fragment the heap.
N_STEPS = 64


class EarlyStop(Exception):
    """Raised when a callback stops the training before its last epoch."""


class LatentNet(NeuralNet):
    """Train a module whose `forward` returns the loss `Terms` of each sample.

    Shuffling and noise use generators of the net, so that training neither uses nor modifies PyTorch's global one. The
    history contains, for each epoch, the mean over the samples of the loss, of its reconstruction term and of its KL
    term, as `train_loss`, `train_reconstruction` and `train_kl`, and the same with prefix `valid_`.

    Parameters
    ----------
    module : Module
        Called with samples (n, n_features) and `Noise` of the widths `module.noise_widths`. `module.loss` reduces its
        `Terms` to a scalar, given the weights of the samples, and `module.parameter_groups` lists how its parameters
        are trained.
    schedule : Schedule or None, default=None
        Learning rate, and weight of the KL divergence that `module.loss` receives. None keeps both constant.
    seeds : tuple of int
        Seeds of the shuffling, of the noise in training, and of the noise in validation.
    weight_decay : float, default=0.0
        Fraction, times the learning rate, by which a step decreases the parameters that are decayed.
    max_gradient_norm : float or None, default=None
        Norm at which the gradient is clipped.
    generalization : callable or None, default=None
        Maps the mean squared error of the validation set, relative to that of the training samples, to the factor by
        which the noise variance is larger than the latter. None makes it equal to the latter.
    precision : {"float32", "bf16"}, default="float32"
    module_seed : int or None, default=None
        Seed for layers that use PyTorch's global generator, such as dropout. None for a module without such layers.
    processes : SingleProcess or DataParallel, default=SingleProcess()
        Of several processes each evaluates its share of every batch, and all take the same steps.
    lr, max_epochs, batch_size, device, verbose, callbacks
        The parameters of :class:`skorch.NeuralNet`.

    Attributes
    ----------
    step_ : int
        Number of optimizer steps so far.
    """

    n_stack_dims = 0  # leading dimensions of the parameters for stacked networks

    def __init__(
        self,
        module: nn.Module,
        *,
        schedule: Schedule | None = None,
        seeds: tuple[int, int, int],
        weight_decay: float = 0.0,
        max_gradient_norm: float | None = None,
        generalization: Callable[[float], float] | None = None,
        precision: str = "float32",
        module_seed: int | None = None,
        processes: SingleProcess = ALONE,
        device: str = "cpu",
        **kwargs: Any,
    ):
        self.order, self.noise, _ = (torch.Generator(device).manual_seed(seed) for seed in seeds)
        self.layers = None if module_seed is None else torch.Generator(device).manual_seed(module_seed)
        self.module_seed = module_seed
        self.schedule = Schedule() if schedule is None else schedule
        self.seeds = seeds
        self.weight_decay = weight_decay
        self.max_gradient_norm = max_gradient_norm
        self.generalization = generalization
        self.precision = precision
        self.processes = processes
        self.original = module
        super().__init__(
            fitting_to(device, module),
            criterion=nn.Identity,  # the module computes its own loss
            optimizer=torch.optim.AdamW,
            iterator_train=Batches,
            iterator_train__generator=self.order,
            iterator_train__processes=processes,
            iterator_valid=Batches,
            iterator_valid__processes=processes,
            device=device,
            **kwargs,
        )

    def train(self, rows: Any, valid: Any = None, state: dict[str, Any] | None = None) -> "LatentNet":
        """Train on `Rows` or `MappedRows`, from a previous state if given. Unlike skorch's `fit`, Ctrl-C raises.

        Raises
        ------
        FloatingPointError
            If the loss of an epoch is not finite.
        """
        self.set_params(train_split=None if valid is None else predefined_split(valid))
        self.initialize()
        self.step_ = 0
        self.is_lone_ = min(self.batch_size, len(rows)) == 1
        self.module_.eval()  # so that the first step switches to training mode
        self.load_state(state or {})
        self.notify("on_train_begin", X=rows, y=None)  # a checkpoint restores its state here
        self.processes.start_equal(self.module_)
        threads = limited_threads(self.product_size(min(self.batch_size, len(rows))), self.device)
        with threads, self.processes.batch_norms_joined(self.module_), suppress(EarlyStop):
            self.fit_loop(rows, epochs=self.max_epochs - len(self.history))
        self.notify("on_train_end", X=rows, y=None)
        return self

    def trained(self) -> Any:
        """The module with its weights so far: back from a device without float64, with the constants it had before."""
        if self.module is self.original:
            return self.module_
        weights, before = self.module_.state_dict(), self.original.state_dict()
        constants = {name: tensor for name, tensor in before.items() if tensor.dtype == torch.float64}
        self.original.load_state_dict({**weights, **constants})
        return self.original

    def product_size(self, n_samples: int) -> int:
        """Number of multiply-adds of the largest layer for a batch."""
        return product_size(self.module, n_samples * self.module.n_train_draws)

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on: tensors, numbers and the history."""
        return {
            "module": self.trained().state_dict(),
            "optimizer": self.optimizer_.state_dict()["state"],
            "generators": {name: generator.get_state() for name, generator in self._generators().items()},
            "step": self.step_,
            "history": list(self.history),
        }

    def records(self) -> list[dict[str, Any]]:
        """A record of each epoch, without skorch's empty ones of its batches."""
        return [{name: value for name, value in epoch.items() if name != "batches"} for epoch in self.history]

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a copy of the result of `state`, which may lack some of its entries."""
        if "module" in state:
            self.module_.load_state_dict(state["module"])
        if "optimizer" in state:
            # The optimizer keeps references to these tensors and modifies them in its steps.
            moments = {int(number): deepcopy(moment) for number, moment in state["optimizer"].items()}
            groups = self.optimizer_.state_dict()["param_groups"]
            self.optimizer_.load_state_dict({"state": moments, "param_groups": groups})
        for name, value in state.get("generators", {}).items():
            generator = self._generators()[name]
            if len(value) == len(generator.get_state()):  # those of another kind of device start from their seeds
                generator.set_state(value)
        self.step_ = state.get("step", self.step_)
        if "history" in state:
            self.history_ = History(deepcopy(state["history"]))

    def _generators(self) -> dict[str, torch.Generator]:
        named = {"order": self.order, "noise": self.noise, "layers": self.layers}
        return {name: generator for name, generator in named.items() if generator is not None}

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> "LatentNet":
        """Create a fused AdamW optimizer, with one group of parameters for each setting."""
        parameters = dict(self.module_.named_parameters())
        self.optimizer_ = torch.optim.AdamW(
            [
                {
                    "params": [parameters[name] for name in group.names],
                    "lr": self.lr,
                    "peak_lr": self.lr,
                    "weight_decay": self.weight_decay if group.is_decayed else 0.0,
                }
                for group in self.module_.parameter_groups()
            ],
            fused=True,
        )
        return self

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        # Without PassthroughScoring, which iterates over a Python record of every batch, and without PrintLog if
        # nothing is printed, since it would format its table anyway.
        log = [("print_log", PrintLog())] if self.verbose and self.processes.rank == 0 else []
        return [("epoch_timer", EpochTimer()), *log]

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call the callbacks, and raise `EarlyStop` if one of them, in any process, stops the training."""
        stops = False
        try:
            super().notify(method_name, **kwargs)
        except EarlyStop:
            stops = True
        except KeyboardInterrupt:  # raised by skorch's early stopping, too
            stopping = [callback for _, callback in self.callbacks_ if isinstance(callback, EarlyStopping)]
            # Ctrl-C may come before they have set their counters.
            stops = any(getattr(callback, "misses_", -1) >= callback.patience for callback in stopping)
            if not stops:
                raise
        if self.processes.any(stops) if method_name == "on_epoch_end" else stops:
            raise EarlyStop

    def run_single_epoch(
        self, iterator: Batches | None, training: bool, prefix: str, step_fn: Callable[..., Any], **fit_params: Any
    ) -> None:
        """Run one epoch. Nothing is copied from the device before its end."""
        if iterator is None:
            return
        noise = self.noise if training else torch.Generator(self.device).manual_seed(self.seeds[2])
        draws = Draws(self.module_.noise_widths, noise, len(iterator.rows))
        steps, sums = [], []
        for (x, weight), share in zip(iterator, iterator.shares, strict=True):
            batch = Batch(x, draws.take(share.size, share.places), weight, share.fraction)
            self.processes.begin(share.fraction)
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            steps.append((step["loss"].detach(), *step["terms"]))
            self.notify("on_batch_end", batch=batch, training=training, **step)
            if len(steps) == N_STEPS:
                sums.append(_sums(steps))
                steps = []
        sums += [_sums(steps)] if steps else []
        total = self.processes.sum(torch.stack(sums).sum(dim=0))
        means = (total / len(iterator.rows)).tolist()  # the only copy from the device
        self.record(prefix, means)
        if (factor := self.noise_factor(prefix)) is not None:
            observed = iterator.rows.observed
            self.record_noise_variance(self.module_.update_noise_variance(-means[1], factor, observed))

    def record(self, prefix: str, means: Sequence[float]) -> None:
        """Record the means of an epoch and, like skorch, whether its loss is the best so far.

        The batches have one empty record, since some callbacks of skorch access the last one.
        """
        if not self.history[-1]["batches"]:
            self.history.new_batch()
        for name, value in zip(("loss", "reconstruction", "kl"), means, strict=True):
            self.history.record(f"{prefix}_{name}", value)
        losses = self.history[:, f"{prefix}_loss"]
        self._check_finite(losses[-1])
        self.history.record(f"{prefix}_loss_best", losses[-1] <= min(losses))

    def record_noise_variance(self, variance: float) -> None:
        """Record the noise variance at the end of an epoch, unless it is NaN, for likelihoods without one."""
        if not math.isnan(variance):
            self.history.record("noise_variance", variance)

    def noise_factor(self, prefix: str) -> Callable[[float], float] | None:
        """How the squared errors of the samples that were just evaluated change the noise variance; None for not."""
        return float if prefix == "train" else self.generalization

    def on_batch_begin(self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """Set the learning rate of the next step, instead of adding skorch's record of each batch."""
        if training:
            factor = self.schedule.lr_factor(self.step_)
            for group in self.optimizer_.param_groups:
                group["lr"] = factor * group["peak_lr"]

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} in epoch {len(self.history)} with lr={self.lr}. "
                "Try a smaller lr, or rescale features with extreme values."
            )

    def train_step(self, batch: Batch, **fit_params: Any) -> dict[str, Any]:
        """Run one step of the optimizer."""
        self._set_training(True)
        for group in self.optimizer_.param_groups:  # like zero_grad, without the overhead of its profiling
            for parameter in group["params"]:
                parameter.grad = None
        with self._draws_of_layers():
            step = self._evaluate(batch, self.schedule.kl_weight(self.step_))
            self._backward(step["loss"], batch)
        if self.max_gradient_norm is not None:
            clip_gradient(self.module_.parameters(), self.max_gradient_norm, self.n_stack_dims)
        self.optimizer_.step()
        self.step_ += 1
        return step

    def _backward(self, loss: Tensor, batch: Batch) -> None:
        """Compute the gradient of the mean loss of a batch, of which this process has some of the samples."""
        self.processes.backward(loss, batch.fraction, self.module_.parameters())

    def validation_step(self, batch: Batch, **fit_params: Any) -> dict[str, Any]:
        """Compute the loss of a batch without training, with the weight of the KL divergence at the end of training."""
        self._set_training(False)
        with torch.no_grad(), self._draws_of_layers():
            return self._evaluate(batch, self.schedule.kl_weight(self.schedule.n_steps))

    def _set_training(self, training: bool = True) -> None:
        """Switch to training or evaluation mode. For batches of one sample, batch norm uses its running statistics."""
        if self.module_.training == training:  # iterating over all submodules takes a tenth of a small step
            return
        self.module_.train(training)
        if self.is_lone_:
            for layer in self._submodules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()

    def _submodules(self) -> Iterable[nn.Module]:
        return self.module_.modules()

    def _draws_of_layers(self) -> Any:
        """Context in which layers that use random numbers take them from a generator of this net."""
        return nullcontext() if self.layers is None else global_draws_from(self.processes.generator(self.layers))

    def _evaluate(self, batch: Batch, kl_weight: Any) -> dict[str, Any]:
        with self._precision():
            terms: Terms | ImportanceTerms = self.module_(batch.x, batch.noise)
            loss = self.module_.loss(terms, kl_weight, batch.weight)
        return {"loss": loss, "terms": averages(terms, batch.weight)}

    def _precision(self) -> Any:
        """Context that sets the precision of a step."""
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(torch.device(self.device).type, dtype)


def averages(terms: Terms | ImportanceTerms, weight: Tensor | None = None) -> Terms:
    """The two terms of each sample for the history, times its weight; no gradient is taken of them."""
    found = type(terms)(*(term.detach() for term in terms)).averages()
    return found if weight is None else Terms(*(weight * term for term in found))


def clip_gradient(parameters: Iterable[nn.Parameter], max_norm: float, n_stack_dims: int = 0) -> None:
    """Scale the gradient of each network down to a maximum norm."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = [gradient.flatten(n_stack_dims).square().sum(-1) for gradient in gradients]  # () or (n_networks,)
    scale = (max_norm / torch.stack(squares).sum(0).sqrt()).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)) if n_stack_dims else scale)


def _sums(steps: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Sums over the samples of some batches: of the loss, of minus ln p(x | z) and of the KL divergence."""
    losses, log_prob, kl = zip(*steps, strict=True)
    device, dtype = kl[0].device, sum_dtype(kl[0].device)
    sizes = torch.tensor([len(batch) for batch in kl], dtype=dtype, device=device)
    log_prob_sum, kl_sum = (torch.cat(terms).sum(dtype=dtype) for terms in (log_prob, kl))
    return torch.stack([torch.stack(losses).to(dtype) @ sizes, -log_prob_sum, kl_sum])
