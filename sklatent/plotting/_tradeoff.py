"""Rate and distortion of the candidates of a search."""

__all__ = ["RateDistortionDisplay"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sklatent.plotting._canvas import BLUE, GREY, SEQUENTIAL, axes_or_new, finish, plain, pyplot

# Parameters that tell candidates apart in this plane, by the ends of their names in a Pipeline.
LABELS = ("nz", "n_components", "beta")


class RateDistortionDisplay:
    r"""Rate and distortion of latent models: what the latent codes cost, and what they leave out.

    .. math::
        R = \frac1n \sum_i \mathrm{KL}(q(z | x_i) \| p(z)), \quad
        D = -\frac1n \sum_i \mathrm{E}_{q(z | x_i)} \ln p(x_i | z)

    in nats per sample. The evidence lower bound is -(R + D), so models on one of the dotted lines have the same bound.
    Good models are at the lower left, and the knee of their curve shows where more latent information no longer pays.

    It is recommended to use :meth:`from_cv_results` to create a display.

    Parameters
    ----------
    rate : array-like of shape (n_models,)
        Rate R of each model, in nats per sample.
    distortion : array-like of shape (n_models,)
        Distortion D of each model, in nats per sample.
    labels : list of str or None, default=None
        Text beside each model.
    scores : array-like of shape (n_models,) or None, default=None
        Values that colour the models.
    score_name : str, default="score"
        Label of the colour bar.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    scatter_ : matplotlib PathCollection
        The models.
    texts_ : list of matplotlib Annotation
        The labels of the models.

    See Also
    --------
    ScreeDisplay : The KL divergence of each latent dimension of one model.

    References
    ----------
    Alemi et al. (2018), "Fixing a broken ELBO", eq. 1 to 4 and figure 1.

    Examples
    --------
    >>> from sklatent.plotting import RateDistortionDisplay
    >>> display = RateDistortionDisplay([2.1, 3.4, 4.8], [1.4, -0.2, -1.7], labels=["nz=1", "nz=2", "nz=3"])
    >>> [text.get_text() for text in display.plot().texts_]
    ['nz=1', 'nz=2', 'nz=3']
    """

    def __init__(
        self,
        rate: ArrayLike,
        distortion: ArrayLike,
        *,
        labels: Sequence[str] | None = None,
        scores: ArrayLike | None = None,
        score_name: str = "score",
    ):
        self.rate = rate
        self.distortion = distortion
        self.labels = labels
        self.scores = scores
        self.score_name = score_name

    @classmethod
    def from_cv_results(
        cls,
        cv_results: Mapping[str, Any],
        *,
        rate: str = "rate",
        distortion: str = "distortion",
        score: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "RateDistortionDisplay":
        """Show the candidates of a search.

        Parameters
        ----------
        cv_results : dict
            The attribute `cv_results_` of a search whose `scoring` has :func:`~sklatent.metrics.rate_scorer` and
            :func:`~sklatent.metrics.distortion_scorer`, or two others that return the negative of rate and distortion
            as these do.
        rate : str, default="rate"
            Name of the first scorer in `scoring`.
        distortion : str, default="distortion"
            Name of the second scorer in `scoring`.
        score : str or None, default=None
            Name of a scorer that colours the candidates.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : RateDistortionDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        ValueError
            If `cv_results` has no mean test score of one of these names.

        See Also
        --------
        plot : Shows it again.
        sklatent.metrics.rate_distortion : Rate and distortion of a single model.

        Examples
        --------
        >>> from sklatent import PCAReducer
        >>> from sklatent.metrics import distortion_scorer, rate_scorer
        >>> from sklatent.plotting import RateDistortionDisplay
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import GridSearchCV
        >>> scoring = {"rate": rate_scorer, "distortion": distortion_scorer}
        >>> search = GridSearchCV(PCAReducer(), {"nz": [1, 2, 3]}, scoring=scoring, refit=False).fit(load_iris().data)
        >>> display = RateDistortionDisplay.from_cv_results(search.cv_results_)
        >>> [text.get_text() for text in display.texts_]
        ['nz=1', 'nz=2', 'nz=3']
        """
        pyplot()
        means = {name: _mean_test(cv_results, name) for name in (rate, distortion, score) if name is not None}
        labels = [_label(params) for params in cv_results["params"]]
        display = cls(
            -means[rate],
            -means[distortion],
            labels=labels,
            scores=None if score is None else means[score],
            score_name=score or "score",
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "RateDistortionDisplay":
        """Show the models.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : RateDistortionDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_cv_results : Computes and shows.

        Examples
        --------
        >>> from sklatent.plotting import RateDistortionDisplay
        >>> display = RateDistortionDisplay([5.9, 3.1], [-27.1, -22.0]).plot(s=80)
        >>> display.ax_.get_xlabel()
        'rate (nats per sample)'
        """
        rate, distortion = np.asarray(self.rate, dtype=float), np.asarray(self.distortion, dtype=float)
        ax = axes_or_new(ax, 6.4, 4.8)
        colour = {"color": BLUE} if self.scores is None else {"c": self.scores, "cmap": SEQUENTIAL}
        self.scatter_ = ax.scatter(rate, distortion, **{"s": 36, "zorder": 3} | colour | kwargs)
        self.texts_ = [_beside(ax, *point) for point in zip(self.labels or (), rate, distortion, strict=False)]
        ax.margins(0.12)
        _plot_bounds(ax, rate, distortion)
        ax.set(xlabel="rate (nats per sample)", ylabel="distortion (nats per sample)")
        if self.scores is not None:
            bar = ax.figure.colorbar(self.scatter_, ax=ax, label=plain(self.score_name), fraction=0.04, pad=0.02)
            bar.outline.set_visible(False)
        return finish(self, ax)


def _mean_test(cv_results: Mapping[str, Any], name: str) -> np.ndarray:
    key = f"mean_test_{name}"
    if key not in cv_results:
        known = sorted(found.removeprefix("mean_test_") for found in cv_results if found.startswith("mean_test_"))
        raise ValueError(f"cv_results must have the scorer {name!r}, got those of {known}.")
    return np.asarray(cv_results[key], dtype=float)


def _label(params: Mapping[str, Any]) -> str:
    """The nz and beta of a candidate, whatever the steps around them are called."""
    found = {name.rpartition("__")[2]: value for name, value in params.items()}
    return ", ".join(f"{name}={found[name]}" for name in LABELS if name in found)


def _beside(ax: Any, label: str, x: float, y: float) -> Any:
    return ax.annotate(plain(label), (x, y), xytext=(6, 4), textcoords="offset points", fontsize="small")


def _plot_bounds(ax: Any, rate: np.ndarray, distortion: np.ndarray) -> None:
    """A line of equal bound through the best model and through the worst."""
    totals = rate + distortion
    if np.isfinite(totals).any():
        for k in {int(np.nanargmin(totals)), int(np.nanargmax(totals))}:
            ax.axline((rate[k], distortion[k]), slope=-1, color=GREY, linestyle=":", linewidth=1)
