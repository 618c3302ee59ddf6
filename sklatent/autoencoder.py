"""The autoencoder, and what it shares with the variational one."""

__all__ = ["AutoencoderTransformer"]

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils._param_validation import Interval, StrOptions

from sklatent.base import SequenceOf, _BaseLatentModel, resolve_device, spawn_seeds
from sklatent.batches import Rows
from sklatent.likelihoods import LIKELIHOODS, SUPPORTS, Gaussian, Standardizer
from sklatent.linalg import mean_and_variance
from sklatent.networks import ACTIVATIONS, BACKBONES, CORRUPTIONS, Autoencoder, Backbone, build_backbone
from sklatent.objectives import gauss_newton_codes, laplace_evidence, reconstruction_terms
from sklatent.priors import Normal, Prior, StandardNormal
from sklatent.training import LatentNet, StopEarly, lr_scheduler

# What is learned of the codes after training is learned from at most so many of the rows.
MAX_ROWS_AFTER_TRAINING = 10_000
# Least variance of the codes along any direction, over the largest.
MIN_LATENT_VARIANCE = 1e-9

# Scores of the autoencoder.
DENSITIES: dict[str, Callable[[Autoencoder, torch.Tensor], torch.Tensor]] = {
    "laplace": laplace_evidence,
    "residual": lambda module, x: -reconstruction_terms(module, x).reconstruction,
}

# Float64 twins of fitted modules, each with the state of the weights that it was made from: made when float64 rows
# first come, dropped with the module. They are kept here and not on the estimator, which `transform` leaves as it is.
_float64_twins: WeakKeyDictionary[Autoencoder, tuple[list[tuple[int, int]], Autoencoder]] = WeakKeyDictionary()


