"""Loadings: how the features change along each latent dimension."""

__all__ = ["LoadingsDisplay"]

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklatent.plotting._canvas import BLUE, GREY, ORANGE, axes_or_new, finish, panels, plain, pyplot
from sklatent.plotting._models import (
    check_count,
    encode,
    feature_names,
    latent_names,
    mean_loadings,
    most_varied,
)

DEFAULT_BARS, MAX_BARS = 4, 6
MAX_FEATURES = 50


class LoadingsDisplay:
    r"""Loadings: the mean change of each feature for one standard deviation of each latent dimension.

    .. math:: L_{jk} = s_k \frac1n \sum_i \frac{\partial g_j}{\partial z_k}(z_i)

    with the decoder g (`inverse_transform`) and the standard deviations s of the latent codes. For PCA these are the
    principal axes times the square roots of the explained variances, and with `standardized=True` the correlations
    between features and components. For networks they average over the curved manifold.

    It is recommended to use :meth:`from_estimator` to create a display.

    Parameters
    ----------
    loadings : ndarray of shape (n_features, nz)
        Loadings, in the units of the features.
    latent_codes : ndarray of shape (n_samples, nz) or None, default=None
        Latent codes, for the samples of a biplot.
    feature_names : list of str or None, default=None
        Names of the features; None stands for x0, x1, ...
    names : list of str or None, default=None
        Names of the latent dimensions; None stands for z_0, z_1, ...
    unit : str, default="units of X"
        Unit of the loadings.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes; for several panels of bars, the axes around them.
    axes_ : ndarray of matplotlib Axes
        The panels.
    figure_ : matplotlib Figure
        The figure.
    bars_ : list of matplotlib BarContainer
        The bars of each latent dimension; empty for a biplot.
    arrows_ : list of matplotlib Annotation
        The arrows of a biplot.
    scatter_ : matplotlib PathCollection or None
        The samples of a biplot.

    See Also
    --------
    ScreeDisplay : What each latent dimension contributes.
    TraversalDisplay : Decoded samples along each latent dimension.

    References
    ----------
    Jolliffe (2002), "Principal component analysis", sections 2.3 and 5.3. Gabriel (1971), "The biplot graphic display
    of matrices with application to principal component analysis".

    Examples
    --------
    >>> from sklatent.plotting import LoadingsDisplay
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> X = load_iris(as_frame=True).data
    >>> display = LoadingsDisplay.from_estimator(PCA(2).fit(X), X)
    >>> display.loadings[:, 0].round(2)  # centimetres for one standard deviation
    array([ 0.74, -0.17,  1.76,  0.74])
    >>> biplot = display.plot(kind="biplot")
    >>> [arrow.get_text() for arrow in biplot.arrows_][:2]
    ['petal length (cm)', 'sepal length (cm)']
    """

    def __init__(
        self,
        loadings: NDArray[Any],
        *,
        latent_codes: NDArray[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        unit: str = "units of X",
    ):
        self.loadings = loadings
        self.latent_codes = latent_codes
        self.feature_names = feature_names
        self.names = names
        self.unit = unit

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        standardized: bool = False,
        kind: Literal["bars", "biplot"] = "bars",
        dimensions: Sequence[int] | None = None,
        max_features: int = 20,
        ax: Any = None,
        **kwargs: Any,
    ) -> "LoadingsDisplay":
        """Compute the loadings of a fitted estimator and show them.

        The derivatives are central differences of `inverse_transform`, so every transformer that has one will do. They
        are averaged over at most 4,096 / nz of the samples.

        Parameters
        ----------
        estimator : object
            Fitted transformer with `inverse_transform`, a Pipeline of such transformers (a last step that predicts is
            left out), or a search over these. The loadings of a Pipeline are those of the features that it is given.
        X : array-like of shape (n_samples, n_features)
            At least two samples, at which the derivatives are averaged.
        standardized : bool, default=False
            Whether to divide the loadings by the standard deviations of the features, which makes features of different
            units comparable. Those of constant features are 0.
        kind : {"bars", "biplot"}, default="bars"
            "bars" shows the loadings of each latent dimension, "biplot" those of two of them as arrows over the latent
            codes.
        dimensions : list of int or None, default=None
            Latent dimensions to show: at most 6 for bars, and two for a biplot. None selects those with the largest
            variance, at most four.
        max_features : int, default=20
            Number of features to show, those with the largest loadings; at most 50.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.barh`, or of :meth:`matplotlib.axes.Axes.scatter` for a
            biplot.

        Returns
        -------
        display : LoadingsDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        TypeError
            If the estimator has no `inverse_transform`.
        ValueError
            If X has fewer than two samples, for which latent codes have no standard deviation, or if a biplot is
            requested of one latent dimension.

        See Also
        --------
        plot : Shows it again.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import LoadingsDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = LoadingsDisplay.from_estimator(pca, X, standardized=True, dimensions=[0, 1])
        >>> display.loadings[:, 0].round(2)  # correlations with the first component
        array([ 0.9 , -0.4 ,  1.  ,  0.97])
        """
        pyplot()
        Z = encode(estimator, X, cls.__name__)
        if len(Z) < 2:
            raise ValueError(f"X of LoadingsDisplay must have at least 2 samples, got {len(Z)}.")
        loadings = mean_loadings(estimator, X, Z, standardized, cls.__name__)
        display = cls(
            loadings,
            latent_codes=Z,
            feature_names=feature_names(estimator, len(loadings)),
            names=latent_names(estimator, Z.shape[1]),
            unit="standard deviations of the feature" if standardized else "units of X",
        )
        return display.plot(ax, kind=kind, dimensions=dimensions, max_features=max_features, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        kind: Literal["bars", "biplot"] = "bars",
        dimensions: Sequence[int] | None = None,
        max_features: int = 20,
        **kwargs: Any,
    ) -> "LoadingsDisplay":
        """Show the loadings.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        kind : {"bars", "biplot"}, default="bars"
            "bars" shows the loadings of each latent dimension, "biplot" those of two of them as arrows over the latent
            codes.
        dimensions : list of int or None, default=None
            Latent dimensions to show.
        max_features : int, default=20
            Number of features to show, those with the largest loadings; at most 50.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.barh`, or of :meth:`matplotlib.axes.Axes.scatter` for a
            biplot.

        Returns
        -------
        display : LoadingsDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_estimator : Computes and shows.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import LoadingsDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = LoadingsDisplay(pca.components_.T).plot(dimensions=[0], max_features=2)
        >>> [label.get_text() for label in display.axes_[0].get_yticklabels()]
        ['x0', 'x2']
        """
        kinds = {"bars": self._plot_bars, "biplot": self._plot_biplot}
        check_count("max_features", max_features, MAX_FEATURES)
        if kind not in kinds:
            raise ValueError(f"kind={kind!r} must be one of {sorted(kinds)}.")
        self.bars_: list[Any] = []
        self.arrows_: list[Any] = []
        self.scatter_ = None
        return kinds[kind](ax, dimensions, max_features, kwargs)

    def _plot_bars(self, ax: Any, dimensions: Any, max_features: int, kwargs: dict[str, Any]) -> "LoadingsDisplay":
        at_most = DEFAULT_BARS if dimensions is None else MAX_BARS
        chosen = most_varied(self._codes(), dimensions, at_most, type(self).__name__)
        shown = np.sort(self._largest(chosen, max_features))
        limit = 1.08 * np.abs(self.loadings[shown][:, chosen]).max(initial=np.finfo(float).tiny)
        ax = axes_or_new(ax, 1.6 + 2.2 * len(chosen), 1.2 + 0.24 * max(len(shown), 6))
        self.axes_ = panels(ax, len(chosen), len(chosen), xlim=(-limit, limit), ylim=(len(shown) - 0.4, -0.6))
        for panel, k in zip(self.axes_, chosen, strict=True):
            values = self.loadings[shown, k]
            style = {"color": np.where(values < 0, ORANGE, BLUE), "height": 0.75} | kwargs
            self.bars_.append(panel.barh(np.arange(len(shown)), values, **style))
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_yticks(np.arange(len(shown)), [""] * len(shown))
            panel.set_title(self._name(k).replace(" (", "\n("), fontsize="medium")
        self.axes_[0].set_yticklabels([self._feature(j) for j in shown])
        ax.set_xlabel(f"change for one standard deviation of z\n({self.unit})", labelpad=24)
        return finish(self, ax, *self.axes_)

    def _plot_biplot(self, ax: Any, dimensions: Any, max_features: int, kwargs: dict[str, Any]) -> "LoadingsDisplay":
        Z = self._codes()
        pair = most_varied(Z, dimensions, 2, type(self).__name__)
        if len(pair) != 2:
            raise ValueError(f"kind='biplot' needs two latent dimensions, got {len(pair)}.")
        ax = axes_or_new(ax, 6.4, 5.2)
        if self.latent_codes is not None:
            style = {"s": float(np.clip(8000 / len(Z), 2, 16)), "color": GREY, "alpha": 0.5, "linewidths": 0} | kwargs
            self.scatter_ = ax.scatter(*Z[:, pair].T, rasterized=len(Z) > 1000, **style)
        shown = self._largest(pair, max_features)
        arrows = self.loadings[shown][:, pair]
        # Arrows and samples have units of their own; the longest arrow reaches about as far as the samples.
        arrows = arrows * (np.abs(Z[:, pair]).max() / np.linalg.norm(arrows, axis=1).max(initial=1e-300))
        heights = _label_heights(arrows, gap=0.1 * np.abs(Z[:, pair]).max())
        self.arrows_ = [self._arrow(ax, *arrow) for arrow in zip(shown, arrows, heights, strict=True)]
        ax.margins(0.25, 0.12)  # for the names of the features
        ax.set(xlabel=self._name(pair[0]), ylabel=self._name(pair[1]))
        self.axes_ = np.array([ax], dtype=object)
        return finish(self, ax)

    def _arrow(self, ax: Any, j: int, end: NDArray[Any], height: float) -> Any:
        """An arrow from the origin, with the name of its feature beside the end."""
        ax.annotate("", end, (0, 0), arrowprops={"arrowstyle": "->", "color": ORANGE, "linewidth": 1.3})
        ax.update_datalim([end])
        ax.autoscale_view()
        place = {"ha": "left" if end[0] > 0 else "right", "va": "center", "fontsize": "small"}
        return ax.annotate(self._feature(j), end, (1.03 * end[0], height), **place)

    def _largest(self, chosen: list[int], max_features: int) -> NDArray[Any]:
        """The features with the longest loadings in the latent dimensions, in decreasing order."""
        return np.argsort(-np.linalg.norm(self.loadings[:, chosen], axis=1), kind="stable")[:max_features]

    def _codes(self) -> NDArray[Any]:
        """The latent codes, or without them one that spreads as the loadings do."""
        if self.latent_codes is None:
            scale = np.linalg.norm(self.loadings, axis=0)
            return np.stack([-scale, scale])
        return self.latent_codes

    def _feature(self, j: int) -> str:
        return f"x{j}" if self.feature_names is None else plain(self.feature_names[j])

    def _name(self, k: int) -> str:
        return f"$z_{{{k}}}$" if self.names is None else self.names[k]


def _label_heights(ends: NDArray[Any], gap: float) -> NDArray[Any]:
    """Heights of the labels of arrows, so that those on one side of the origin are not closer than a gap."""
    heights = 1.06 * ends[:, 1]
    for side in (ends[:, 0] > 0, ends[:, 0] <= 0):
        order = np.flatnonzero(side)[np.argsort(heights[side], kind="stable")]
        ladder = gap * np.arange(len(order))
        heights[order] = np.maximum.accumulate(heights[order] - ladder) + ladder
    return heights
