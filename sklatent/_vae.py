"""Variational autoencoder."""

__all__ = ["VAETransformer"]

import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sklatent._base import active_units
from sklatent._nn.backbones import Backbone
from sklatent._nn.base import BaseAutoencoder, Training
from sklatent._nn.conditionals import importance_conditionals
from sklatent._nn.inference import infer
from sklatent._nn.likelihoods import Gaussian, Standardizer
from sklatent._nn.missing import importance_draw, importance_mean, incomplete_bound, incomplete_conditionals
from sklatent._nn.modules import Autoencoder, VariationalAutoencoder
from sklatent._nn.objectives import elbo_terms, importance_bound, importance_shares
from sklatent._nn.posteriors import POSTERIORS
from sklatent._nn.priors import GaussianMixturePrior, Prior, StandardNormal, VampPrior
from sklatent._nn.summaries import some_weighted_rows
from sklatent._ppca.factors import shrink
from sklatent._ppca.moments import total_weight
from sklatent._sklearn_compat import Interval, StrOptions

# Importance samples by which a trained network and the linear model that it started from are compared.
N_DRAWS_COMPARED = 32


class VAETransformer(BaseAutoencoder):
    r"""Variational autoencoder (VAE), trained by maximizing the evidence lower bound.

    The encoder gives a normal posterior q(z | x), by default with mean mu(x) and variances exp(log_var(x)). Training
    minimizes

    .. math:: \frac1n \sum_i \mathrm{E}_{q(z | x_i)}[-\ln p(x_i | z)] + \beta \, \mathrm{KL}(q(z | x_i) \| p(z)),

    where the expectation is estimated by one sample z = mu + exp(log_var / 2) eps for each x. With beta = 1 this is the
    negative of a lower bound on log p(x). The KL term keeps the latent codes compact, and the noise of z makes
    neighbouring latent codes decode to similar outputs.

    NaN is treated as a missing value: log p(x | z) is then that of the observed values (MIWAE, Mattei & Frellsen 2019).
    The encoder sees the feature mean in place of a missing value and, if values were missing in training, which ones
    are, except with a callable `backbone`.

    Parameters
    ----------
    nz : int, default=2
        Latent dimension.
    beta : float, default=1.0
        Weight of the KL divergence in training. Smaller values give better reconstructions, larger values a smoother
        latent space. Scores do not depend on it other than through the fitted model.
    prior : {"standard_normal", "mixture", "vamp"}, default="standard_normal"
        Prior p(z). "standard_normal" is N(0, I). "mixture" is a mixture of normal densities that is learned with the
        decoder. "vamp" (VampPrior) is the mean of the posteriors of learned pseudo-inputs.
    n_prior_components : int, default=10
        Number of components of the "mixture" and "vamp" priors.
    posterior : {"diagonal", "full"}, default="diagonal"
        Covariance of q(z | x). "diagonal" has one variance for each latent dimension, "full" a Cholesky factor.
    kl_warmup : float, default=0.5
        Fraction of the training steps over which the weight of the KL divergence increases from 0 to `beta`. It lets
        the decoder learn to use the latent code before the KL term penalizes it, which helps against posterior
        collapse. With 0 the weight is `beta` from the first step.
    n_draws : int, default=32
        Number of importance samples of z per sample in `score_samples`. More make the bound tighter; each costs one
        forward pass through the decoder.
    n_train_draws : int, default=1
        Number K of importance samples of z per sample in training. Above 1, training maximizes the importance-weighted
        bound of Burda et al. (2016), eq. 8, the one of `score_samples`, in place of the evidence lower bound (see
        Notes). It is tighter, and lets the posterior p(z | x) have shapes that q(z | x) cannot take; a step costs about
        K forward and backward passes through the decoder. With missing values it is the objective of MIWAE (Mattei &
        Frellsen 2019). It requires `beta=1`, without which there is no bound.
    init : {"pca", "random"}, default="pca"
        Initial weights. "pca" starts at a linear model: probabilistic PCA, or factor analysis for "gaussian_diagonal".
        The evidence lower bound starts at the log-likelihood of `PCAReducer`, also where the spread of the features
        differs widely. The map occupies 2 nz units of each hidden layer, and is exact for "silu", "gelu" and "relu" and
        nearly so for "tanh"; layers that are narrower carry the leading components. With "bernoulli", only the means of
        the latent codes and a share of the decoder start there, and with the other likelihoods, or
        `output_activation="sigmoid"`, only the means. "random" chooses all weights, as `backbone="conv"` and a callable
        always do. With `hidden_sizes=()` the linear model is all there is. The start is that for the prior N(0, I),
        also with "mixture"; with "vamp" it is random.
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
    noise : float, default=0.0
        Amount of noise that is added to the input of the encoder in training (denoising). Targets and scores are not
        affected. For `noise_kind="gaussian"` it is the standard deviation of the noise, in units of the square root of
        the mean variance of the features; for "masking" it is the fraction of entries that are masked.
    noise_kind : {"gaussian", "masking"}, default="gaussian"
        Kind of noise. "gaussian" adds normally distributed noise. "masking" replaces entries by the mean of their
        feature.
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
        best epoch. The validation loss has the full weight of the KL divergence from the first epoch on, also during
        the warm-up, so training may end within the warm-up.
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
    noise_variance_ : float or ndarray of shape (n_features,)
        Variance of x given z, in squared units of X, also of samples that are left out of the training (see Notes). An
        array with one value for each feature for "gaussian_diagonal",
        and NaN for likelihoods that are not Gaussian.
    kl_per_dimension_ : ndarray of shape (nz,)
        KL divergence of each marginal of q(z | x) from that of p(z) in nats, averaged over the training samples (at
        most 10,000 of them, evenly spaced).
    active_units_ : ndarray of shape (nz,), bool
        Mask of the latent dimensions that are used: those whose posterior mean has a variance of more than 0.01 over
        these samples.
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
        `pd.DataFrame(history_)["train_kl"]` has the KL divergence of every epoch. With `n_train_draws` above 1,
        `train_reconstruction` and `train_kl` are estimates for the posterior p(z | x) in place of q(z | x), and their
        sum is the negative importance-weighted bound (see Notes).
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

    With K = `n_train_draws` above 1, the loss of a sample is the negative of

    .. math::
        L_t = \ln \frac1K \sum_{k=1}^K w_k, \quad w_k = p(x | z_k) \Bigl( \frac{p(z_k)}{q(z_k | x)} \Bigr)^t,
        \quad z_k \sim q(z | x),

    where t increases from 0 to 1 with `kl_warmup`. At t = 1 it is the bound of Burda et al. For t below 1 it is the
    same bound with the prior replaced by :math:`q(z | x)^{1 - t} p(z)^t`, not normalized, which leads from the
    posterior to the prior. The KL divergence of q from it is t KL(q || p), so for K = 1 the warm-up is that of the
    evidence lower bound, in expectation. With the weights at t = 1, `train_reconstruction` is the mean of
    :math:`-\sum_k w_k \ln p(x | z_k) / \sum_k w_k`, and `train_kl` is what it takes to add up to the mean of -L_1. For
    many importance samples they are the mean of -ln p(x | z) over p(z | x), and the KL divergence of p(z | x) from
    p(z). The noise variance is the mean squared error with the same weights, for which the bound is largest.

    The defaults were chosen by held-out log-likelihood; see :ref:`choice-of-defaults`.

    See Also
    --------
    AutoencoderTransformer : The same network without regularization of the latent codes.
    PCAReducer : The linear model, with exact scores.

    References
    ----------
    Kingma & Welling (2014), "Auto-encoding variational Bayes". Burda, Grosse & Salakhutdinov (2016), "Importance
    weighted autoencoders", eq. 8, for `n_train_draws`. Mattei & Frellsen (2019), "MIWAE: deep generative modelling and
    imputation of incomplete data sets", for missing values. Mallows (1973), "Some comments on Cp",
    Technometrics 15. Higgins et al. (2017), "beta-VAE". Chaudhury (2024), "Math and Architectures of Deep Learning",
    section 14.7 and listings 14.5 to 14.9.

    Examples
    --------
    >>> from sklatent import PCAReducer, VAETransformer
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data / 16
    >>> vae = VAETransformer(8, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (1797, 8)
    >>> bool(vae.score(X) > PCAReducer(8).fit(X).score(X) + 10)  # nats per sample
    True
    >>> vae.sample(2, random_state=0).shape
    (2, 64)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseAutoencoder._parameter_constraints,
        "beta": [Interval(Real, 0, None, closed="left")],
        "prior": [StrOptions({"standard_normal", "mixture", "vamp"})],
        "n_prior_components": [Interval(Integral, 1, None, closed="left")],
        "posterior": [StrOptions(set(POSTERIORS))],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "n_train_draws": [Interval(Integral, 1, None, closed="left")],
    }

    _ARCHITECTURE = (
        *BaseAutoencoder._ARCHITECTURE,
        "beta",
        "prior",
        "n_prior_components",
        "posterior",
        "n_train_draws",
    )
    module_: VariationalAutoencoder

    def __init__(
        self,
        nz: int = 2,
        *,
        beta: float = 1.0,
        prior: Literal["standard_normal", "mixture", "vamp"] = "standard_normal",
        n_prior_components: int = 10,
        posterior: Literal["diagonal", "full"] = "diagonal",
        kl_warmup: float = 0.5,
        n_draws: int = 32,
        n_train_draws: int = 1,
        init: Literal["pca", "random"] = "pca",
        backbone: Literal["mlp", "conv"] | Backbone = "mlp",
        hidden_sizes: Sequence[int] | None = None,
        activation: Literal["relu", "silu", "tanh", "gelu"] = "silu",
        image_shape: tuple[int, int, int] | None = None,
        likelihood: Literal[
            "gaussian", "gaussian_diagonal", "bernoulli", "continuous_bernoulli", "poisson"
        ] = "gaussian",
        output_activation: Literal["sigmoid"] | None = None,
        noise: float = 0.0,
        noise_kind: Literal["gaussian", "masking"] = "gaussian",
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
        self.beta = beta
        self.prior = prior
        self.n_prior_components = n_prior_components
        self.posterior = posterior
        self.kl_warmup = kl_warmup
        self.n_draws = n_draws
        self.n_train_draws = n_train_draws
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
        """Compute an importance-weighted lower bound on the log-likelihood log p(x) of each sample.

        The bound is at most log p(x) in expectation, and gets closer to it with larger `n_draws`. `beta` does not
        enter. The importance samples depend on the values of the sample, so each sample has the same score, up to
        rounding, in any order, subset or batch.

        For a sample with missing values (NaN) it is a bound on the marginal log-density of its observed values, and 0
        if there are none. Three quarters of its importance samples then come from Laplace's approximation to the
        posterior, about which the encoder knows less, and the others from the prior; so for all samples if values were
        missing in training.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        bound : ndarray of shape (n_samples,), float64
            Bound for each sample in nats, with respect to Lebesgue measure in the units of X (to counting measure for
            "bernoulli" and "poisson").

        See Also
        --------
        score : The mean over the samples.
        score_features : The score of each value, which tells what makes a sample improbable.

        Examples
        --------
        >>> from sklatent import VAETransformer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> vae = VAETransformer(2, max_epochs=20, random_state=0).fit(X)
        >>> loose, tight = vae.set_params(n_draws=1).score(X), vae.set_params(n_draws=256).score(X)
        >>> tight > loose
        True
        """
        return super().score_samples(X)

    def _describe_latent_space(
        self, module: Any, X: NDArray[Any], training: Training, weights: NDArray[Any] | None = None
    ) -> dict[str, Any]:
        """KL divergence and activity of each latent dimension; sets a noise variance for each feature."""
        shape = (len(X), self.n_train_draws, self.nz)
        eps = np.random.default_rng(training.seeds["draws"]).standard_normal(shape).astype(X.dtype)
        if isinstance(module.likelihood, Gaussian) and module.likelihood.is_diagonal:
            self._learn_noise_variances(module, X, eps, training, weights)
        found = self._by_chunks(partial(infer, module, _kl_and_mean), X, eps[:, 0], n_values=X.shape[1])
        kl, mu = np.split(found, [self.nz], axis=1)
        kl_per_dimension = np.average(kl.astype(np.float64), axis=0, weights=weights)
        return {"kl_per_dimension_": kl_per_dimension, "active_units_": active_units(mu, weights)}

    def _learn_noise_variances(
        self, module: Any, X: NDArray[Any], eps: NDArray[Any], training: Training, weights: NDArray[Any] | None
    ) -> None:
        """Ratios of the variances from the errors of the training samples, and their level from samples left out."""
        squares, observed = self._mean_squares(module, X, eps, weights)
        mean = squares.sum() / observed.sum()  # stands for the error of a feature that these samples do not observe
        errors = np.divide(squares, observed, out=np.full_like(squares, mean), where=observed > 0)
        variances = shrink(errors, np.maximum(observed * total_weight(weights, len(X))[0], 1.0))
        module.likelihood.set_noise_variance(torch.from_numpy(variances))
        if training.left_out is not None:
            left_out = training.left_out
            squares, observed = self._mean_squares(module, left_out.X, eps[: len(left_out.X)], left_out.weights)
            module.likelihood.rescale(left_out.factor((squares / variances).mean() / observed.mean()))

    def _mean_squares(
        self, module: Any, X: NDArray[Any], eps: NDArray[Any], weights: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean squared error of each feature, 0 for missing values, and the fraction of samples that observe it."""
        exact = (array.astype(np.float64) for array in (X, eps))
        n_values = X.shape[1] * self.n_train_draws
        squares = self._by_chunks(partial(infer, module, _squared_errors), *exact, n_values=n_values)
        observed = ~np.isnan(squares)
        means = (np.average(part, axis=0, weights=weights) for part in (np.where(observed, squares, 0.0), observed))
        mean_squares, fractions = means
        return mean_squares, fractions

    def _publish(self, learned: Any) -> None:
        super()._publish(learned)
        if not self.active_units_.any() and self.module_.standardizer.variances.any():
            warnings.warn(
                f"Posterior collapse in {type(self).__name__}: no latent dimension varies across the training samples. "
                f"Try a smaller beta (now {self.beta}), a longer kl_warmup (now {self.kl_warmup}), or more epochs "
                f"(now {self.n_iter_}).",
                ConvergenceWarning,
            )

    def _log_likelihood(self, module: VariationalAutoencoder, X: NDArray[Any], seed: int) -> NDArray[Any]:
        eps = np.random.default_rng(seed).standard_normal((len(X), N_DRAWS_COMPARED, self.nz), dtype=np.float32)
        is_rough = np.isnan(X).any() or module.likelihood.has_missing
        bound = incomplete_bound if is_rough else _bound
        side_by_side = lambda module, x, eps: bound(module, x, eps.movedim(1, 0))  # noqa: E731
        n_values = 4 * X.shape[1] * N_DRAWS_COMPARED
        return self._by_chunks(partial(infer, module, side_by_side), X, eps.astype(X.dtype), n_values=n_values)

    def _log_prob(self, X: NDArray[Any]) -> NDArray[Any]:
        # An encoder that was trained on incomplete samples is less exact for all of them.
        is_rough = np.isnan(X).any(axis=1) | self.module_.likelihood.has_missing
        return self._infer_in_two(incomplete_bound, _bound, is_rough, X)

    def _conditionals(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._infer_in_two(incomplete_conditionals, importance_conditionals, np.isnan(X).any(axis=1), X)

    def _infer_in_two(self, first: Any, second: Any, is_first: NDArray[np.bool_], X: NDArray[Any]) -> NDArray[Any]:
        """One function of some samples and their random numbers, and another of the others.

        So complete samples have the scores that they have without the incomplete ones.
        """
        parts = [(function, chosen) for function, chosen in ((first, is_first), (second, ~is_first)) if chosen.any()]
        found = [self._infer(function, X[chosen], self._draws(X[chosen])) for function, chosen in parts]
        scores = np.empty((len(X), *found[0].shape[1:]), dtype=found[0].dtype)
        for (_, chosen), values in zip(parts, found, strict=True):
            scores[chosen] = values
        return scores

    def _impute(self, X: NDArray[Any], rng: np.random.Generator | None) -> NDArray[Any]:
        if rng is None:
            return self._infer(importance_mean, X, self._draws(X))
        eps = rng.standard_normal((self.n_draws, len(X), self.n_components_), dtype=X.dtype.type)
        return self._infer(partial(importance_draw, generator=self._generator(rng)), X, eps)

    def _rate_distortion(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._infer(_rate_and_distortion, X, self._draws(X))

    def _n_score_values(self) -> int:
        return 4 * self.n_features_in_ * self.n_draws

    def _draws(self, X: NDArray[Any]) -> NDArray[Any]:
        """Standard normal numbers (n_draws, n, nz) that depend only on the values of each sample and on the fit.

        So a sample has the same score in any order, subset or batch, and different samples have independent numbers.
        """
        standardizer = self.module_.standardizer
        loc, scale = standardizer.loc.cpu().numpy(), standardizer.scale.cpu().numpy()
        # Standardized and rounded, so that the numbers depend neither on the units nor on the precision of X. Adding 0
        # turns -0.0 into 0.0.
        with np.errstate(over="ignore"):  # samples that overflow float32 have no finite score with any numbers
            rows = ((X.astype(np.float64) - loc) / scale).astype(np.float32, order="C") + np.float32(0)
        rows[np.isnan(rows)] = np.nan  # there are many
        key = hashlib.sha256(self._draw_seed.to_bytes(8, "little"))
        bits = np.random.Philox(key=0)
        generator, fresh = np.random.Generator(bits), bits.state
        draws = np.empty((len(X), self.n_draws, self.n_components_))
        for row, out in zip(rows, draws, strict=True):
            digest = key.copy()
            digest.update(row)
            fresh["state"]["key"] = np.frombuffer(digest.digest(), dtype="<u8", count=2)
            bits.state = fresh  # takes half the time of creating a generator
            generator.standard_normal(out=out)
        return draws.transpose(1, 0, 2).astype(X.dtype)

    def _starts_at_pca(self) -> bool:
        # The posteriors of the pseudo-inputs would be so narrow that their mean has holes.
        return super()._starts_at_pca() and self.prior != "vamp"

    def _code_parts(self) -> dict[str, int]:
        return POSTERIORS[self.posterior].parts(self.nz)

    def _build_prior(
        self, X: NDArray[Any], standardizer: Standardizer, seed: int, weights: NDArray[Any] | None = None
    ) -> Prior:
        rng = np.random.default_rng(seed)
        if self.prior == "mixture":
            means = rng.standard_normal((self.n_prior_components, self.nz), dtype=np.float32)
            return GaussianMixturePrior(torch.from_numpy(means))
        if self.prior == "vamp":
            rows, weights = some_weighted_rows(X, weights)
            if weights is None:
                chosen = rng.integers(len(rows), size=self.n_prior_components)
            else:
                chosen = rng.choice(len(rows), size=self.n_prior_components, p=weights / weights.sum())
            inputs = standardizer(torch.from_numpy(rows[chosen]))
            return VampPrior(torch.nan_to_num(inputs))  # a mean is better than nothing
        return StandardNormal(self.nz)

    def _empty_prior(self, n_features: int) -> Prior:
        if self.prior == "mixture":
            return GaussianMixturePrior(torch.empty(self.n_prior_components, self.nz, device="meta"))
        if self.prior == "vamp":
            return VampPrior(torch.empty(self.n_prior_components, n_features, device="meta"))
        return StandardNormal(self.nz)

    def _assemble(self, *parts: Any) -> Autoencoder:
        if self.n_train_draws > 1 and self.beta != 1:
            raise ValueError(
                f"n_train_draws={self.n_train_draws} is only supported with beta=1, got beta={self.beta!r}: with "
                "another weight of the KL divergence the objective is no bound on the log-likelihood."
            )
        posterior = POSTERIORS[self.posterior]
        return VariationalAutoencoder(
            *parts, posterior=posterior, nz=self.nz, beta=self.beta, n_train_draws=self.n_train_draws
        )


def _bound(module: VariationalAutoencoder, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Importance-weighted bound on ln p(x), (n,), by `eps` of shape (n_draws, n, nz)."""
    return importance_bound(module.log_likelihood(x), module.posterior(x), module.prior_density(), eps)


def _rate_and_distortion(module: VariationalAutoencoder, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Rate and distortion of each sample, (n, 2): the terms of the evidence lower bound, averaged over `eps`."""
    terms = elbo_terms(module.log_likelihood(x), module.posterior(x), module.prior_density(), eps)
    return torch.stack([terms.kl.expand_as(terms.log_prob), -terms.log_prob], dim=-1).mean(0)


def _squared_errors(module: VariationalAutoencoder, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Squared errors at samples of each posterior: their means are the variances that raise the bound most.

    Those of missing values are NaN. Several samples `eps` (n, n_train_draws, nz) count by their importance weights, as
    in the bound.
    """
    q, eps = module.posterior(x), eps.movedim(1, 0)
    z = q.sample(eps)  # (n_train_draws, n, nz)
    squares = (module.likelihood.mean(module.decode(z)) - x).square()
    if len(eps) == 1:
        return squares[0]
    shares = importance_shares(module.log_likelihood(x)(z), q, module.prior_density(), z, eps)[..., None]
    return torch.where(shares > 0, shares * squares, 0.0).sum(0)  # a sample of z without weight may overflow


def _kl_and_mean(module: VariationalAutoencoder, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """KL divergence of each dimension and posterior mean, side by side."""
    q = module.posterior(x)
    return torch.cat([module.prior_density().kl_per_dimension(q, eps), q.mu], dim=1)