class _BaseAutoencoder(_BaseLatentModel):
    """Parameters, training and inference of a network with an encoder and a decoder."""

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "nz": [Interval(Integral, 1, None, closed="left")],
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
        "lr_schedule": [StrOptions({"constant", "cosine"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "device": [str],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    module_: Autoencoder

    def __init__(
        self,
        nz,
        *,
        backbone,
        hidden_sizes,
        activation,
        image_shape,
        likelihood,
        output_activation,
        noise,
        noise_kind,
        max_epochs,
        batch_size,
        lr,
        lr_schedule,
        early_stopping,
        validation_fraction,
        n_iter_no_change,
        tol,
        device,
        verbose,
        random_state,
    ):
        self.nz = nz
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
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def _fit(self, X: NDArray) -> None:
        device = resolve_device(self.device)
        weights, order, noise, valid_noise, split, draws = spawn_seeds(self.random_state, 6)
        module = self._build_module(X, weights)
        train, valid = X, None
        if self.early_stopping:
            train, valid = train_test_split(X, test_size=self.validation_fraction, random_state=split)
        n_batch, n_epochs = self._n_batch(len(train)), self._n_epochs(len(train))
        net = LatentNet(
            module,
            seeds=(order, noise, valid_noise),
            max_epochs=n_epochs,
            batch_size=n_batch,
            lr=self.lr,
            # The one variance has as far to go as a weight has, and no network to help it.
            optimizer__param_groups=[("likelihood.log_variance", {"lr": 10 * self.lr})],
            callbacks=self._callbacks(n_epochs * math.ceil(len(train) / n_batch)),
            device=device,
            verbose=self.verbose,
        )
        net.train(Rows(train, device), None if valid is None else Rows(valid, device))
        self.module_ = net.module_.eval()
        self.history_ = net.history
        self.loss_curve_ = net.history[:, "train_loss"]
        self.n_iter_ = len(net.history)
        self.n_components_ = int(self.nz)
        self._draw_seed = draws

    def _build_module(self, X: NDArray, seed: int) -> Autoencoder:
        input_shape = self._input_shape(X.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported as what it is
            mean, variances = mean_and_variance(X)
        scale = float(np.sqrt(variances.mean())) or 1.0
        standardizer = Standardizer(torch.from_numpy(mean), scale, torch.from_numpy(variances))
        link = {} if self.output_activation is None else {"link": self.output_activation}
        likelihood = LIKELIHOODS[self.likelihood](standardizer, **link)
        self._check_support(X, "unit interval" if self.output_activation == "sigmoid" else likelihood.support)
        if self.noise_kind == "masking" and self.noise >= 1:
            raise ValueError(f"noise={self.noise} must be a share in [0, 1) with noise_kind='masking'.")
        encoder, decoder = build_backbone(
            self.backbone,
            input_shape,
            self.nz,
            self._n_code(),
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            seed=seed,
        )
        corrupt = partial(CORRUPTIONS[self.noise_kind], amount=self.noise) if self.noise else None
        prior = self._build_prior(X, standardizer, seed)
        return self._assemble(encoder, decoder, standardizer, likelihood, prior, input_shape, corrupt)

    @abstractmethod
    def _n_code(self) -> int:
        """Width of the encoder's output."""

    @abstractmethod
    def _build_prior(self, X: NDArray, standardizer: Standardizer, seed: int) -> Prior:
        """The density of the codes that training starts with."""

    @abstractmethod
    def _assemble(self, *parts: Any) -> Autoencoder:
        """The module of encoder, decoder, standardizer, likelihood, prior, input shape and corruption."""

    def _callbacks(self, n_steps: int) -> list:
        return self._early_stopping() + lr_scheduler(self.lr_schedule, n_steps)

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

    def _check_scorable(self, X: NDArray) -> None:
        self._check_support(X, self.module_.likelihood.support)

    def _check_support(self, X: NDArray, support: str) -> None:
        words, holds = SUPPORTS[support]
        if not holds(X):
            raise ValueError(
                f"X must {words} with likelihood={self.likelihood!r} and "
                f"output_activation={self.output_activation!r}, got values from {X.min():g} to {X.max():g}."
            )

    def _n_batch(self, n_samples: int) -> int:
        if self.batch_size != "auto":
            return int(self.batch_size)
        return int(np.clip(2 ** round(math.log2(n_samples / 20)), 32, 256))

    def _n_epochs(self, n_samples: int) -> int:
        if self.max_epochs != "auto":
            return int(self.max_epochs)
        n_steps = math.ceil(n_samples / self._n_batch(n_samples))
        return int(np.clip(math.ceil(2000 / n_steps), 20, 50))

    def _early_stopping(self) -> list:
        if not self.early_stopping:
            return []
        stop = StopEarly(
            patience=self.n_iter_no_change, threshold=self.tol, threshold_mode="abs", load_best=True, sink=print
        )
        return [("early_stopping", stop)]

    def _sample(self, n_samples: int, mean: bool, seed: int) -> NDArray:
        generator = torch.Generator(self.module_.standardizer.loc.device).manual_seed(seed)
        with torch.no_grad():
            Z = self.module_.prior_density().sample(n_samples, generator).cpu().numpy()
        if mean:
            return self._by_chunks(self._decode, Z)
        draw = lambda module, z: module.likelihood.sample(module.decoder(z), generator)  # noqa: E731
        return self._by_chunks(lambda Z: self._infer(draw, Z), Z)

    def _encode(self, X: NDArray) -> NDArray:
        return self._infer(lambda module, x: module.encode(x), X)

    def _decode(self, Z: NDArray) -> NDArray:
        return self._infer(lambda module, z: module.likelihood.mean(module.decoder(z)), Z)

    def _infer(self, function: Callable[..., torch.Tensor], rows: NDArray, *args: NDArray) -> NDArray:
        """Call function(module, rows, *args) in the precision of the rows."""
        module = _float64_twin(self.module_) if rows.dtype == np.float64 else self.module_
        device = module.standardizer.loc.device
        with torch.no_grad():
            tensors = [Rows(array, device).X for array in (rows, *args)]
            return function(module, *tensors).cpu().numpy()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "module_" in state:  # so that a model trained on a GPU loads where there is none
            state["module_"] = deepcopy(state["module_"]).cpu()
        return state


class AutoencoderTransformer(_BaseAutoencoder):
    r"""Autoencoder: the curved manifold through the data, with a density about it.

    An encoder f and a decoder g are trained to copy each row through a code of `nz` numbers,

    .. math:: \min_{f, g, s} \; -\frac1n \sum_i \ln p(x_i | z = f(x_i)),

    which is the squared error with the Gaussian likelihood and the binary cross-entropy with the Bernoulli one. A
    normal density N(m, S) of the codes is fitted after training, so that the model can be scored and sampled. With
    `hidden_sizes=()` the model is linear: it spans the plane of PCA, along other axes, and scores as probabilistic PCA.

    Parameters
    ----------
    nz : int, default=2
        Dimension of the codes.
    backbone : {"mlp", "conv"} or callable, default="mlp"
        The network. "mlp" takes any columns; "conv" is the chapter's convolutional pair, for images. A callable
        `backbone(input_shape, nz, n_code)` returns an encoder from `(n, *input_shape)` to `(n, n_code)` and a decoder
        from `(n, nz)` to n rows of n_features numbers, in any shape.
    hidden_sizes : list or tuple of int, default=None
        Widths of the hidden layers of the "mlp" encoder, which the decoder has in reverse; () makes it linear. For
        "conv" the channels of its blocks. None stands for (w, w / 2) with w the power of two nearest to 4 n_features
        between 64 and 512, and for the chapter's (32, 128, 256). Not used by a callable.
    activation : {"relu", "silu", "tanh", "gelu"}, default="silu"
        Between the layers. Not used by a callable.
    image_shape : (channels, height, width), default=None
        How to fold a row for "conv" or a callable. None stands for a square image of one channel with "conv", and for
        (n_features,) otherwise.
    likelihood : str, default="gaussian"
        x given z: "gaussian" with one learned variance, "gaussian_diagonal" with one for each feature; "bernoulli" for
        X of zeros and ones, which takes grey levels in [0, 1] too but is no density for them, as the
        "continuous_bernoulli" is; "poisson" for counts.
    output_activation : {"sigmoid"} or None, default=None
        None leaves the link to the likelihood. "sigmoid" bounds the output of the Gaussian one, for X in [0, 1].
    noise : float, default=0.0
        Corruption of the encoder's input in training; the target and all scores stay clean. With "gaussian" the
        deviation of what is added, in units of the root mean deviation of the columns.
    noise_kind : {"gaussian", "masking"}, default="gaussian"
        "masking" puts the column mean in place of a share `noise` of the entries.
    density : {"laplace", "residual"}, default="laplace"
        What `score_samples` gives: Laplace's approximation to log p(x), or log p(x | z) at the code of x, which is
        cheaper but no density and grows with nz.
    max_epochs : int or "auto", default="auto"
        Passes over the rows. "auto" makes about 2000 steps, but at least 20 passes and at most 50.
    batch_size : int or "auto", default="auto"
        Rows a step. "auto" takes the power of two nearest to n_samples / 20 between 32 and 256.
    lr : float, default=5e-3
        Largest learning rate of Adam.
    lr_schedule : {"cosine", "constant"}, default="cosine"
        "cosine" rises over the first tenth of the steps and then falls to zero.
    early_stopping : bool, default=False
        Whether to leave out rows, stop when their loss no longer falls, and restore the weights of the best epoch.
    validation_fraction : float, default=0.1
        Share of the rows left out with `early_stopping`.
    n_iter_no_change : int, default=5
        Epochs without a better validation loss after which to stop.
    tol : float, default=1e-4
        By how many nats a loss has to be better.
    device : str, default="auto"
        "cpu", "cuda" or "cuda:<number>"; "auto" takes CUDA where PyTorch finds it.
    verbose : int, default=0
        1 prints a line an epoch.
    random_state : int, RandomState instance or None, default=None
        Of the weights, the order of the rows and the noise. Pass an int for the same model at each fit. The global
        generators of PyTorch and NumPy are neither read nor moved.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, in evaluation mode.
    latent_mean_ : ndarray of shape (nz,)
        m, the mean of the codes that fit the training rows best.
    latent_covariance_ : ndarray of shape (nz, nz)
        S, their covariance less the error of each.
    noise_variance_ : float or ndarray of shape (n_features,)
        Variance of x given z, in squared units of X: the squared error over n_features - nz degrees of freedom. one
        for each feature with "gaussian_diagonal", NaN with the other likelihoods.
    n_components_ : int
        nz.
    n_iter_ : int
        Number of epochs.
    loss_curve_ : list of float, one an epoch
        Mean training loss of a row, in nats.
    history_ : skorch.history.History
        A record an epoch: `train_loss`, `train_reconstruction` (minus log p(x | z)), `train_kl`, `dur` in seconds, and
        with `early_stopping` the same for `valid_`. `history_[:, "train_kl"]` is a curve.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Column names, where `fit` saw string names.

    Notes
    -----
    Columns are centred and divided by one scale for all of them, so units and offsets do not matter but the relative
    spread of columns does, as for PCA: scale them first where they should count alike.

    How the defaults were chosen, by held-out nats of a VAE on digits (nz=8) unless said otherwise. `activation`: "silu"
    gained 2 to 3 nats on "relu" with two hidden layers. `hidden_sizes`: (256, 128) gained 6 on (128,) and 1 on
    (128, 64); (512, 256) was no better there, but is on MNIST, hence the rule by n_features. `batch_size` and
    `max_epochs`: about 2000 steps suffice, and beyond 50 passes small tables overfit (breast cancer, scaled: 2 nats
    lost at 200). `lr`: 28.9, 35.5 and 36.4 at 1e-3, 3e-3 and 6e-3; MNIST gained 1 nat from 3e-3 to 5e-3.
    `lr_schedule`: on unscaled wine and breast cancer the cosine halved an autoencoder's error; on digits the two were
    alike. `early_stopping` is off, as in scikit-learn's perceptrons.

    See Also
    --------
    PCAReducer : The flat manifold.
    VAETransformer : Regularizes the codes in training.

    References
    ----------
    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.5 and listings 14.2 to 14.4.

    Examples
    --------
    A curve that one principal component cannot follow:

    >>> from sklatent import AutoencoderTransformer, PCAReducer
    >>> from sklatent.datasets import make_curve_cloud
    >>> X = make_curve_cloud(random_state=0)
    >>> autoencoder = AutoencoderTransformer(1, random_state=0).fit(X)
    >>> bool(autoencoder.score(X) > PCAReducer(1).fit(X).score(X) + 0.5)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **_BaseAutoencoder._parameter_constraints,
        "density": [StrOptions(set(DENSITIES))],
    }

    def __init__(
        self,
        nz: int = 2,
        *,
        backbone: Literal["mlp", "conv"] | Backbone = "mlp",
        hidden_sizes: Sequence[int] | None = None,
        activation: str = "silu",
        image_shape: tuple[int, int, int] | None = None,
        likelihood: str = "gaussian",
        output_activation: Literal["sigmoid"] | None = None,
        noise: float = 0.0,
        noise_kind: Literal["gaussian", "masking"] = "gaussian",
        density: Literal["laplace", "residual"] = "laplace",
        max_epochs: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        lr: float = 5e-3,
        lr_schedule: str = "cosine",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ):
        self.density = density
        super().__init__(
            nz,
            backbone=backbone,
            hidden_sizes=hidden_sizes,
            activation=activation,
            image_shape=image_shape,
            likelihood=likelihood,
            output_activation=output_activation,
            noise=noise,
            noise_kind=noise_kind,
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr,
            lr_schedule=lr_schedule,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            device=device,
            verbose=verbose,
            random_state=random_state,
        )

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Estimate of log p(x) for each row, or log p(x | z) with `density="residual"`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        score : ndarray of shape (n_samples,), float64
            Nats, with respect to Lebesgue measure in the units of X (to counting measure with "bernoulli" and
            "poisson"). "laplace" estimates the density: it is exact for a linear decoder, and elsewhere takes the
            manifold about the most probable code of x as its tangent plane. It costs some 6 nz + 25 passes through the
            decoder, and can err by much far from all that was seen in training. "residual" is the density of x given
            the code that the encoder gives, for one pass; it does not integrate to one over x: compare it at one nz
            only.
        """
        return super().score_samples(X)

    def _fit(self, X: NDArray) -> None:
        super()._fit(X)
        self._fit_latent_density(X)
        self.noise_variance_ = self.module_.likelihood.noise_variance

    def _fit_latent_density(self, X: NDArray) -> None:
        """Moments of the codes and of the residual, such that a linear decoder gives probabilistic PCA."""
        X = some_rows(X).astype(np.float64)
        n_samples, n_features = X.shape
        nz, likelihood = self.n_components_, self.module_.likelihood
        moments = self._by_chunks(self._code_moments, X, n_values=n_features * nz)
        Z, errors, squares = np.split(moments, [nz, nz + nz**2], axis=1)
        errors = errors.mean(axis=0).reshape(nz, nz)
        if isinstance(likelihood, Gaussian):
            learned = np.mean(likelihood.noise_variance)
            freedom = max(n_samples - 1, 1) * max(n_features - nz, 1) / n_features
            likelihood.set_noise_variance(torch.from_numpy(squares.sum(axis=0) / freedom))
            errors *= np.mean(likelihood.noise_variance) / learned
        spread = np.atleast_2d(np.cov(Z, rowvar=False)) if n_samples > 1 else np.eye(nz)
        values, vectors = np.linalg.eigh(spread - errors)
        values = np.maximum(values, MIN_LATENT_VARIANCE * np.linalg.eigvalsh(spread)[-1] or 1.0)
        covariance = (vectors * values) @ vectors.T
        self.latent_mean_, self.latent_covariance_ = Z.mean(axis=0), covariance
        self.module_.prior = Normal(torch.from_numpy(self.latent_mean_), torch.from_numpy(covariance)).to(
            self.module_.standardizer.loc.device
        )

    def _code_moments(self, X: NDArray) -> NDArray:
        """Code of largest likelihood, its covariance and the squared errors of the row, side by side."""

        def moments(module: Autoencoder, x: torch.Tensor) -> torch.Tensor:
            z, covariance = gauss_newton_codes(module, x)
            squares = (module.likelihood.mean(module.decoder(z)) - x).square()
            return torch.cat([z, covariance.flatten(1), squares], dim=1)

        return self._infer(moments, X)

    def _log_prob(self, X: NDArray) -> NDArray:
        return self._infer(DENSITIES[self.density], X)

    def _n_score_values(self) -> int:
        return self.n_features_in_ * (self.n_components_ if self.density == "laplace" else 1)

    def _n_code(self) -> int:
        return self.nz

    def _build_prior(self, X: NDArray, standardizer: Standardizer, seed: int) -> Prior:
        return StandardNormal(self.nz)  # until the codes of the training rows are known

    def _assemble(self, *parts: Any) -> Autoencoder:
        return Autoencoder(*parts)


def some_rows(X: NDArray) -> NDArray:
    """At most `MAX_ROWS_AFTER_TRAINING` rows, evenly spaced."""
    return X[:: -(-len(X) // MAX_ROWS_AFTER_TRAINING)]


def _float64_twin(module: Autoencoder) -> Autoencoder:
    state = [(tensor.data_ptr(), tensor._version) for tensor in module.state_dict().values()]
    known, twin = _float64_twins.get(module, (None, module))
    if known != state:
        twin = deepcopy(module).double()
        _float64_twins[module] = state, twin
    return twin
