"""Base class of the two network estimators: parameters, training and inference."""

__all__ = ["BaseAutoencoder", "Training"]

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from sklatent._base import (
    FLOAT_DTYPES,
    BaseLatentModel,
    SequenceOf,
    all_or_nothing,
    default_parameters,
    learns_like,
    spawn_seeds,
    with_attributes,
)
from sklatent._nn.architecture import Architecture
from sklatent._nn.backbones import ACTIVATIONS, BACKBONES
from sklatent._nn.data import batch_sizes, has_values, split
from sklatent._nn.devices import has_float64, pays, resolve_device
from sklatent._nn.distributed import ALONE, SingleProcess, is_parallel, process_group
from sklatent._nn.inference import evaluate, halving_out_of_memory
from sklatent._nn.left_out import Baseline, LeftOut, left_out_samples, linear_baseline
from sklatent._nn.likelihoods import LIKELIHOODS, Likelihood, Standardizer
from sklatent._nn.modules import CORRUPTIONS, Autoencoder
from sklatent._nn.outcomes import Learned, loss_curve, problem_of
from sklatent._nn.priors import Prior
from sklatent._nn.randomness import SEEDS
from sklatent._nn.schedules import PRECISIONS, SCHEDULES, Schedule
from sklatent._nn.start import leading_components, start
from sklatent._nn.state import (
    PickledModule,
    adopt,
    load_arrays,
    load_history,
    load_standardizer,
    load_training_state,
    module_arrays,
    pack_history,
    to_arrays,
)
from sklatent._nn.summaries import (
    Shared,
    lr_divisor,
    moments_of_samples,
    some_weighted_rows,
    tail_weight,
    with_weight,
)
from sklatent._nn.threads import product_sizes
from sklatent._ppca.moments import total_weight
from sklatent._sklearn_compat import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    callback_context,
    fit_context,
    validate_parameters,
    with_callbacks,
)
from sklatent._sources.dask_arrays import counted, is_lazy
from sklatent._sources.parquet import opened
from sklatent._sources.stored import is_sliceable, row_blocks

# skorch is imported where networks are trained: a model that is loaded transforms and scores without it.
if TYPE_CHECKING:
    from sklatent._nn.grouping import Trainee
    from sklatent._nn.training import LatentNet

# The gradient is clipped if the tail weight of the training samples is larger than the first number, to the second one
# times the square root of n_features, which is about the gradient norm of a typical sample. Images and most scaled
# tables have smaller tail weights.
CLIPPED_TAIL = 1.5
GRADIENT_NORM = 0.3
# Parameters in which networks trained as one may differ: widths that can be padded, numbers that can be stacked, and
# what matters before or after training only.
FREE_PARAMETERS = frozenset({"nz", "beta", "noise", "kl_warmup", "random_state", "n_draws", "density", "verbose"})
# Fraction of the samples that are left out of the training for the noise variance, and their largest number.
LEFT_OUT_FRACTION = 0.1
MAX_LEFT_OUT = 100


@dataclass
class Training:
    """The module, the data and the settings of one training."""

    module: Autoencoder
    seeds: dict[str, int]
    train: Any
    valid: Any
    left_out: "LeftOut | None"
    baseline: "Baseline | None"
    batch_size: int
    max_epochs: int
    lr: float
    max_gradient_norm: float | None
    device: str
    weights: NDArray[Any] | None = None
    processes: SingleProcess = ALONE

    @property
    def n_steps(self) -> int:
        """Number of optimizer steps."""
        return self.max_epochs * len(batch_sizes(len(self.train), self.batch_size))


