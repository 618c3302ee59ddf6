"""Autoencoder with a latent density."""

__all__ = ["AutoencoderTransformer"]

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from numbers import Real
from operator import itemgetter
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sklatent._nn.backbones import Backbone
from sklatent._nn.base import BaseAutoencoder, Training
from sklatent._nn.conditionals import laplace_conditionals, residual_conditionals
from sklatent._nn.inference import infer
from sklatent._nn.likelihoods import Gaussian, Standardizer
from sklatent._nn.missing import (
    CodeStatistics,
    code_statistics,
    expected_squared_errors,
    fit_latent_density,
    laplace_draw,
    laplace_mean,
    mode_statistics,
)
from sklatent._nn.modules import Autoencoder
from sklatent._nn.objectives import (
    gauss_newton_codes,
    laplace_evidence,
    laplace_terms,
    leverages,
    most_probable_codes,
    residual_density,
)
from sklatent._nn.priors import Normal, Prior, StandardNormal
from sklatent._ppca.factors import shrink
from sklatent._ppca.moments import total_weight, weighted_sum
from sklatent._sklearn_compat import Interval, StrOptions

# Smallest variance of the latent codes along any direction, as a fraction of the largest.
MIN_LATENT_VARIANCE = 1e-9
# Number of samples that decide between two estimates of the latent density.
N_COMPARED = 200
# How often the information of the samples is expanded again, and by what fraction a variance changes that counts. On
# binarized digits with 8 latent dimensions the held-out score rises by 6.6, 1.6, 0.5, 0.1 and 0.02 nats. The most
# probable codes are searched for of so many samples: that takes as long as to score them.
N_EXPANSIONS = 3
MAX_EXPANDED = 500
EXPANSION_TOLERANCE = 0.1

Score = Callable[[Autoencoder, torch.Tensor], torch.Tensor]

# The values of the parameter `density`, and what `score_samples` and `score_features` compute for each.
DENSITIES: dict[str, tuple[Score, Score]] = {
    "laplace": (laplace_evidence, laplace_conditionals),
    "residual": (residual_density, residual_conditionals),
}


