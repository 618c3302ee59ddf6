"""The autoencoder."""

__all__ = ["AutoencoderTransformer"]

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sklatent._nn.backbones import Backbone
from sklatent._nn.base import _BaseAutoencoder
from sklatent._nn.likelihoods import Gaussian, Standardizer
from sklatent._nn.modules import Autoencoder
from sklatent._nn.objectives import gauss_newton_codes, laplace_evidence, leverages, residual_density
from sklatent._nn.priors import Normal, Prior, StandardNormal
from sklatent._ppca.factors import shrink
from sklatent._sklearn_compat import StrOptions

# Least variance of the codes along any direction, over the largest.
MIN_LATENT_VARIANCE = 1e-9

# Scores of the autoencoder.
DENSITIES: dict[str, Callable[[Autoencoder, torch.Tensor], torch.Tensor]] = {
    "laplace": laplace_evidence,
    "residual": residual_density,
}


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
        "conv" the channels of its blocks. None stands for (w, w / 2) with w the power of two nearest to 4 n_features,
        at least 64, for (512, 256, 128) from 91 features on, and for the chapter's (32, 128, 256). Not used by
        a callable.
    activation : {"relu", "silu", "tanh", "gelu"}, default="silu"
        Between the layers. Not used by a callable.
    image_shape : (channels, height, width), default=None
        How to fold a row for "conv" or a callable. None stands for a square image of one channel with "conv", and for
        (n_features,) otherwise.
    likelihood : str, default="gaussian"
        x given z: "gaussian" with one learned variance, "gaussian_diagonal" with one for each feature (see
        Notes); "bernoulli" for X of zeros and ones, which takes grey levels in [0, 1] too but is no density for them,
        as the "continuous_bernoulli" is; "poisson" for counts.
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
        Rows a step. "auto" takes the power of two nearest to n_samples / 20 between 32 and 128.
    lr : float, default=5e-3
        Peak learning rate of AdamW. Where a few samples are far larger than the others (the fourth moment of their
        norms is above that of a normal density), it is divided by a power of two and the gradient is clipped.
    lr_schedule : {"cosine", "constant"}, default="cosine"
        "cosine" rises over the first tenth of the steps and then falls to zero.
    weight_decay : float, default=0.0
        Share of each weight, times the learning rate, that a step takes away (AdamW); biases are left alone.
    early_stopping : bool, default=False
        Whether to leave out samples, stop when their loss no longer falls, and restore the weights of the best epoch.
    validation_fraction : float, default=0.1
        Share of the rows left out with `early_stopping`.
    n_iter_no_change : int, default=5
        Epochs without a better validation loss after which to stop.
    tol : float, default=1e-4
        By how many nats a loss has to be better.
    device : str, default="auto"
        "cpu", "cuda" or "cuda:<number>"; "auto" takes CUDA where PyTorch finds it.
    precision : {"float32", "bf16"}, default="float32"
        Of the layers in training: "bf16" runs the products in bfloat16, for hardware that is faster at them. Weights,
        losses and everything after training stay float32.
    warm_start : bool, default=False
        Whether `fit` starts from the weights of the former fit, and keeps its centre and scale of the columns.
    checkpoint : str, PathLike or None, default=None
        File that holds the state of the training, replaced after each epoch. A `fit` that finds it goes on from there,
        to the same bits as if it had not been stopped; it refuses the file of another fit. Numbers only, no pickle.
        The state of `callbacks` is not a part of it.
    callbacks : list of skorch callbacks or None, default=None
        Called as skorch calls them. Its `EarlyStopping` ends the training early; with `monitor="valid_loss"`, its
        default, it needs `early_stopping=True`, which leaves out the samples to compute that loss from. For
        scikit-learn's callbacks use `set_callbacks` (from scikit-learn 1.9 on).
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
        Variance of x given z, in squared units of X: the squared error over n_features - nz degrees of freedom; one
        for each feature with "gaussian_diagonal" (see Notes), NaN with the other likelihoods.
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

    With `likelihood="gaussian_diagonal"` the network sees each column in units of its own standard deviation (its
    variance plus a hundredth of the mean one). The ratios of the noise variances are those of factor analysis in
    training, since nearly free codes would copy `nz` of the features and leave them no variance, and are estimated
    again from the errors of the trained decoder. Both estimates have a prior that counts as one sample and draws them
    to their mean e: s_j^2 = (n e_j + e) / (n + 1) for mean squared errors e_j of n samples, at most 10,000 of the
    training samples. It is an inverse-gamma density of s_j^2 with parameters 1/2 and e / 2, without which a nearly
    constant feature would outweigh all others. Features whose variance is below 1 / n of the mean one count as noise:
    scale them first where they should not. A linear network is factor analysis if it is trained for long enough: with
    `max_epochs=100, lr=0.02` it is within 0.02 nats on scikit-learn's example, and up to 0.1 nats below by default.

    How the defaults were chosen, by held-out nats of a VAE on digits (nz=8) unless said otherwise. `activation`: "silu"
    gained 1.6 nats on "relu" and 3.6 on "tanh". `hidden_sizes`: (256, 128) gained 6 on (128,) and 1 on (128, 64), and a
    third layer nothing, there and on tables; on MNIST it gained 3. `batch_size` and `max_epochs`: about 2000 steps
    suffice, and beyond 50 passes small tables overfit (breast cancer, scaled: 2 nats lost at 200); batches of 128 in
    place of 256 gained 6 nats on MNIST after one pass and 0.3 after eight. `lr`: 28.9, 35.5 and 36.4 at 1e-3, 3e-3 and
    6e-3; MNIST gained 1 nat from 3e-3 to 5e-3. `python benchmarks/defaults.py` prints such tables. `lr_schedule`: the
    cosine gained 1.3 nats, and 21 on unscaled breast cancer. `early_stopping` is off, as in scikit-learn's perceptrons.

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

    # Samples leave the search for the most probable code as they are done, and what is left has to fill a product.
    _N_SCORE_ROWS = 2048

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
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        device: str = "auto",
        precision: Literal["float32", "bf16"] = "float32",
        warm_start: bool = False,
        checkpoint: str | PathLike | None = None,
        callbacks: Sequence[Any] | None = None,
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
        """Estimate of log p(x) for each row, or log p(x | z) with `density="residual"`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        score : ndarray of shape (n_samples,), float64
            Nats, with respect to Lebesgue measure in the units of X (to counting measure with "bernoulli" and
            "poisson"). "laplace" estimates the density: it is exact for a linear decoder, and elsewhere takes the
            manifold about the most probable code of x as its tangent plane. It costs nz + 2 passes through the
            decoder (an MLP) for each of some five steps, and can err by much far from the training samples. A sample
            for which nothing finite is found has -inf. "residual" is the density of x given the code that the encoder
            gives, for one pass; it does not integrate to one over x: compare it at one nz only.
        """
        return super().score_samples(X)

    def _learn_of_codes(self, X: NDArray) -> None:
        """Moments of the codes and of the residual, such that a linear decoder gives probabilistic PCA."""
        X = X.astype(np.float64)
        n_samples, n_features = X.shape
        nz, likelihood = self.n_components_, self.module_.likelihood
        n_rows = max(1, self._CHUNK_SIZE // (n_features * nz))
        moments = self._by_chunks(self._code_moments, X, n_rows=n_rows)
        Z, errors, squares, shares = np.split(moments, np.cumsum([nz, nz**2, n_features]), axis=1)
        errors = errors.mean(axis=0).reshape(nz, nz)
        if isinstance(likelihood, Gaussian):
            errors *= self._learn_noise_variance(likelihood, squares, shares)
        spread = np.atleast_2d(np.cov(Z, rowvar=False)) if n_samples > 1 else np.eye(nz)
        values, vectors = np.linalg.eigh(spread - errors)
        values = np.maximum(values, MIN_LATENT_VARIANCE * np.linalg.eigvalsh(spread)[-1] or 1.0)
        covariance = (vectors * values) @ vectors.T
        self.latent_mean_, self.latent_covariance_ = Z.mean(axis=0), covariance
        self.module_.prior = Normal(torch.from_numpy(self.latent_mean_), torch.from_numpy(covariance)).to(
            self.module_.standardizer.loc.device
        )

    def _learn_noise_variance(self, likelihood: Gaussian, squares: NDArray, leverages: NDArray) -> float:
        """Set the variances by moments, and give the factor by which their level rises.

        The codes are fitted to each sample, and take up the share nz / n_features of the noise, so the level is the
        squared error over what is left. With a variance for each feature they take up more of one than of another, its
        leverage: this step of psi_j = e_j + leverage_j * psi_j has factor analysis as its fixed point where the
        network is linear. Elsewhere the errors of a bent decoder are not those of a plane: on digits the step is worth
        6 nats.
        """
        n_samples, n_features = squares.shape
        freedom = max(n_samples - 1, 1) * max(n_features - self.n_components_, 1) / n_features
        learned = likelihood.noise_variance
        if not likelihood.is_diagonal:
            likelihood.set_noise_variance(torch.from_numpy(squares.sum(axis=0) / freedom))
            return float(likelihood.noise_variance / learned)
        level = float((squares.sum(axis=0) / learned).mean() / freedom)
        variances = squares.mean(axis=0) + level * learned * leverages.mean(axis=0)
        likelihood.set_noise_variance(torch.from_numpy(shrink(variances, n_samples)))
        return level

    def _code_moments(self, X: NDArray) -> NDArray:
        """Code of largest likelihood, its covariance, the squared errors, and of a variance each the leverages."""

        def moments(module: Autoencoder, x: torch.Tensor) -> torch.Tensor:
            z, covariance = gauss_newton_codes(module, x)
            parts = [z, covariance.flatten(1), (module.likelihood.mean(module.decode(z)) - x).square()]
            if isinstance(module.likelihood, Gaussian) and module.likelihood.is_diagonal:
                parts.append(leverages(module, x, covariance))
            return torch.cat(parts, dim=1)

        return self._infer(moments, X)

    def _log_prob(self, X: NDArray) -> NDArray:
        return self._infer(DENSITIES[self.density], X)

    def _n_score_values(self) -> int:
        return 4 * self.n_features_in_

    def _code_parts(self) -> dict[str, int]:
        return {"latent dimensions": self.nz}

    def _build_prior(self, X: NDArray, standardizer: Standardizer, seed: int) -> Prior:
        return StandardNormal(self.nz)  # until the codes of the training rows are known

    def _assemble(self, *parts: Any) -> Autoencoder:
        return Autoencoder(*parts)