class BaseAutoencoder(CallbackSupportMixin, BaseLatentModel):
    """Parameters, training and inference of networks with an encoder and a decoder."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "nz": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"pca", "random"})],
        "backbone": [StrOptions(set(BACKBONES)), callable],
        "hidden_sizes": [SequenceOf(Integral, 1, None, closed="left"), None],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "image_shape": [SequenceOf(Integral, 1, None, closed="left", length=3), None],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "output_activation": [StrOptions({"sigmoid"}), None],
        "noise": [Interval(Real, 0, None, closed="left")],
        "noise_kind": [StrOptions(set(CORRUPTIONS))],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "lr_schedule": [StrOptions(set(SCHEDULES))],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "device": [str],
        "precision": [StrOptions(set(PRECISIONS))],
        "warm_start": ["boolean"],
        "checkpoint": [str, PathLike, None],
        "callbacks": [list, tuple, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    _ROUTE = "stacked"
    # The parameters from which the module is built. What they were in `fit` is kept beside it.
    _ARCHITECTURE: ClassVar[tuple[str, ...]] = Architecture.names()
    kl_warmup: float = 0.0  # a parameter of the estimators with a KL divergence
    module_: Autoencoder
    _training_state: dict[str, Any] | None

    def __init__(
        self,
        nz: Any,
        *,
        init: Any,
        backbone: Any,
        hidden_sizes: Any,
        activation: Any,
        image_shape: Any,
        likelihood: Any,
        output_activation: Any,
        noise: Any,
        noise_kind: Any,
        max_epochs: Any,
        batch_size: Any,
        lr: Any,
        lr_schedule: Any,
        weight_decay: Any,
        early_stopping: Any,
        validation_fraction: Any,
        n_iter_no_change: Any,
        tol: Any,
        device: Any,
        precision: Any,
        warm_start: Any,
        checkpoint: Any,
        callbacks: Any,
        verbose: Any,
        random_state: Any,
    ) -> None:
        self.nz = nz
        self.init = init
        self.backbone = backbone
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.output_activation = output_activation
        self.noise = noise
        self.noise_kind = noise_kind
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.device = device
        self.precision = precision
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    if not TYPE_CHECKING:  # which finds the types of the inherited method
        fit = with_callbacks(BaseLatentModel.fit)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Train for one epoch on X, starting from the current weights.

        The first call determines the centre and the scale of the features, so it should receive a representative part
        of the data. The state of the optimizer is kept between calls. The learning rate is constant, and the KL
        divergence has its full weight. The attributes that are estimated after training, such as `noise_variance_`, are
        estimated from the samples of each call.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data of this call.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample, relative to the other samples of this call.

        Returns
        -------
        self : object
            The fitted estimator. If `partial_fit` raises an exception, the estimator is unchanged.

        See Also
        --------
        fit : Trains for all epochs on all samples.

        Examples
        --------
        >>> from sklatent import VAETransformer
        >>> from sklearn.datasets import load_iris
        >>> vae = VAETransformer(2, random_state=0)
        >>> for _ in range(3):
        ...     vae = vae.partial_fit(load_iris().data)
        >>> vae.n_iter_
        3
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        with all_or_nothing(self):
            X = validate_data(
                self, X, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan", reset=not hasattr(self, "module_")
            )
            weights = self._check_weights(sample_weight, X)
            self._check_weight(*total_weight(weights, X.shape[0]))
            self._publish(self._learn_further(X, weights))
        return self

    def _learn(self, X: NDArray[Any], weights: NDArray[Any] | None = None) -> Learned:
        X, weights = with_weight(X, weights)
        with process_group(resolve_device(self.device)) as processes:
            return self._learn_with(processes, X, weights)

    def _learn_with(self, processes: SingleProcess, X: NDArray[Any], weights: NDArray[Any] | None) -> Learned:
        """Learn in one process, or in one of several."""
        processes.check_equal(partial(self._description, X, weights))
        training = self._prepare(X, former=getattr(self, "module_", None), weights=weights, processes=processes)
        if self.callbacks:
            from sklatent._nn.callbacks import check_monitors

            check_monitors(self.callbacks, has_validation=training.valid is not None)
        early_stopping = self._early_stopping()
        context = self._begin_reports(X, training)
        callbacks = [
            *(self.callbacks or []),
            *self._report(context, training, X),
            *early_stopping,
            *self._checkpoint(X, training, *early_stopping),
        ]
        net = self._net(training, callbacks, self._schedule(training)).train(training.train, training.valid)
        learned = self._better_of_both(self._learned(net.trained(), net.records(), training, X), training, X)
        if context is not None:
            attributes = partial(self._fitted_attributes, learned)
            context.call_on_fit_task_end(estimator=self, X=X, reconstruction_attributes=attributes)
        processes.end_equal(learned.module)
        return learned

    def _learn_further(self, X: NDArray[Any], weights: NDArray[Any] | None = None) -> Learned:
        """Learn for one epoch, with the state of the optimizer and the generators of the previous call."""
        X, weights = with_weight(X, weights)
        with process_group(resolve_device(self.device)) as processes:
            return self._learn_further_with(processes, X, weights)

    def _learn_further_with(self, processes: SingleProcess, X: NDArray[Any], weights: NDArray[Any] | None) -> Learned:
        """Learn for one epoch in one process, or in one of several."""
        processes.check_equal(partial(self._description, X, weights))
        former = getattr(self, "module_", None)
        history = deepcopy(getattr(self, "history_", []))
        state = processes.from_first((getattr(self, "_training_state", None) or {}) | {"history": history})
        n_epochs = len(state["history"]) + 1
        training = self._prepare(X, former=former, max_epochs=n_epochs, weights=weights, processes=processes)
        if "likelihood" in state:  # its variance may have been set after the training
            training.module.likelihood.load_state_dict(state["likelihood"])
        net = self._net(training, []).train(training.train, state=state)
        module = net.trained()
        state = {
            **{name: net.state()[name] for name in ("optimizer", "generators", "step")},
            "likelihood": deepcopy(module.likelihood.state_dict()),
        }
        training.seeds["draws"] = processes.from_first(getattr(self, "_draw_seed", training.seeds["draws"]))
        learned = self._learned(module, net.records(), training, X)
        processes.end_equal(learned.module)
        return replace(learned, training_state=state)

    @classmethod
    def _learn_many(
        cls,
        models: Sequence[Any],
        Xs: Sequence[Any],
        weights: Sequence[Any] | None = None,
        *,
        max_models: int | None = None,
        n_beside: int = 0,
        progress: Any = None,
        **limits: Any,
    ) -> list[Any]:
        """Train networks of one architecture as one; where several processes train together, one by one."""
        if is_parallel():
            return [None] * len(models)
        from sklatent._nn.grouping import train_together

        pairs = list(zip(Xs, [None] * len(Xs) if weights is None else weights, strict=True))
        kept = {(id(X), id(own)): with_weight(X, own) for X, own in pairs}  # each once, so that it stays shared
        pairs = [kept[id(X), id(own)] for X, own in pairs]
        shared = Shared()
        trainings = [model._prepare_shared(*pair, shared) for model, pair in zip(models, pairs, strict=True)]
        numbered = {k: training for k, training in enumerate(trainings) if training is not None}
        learned: list[Any] = [None] * len(models)
        trainees = [models[k]._trainee(training) for k, training in numbered.items()]
        for k, outcome in zip(numbered, train_together(trainees, max_models, n_beside, progress), strict=True):
            learned[k] = outcome
            if not (outcome is None or isinstance(outcome, Exception)):
                model, training, (X, _) = models[k], numbered[k], pairs[k]
                try:
                    trained = model._learned(outcome.trained(), outcome.records(), training, X)
                    learned[k] = model._better_of_both(trained, training, X)
                except FloatingPointError as error:
                    learned[k] = error
        return learned

    @property
    def _free_parameters(self) -> frozenset[str]:  # type: ignore[override]
        # To a backbone of the user's own nobody knows what nz means.
        return FREE_PARAMETERS - {"nz"} if callable(self.backbone) else FREE_PARAMETERS

    def _prepare_shared(self, X: NDArray[Any], weights: NDArray[Any] | None, shared: Shared) -> Training | None:
        """What to train, beside other models; None where it can only be trained by itself."""
        if self.callbacks or self.checkpoint is not None:  # both follow one network, step by step
            return None
        try:
            validate_parameters(self)
            return self._prepare(X, weights=weights, shared=shared)
        except Exception:  # which the fit by itself meets too, and there it is reported
            return None

    def _trainee(self, training: Training) -> "Trainee":
        from sklatent._nn.grouping import Trainee

        net = self._net(training, self._early_stopping(), self._schedule(training))
        kind = learns_like(self), training.module.likelihood.has_missing
        return Trainee(net, training.train, training.valid, self.nz, kind)

    def _learned(self, module: Autoencoder, history: list[dict[str, Any]], training: Training, X: Any) -> Learned:
        """What a trained network tells, and its latent codes of the training samples."""
        module.eval()
        rows, weights = some_weighted_rows(X, training.weights)
        latent_space = self._describe_latent_space(module, rows, training, weights)
        return Learned(module, history, training.seeds["draws"], latent_space)

    def _better_of_both(self, learned: Learned, training: Training, X: Any) -> Learned:
        """What was learned, or the linear model of the start where that is better on samples left out."""
        baseline, left_out, seed = training.baseline, training.left_out, learned.draw_seed
        if baseline is None or left_out is None:
            return learned
        agreed = training.processes.from_first  # scores that rounding moves must not part the processes
        if not agreed(baseline.beats(self._log_likelihood(learned.module, baseline.X, seed))):
            return learned
        start = baseline.module.to(learned.module.standardizer.loc.device)
        linear = replace(self._learned(start, learned.history, training, X), improved=False)
        # On all samples left out, and by the network itself: layers may be too narrow for the linear model, and with
        # tanh it is not exact.
        found = Baseline(start, left_out.X, self._log_likelihood(start, left_out.X, seed), left_out.weights)
        return linear if agreed(found.beats(self._log_likelihood(learned.module, left_out.X, seed))) else learned

    def _prepare(
        self,
        X: Any,
        former: Autoencoder | None = None,
        max_epochs: int | None = None,
        weights: NDArray[Any] | None = None,
        processes: SingleProcess | None = None,
        shared: Shared | None = None,
    ) -> Training:
        """Build the network and its data; with `former`, the network starts from its weights."""
        processes = processes or SingleProcess(resolve_device(self.device))
        shared = shared or Shared()
        seeds = self._seeds(processes)
        module = self._build_module(X, seeds["weights"], weights, former)
        device = self._device(processes, module, X, max_epochs, former)
        is_further = max_epochs is not None  # `partial_fit` trains on all samples of a call
        n_left_out = 0 if is_further else self._n_left_out(total_weight(weights, X.shape[0])[1])
        part = X, n_left_out, seeds["split"], device, weights, module.likelihood.has_missing
        key = ("split", id(X), id(weights), device, n_left_out, seeds["split"] if n_left_out else None)
        train, valid = shared.once(key, partial(split, *part))
        left_out, baseline = self._start(module, train, valid, former, shared)
        if former is not None:
            self._check_same_function()
            adopt(module, former)
        units = ("tail", id(X), id(weights), self._design.is_diagonal)
        tail = shared.once(units, partial(tail_weight, X, module.standardizer, weights))
        return Training(
            module,
            seeds,
            train,
            valid,
            left_out,
            baseline,
            batch_size=self._n_batch(len(train)),
            max_epochs=max_epochs or self._n_epochs(len(train)),
            lr=self.lr / lr_divisor(tail),
            max_gradient_norm=GRADIENT_NORM * math.sqrt(X.shape[1]) if tail > CLIPPED_TAIL else None,
            device=device,
            weights=weights,
            processes=processes,
        )

    def _check_same_function(self) -> None:
        """Raise ValueError if a parameter differs from the previous fit by which equal weights mean something else."""
        for name in ("activation", "likelihood", "output_activation"):
            new, old = getattr(self, name), self._architecture[name]
            if new != old:
                raise ValueError(
                    f"Cannot reuse the previous weights: {name}={new!r} differs from {name}={old!r} of the previous "
                    "fit. Set warm_start=False and call fit."
                )

    def _start(
        self, module: Autoencoder, train: Any, valid: Any, former: Autoencoder | None, shared: Shared
    ) -> tuple[LeftOut | None, Baseline | None]:
        """Set the weights from which training starts; what tells the noise variance, and the linear model to beat."""
        has_left_out = valid is not None and self._design.is_gaussian and has_values(valid)
        needs_spectrum = has_left_out or (former is None and self._starts_at_pca())
        spectrum: Any = None
        if needs_spectrum:
            key = ("spectrum", id(train), self._design.is_diagonal, self.nz)
            spectrum = shared.once(key, partial(leading_components, module, train, self.nz))
        left_out = left_out_samples(spectrum, module.standardizer, train, valid, self.nz) if has_left_out else None
        if former is not None and left_out is None:
            return None, None
        factors = start(module, self._design, spectrum, train, is_carried=self._starts_at_pca())
        baseline = None if factors is None or left_out is None else linear_baseline(module, factors, train, left_out)
        return left_out, baseline

    def _device(
        self, processes: SingleProcess, module: Autoencoder, X: Any, max_epochs: int | None, former: Autoencoder | None
    ) -> str:
        """Where to train: for "auto" where the network is, or else on an accelerator where that pays."""
        device = processes.device
        if not has_float64(device) and X.dtype != np.float32:
            warnings.warn(
                f"device={device!r} has no float64, so {type(self).__name__} was trained on the CPU. Pass X "
                "in float32 to train on the device."
            )
            return "cpu"
        if self.device != "auto" or device == "cpu" or processes.size > 1:
            return device
        if former is not None:
            return str(former.standardizer.loc.device)
        return device if self._pays(module, X.shape[0], max_epochs) else "cpu"

    def _pays(self, module: Autoencoder, n_samples: int, max_epochs: int | None) -> bool:
        """Whether a training is long enough, and its steps are large enough, for an accelerator."""
        n_epochs = max_epochs or self._n_epochs(n_samples)
        n_steps = n_epochs * len(batch_sizes(n_samples, self._n_batch(n_samples)))
        # Each layer multiplies once on the way forward, and twice on the way back.
        n_products = 3 * sum(product_sizes(module, n_samples * module.n_train_draws))
        return pays(n_epochs * n_products, n_steps)

    def _seeds(self, processes: SingleProcess) -> dict[str, int]:
        """Random seeds of the parts of a fit, the same in all processes; those of a checkpoint, to go on from it."""
        if self.random_state is None and self.checkpoint is not None:
            from sklatent._nn.checkpoint import read_by_first, read_header

            header = read_by_first(read_header, self.checkpoint, processes)
            if header is not None:
                return dict(header["seeds"])
        return processes.from_first(dict(zip(SEEDS, spawn_seeds(self.random_state, len(SEEDS)), strict=True)))

    def _starts_at_pca(self) -> bool:
        return self.init == "pca" and self.backbone == "mlp"

    def _n_left_out(self, n_samples: int) -> int | float:
        """Number or fraction of samples that are not trained on.

        The network fits its training samples better than others, so their errors are too small for a noise variance. A
        linear one fits them as well as PCA does, which is known. Beyond some number more samples gain nothing: with m
        of them the noise variance costs about 1 / (2 m) nats.
        """
        if self.early_stopping:
            return self.validation_fraction
        if not self._design.is_gaussian or self._design.is_linear:
            return 0
        n_left_out = min(round(LEFT_OUT_FRACTION * n_samples), MAX_LEFT_OUT)
        return n_left_out if n_left_out > 1 else 0

    def _net(self, training: Training, callbacks: Sequence[Any], schedule: Schedule | None = None) -> "LatentNet":
        from sklatent._nn.training import LatentNet

        return LatentNet(
            training.module,
            schedule=schedule,
            seeds=(training.seeds["order"], training.seeds["noise"], training.seeds["valid_noise"]),
            max_epochs=training.max_epochs,
            batch_size=training.batch_size,
            lr=training.lr,
            weight_decay=self.weight_decay,
            max_gradient_norm=training.max_gradient_norm,
            generalization=None if training.left_out is None else training.left_out.factor,
            precision=self.precision,
            module_seed=training.seeds["layers"] if callable(self.backbone) else None,
            callbacks=list(callbacks),
            processes=training.processes,
            device=training.device,
            verbose=self.verbose,
        )

    def _publish(self, learned: Learned) -> None:
        for name, value in self._fitted_attributes(learned).items():
            setattr(self, name, value)
        if learned.training_state is None:  # the samples of `partial_fit` differ from call to call
            self._warn_where_worse()
        if not learned.improved:
            self._warn_of_linear_model()

    def _fitted_attributes(self, learned: Learned) -> dict[str, Any]:
        return {
            "module_": learned.module,
            "history_": learned.history,
            "loss_curve_": loss_curve(learned.history),
            "n_iter_": len(learned.history),
            "improved_": learned.improved,
            "n_components_": int(self.nz),
            "noise_variance_": learned.module.likelihood.noise_variance,
            "_architecture": {name: getattr(self, name) for name in self._ARCHITECTURE},
            "_draw_seed": learned.draw_seed,
            "_training_state": learned.training_state,
            **learned.latent_space,
        }

    def _warn_of_linear_model(self) -> None:
        warnings.warn(
            f"{type(self).__name__} is the linear model from which its training started: that describes the samples "
            "left out better than the trained network does. Pass more samples or smaller hidden_sizes, or use "
            "PCAReducer.",
            ConvergenceWarning,
        )

    def _warn_where_worse(self) -> None:
        problem = None if self.early_stopping else problem_of(self.module_, self.history_[0], self.history_[-1])
        if problem is not None:
            warnings.warn(
                f"{type(self).__name__} ended its training with {problem}. Try a smaller lr (now {self.lr}), or "
                "scale the features of X.",
                ConvergenceWarning,
            )

    def _schedule(self, training: Training) -> Schedule:
        return Schedule(training.n_steps, self.lr_schedule, self.kl_warmup)

    def _early_stopping(self) -> list[Any]:
        if not self.early_stopping:
            return []
        from skorch.callbacks import EarlyStopping

        # The validation loss has the full weight of the KL divergence also during the warm-up, so all epochs compare.
        return [EarlyStopping(patience=self.n_iter_no_change, threshold=self.tol, threshold_mode="abs", load_best=True)]

    def _checkpoint(self, X: Any, training: Training, early_stopping: Any = None) -> list[Any]:
        """The callback that writes checkpoints. Raise ValueError if the file belongs to a different fit."""
        if self.checkpoint is None:
            return []
        from sklatent._nn.checkpoint import Checkpoint

        fit = self._fingerprint(X, training.weights, training.module.state_dict())
        return [Checkpoint(self.checkpoint, {**fit, "seeds": training.seeds}, early_stopping, training.processes)]

    def _description(self, X: Any, weights: NDArray[Any] | None) -> dict[str, str]:
        """What all processes must have in common to train together."""
        given = {name: str(getattr(self, name) is not None) for name in ("random_state", "checkpoint")}
        return {**self._fingerprint(X, weights), **given}

    def _fingerprint(
        self, X: Any, weights: NDArray[Any] | None, start: dict[str, torch.Tensor] | None = None
    ) -> dict[str, str]:
        """Strings that identify a fit: of its data, its parameters, and its initial weights if they are given."""
        from sklatent._nn.checkpoint import fingerprint

        irrelevant = ("callbacks", "checkpoint", "device", "random_state", "verbose", "warm_start")
        params = {name: value for name, value in self.get_params().items() if name not in irrelevant}
        return fingerprint(chain(row_blocks(X), [] if weights is None else [weights]), params, start or {})

    def _report(self, context: Any, training: Training, X: Any) -> list[Any]:
        """The callback that tells scikit-learn's callbacks, if there are any, of the epochs."""
        if context is None:
            return []
        from sklatent._nn.callbacks import Report

        return [Report(context, self, X, partial(self._attributes_in_training, training, X))]

    def _attributes_in_training(self, training: Training, X: Any, net: "LatentNet") -> dict[str, Any]:
        """The attributes as if training ended here."""
        learned = self._learned(deepcopy(net.trained()), deepcopy(net.records()), training, X)
        return dict(vars(self)) | self._fitted_attributes(learned)

    def _begin_reports(self, X: Any, training: Training) -> Any:
        """scikit-learn's callback context for this fit; None before scikit-learn 1.9."""
        context = callback_context(self, max_subtasks=training.max_epochs)
        if context is not None:
            context.call_on_fit_task_begin(estimator=self, X=X)
        return context

    @property
    def _design(self) -> Architecture:
        """The parameters of the architecture as they are set now. `_architecture` has those of the last fit."""
        return Architecture.of(self)

    def _build_module(
        self, X: Any, seed: int, weights: NDArray[Any] | None = None, former: Autoencoder | None = None
    ) -> Autoencoder:
        design = self._design
        mean, variances, has_missing = moments_of_samples(X, weights)
        standardizer = Standardizer(torch.from_numpy(mean), design.scale(variances), torch.from_numpy(variances))
        likelihood = design.build_likelihood(standardizer)
        likelihood.has_missing = has_missing
        design.check_support(X, "unit interval" if self.output_activation == "sigmoid" else likelihood.support)
        # The encoder of a user's own has the inputs that it has.
        sees_missing = has_missing and not callable(self.backbone) if former is None else former.sees_missing
        prior = self._build_prior(X, standardizer, seed, weights)
        return self._join(standardizer, likelihood, prior, sees_missing, seed)

    def _join(
        self, standardizer: Standardizer, likelihood: Likelihood, prior: Prior, sees_missing: bool, seed: int | None
    ) -> Autoencoder:
        """The module with these parts; without a seed its weights are on the meta device."""
        design = self._design
        input_shape = design.input_shape(len(standardizer.loc))
        corrupt = design.build_corruption()
        encoder, decoder = design.build_networks(input_shape, self._code_parts(), sees_missing, seed)
        return self._assemble(encoder, decoder, standardizer, likelihood, prior, input_shape, corrupt, sees_missing)

    @abstractmethod
    def _code_parts(self) -> dict[str, int]:
        """Names and widths of the parts of the encoder's output, in their order."""

    @abstractmethod
    def _build_prior(
        self, X: NDArray[Any], standardizer: Standardizer, seed: int, weights: NDArray[Any] | None = None
    ) -> Prior:
        """The initial latent density."""

    @abstractmethod
    def _empty_prior(self, n_features: int) -> Prior:
        """The latent density of a fitted model, with its numbers on the meta device."""

    @abstractmethod
    def _assemble(self, *parts: Any) -> Autoencoder:
        """Build the module from the arguments of `Autoencoder`."""

    @abstractmethod
    def _describe_latent_space(
        self, module: Any, X: NDArray[Any], training: Training, weights: NDArray[Any] | None = None
    ) -> dict[str, Any]:
        """Estimate fitted attributes from latent codes of training samples, and set those of the module."""

    @abstractmethod
    def _log_likelihood(self, module: Any, X: NDArray[Any], seed: int) -> NDArray[Any]:
        """Log-likelihoods of samples under a network, whatever the parameters of `score_samples` are."""

    def _check_scorable(self, X: NDArray[Any]) -> None:
        self._design.check_support(X, self.module_.likelihood.support)

    def _n_batch(self, n_samples: int) -> int:
        if self.batch_size != "auto":
            return int(self.batch_size)
        return int(np.clip(2 ** round(math.log2(n_samples / 20)), 16, 128))

    def _n_epochs(self, n_samples: int) -> int:
        if self.max_epochs != "auto":
            return int(self.max_epochs)
        n_steps = len(batch_sizes(n_samples, self._n_batch(n_samples)))
        return int(np.clip(math.ceil(2000 / n_steps), 20, 50))

    def _sample(self, n_samples: int, mean: bool, seed: int) -> NDArray[Any]:
        generator = torch.Generator(self.module_.standardizer.loc.device).manual_seed(seed)
        with torch.no_grad():
            Z = self.module_.prior_density().sample(n_samples, generator).cpu().numpy()
        if mean:
            return self._by_chunks(self._decode, Z)
        draw = lambda module, z: module.likelihood.sample(module.decode(z), generator)  # noqa: E731
        return self._by_chunks(lambda Z: self._infer(draw, Z), Z)

    def _generator(self, rng: np.random.Generator) -> torch.Generator:
        """A generator on the device of the network, which continues that of NumPy."""
        return torch.Generator(self.module_.standardizer.loc.device).manual_seed(int(rng.integers(2**63)))

    def _feature_log_prob(self, X: NDArray[Any]) -> NDArray[Any]:
        scores = self._conditionals(X)
        scores[np.isnan(X)] = np.nan
        return scores

    @abstractmethod
    def _conditionals(self, X: NDArray[Any]) -> NDArray[Any]:
        """Log-density of each value given the others, with any number for missing ones."""

    def _encode(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._infer(lambda module, x: module.encode(x), X)

    def _decode(self, Z: NDArray[Any]) -> NDArray[Any]:
        return self._infer(lambda module, z: module.likelihood.mean(module.decode(z)), Z)

    def _infer(self, function: Callable[..., torch.Tensor], *arrays: NDArray[Any]) -> NDArray[Any]:
        return evaluate(self.module_, function, *arrays)

    def _by_chunks(self, hook: Callable[..., NDArray[Any]], *arrays: NDArray[Any], **kwargs: Any) -> NDArray[Any]:
        return super()._by_chunks(halving_out_of_memory(hook), *arrays, **kwargs)

    def _validate_training_rows(self, X: Any) -> Any:
        if is_lazy(X):
            X = counted(self._validate_lazy(X, reset=True))
        else:
            X = opened(X)
            if not is_sliceable(X):
                return super()._validate_training_rows(X)
            self._validate_stored(X, reset=True)
        for rows in row_blocks(X):
            check_array(rows, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan", estimator=self, input_name="X")
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _pack_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Arrays in place of tensors, so that a model trained on a GPU loads on a machine without one."""
        if "module_" not in state:
            return state
        module = state.pop("module_")
        is_code = callable(self._architecture["backbone"])
        packed = PickledModule(deepcopy(module).cpu()) if is_code else module_arrays(module)
        del state["loss_curve_"]  # a part of the history
        # First, so that skops names the reason before it meets the backbone.
        return {
            "module_": packed,
            **state,
            "history_": pack_history(state["history_"]),
            "_training_state": to_arrays(state["_training_state"]),
        }

    def _unpack_state(self, state: dict[str, Any]) -> dict[str, Any]:
        if "module_" not in state:
            return state
        packed, training_state = state["module_"], state["_training_state"]
        history = load_history(state["history_"], state["n_iter_"])
        module = packed.module if isinstance(packed, PickledModule) else self._load_module(state)
        return state | {
            "module_": module,
            "history_": history,
            "loss_curve_": loss_curve(history),
            "_training_state": None if training_state is None else load_training_state(training_state, module),
        }

    def _load_module(self, state: dict[str, Any]) -> Autoencoder:
        """The module that `fit` has built for the same architecture, with the arrays of a state."""
        architecture, n_features = state["_architecture"], state["n_features_in_"]
        unknown = sorted(set(architecture) - set(self._ARCHITECTURE))
        if unknown:
            raise ValueError(f"The architecture has unknown parameters {unknown}.")
        defaults = default_parameters(type(self)).items()  # type: ignore[arg-type]
        missing = {name: value for name, value in defaults if name in self._ARCHITECTURE}  # in an earlier version
        model = with_attributes(type(self), state | missing | architecture)
        validate_parameters(model)
        if state["n_components_"] != model.nz:
            raise ValueError(f"n_components_ must be nz={model.nz}, got {state['n_components_']}.")
        module = model._empty_module(state["module_"], n_features)
        load_arrays(module, state["module_"]["arrays"])
        return module.eval()

    def _empty_module(self, packed: dict[str, Any], n_features: int) -> Autoencoder:
        """The module with the standardizer from its arrays, and all other numbers on the meta device."""
        standardizer = load_standardizer(packed["standardizer"], n_features, has_scales=self._design.is_diagonal)
        likelihood = self._design.build_likelihood(standardizer)
        likelihood.has_missing = bool(packed["has_missing"])
        prior = self._empty_prior(n_features)
        return self._join(standardizer, likelihood, prior, bool(packed["sees_missing"]), seed=None)
