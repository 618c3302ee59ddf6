"""Base class of the two network estimators: parameters, training and inference."""

__all__ = ["BaseAutoencoder", "Training"]

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
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
from sklatent._nn.backbones import ACTIVATIONS, BACKBONES, add_indicators, build_backbone
from sklatent._nn.data import MappedRows, Rows, batch_sizes
from sklatent._nn.devices import has_float64, pays, resolve_device
from sklatent._nn.distributed import ALONE, SingleProcess, is_parallel, process_group
from sklatent._nn.inference import evaluate, halving_out_of_memory
from sklatent._nn.left_out import Baseline, LeftOut, left_out_samples, linear_baseline
from sklatent._nn.likelihoods import GAUSSIANS, LIKELIHOODS, MIN_VARIANCE, SUPPORTS, Gaussian, Likelihood, Standardizer
from sklatent._nn.modules import CORRUPTIONS, Autoencoder, Corruption
from sklatent._nn.priors import Prior
from sklatent._nn.randomness import SEEDS
from sklatent._nn.schedules import PRECISIONS, SCHEDULES, Schedule
from sklatent._nn.start import start_at_pca
from sklatent._nn.state import (
    PickledModule,
    load_arrays,
    load_history,
    load_standardizer,
    load_training_state,
    module_arrays,
    pack_history,
    to_arrays,
)
from sklatent._nn.summaries import (
    lr_divisor,
    moments_of_samples,
    rough_spectrum,
    some_standardized,
    some_weighted_rows,
    tail_weight,
    with_weight,
)
from sklatent._nn.threads import product_sizes
from sklatent._ppca.density import bound_noise_variance, initial_loadings
from sklatent._ppca.factors import Factors, factor_analysis
from sklatent._ppca.missing_values import (
    factors_of_incomplete,
)
from sklatent._ppca.moments import total_weight
from sklatent._ppca.solvers import Spectrum, decompose
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
# Increase of the loss over the training that causes a warning, in nats per feature and as a fraction of the first loss.
# Random fluctuations are smaller.
WORSE_BY = 0.02
# Mean squared error that causes a warning, as a multiple of the mean variance of the features.
WORSE_THAN_MEAN = 1.5
# Parameters in which networks trained as one may differ: widths that can be padded, numbers that can be stacked, and
# what matters before or after training only.
FREE_PARAMETERS = frozenset({"nz", "beta", "noise", "kl_warmup", "random_state", "n_draws", "density", "verbose"})
# Fraction of the samples that are left out of the training for the noise variance, and their largest number.
LEFT_OUT_FRACTION = 0.1
MAX_LEFT_OUT = 100
# With a variance for each feature a network sees each in units of its own standard deviation: in one unit for all it
# learns those of small variance too slowly, and a linear VAE of the digits is 9 nats worse. But a nearly constant one
# would be large where it varies, and throw training about: so much of the common unit is added in squares.
MIN_UNIT = 0.1


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
    _ARCHITECTURE: ClassVar[tuple[str, ...]] = (
        "nz",
        "backbone",
        "hidden_sizes",
        "activation",
        "image_shape",
        "likelihood",
        "output_activation",
        "noise",
        "noise_kind",
    )
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
        self._check_callbacks(training)
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
        samples: dict[Hashable, tuple[Any, Any]] = {}
        trainings = [model._prepare_shared(*pair, samples) for model, pair in zip(models, pairs, strict=True)]
        numbered = {k: training for k, training in enumerate(trainings) if training is not None}
        learned: list[Any] = [None] * len(models)
        trainees = [models[k]._trainee(training) for k, training in numbered.items()]
        for k, outcome in zip(numbered, train_together(trainees, max_models, n_beside, progress), strict=True):
            learned[k] = outcome
            if not (outcome is None or isinstance(outcome, Exception)):
                model, training, (X, _) = models[k], numbered[k], pairs[k]
                trained = model._learned(outcome.trained(), outcome.records(), training, X)
                learned[k] = model._better_of_both(trained, training, X)
        return learned

    @property
    def _free_parameters(self) -> frozenset[str]:  # type: ignore[override]
        # To a backbone of the user's own nobody knows what nz means.
        return FREE_PARAMETERS - {"nz"} if callable(self.backbone) else FREE_PARAMETERS

    def _prepare_shared(
        self, X: NDArray[Any], weights: NDArray[Any] | None, samples: dict[Hashable, tuple[Any, Any]]
    ) -> Training | None:
        """What to train, with the samples on the device shared; None where it can only be trained by itself."""
        if self.callbacks or self.checkpoint is not None:  # both follow one network, step by step
            return None
        try:
            validate_parameters(self)
            training = self._prepare(X, weights=weights)
        except Exception:  # which the fit by itself meets too, and there it is reported
            return None
        split = None if training.valid is None else (training.seeds["split"], len(training.valid))
        key = (id(X), id(weights), training.device, split)
        training.train, training.valid = samples.setdefault(key, (training.train, training.valid))
        return training

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
    ) -> Training:
        """Build the network and its data; with `former`, the network starts from its weights."""
        processes = processes or SingleProcess(resolve_device(self.device))
        seeds = self._seeds(processes)
        module = self._build_module(X, seeds["weights"], weights, former)
        device = self._device(processes, module, X, max_epochs, former)
        is_further = max_epochs is not None  # `partial_fit` trains on all samples of a call
        n_left_out = 0 if is_further else self._n_left_out(total_weight(weights, X.shape[0])[1])
        train, valid = self._split(X, n_left_out, seeds["split"], device, weights, module.likelihood.has_missing)
        has_left_out = valid is not None and self._is_gaussian() and _has_values(valid)
        needs_spectrum = has_left_out or (former is None and self._starts_at_pca())
        spectrum: Any = self._spectrum(module, train) if needs_spectrum else None
        left_out = left_out_samples(spectrum, module.standardizer, train, valid, self.nz) if has_left_out else None
        factors = self._start(module, spectrum, train) if former is None or left_out is not None else None
        baseline = None if factors is None or left_out is None else linear_baseline(module, factors, train, left_out)
        if former is not None:
            _adopt(module, former)
        tail = tail_weight(X, module.standardizer, weights)
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
        """Random seeds of the parts of a fit, the same in all processes."""
        seeds = dict(zip(SEEDS, spawn_seeds(self.random_state, len(SEEDS)), strict=True))
        if self.random_state is None and (header := self._checkpoint_header(processes)) is not None:
            return header["seeds"]
        return processes.from_first(seeds)

    def _spectrum(self, module: Autoencoder, train: Any) -> Spectrum:
        """Leading principal components of the standardized training samples."""
        rows, weights = some_standardized(train, module.standardizer)
        solve = rough_spectrum if module.likelihood.has_missing else decompose
        return solve(rows, nz=min(self.nz, *rows.shape), weights=weights)

    def _start(self, module: Autoencoder, spectrum: Spectrum, train: Any) -> Factors | None:
        """Set the weights and the noise variance from which training starts; return the linear model if it is one."""
        standardizer, likelihood = module.standardizer, module.likelihood
        is_linear = self._is_gaussian() and self.output_activation is None
        is_diagonal = self.likelihood == "gaussian_diagonal"
        if not (self._starts_at_pca() or is_diagonal):
            return None
        factors = self._factors(module, spectrum, train)
        noise = torch.from_numpy(factors.noise) * standardizer.scale**2
        if not (self._starts_at_pca() and is_linear):  # the level is that of the data
            noise *= standardizer.variances.mean() / noise.mean()
        if self._starts_at_pca():
            # A logit changes by at least four times as much as the probability. A quarter of that is enough of a start,
            # and better on MNIST; with the other links the decoder's share costs up to 13 nats on digits.
            unit = 1.0 if is_linear else float(standardizer.scale) if self.likelihood == "bernoulli" else None
            origin = likelihood.start(standardizer.loc)
            # Without a KL divergence, beta = 1 gives the best codes of samples with as much noise again. With beta = 0
            # the gradient of the encoder would be zero but for rounding, which Adam turns into whole steps.
            parts = module.encoder, module.decoder, factors, self.nz, module.beta or 1.0
            start_at_pca(*parts, is_linear=is_linear, unit=unit, origin=origin)
        if isinstance(likelihood, Gaussian):
            likelihood.set_noise_variance(noise)
        return factors if self._starts_at_pca() and is_linear else None

    def _starts_at_pca(self) -> bool:
        return self.init == "pca" and self.backbone == "mlp"

    def _factors(self, module: Autoencoder, spectrum: Spectrum, train: Any) -> Factors:
        """The linear model of the standardized samples: factor analysis for a variance for each feature, or PCA."""
        if self.likelihood == "gaussian_diagonal":
            rows, weights = some_standardized(train, module.standardizer)
            fit_factors = factors_of_incomplete if module.likelihood.has_missing else factor_analysis
            return fit_factors(rows.astype(np.float64), self.nz, weights)
        noise = max(bound_noise_variance(spectrum, self.nz, module.beta), MIN_VARIANCE)
        k = min(self.nz, len(spectrum.components))
        return Factors(initial_loadings(spectrum, k, module.beta * noise), np.full(len(module.standardizer.loc), noise))

    def _is_gaussian(self) -> bool:
        return self.likelihood in GAUSSIANS

    def _is_linear(self) -> bool:
        return self.backbone == "mlp" and self.hidden_sizes is not None and len(self.hidden_sizes) == 0

    def _n_left_out(self, n_samples: int) -> int | float:
        """Number or fraction of samples that are not trained on.

        The network fits its training samples better than others, so their errors are too small for a noise variance. A
        linear one fits them as well as PCA does, which is known. Beyond some number more samples gain nothing: with m
        of them the noise variance costs about 1 / (2 m) nats.
        """
        if self.early_stopping:
            return self.validation_fraction
        if not self._is_gaussian() or self._is_linear():
            return 0
        n_left_out = min(round(LEFT_OUT_FRACTION * n_samples), MAX_LEFT_OUT)
        return n_left_out if n_left_out > 1 else 0

    def _split(
        self,
        X: Any,
        n_left_out: int | float,
        seed: int,
        device: str,
        weights: NDArray[Any] | None = None,
        has_missing: bool = False,
    ) -> tuple[Any, Any]:
        """Samples to train on, and those that are left out or None."""
        if not is_sliceable(X):
            if not n_left_out:
                return Rows(X, device, weights), None
            parts = train_test_split(np.arange(len(X)), test_size=n_left_out, random_state=seed)
            train, valid = (Rows(X[part], device, None if weights is None else weights[part]) for part in parts)
            return train, valid
        used = None if weights is None else weights > 0
        if not n_left_out:
            return MappedRows(X, device, used, weights, has_missing), None
        numbers = np.arange(X.shape[0]) if used is None else np.flatnonzero(used)
        left_out = np.zeros(X.shape[0], dtype=bool)
        left_out[train_test_split(numbers, test_size=n_left_out, random_state=seed)[1]] = True
        kept = ~left_out if used is None else used & ~left_out
        given: dict[str, Any] = {"weights": weights, "has_missing": has_missing}
        return MappedRows(X, device, kept, **given), MappedRows(X, device, left_out, **given)

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
            "loss_curve_": _loss_curve(learned.history),
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
        problem = None if self.early_stopping else self._problem(self.history_[0], self.history_[-1])
        if problem is not None:
            warnings.warn(
                f"{type(self).__name__} ended its training with {problem}. Try a smaller lr (now {self.lr}), or "
                "scale the features of X.",
                ConvergenceWarning,
            )

    def _problem(self, first: dict[str, Any], last: dict[str, Any]) -> str | None:
        """In words, whether reconstructions are worse than the mean, or the loss is worse than after the first epoch.

        Where there is a noise variance the loss does not tell, since the samples left out may raise the variance.
        """
        variance = float(self.module_.standardizer.variances.mean())
        if "noise_variance" in last:
            before, after = first["noise_variance"], last["noise_variance"]
            words = f"a mean squared error of {after:.6g}, more than {before:.6g} after the first epoch"
            return words if variance and after > max(2 * before, WORSE_THAN_MEAN * variance) else None
        before, after = (end["train_reconstruction"] + self.module_.beta * end["train_kl"] for end in (first, last))
        words = f"a loss of {after:.6g} nats per sample, worse than {before:.6g} after the first epoch"
        return words if variance and after > before + WORSE_BY * (abs(before) + self.n_features_in_) else None

    def _schedule(self, training: Training) -> Schedule:
        return Schedule(training.n_steps, self.lr_schedule, self.kl_warmup)

    def _early_stopping(self) -> list[Any]:
        if not self.early_stopping:
            return []
        from skorch.callbacks import EarlyStopping

        # The validation loss has the full weight of the KL divergence also during the warm-up, so all epochs compare.
        return [EarlyStopping(patience=self.n_iter_no_change, threshold=self.tol, threshold_mode="abs", load_best=True)]

    def _check_callbacks(self, training: Training) -> None:
        """Raise ValueError for a skorch callback that monitors a validation loss without a validation set."""
        for entry in self.callbacks or []:
            callback = entry[1] if isinstance(entry, tuple) else entry
            monitor = getattr(callback, "monitor", None)
            if training.valid is None and isinstance(monitor, str) and monitor.startswith("valid_"):
                raise ValueError(
                    f"callbacks must not monitor {monitor!r} with early_stopping=False, got "
                    f"{type(callback).__name__}(monitor={monitor!r}): no samples are left out to compute it. Pass "
                    f"early_stopping=True, or monitor={monitor.replace('valid_', 'train_', 1)!r}."
                )

    def _checkpoint(self, X: Any, training: Training, early_stopping: Any = None) -> list[Any]:
        """The callback that writes checkpoints. Raise ValueError if the file belongs to a different fit."""
        if self.checkpoint is None:
            return []
        from sklatent._nn.checkpoint import Checkpoint

        start = training.module.state_dict()
        header = {**self._fingerprint(X, training.weights, start), "seeds": training.seeds}
        if (found := self._checkpoint_header(training.processes)) is not None:
            differences = [name for name in header if header[name] != found.get(name)]
            if differences:
                raise ValueError(
                    f"checkpoint={str(self.checkpoint)!r} belongs to another fit: its {' and '.join(differences)} are "
                    "not those of this one. Remove it, or pass another path."
                )
        return [Checkpoint(self.checkpoint, header, early_stopping, training.processes)]

    def _checkpoint_header(self, processes: SingleProcess) -> dict[str, Any] | None:
        """The header of the checkpoint that the first process finds; None if there is none."""
        if self.checkpoint is None:
            return None
        from sklatent._nn.checkpoint import read_header

        is_found = processes.rank == 0 and Path(self.checkpoint).exists()
        found: dict[str, Any] | None = processes.from_first(read_header(self.checkpoint) if is_found else None)
        return found

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

    def _build_module(
        self, X: Any, seed: int, weights: NDArray[Any] | None = None, former: Autoencoder | None = None
    ) -> Autoencoder:
        input_shape = self._input_shape(X.shape[1])
        mean, variances, has_missing = moments_of_samples(X, weights)
        standardizer = Standardizer(torch.from_numpy(mean), self._scale(variances), torch.from_numpy(variances))
        likelihood = self._build_likelihood(standardizer)
        likelihood.has_missing = has_missing
        self._check_support(X, "unit interval" if self.output_activation == "sigmoid" else likelihood.support)
        if self.noise_kind == "masking" and self.noise != "auto" and self.noise >= 1:
            raise ValueError(f"noise={self.noise} must be a fraction in [0, 1) with noise_kind='masking'.")
        # The encoder of a user's own has the inputs that it has.
        sees_missing = has_missing and not callable(self.backbone) if former is None else former.sees_missing
        prior = self._build_prior(X, standardizer, seed, weights)
        return self._join(input_shape, standardizer, likelihood, prior, sees_missing, seed)

    def _join(
        self,
        input_shape: tuple[int, ...],
        standardizer: Standardizer,
        likelihood: Likelihood,
        prior: Prior,
        sees_missing: bool,
        seed: int | None,
    ) -> Autoencoder:
        """The module with these parts; without a seed its weights are on the meta device."""
        encoder, decoder = build_backbone(
            self.backbone,
            input_shape,
            self.nz,
            self._code_parts(),
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            seed=seed,
        )
        if sees_missing:
            add_indicators(encoder)
        noise = self._noise()
        corrupt = Corruption(self.noise_kind, noise) if noise else None
        return self._assemble(encoder, decoder, standardizer, likelihood, prior, input_shape, corrupt, sees_missing)

    def _noise(self) -> float | str:
        """Amount of corruption in training. "auto" is none where there is no noise variance, or no layer to overfit."""
        is_for_auto = self._is_gaussian() and not self._is_linear() and self.noise_kind == "gaussian"
        return 0.0 if self.noise == "auto" and not is_for_auto else self.noise

    def _scale(self, variances: NDArray[Any]) -> float | NDArray[Any]:
        """Units in which the network sees the columns: one for all, or with a variance for each one for each."""
        scale = float(np.sqrt(variances.mean())) or 1.0
        return scale if self.likelihood != "gaussian_diagonal" else np.sqrt(variances + (MIN_UNIT * scale) ** 2)

    def _build_likelihood(self, standardizer: Standardizer) -> Likelihood:
        if self.output_activation is None:
            return LIKELIHOODS[self.likelihood](standardizer)
        if self.likelihood not in GAUSSIANS:
            raise ValueError(
                f"output_activation={self.output_activation!r} is only supported with likelihood in {GAUSSIANS}, got "
                f"likelihood={self.likelihood!r}, which has a link of its own."
            )
        return LIKELIHOODS[self.likelihood](standardizer, link=self.output_activation)

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

    def _input_shape(self, n_features: int) -> tuple[int, ...]:
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

    def _check_scorable(self, X: NDArray[Any]) -> None:
        self._check_support(X, self.module_.likelihood.support)

    def _check_support(self, X: NDArray[Any], support: str) -> None:
        words, holds = SUPPORTS[support]
        for rows in row_blocks(X):
            if np.isnan(rows).any():
                rows = rows[~np.isnan(rows)]
            if rows.size and not holds(rows):
                raise ValueError(
                    f"X must {words} with likelihood={self.likelihood!r} and "
                    f"output_activation={self.output_activation!r}, got values from {rows.min():g} to {rows.max():g}."
                )

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
            "loss_curve_": _loss_curve(history),
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
        input_shape = self._input_shape(n_features)
        has_scales = self.likelihood == "gaussian_diagonal"
        standardizer = load_standardizer(packed["standardizer"], n_features, has_scales)
        likelihood = self._build_likelihood(standardizer)
        likelihood.has_missing = bool(packed["has_missing"])
        prior = self._empty_prior(n_features)
        return self._join(input_shape, standardizer, likelihood, prior, bool(packed["sees_missing"]), seed=None)


def _has_values(rows: Rows | MappedRows) -> bool:
    """Whether any value is observed. Samples without do not tell the noise variance."""
    return rows.observed is None or bool(rows.observed.any())


def _loss_curve(history: list[dict[str, Any]]) -> list[float]:
    return [epoch["train_loss"] for epoch in history]


def _adopt(module: Autoencoder, former: Autoencoder) -> None:
    """Copy the weights of a previous module into a new one, and the centre and scale of the features."""
    state = former.state_dict()
    try:
        module.load_state_dict({name: state[name] for name in module.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            "Cannot reuse the previous weights: an architecture parameter or the number of features changed. Set "
            f"warm_start=False and call fit. {error}"
        ) from error
