"""The variational autoencoder."""

__all__ = ["VAETransformer"]

import hashlib
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sklatent._nn.backbones import Backbone
from sklatent._nn.base import _BaseAutoencoder, some_rows
from sklatent._nn.likelihoods import Gaussian, Standardizer
from sklatent._nn.modules import Autoencoder, VariationalAutoencoder
from sklatent._nn.objectives import importance_bound
from sklatent._nn.posteriors import POSTERIORS
from sklatent._nn.priors import GaussianMixturePrior, Prior, StandardNormal, VampPrior
from sklatent._ppca.factors import shrink
from sklatent._sklearn_compat import Interval, StrOptions

# Variance of a posterior mean over the rows above which its dimension counts as used (Burda et al. 2016, section 5.1).
MIN_ACTIVITY = 0.01


class VAETransformer(_BaseAutoencoder):
    r"""Variational autoencoder: a decoder of standard normal codes, trained by a bound on the evidence.

    The encoder gives a normal posterior q(z | x) with mean mu(x) and variances exp(log_var(x)). Training minimizes

    .. math:: \frac1n \sum_i \mathrm{E}_{q(z | x_i)}[-\ln p(x_i | z)] + \beta \, \mathrm{KL}(q \| p(z)),

    with one draw z = mu + exp(log_var / 2) eps for each row. At beta = 1 this is minus a lower bound on log p(x). The
    KL term keeps the codes compact, and the draw makes neighbours decode alike.

    Parameters
    ----------
    nz : int, default=2
        Dimension of the codes.
    beta : float, default=1.0
        Weight of the KL divergence in training: less gives better copies, more gives smoother codes. Scores do not
        contain it.
    prior : {"standard_normal", "mixture", "vamp"}, default="standard_normal"
        p(z): N(0, I), a mixture of normal densities learned with the decoder, or the mean of the posteriors of learned
        pseudo-inputs.
    n_prior_components : int, default=10
        Components of "mixture" and "vamp".
    posterior : {"diagonal", "full"}, default="diagonal"
        Covariance of q(z | x): a variance for each code, or a Cholesky factor.
    kl_warmup : float, default=0.5
        Share of the training steps over which the weight of the KL divergence rises from 0 to `beta`, so that the
        codes find their use before they are charged for it. 0 charges for them from the first step.
    n_draws : int, default=32
        Draws of z for each row in `score_samples`: more tighten the bound and cost as many passes through the decoder.
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
        Their loss has the full weight of the KL divergence from the first epoch on, in a warm-up too, so that training
        may also end within it.
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
    noise_variance_ : float or ndarray of shape (n_features,)
        Variance of x given z, in squared units of X; one for each feature with "gaussian_diagonal", NaN with the other
        likelihoods.
    kl_per_dimension_ : ndarray of shape (nz,)
        Mean over the rows of the KL divergence of each marginal of q from that of p(z), in nats.
    active_units_ : ndarray of shape (nz,), bool
        Which codes are used: the posterior mean varies over the rows by more than 0.01.
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
    `kl_warmup`: 0, 1/4, 1/2 and 3/4 were alike on ten tables, but a VAE(1) of a ring scored -2.1, -1.8, -1.4 and -1.3
    nats: without it the posterior collapses.
    `n_draws`: 32 come within half a nat of 100.

    See Also
    --------
    AutoencoderTransformer : The same network with nothing asked of the codes.
    PCAReducer : The linear model, with exact scores.

    References
    ----------
    Kingma & Welling (2014), "Auto-encoding variational Bayes". Higgins et al. (2017), "beta-VAE". Chaudhury (2024),
    "Math and Architectures of Deep Learning", section 14.7 and listings 14.5 to 14.9.

    Examples
    --------
    >>> from sklatent import PCAReducer, VAETransformer
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data / 16
    >>> vae = VAETransformer(8, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (1797, 8)
    >>> bool(vae.score(X) > PCAReducer(8).fit(X).score(X) + 10)  # nats a row
    True
    >>> vae.sample(2, random_state=0).shape
    (2, 64)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **_BaseAutoencoder._parameter_constraints,
        "beta": [Interval(Real, 0, None, closed="left")],
        "prior": [StrOptions({"standard_normal", "mixture", "vamp"})],
        "n_prior_components": [Interval(Integral, 1, None, closed="left")],
        "posterior": [StrOptions(set(POSTERIORS))],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
    }

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
        backbone: Literal["mlp", "conv"] | Backbone = "mlp",
        hidden_sizes: Sequence[int] | None = None,
        activation: str = "silu",
        image_shape: tuple[int, int, int] | None = None,
        likelihood: str = "gaussian",
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
        checkpoint: str | PathLike | None = None,
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
        """Importance-weighted lower bound on log p(x) for each row, by `n_draws` draws.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        bound : ndarray of shape (n_samples,), float64
            Nats, with respect to Lebesgue measure in the units of X (to counting measure with "bernoulli" and
            "poisson"): at most log p(x) in expectation, and nearer to it with more draws. Not multiplied by `beta`.
            The importance samples are tied to the values of the sample, so that it scores the same, up to rounding, in
            any order, subset or batch.
        """
        return super().score_samples(X)

    def _learn_of_codes(self, X: NDArray) -> None:
        """Divergence and activity of each dimension, with a warning where none is used; a variance for each feature."""
        eps = np.random.default_rng(self._draw_seed).standard_normal((len(X), self.nz)).astype(X.dtype)
        likelihood = self.module_.likelihood
        if isinstance(likelihood, Gaussian) and likelihood.is_diagonal:
            squares = self._by_chunks(self._squared_errors, np.hstack([X, eps]).astype(np.float64))
            likelihood.set_noise_variance(torch.from_numpy(shrink(squares.mean(axis=0), len(X))))
        kl, mu = np.split(self._by_chunks(self._kl_and_mean, np.hstack([X, eps])), [self.nz], axis=1)
        self.kl_per_dimension_ = kl.mean(axis=0, dtype=np.float64)
        self.active_units_ = mu.var(axis=0) > MIN_ACTIVITY
        if not self.active_units_.any() and np.ptp(X, axis=0).any():
            warnings.warn(
                "The posterior has collapsed: no code varies over the rows, so the model takes all of them for noise. "
                f"Try a smaller beta (now {self.beta}), a longer kl_warmup (now {self.kl_warmup}), or more epochs "
                f"(now {self.n_iter_}).",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _squared_errors(self, rows: NDArray) -> NDArray:
        """Squared errors at a draw from each posterior: their means are the variances that raise the bound most."""

        def squares(module: VariationalAutoencoder, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
            return (module.likelihood.mean(module.decode(module.posterior(x).sample(eps))) - x).square()

        return self._infer(squares, rows[:, : -self.nz], rows[:, -self.nz :])

    def _kl_and_mean(self, rows: NDArray) -> NDArray:
        """KL divergence of each dimension and posterior mean, side by side; the rows carry their draws behind them."""

        def diagnostics(module: VariationalAutoencoder, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
            q = module.posterior(x)
            return torch.cat([module.prior_density().kl_per_dimension(q, eps), q.mu], dim=1)

        return self._infer(diagnostics, rows[:, : -self.nz], rows[:, -self.nz :])

    def _log_prob(self, X: NDArray) -> NDArray:
        return self._infer(importance_bound, X, self._draws(X))

    def _n_score_values(self) -> int:
        return 4 * self.n_features_in_ * self.n_draws

    def _draws(self, X: NDArray) -> NDArray:
        """Standard normal draws (n_draws, n, nz) that depend on nothing but each row's values and the fit.

        So a row scores the same in any order, subset or batch, and the draws of different rows are independent.
        """
        standardizer = self.module_.standardizer
        loc, scale = standardizer.loc.cpu().numpy(), standardizer.scale.cpu().numpy()
        # Standardized and rounded, so that neither units nor the precision of X change the draws; -0.0 becomes 0.0.
        with np.errstate(over="ignore"):  # values beyond float32 are alike: no draw gives them a finite score
            rows = ((X.astype(np.float64) - loc) / scale).astype(np.float32, order="C") + np.float32(0)
        key = hashlib.sha256(self._draw_seed.to_bytes(8, "little"))
        bits = np.random.Philox(key=0)
        generator, fresh = np.random.Generator(bits), bits.state
        draws = np.empty((len(X), self.n_draws, self.n_components_))
        for row, out in zip(rows, draws, strict=True):
            digest = key.copy()
            digest.update(row)
            fresh["state"]["key"] = np.frombuffer(digest.digest(), dtype="<u8", count=2)
            bits.state = fresh  # half the time of a new generator
            generator.standard_normal(out=out)
        return draws.transpose(1, 0, 2).astype(X.dtype)

    def _code_parts(self) -> dict[str, int]:
        return POSTERIORS[self.posterior].parts(self.nz)

    def _build_prior(self, X: NDArray, standardizer: Standardizer, seed: int) -> Prior:
        rng = np.random.default_rng(seed)
        if self.prior == "mixture":
            means = rng.standard_normal((self.n_prior_components, self.nz), dtype=np.float32)
            return GaussianMixturePrior(torch.from_numpy(means))
        if self.prior == "vamp":
            rows = some_rows(X)
            rows = rows[rng.integers(len(rows), size=self.n_prior_components)]
            return VampPrior(standardizer(torch.from_numpy(rows)))
        return StandardNormal(self.nz)

    def _assemble(self, *parts: Any) -> Autoencoder:
        return VariationalAutoencoder(*parts, posterior=POSTERIORS[self.posterior], nz=self.nz, beta=self.beta)