class AutoencoderTransformer(BaseAutoencoder):
    r"""Autoencoder that learns a curved manifold through the data, with a density model.

    An encoder f and a decoder g are trained to reconstruct each sample from a latent code of dimension `nz`,

    .. math:: \min_{f, g, s} \; -\frac1n \sum_i \ln p(x_i | z = f(x_i)),

    where s are the parameters of the likelihood. This is the squared error for the Gaussian likelihood, and the binary
    cross-entropy for the Bernoulli likelihood. After training, a normal density N(m, S) is fitted to the latent codes,
    so that the model can be scored and sampled. With `hidden_sizes=()` the model is linear: it spans the same subspace
    as PCA, along other axes, and has the scores of probabilistic PCA.

    NaN is treated as a missing value: log p(x | z) is then that of the observed values. The encoder sees the feature
    mean in place of a missing value and, if values were missing in training, which ones are, except with a callable
    `backbone`. The latent density is then fitted by the EM algorithm, as it is where the samples tell too little of a
    latent dimension for their moments, for example with more latent dimensions than features.

    Parameters
    ----------
    nz : int, default=2
        Latent dimension.
    init : {"pca", "random"}, default="pca"
        Initial weights. "pca" starts at a linear model: probabilistic PCA, or factor analysis for "gaussian_diagonal".
        Training starts with the scores of `PCAReducer`, also where the spread of the features differs widely. The map
        occupies 2 nz units of each hidden layer, and is exact for "silu", "gelu" and "relu" and nearly so for "tanh";
        layers that are narrower carry the leading components. With "bernoulli", only the means of the latent codes and
        a share of the decoder start there, and with the other likelihoods, or `output_activation="sigmoid"`, only the
        means. "random" chooses all weights, as `backbone="conv"` and a callable always do. With `hidden_sizes=()` the
        linear model is all there is.
    backbone : {"mlp", "conv"} or callable, default="mlp"
        Encoder and decoder. "mlp" is a multilayer perceptron for any features. "conv" is a convolutional network for
        images, the one of Chaudhury (2024), listings 14.2 and 14.3. A callable `backbone(input_shape, nz, n_code)`
        returns an encoder that maps `(n, *input_shape)` to `(n, n_code)`, and a decoder that maps `(n, nz)` to
        n_features outputs for each of the n samples, in any shape.
    hidden_sizes : list or tuple of int, default=None
        Widths of the hidden layers of the "mlp" encoder; the decoder has them in reverse order, and () makes both
        linear. For "conv", the channels of its blocks. None selects (w, w / 2) for "mlp", where w is the power of two
        nearest to 4 n_features and at least 64, or (512, 256, 128) from 91 features on; and (32, 128, 256) for "conv".
        Ignored if `backbone` is a callable.
    activation : {"relu", "silu", "tanh", "gelu"}, default="silu"
        Activation function of the hidden layers. Ignored if `backbone` is a callable.
    image_shape : (channels, height, width), default=None
        Shape of a sample as an image, for "conv" or a callable `backbone`. None stands for a square image with one
        channel if `backbone="conv"`, and for (n_features,) otherwise.
    likelihood : {"gaussian", "gaussian_diagonal", "bernoulli", "continuous_bernoulli", "poisson"}, default="gaussian"
        Distribution of x given z. "gaussian" learns one variance, "gaussian_diagonal" one variance for each feature
        (see Notes).
        "bernoulli" is for X of zeros and ones; it accepts values in [0, 1], for which it is a loss but not a density.
        "continuous_bernoulli" is a density on [0, 1]. "poisson" is for counts.
    output_activation : {"sigmoid"} or None, default=None
        None uses the link function of the likelihood. "sigmoid" restricts the mean of a Gaussian likelihood to (0, 1),
        for X in [0, 1].
    noise : float or "auto", default="auto"
        Amount of noise that is added to the input of the encoder in training (denoising). Targets and scores are not
        affected. For `noise_kind="gaussian"` it is the standard deviation of the noise, in units of the square root of
        the mean variance of the features; for "masking" it is the fraction of entries that are masked. "auto" is as
        much noise again as the model finds in the samples, the standard deviation of x given z, which keeps the network
        from learning the noise (Bishop 1995). It is none for likelihoods without a noise variance, for "masking" and
        for `hidden_sizes=()`.
    noise_kind : {"gaussian", "masking"}, default="gaussian"
        Kind of noise. "gaussian" adds normally distributed noise. "masking" replaces entries by the mean of their
        feature.
    density : {"laplace", "residual"}, default="laplace"
        What `score_samples` returns. "laplace" is the Laplace approximation to log p(x). "residual" is log p(x | z) at
        the latent code of x, which is cheaper, but is not a density of x and increases with `nz`.
    max_epochs : int or "auto", default="auto"
        Number of epochs. "auto" targets about 2,000 optimizer steps, within 20 to 50 epochs.
    batch_size : int or "auto", default="auto"
        Number of samples per optimizer step. "auto" uses the power of two nearest to n_samples / 20, within 32 to 128.
    lr : float, default=5e-3
        Peak learning rate of AdamW. If the norms of the training samples have heavy tails, the gradient is clipped; if
        the tails are much heavier than those of a normal distribution, the learning rate is also divided by a power of
        two.
    lr_schedule : {"cosine", "constant"}, default="cosine"
        Learning rate schedule. "cosine" increases the learning rate over the first tenth of the steps and then
        decreases it to zero along a half cosine.
    weight_decay : float, default=0.0
        Weight decay of AdamW: each step subtracts this fraction, times the learning rate, from each weight matrix.
        Biases are not decayed.
    early_stopping : bool, default=False
        Whether to stop training when the loss on a validation set no longer improves, and to restore the weights of the
        best epoch.
    validation_fraction : float, default=0.1
        Fraction of the training samples to use as the validation set. Only used if `early_stopping` is True.
    n_iter_no_change : int, default=5
        Number of epochs without an improvement of the validation loss after which training stops. Only used if
        `early_stopping` is True.
    tol : float, default=1e-4
        Minimum decrease of the validation loss, in nats, that counts as an improvement. Only used if `early_stopping`
        is True.
    device : str, default="auto"
        Device on which the network is trained: "cpu", "cuda", "mps" or "xpu", or with a number ("cuda:1"). "auto"
        selects CUDA or XPU if the matrix products of the training are large enough, by a rule on sizes, and otherwise
        the CPU. Training that continues does so where the network is. Devices without float64, such as "mps", train
        on X in float32 only, and the network is on the CPU afterwards.
    precision : {"float32", "bf16"}, default="float32"
        Precision of the layers in training. "bf16" computes matrix products in bfloat16, which is faster on some
        hardware. Weights, losses and everything after training are float32.
    warm_start : bool, default=False
        Whether `fit` starts from the weights of the previous fit, with its centre and scale of the features.
    checkpoint : str, PathLike or None, default=None
        File for the state of the training, which is replaced after each epoch. If the file exists, `fit` resumes from
        it, with results bitwise identical to those of an uninterrupted fit; the file of a different fit is rejected. It
        contains numbers only, no pickle. It does not contain the state of `callbacks`.
    callbacks : list of skorch callbacks or None, default=None
        Callbacks of the training loop, called as skorch calls them. skorch's `EarlyStopping` with
        `monitor="valid_loss"`, its default, requires samples that are left out of the training: `early_stopping=True`,
        or a Gaussian likelihood and hidden layers.
        For scikit-learn's callbacks use `set_callbacks` (from scikit-learn 1.9 on).
    verbose : int, default=0
        Verbosity level. 1 prints one line per epoch.
    random_state : int, RandomState instance or None, default=None
        Controls weight initialization, shuffling and noise. Pass an int for reproducible results. The global random
        generators of PyTorch and NumPy are neither used nor modified.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, in evaluation mode.
    latent_mean_ : ndarray of shape (nz,)
        Mean m of the latent codes that best fit the training samples.
    latent_covariance_ : ndarray of shape (nz, nz)
        Covariance S of these latent codes, less the mean covariance of their errors.
    noise_variance_ : float or ndarray of shape (n_features,)
        Variance of x given z, in squared units of X: the squared error divided by n_features - nz degrees of freedom,
        also of samples that are left out of the training (see Notes).
        An array with one value for each feature for "gaussian_diagonal", and NaN for likelihoods that are not Gaussian.
    n_components_ : int
        The latent dimension, equal to `nz`.
    n_iter_ : int
        Number of epochs of the training.
    improved_ : bool
        False if training overfitted, so that the network is the linear model of `init="pca"`; `history_` is then that
        of the network that was given up (see Notes). True otherwise.
    loss_curve_ : list of float
        Mean training loss of each epoch, in nats per sample.
    history_ : list of dict
        One record per epoch, with the means over the training samples `train_loss`, `train_reconstruction` (the
        negative of log p(x | z)) and `train_kl`, the duration `dur` in seconds, the `noise_variance` of a Gaussian
        likelihood and, where samples are left out, the same losses with prefix `valid_`. For example,
        `pd.DataFrame(history_)["train_kl"]` has the KL divergence of every epoch.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`; only defined if X has feature names that are all strings.

    Notes
    -----
    The network sees features that are centred and divided by one common scale (with "gaussian_diagonal", by one for
    each feature). So a common unit and offsets do not matter, but the relative spread of the features does, as in PCA:
    scale the features first if they should have equal weight.

    With a Gaussian likelihood and hidden layers, a tenth of the samples, at most 100, is left out of the training for
    the noise variance, since the network fits its training samples better than others (with `early_stopping=True` it is
    the validation set). With the mean squared error e of the n training samples and that of the m samples left out, q,

    .. math:: s^2 = e_1^{1 - w} (c q)^w, \quad w = \frac{m}{m + 5}, \quad e_1 = \frac{n + n_z + 1}{n - n_z - 1} e,

    where e1 is the error that is expected of a linear model (Mallows 1973), but at most sqrt(n_features / nz) e, and
    the correction c is the mean squared error under PCA of all samples over that of the samples left out. Each epoch
    ends with this estimate. A linear network uses all samples, as PCA does.

    With few samples for its many weights a network learns them by heart. So with `init="pca"` the trained network is
    compared with the linear model on at most 50 of the samples left out, and then on all of them. If both one-sided t
    tests of the differences of the log-likelihoods are significant at the level 0.1, the linear model is kept, with the
    noise variance of the samples left out, `improved_` is False, and a ConvergenceWarning says so. `partial_fit`, which
    leaves no samples out, keeps what it has trained.

    With `likelihood="gaussian_diagonal"` the network sees each feature in units of its own standard deviation (its
    variance plus a hundredth of the mean variance). In training the ratios of the noise variances are those of factor
    analysis, since the network could otherwise reconstruct `nz` features exactly and leave them no variance; after
    training they are estimated again from the reconstruction errors. Both estimates have a prior with the weight of one
    sample, which shrinks them towards their mean e: s_j^2 = (n e_j + e) / (n + 1) for mean squared errors e_j of n
    samples, at most 10,000 of the training samples. It is an inverse-gamma density of s_j^2 with parameters 1/2 and
    e / 2, without which a nearly constant feature would outweigh all others. Features whose variance is below 1 / n of
    the mean variance count as noise: scale them first if they should not. A linear network is equivalent to factor
    analysis if it is trained for long enough: with `max_epochs=100, lr=0.02` it is within 0.02 nats on scikit-learn's
    example, and by default up to 0.1 nats below on held-out samples.

    The defaults were chosen by held-out log-likelihood; see :ref:`choice-of-defaults`.

    See Also
    --------
    PCAReducer : Learns a flat manifold, with exact scores.
    VAETransformer : Regularizes the latent codes in training.

    References
    ----------
    Bishop (1995), "Training with noise is equivalent to Tikhonov regularization", Neural Computation 7. Chaudhury
    (2024), "Math and Architectures of Deep Learning", section 14.5 and listings 14.2 to 14.4. Mallows (1973), "Some
    comments on Cp", Technometrics 15. Vincent et al. (2008), "Extracting and composing robust features with denoising
    autoencoders".

    Examples
    --------
    A curve that one principal component cannot represent:

    >>> from sklatent import AutoencoderTransformer, PCAReducer
    >>> from sklatent.datasets import make_curve_cloud
    >>> X = make_curve_cloud(random_state=0)
    >>> autoencoder = AutoencoderTransformer(1, random_state=0).fit(X)
    >>> bool(autoencoder.score(X) > PCAReducer(1).fit(X).score(X) + 0.5)
    True
    """

    # The search for the most probable latent code drops samples that have converged. Large chunks keep the matrix
    # products of the remaining ones efficient.
    _N_SCORE_ROWS = 2048

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseAutoencoder._parameter_constraints,
        "noise": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "density": [StrOptions(set(DENSITIES))],
    }

    def __init__(
        self,
        nz: int = 2,
        *,
        init: Literal["pca", "random"] = "pca",
        backbone: Literal["mlp", "conv"] | Backbone = "mlp",
        hidden_sizes: Sequence[int] | None = None,
        activation: Literal["relu", "silu", "tanh", "gelu"] = "silu",
        image_shape: tuple[int, int, int] | None = None,
        likelihood: Literal[
            "gaussian", "gaussian_diagonal", "bernoulli", "continuous_bernoulli", "poisson"
        ] = "gaussian",
        output_activation: Literal["sigmoid"] | None = None,
        noise: float | Literal["auto"] = "auto",
        noise_kind: Literal["gaussian", "masking"] = "gaussian",
        density: Literal["laplace", "residual"] = "laplace",
        max_epochs: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        lr: float = 5e-3,
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        device: str = "auto",
        precision: Literal["float32", "bf16"] = "float32",
        warm_start: bool = False,
        checkpoint: str | PathLike[str] | None = None,
        callbacks: Sequence[Any] | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ):
        self.density = density
        super().__init__(
            nz,
            init=init,
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
            weight_decay=weight_decay,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            device=device,
            precision=precision,
            warm_start=warm_start,
            checkpoint=checkpoint,
            callbacks=callbacks,
            verbose=verbose,
            random_state=random_state,
        )

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Estimate the log-likelihood log p(x) of each sample, or compute log p(x | z) with `density="residual"`.

        "laplace" is an estimate, neither a bound nor normalized. It is exact for a linear decoder with Gaussian
        likelihood; otherwise it replaces the manifold by its tangent plane at the most probable latent code of x, which
        can be far off for samples far from the training data. Each sample takes about five steps, each of which costs
        nz + 2 forward passes through an MLP decoder.

        "residual" is the log-density of x given the latent code of the encoder, which takes one forward pass. It does
        not integrate to one over x, so compare it only between models with the same `nz`.

        For a sample with missing values (NaN) it is the score of its observed values, and 0 if there are none.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        score : ndarray of shape (n_samples,), float64
            Score of each sample in nats, with respect to Lebesgue measure in the units of X (to counting measure for
            "bernoulli" and "poisson"); -inf for samples for which no finite value is found.

        See Also
        --------
        score : The mean over the samples.
        score_features : The score of each value, which tells what makes a sample improbable.

        Examples
        --------
        >>> from sklatent import AutoencoderTransformer, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> linear = AutoencoderTransformer(2, hidden_sizes=(), max_epochs=100, random_state=0).fit(X)
        >>> bool(abs(linear.score(X) - PCAReducer(2).fit(X).score(X)) < 0.1)
        True
        """
        return super().score_samples(X)

    def _describe_latent_space(
        self, module: Autoencoder, X: NDArray[Any], training: Training, weights: NDArray[Any] | None = None
    ) -> dict[str, Any]:
        """Estimate the latent density and the noise variance, so that a linear decoder gives probabilistic PCA.

        Raises
        ------
        FloatingPointError
            If it is not finite or has no inverse in floating point, since the latent codes are too large.
        """
        estimate = self._density_by_em if module.likelihood.has_missing else self._density_of_complete
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                mean, covariance = estimate(module, X, training, weights)
            _set_prior(module, mean, covariance)
            _ = module.prior.factor
        except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise FloatingPointError(
                f"The training of {type(self).__name__} diverged: its latent codes are too large for their covariance. "
                f"Try a smaller lr (now {self.lr}), or scale the features of X."
            ) from error
        return {"latent_mean_": mean, "latent_covariance_": covariance}

    def _density_of_complete(
        self, module: Any, X: NDArray[Any], training: Training, weights: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and covariance of the latent codes; sets the noise variance.

        They are estimated by moments. If the samples tell so little of some direction that the mean of the errors of
        their codes exceeds all of its variance, they are estimated by EM too, and the samples decide.
        """
        likelihood, some = module.likelihood, X[:: -(-len(X) // N_COMPARED)]
        learned = deepcopy(likelihood.state_dict())
        mean, covariance, is_vague = self._density_by_moments(module, X, training, weights)
        if not is_vague:
            return mean, covariance
        by_moments = self._scored(module, mean, covariance, some)
        likelihood.load_state_dict(learned)
        by_em = self._scored(module, *self._density_by_em(module, X, training, weights), some)
        _, mean, covariance, state = max(by_moments, by_em, key=itemgetter(0))
        likelihood.load_state_dict(state)
        return mean, covariance

    def _scored(
        self, module: Any, mean: NDArray[Any], covariance: NDArray[Any], X: NDArray[Any]
    ) -> tuple[float, NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Mean log-likelihood of samples with a latent density; the density, and the state of the likelihood."""
        _set_prior(module, mean, covariance)
        score = float(self._log_likelihood(module, X, 0).mean())
        return score, mean, covariance, deepcopy(module.likelihood.state_dict())

    def _density_by_moments(
        self, module: Any, X: NDArray[Any], training: Training, weights: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any], bool]:
        """Covariance of the codes of the samples, less the mean of their errors; whether this exceeds it somewhere."""
        nz, likelihood = self.nz, module.likelihood
        Z, errors, squares, shares = self._moments_of_codes(module, X)
        errors = np.average(errors, axis=0, weights=weights).reshape(nz, nz)
        spread = _covariance(Z, weights) if len(X) > 1 else np.eye(nz)
        if not np.isfinite(spread).all():
            return np.average(Z, axis=0, weights=weights), spread, False
        is_known = np.isfinite(errors).all()
        errors = errors if is_known else np.zeros((nz, nz))
        is_vague = bool(spread.any() and not (is_known and np.linalg.eigvalsh(spread - errors)[0] > 0))
        if isinstance(likelihood, Gaussian):
            learned = likelihood.noise_variance
            likelihood.set_noise_variance(torch.from_numpy(self._noise_variances(learned, squares, shares, weights)))
            if training.left_out is not None:
                squares = self._moments_of_codes(module, training.left_out.X)[2]
                level = self._level(likelihood.noise_variance, squares, training.left_out.weights)
                likelihood.rescale(training.left_out.factor(level))
            errors *= np.mean(likelihood.noise_variance / learned)
        values, vectors = np.linalg.eigh(spread - errors)
        floor = MIN_LATENT_VARIANCE * np.linalg.eigvalsh(spread)[-1]
        values = np.maximum(values, floor or 1.0)  # 1 if the latent codes are all equal
        return np.average(Z, axis=0, weights=weights), (vectors * values) @ vectors.T, is_vague

    def _density_by_em(
        self, module: Any, X: NDArray[Any], training: Training, weights: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The same by EM, since the values of a sample do not tell all of its latent dimensions."""
        likelihood = module.likelihood
        if not isinstance(likelihood, Gaussian):
            some = slice(None, None, -(-len(X) // MAX_EXPANDED))
            return self._density_about_modes(module, X[some], None if weights is None else weights[some])
        codes = self._statistics(module, X, code_statistics)
        learned = np.mean(likelihood.noise_variance)
        mean, covariance, ratio = fit_latent_density(codes, weights)
        likelihood.rescale(ratio)
        _set_prior(module, mean, covariance)
        if likelihood.is_diagonal:
            squares, n_observed = self._expected_squares(module, X, weights)
            n_observed = np.where(n_observed > 0, n_observed, 1.0)
            likelihood.set_noise_variance(torch.from_numpy(shrink(squares / n_observed, n_observed)))
        if training.left_out is not None:
            left_out = training.left_out
            squares, n_observed = self._expected_squares(module, left_out.X, left_out.weights)
            level = (squares / likelihood.noise_variance).sum() / n_observed.sum()
            likelihood.rescale(left_out.factor(float(level)))
        ratio = float(np.mean(likelihood.noise_variance) / learned)
        return fit_latent_density(codes, weights, noise_ratio=ratio)[:2]

    def _density_about_modes(
        self, module: Any, X: NDArray[Any], weights: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The same where the information depends on the latent code, as of a probability that is nearly 0 or 1.

        What the samples tell is expanded again about the codes that are most probable under the density found so far.
        """
        codes = self._statistics(module, X, code_statistics)
        mean, covariance, _ = fit_latent_density(codes, weights, noise_ratio=1.0)
        for _ in range(N_EXPANSIONS):
            _set_prior(module, mean, covariance)
            before, codes = covariance.diagonal(), self._statistics(module, X, mode_statistics)
            mean, covariance, _ = fit_latent_density(codes, weights, noise_ratio=1.0)
            if np.allclose(covariance.diagonal(), before, rtol=EXPANSION_TOLERANCE, atol=0):
                break
        return mean, covariance

    def _statistics(self, module: Any, X: NDArray[Any], function: Score) -> CodeStatistics:
        n_values = X.shape[1] * self.nz
        columns = self._by_chunks(partial(infer, module, function), X.astype(np.float64), n_values=n_values)
        return CodeStatistics.from_columns(columns, self.nz)

    def _expected_squares(
        self, module: Autoencoder, X: NDArray[Any], weights: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Sum of the expected squared errors of each feature, and the number of samples that observe it."""
        n_values = X.shape[1] * self.nz
        squares = self._by_chunks(
            partial(infer, module, expected_squared_errors), X.astype(np.float64), n_values=n_values
        )
        observed = ~np.isnan(squares)
        return weighted_sum(np.where(observed, squares, 0.0), weights), weighted_sum(observed, weights)

    def _moments_of_codes(self, module: Autoencoder, X: NDArray[Any]) -> list[NDArray[Any]]:
        n_features, nz = X.shape[1], self.nz
        moments = self._by_chunks(partial(infer, module, _code_moments), X.astype(np.float64), n_values=n_features * nz)
        return np.split(moments, np.cumsum([nz, nz**2, n_features]), axis=1)

    def _noise_variances(
        self,
        learned: float | NDArray[Any],
        squares: NDArray[Any],
        leverages: NDArray[Any],
        weights: NDArray[Any] | None,
    ) -> NDArray[Any]:
        """Variances by moments of the errors of the training samples.

        The latent codes are fitted to each sample, and take up the fraction nz / n_features of the noise, so the level
        is the squared error divided by the rest. With a variance for each feature they take up more of one than of
        another, its leverage: this step of psi_j = e_j + leverage_j * psi_j has factor analysis as its fixed point if
        the network is linear. Elsewhere the errors of a curved decoder are not those of a plane: on digits the step is
        worth 6 nats.
        """
        n_samples, _ = total_weight(weights, len(squares))
        level = self._level(learned, squares, weights) * n_samples / max(n_samples - 1, 1)
        if np.ndim(learned) == 0:
            return np.full(squares.shape[1], level * learned)
        errors, absorbed = (np.average(values, axis=0, weights=weights) for values in (squares, leverages))
        return shrink(errors + level * learned * absorbed, n_samples)

    def _level(self, variances: float | NDArray[Any], squares: NDArray[Any], weights: NDArray[Any] | None) -> float:
        """Squared errors over given variances, of which nz latent codes have taken up as many degrees of freedom."""
        n_features = squares.shape[1]
        ratios = squares / variances
        mean = ratios.mean() if weights is None else np.average(ratios.mean(axis=1), weights=weights)
        return float(mean) * n_features / max(n_features - self.nz, 1)

    def _log_likelihood(self, module: Autoencoder, X: NDArray[Any], seed: int) -> NDArray[Any]:
        return self._by_chunks(partial(infer, module, laplace_evidence), X, n_values=4 * X.shape[1])

    def _log_prob(self, X: NDArray[Any]) -> NDArray[Any]:
        score_samples, _ = DENSITIES[self.density]
        return infer(self.module_, score_samples, X)

    def _conditionals(self, X: NDArray[Any]) -> NDArray[Any]:
        _, score_features = DENSITIES[self.density]
        return infer(self.module_, score_features, X)

    def _impute(self, X: NDArray[Any], rng: np.random.Generator | None) -> NDArray[Any]:
        if rng is None:
            return infer(self.module_, laplace_mean, X)
        return infer(self.module_, partial(laplace_draw, generator=self._generator(rng)), X)

    def _rate_distortion(self, X: NDArray[Any]) -> NDArray[Any]:
        return infer(self.module_, _rate_and_distortion, X)

    def _posterior_mean(self, X: NDArray[Any]) -> NDArray[Any]:
        return infer(self.module_, most_probable_codes, X)

    def _n_score_values(self) -> int:
        return 4 * self.n_features_in_

    def _code_parts(self) -> dict[str, int]:
        return {"latent dimensions": self.nz}

    def _build_prior(
        self, X: NDArray[Any], standardizer: Standardizer, seed: int, weights: NDArray[Any] | None = None
    ) -> Prior:
        return StandardNormal(self.nz)  # until the latent codes of the training samples are known

    def _empty_prior(self, n_features: int) -> Prior:
        mean = torch.empty(self.nz, dtype=torch.float64, device="meta")
        return Normal(mean, torch.empty(self.nz, self.nz, dtype=torch.float64, device="meta"))

    def _assemble(self, *parts: Any) -> Autoencoder:
        return Autoencoder(*parts)


def _set_prior(module: Any, mean: NDArray[Any], covariance: NDArray[Any]) -> None:
    prior = Normal(torch.from_numpy(mean), torch.from_numpy(covariance))
    module.prior = prior.to(module.standardizer.loc.device)


def _covariance(Z: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    """Sample covariance; a weight counts as so many samples."""
    if weights is None:
        return np.atleast_2d(np.cov(Z, rowvar=False))
    n_samples = weights.sum()
    return np.atleast_2d(np.cov(Z, rowvar=False, aweights=weights, ddof=0)) * n_samples / (n_samples - 1)


def _rate_and_distortion(module: Autoencoder, x: torch.Tensor) -> torch.Tensor:
    """Rate and distortion of each sample, (n, 2), by Laplace's approximation to the posterior."""
    terms = laplace_terms(module, x)
    return torch.stack([terms.kl, -terms.log_prob], dim=-1)


def _code_moments(module: Autoencoder, x: torch.Tensor) -> torch.Tensor:
    """Latent code of largest likelihood, its covariance, the squared errors, and leverages for several variances."""
    z, covariance = gauss_newton_codes(module, x)
    parts = [z, covariance.flatten(1), (module.likelihood.mean(module.decode(z)) - x).square()]
    if isinstance(module.likelihood, Gaussian) and module.likelihood.is_diagonal:
        parts.append(leverages(module, x, covariance))
    return torch.cat(parts, dim=1)
