"""Curves over the training, and distributions of scores."""

__all__ = ["LossCurveDisplay", "ScoreDisplay", "losses_of"]

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_scalar

from sklatent._sklearn_compat import safe_indexing
from sklatent.plotting._canvas import (
    BLUE,
    CLASS_COLOURS,
    GREY,
    axes_or_new,
    bin_edges,
    finish,
    histogram,
    panels,
    plain,
    pyplot,
)
from sklatent.plotting._models import evenly_spaced, step_with

# Within the warm-up the weight of the KL divergence is smaller than beta by more than this fraction.
WEIGHT_TOLERANCE = 1e-3
# The picture of losses ends above the highest one after this fraction of the epochs: the first ones may be far higher.
SETTLED = 0.1
N_BINS = 60
# Scores lower than those of the first group by more interquartile ranges than this are counted and not shown.
MAX_RANGES = 20


class LossCurveDisplay:
    r"""Losses of each epoch of the training of a network, in nats per sample.

    The upper panel shows the loss, whose terms are the reconstruction loss, :math:`-\ln p(x | z)`, and the KL
    divergence; the lower one, for a VAE, shows the KL divergence. With early stopping the losses of the validation set
    are dashed. The shaded epochs are the warm-up, in which the weight of the KL divergence is still smaller than
    `beta`.

    It is recommended to use :meth:`from_estimator` to create a display.

    Parameters
    ----------
    losses : dict of str to ndarray of shape (n_epochs,)
        Losses in nats per sample, by the names `train_loss`, `train_reconstruction`, `train_kl`, `valid_loss`,
        `valid_reconstruction` and `valid_kl`. Only the first is needed.
    n_warmup : int, default=0
        Number of epochs of the warm-up.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes; for two panels, the axes around them.
    axes_ : ndarray of matplotlib Axes
        The panels.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of str to matplotlib Line2D
        The curves, by the names of the losses.
    warmup_ : list of matplotlib Rectangle
        The warm-up in each panel; empty without one.

    See Also
    --------
    sklatent.VAETransformer : The attribute `history_` has these losses.

    References
    ----------
    Kingma & Welling (2014), "Auto-encoding variational Bayes", eq. 3. Sønderby et al. (2016), "Ladder variational
    autoencoders", section 2.3 (the warm-up).

    Examples
    --------
    >>> from sklatent import VAETransformer
    >>> from sklatent.plotting import LossCurveDisplay
    >>> from sklearn.datasets import load_iris
    >>> vae = VAETransformer(2, max_epochs=20, random_state=0).fit(load_iris().data)
    >>> display = LossCurveDisplay.from_estimator(vae)
    >>> display.n_warmup
    10
    """

    def __init__(self, losses: Mapping[str, ArrayLike], *, n_warmup: int = 0):
        self.losses = losses
        self.n_warmup = n_warmup

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> "LossCurveDisplay":
        """Show the losses of a fitted network.

        Parameters
        ----------
        estimator : object
            Fitted `AutoencoderTransformer` or `VAETransformer`, a Pipeline with one of these among its steps, or a
            search over these.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : LossCurveDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        TypeError
            If there is no network, since PCA has no epochs.

        See Also
        --------
        plot : Shows it again.

        Examples
        --------
        >>> from sklatent import AutoencoderTransformer
        >>> from sklatent.plotting import LossCurveDisplay
        >>> from sklearn.datasets import load_iris
        >>> autoencoder = AutoencoderTransformer(2, max_epochs=5, random_state=0).fit(load_iris().data)
        >>> display = LossCurveDisplay.from_estimator(autoencoder)
        >>> list(display.lines_)
        ['train_loss', 'valid_loss']
        """
        pyplot()
        network, _ = step_with(estimator, cls.__name__, "history_")
        losses, n_warmup = losses_of(network)
        return cls(losses, n_warmup=n_warmup).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "LossCurveDisplay":
        """Show the losses.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : LossCurveDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_estimator : Computes and shows.

        Examples
        --------
        >>> from sklatent import AutoencoderTransformer
        >>> from sklatent.plotting import LossCurveDisplay
        >>> from sklearn.datasets import load_iris
        >>> autoencoder = AutoencoderTransformer(2, max_epochs=5, random_state=0).fit(load_iris().data)
        >>> display = LossCurveDisplay({"train_loss": autoencoder.loss_curve_}).plot()
        >>> display.ax_.get_ylabel()
        'loss (nats per sample)'
        """
        has_kl = bool(np.any(self.losses.get("train_kl", 0)))
        ax = axes_or_new(ax, 6.4, 5.2 if has_kl else 3.8)
        self.axes_ = panels(ax, 2, 1) if has_kl else np.array([ax], dtype=object)
        self.lines_: dict[str, Any] = {}
        self.warmup_: list[Any] = []
        for name, values in self.losses.items():
            # Without a KL divergence the loss is the reconstruction loss.
            if has_kl or name.endswith("_loss"):
                self._plot_curve(name, np.asarray(values), kwargs)
        for panel, label in zip(self.axes_, ("loss", "KL divergence"), strict=False):
            self._finish_panel(panel, label)
        self.axes_[0].tick_params(labelbottom=not has_kl)
        self.axes_[-1].set_xlabel("epoch")
        return finish(self, ax, *self.axes_)

    def _plot_curve(self, name: str, values: NDArray[Any], kwargs: dict[str, Any]) -> None:
        panel = self.axes_[-1] if name.endswith("_kl") else self.axes_[0]
        label, style = _CURVES[name]
        (self.lines_[name],) = panel.plot(np.arange(1, len(values) + 1), values, **{"label": label} | style | kwargs)

    def _finish_panel(self, panel: Any, label: str) -> None:
        panel.set_ylabel(f"{label} (nats per sample)")
        settled = np.concatenate([line.get_ydata()[int(SETTLED * len(line.get_ydata())) :] for line in panel.lines])
        low, high = settled.min(), settled.max()
        if high > low:
            panel.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
        if self.n_warmup:
            self.warmup_.append(panel.axvspan(0.5, self.n_warmup + 0.5, color=GREY, alpha=0.2, linewidth=0))
            self.warmup_[-1].set_label("warm-up")
        panel.xaxis.set_major_locator(pyplot().matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        panel.legend(frameon=False, fontsize="small")


class ScoreDisplay:
    r"""Distributions of the scores of one or more groups of samples, in nats per sample.

    Typical groups are training samples, new samples and outliers. A gap between training and new samples shows
    overfitting. A threshold shows which samples an outlier detector or a classifier with rejection refuses.

    It is recommended to use :meth:`from_estimator` to create a display.

    Parameters
    ----------
    scores : dict of str to ndarray of shape (n_samples,)
        Scores of each group, in nats.
    threshold : float or None, default=None
        Scores below it are those of outliers.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    steps_ : dict of str to matplotlib StepPatch
        The density of the scores of each group.
    line_ : matplotlib Line2D or None
        The threshold.

    See Also
    --------
    sklatent.LatentOutlierDetector : Sets a threshold.

    Notes
    -----
    Scores may be very low, since they are logarithms of densities. Scores that are not finite, or lower than the lower
    quartile of the first group by more than 20 times its interquartile range, are not shown. The legend counts them.

    References
    ----------
    Bishop (1994), "Novelty detection and neural network validation", IEE Proc. Vision 141.

    Examples
    --------
    >>> import numpy as np
    >>> from sklatent import LatentOutlierDetector, PCAReducer
    >>> from sklatent.plotting import ScoreDisplay
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    >>> swapped = X[:, [1, 0, 2, 3]]  # widths as lengths
    >>> display = ScoreDisplay.from_estimator(detector, {"training": X, "swapped": swapped})
    >>> bool(display.threshold == detector.offset_)
    True
    """

    def __init__(self, scores: Mapping[str, NDArray[Any]], *, threshold: float | None = None):
        self.scores = scores
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | Mapping[str, ArrayLike],
        *,
        threshold: float | None = None,
        max_samples: int | None = 1000,
        ax: Any = None,
        **kwargs: Any,
    ) -> "ScoreDisplay":
        """Score samples and show the distributions of the scores.

        Parameters
        ----------
        estimator : object
            Fitted estimator with `score_samples`: one of this package, a density or an outlier detector of
            scikit-learn, a Pipeline that ends with one of these, or a search over these.
        X : array-like of shape (n_samples, n_features), or dict of str to array-like
            Samples, or groups of samples by their names.
        threshold : float or None, default=None
            Scores below it are those of outliers. None stands for that of the estimator, which is `offset_` of an
            outlier detector and `reject_threshold` or `reject_threshold_` of a `GenerativeClassifier`; without one
            there is no line.
        max_samples : int or None, default=1000
            Number of samples to score, of all groups together: of each group, at most the same number of samples, at
            equal distances in X. Scores of an `AutoencoderTransformer` take up to 2 ms a sample. None scores all.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.stairs`.

        Returns
        -------
        display : ScoreDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        TypeError
            If the estimator has no `score_samples`.
        ValueError
            If no score is finite, or if there are more groups than `max_samples`.

        See Also
        --------
        plot : Shows it again.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import ScoreDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = ScoreDisplay.from_estimator(pca, {"setosa": X[:50], "others": X[50:]}, threshold=-5.0)
        >>> list(display.steps_)
        ['setosa', 'others']
        """
        pyplot()
        if threshold is not None:
            check_scalar(threshold, "threshold", Real)
        if not hasattr(estimator, "score_samples"):
            raise TypeError(f"{cls.__name__} needs an estimator with score_samples, got {type(estimator).__name__}.")
        groups = X if isinstance(X, Mapping) else {"samples": X}
        if max_samples is not None:
            check_scalar(max_samples, "max_samples", Integral, min_val=max(len(groups), 1))
            groups = {name: _some_of(group, max_samples // len(groups)) for name, group in groups.items()}
        scores = {name: np.asarray(estimator.score_samples(group), dtype=float) for name, group in groups.items()}
        return cls(scores, threshold=_threshold(estimator) if threshold is None else threshold).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "ScoreDisplay":
        """Show the distributions of the scores.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.stairs`.

        Returns
        -------
        display : ScoreDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_estimator : Computes and shows.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import ScoreDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = ScoreDisplay({"training": pca.score_samples(X)}).plot()
        >>> display.ax_.get_xlabel()
        'score (nats per sample)'
        """
        edges = _edges([np.asarray(scores, dtype=float) for scores in self.scores.values()], self.threshold)
        ax = axes_or_new(ax, 6.4, 3.8)
        self.steps_, self.line_ = {}, None
        for number, (name, scores) in enumerate(self.scores.items()):
            outside = int(np.sum(~((scores >= edges[0]) & (scores <= edges[-1]))))
            label = f" {plain(name)}" + (f" ({outside} of {len(scores)} not shown)" if outside else "")
            colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
            self.steps_[name] = histogram(ax, scores, edges, colour=colour, label=label, **kwargs)
        if self.threshold is not None:
            self.line_ = ax.axvline(self.threshold, color="black", linestyle="--", linewidth=1.2, label="threshold")
        ax.set(xlabel="score (nats per sample)", ylabel="density (per nat)", ylim=(0, None))
        ax.legend(frameon=False)
        return finish(self, ax)


_TRAIN, _VALID = {"linestyle": "-"}, {"linestyle": "--"}
# Label and style of each curve.
_CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "train_loss": ("loss", {"color": "black"} | _TRAIN),
    "train_reconstruction": ("reconstruction", {"color": BLUE} | _TRAIN),
    "train_kl": ("KL divergence", {"color": CLASS_COLOURS[2]} | _TRAIN),
    "valid_loss": ("loss, validation", {"color": "black"} | _VALID),
    "valid_reconstruction": ("reconstruction, validation", {"color": BLUE} | _VALID),
    "valid_kl": ("KL divergence, validation", {"color": CLASS_COLOURS[2]} | _VALID),
}


def losses_of(network: Any) -> tuple[dict[str, NDArray[Any]], int]:
    """Losses of each epoch of a fitted network, by their names, and the number of epochs of its warm-up."""
    history = network.history_
    losses = {name: np.array([epoch[name] for epoch in history]) for name in _CURVES if name in history[0]}
    return losses, _warmup_epochs(losses, getattr(network, "beta", 0.0))


def _warmup_epochs(losses: Mapping[str, NDArray[Any]], beta: float) -> int:
    """Number of epochs in which the KL divergence had less than its full weight, as the losses themselves tell.

    The parameters do not tell: training may have stopped early, and `partial_fit` has no warm-up.
    """
    kl = losses["train_kl"]
    if not beta or not kl.any():
        return 0
    weighted = losses["train_loss"] - losses["train_reconstruction"]
    rounding = 1e-6 * np.abs(losses["train_loss"])
    below = weighted < (1 - WEIGHT_TOLERANCE) * beta * kl - rounding
    return int(np.flatnonzero(below).max(initial=-1)) + 1


def _some_of(X: Any, at_most: int) -> Any:
    """At most so many samples, at equal distances."""
    n_samples = X.shape[0] if hasattr(X, "shape") else len(X)  # sparse samples have no len
    return X if n_samples <= at_most else safe_indexing(X, evenly_spaced(n_samples, at_most))


def _threshold(estimator: Any) -> float | None:
    """The score below which the estimator, or the last step of a Pipeline, refuses a sample."""
    last = getattr(estimator, "best_estimator_", estimator)
    last = last[-1] if hasattr(last, "steps") else last
    known = (getattr(last, name, None) for name in ("offset_", "reject_threshold_", "reject_threshold"))
    return next((float(threshold) for threshold in known if threshold is not None), None)


def _edges(groups: Sequence[NDArray[Any]], threshold: float | None) -> NDArray[Any]:
    """Edges of the bins for all groups."""
    finite = [scores[np.isfinite(scores)] for scores in groups]
    together = np.concatenate(finite) if finite else np.array([])
    if not len(together):
        raise ValueError(f"ScoreDisplay needs at least one finite score, got none in {len(groups)} groups.")
    lower, upper = np.percentile(finite[0] if len(finite[0]) else together, [25, 75])
    lowest = max(together.min(), lower - MAX_RANGES * (upper - lower)) if upper > lower else together.min()
    ends = [lowest, together.max(), *([threshold] if threshold is not None and np.isfinite(threshold) else [])]
    return bin_edges(ends, N_BINS)
