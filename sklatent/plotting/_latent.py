"""Map of the latent space."""

__all__ = ["LatentDisplay"]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gaussian_kde

from sklatent.plotting._canvas import SEQUENTIAL, axes_or_new, bin_edges, finish, histogram, panels, pyplot
from sklatent.plotting._colouring import Colouring
from sklatent.plotting._models import apply, encode, evenly_spaced, latent_names, most_varied, step_with

# Pairs of k latent dimensions need k (k - 1) / 2 panels.
MAX_PAIRED, DEFAULT_PAIRED = 5, 4
MAX_ELLIPSES = 100
MAX_DENSITY_SAMPLES = 1000
N_GRID = 70
# The regions of highest density that contain these fractions of the samples.
CONTOURS = (0.9, 0.5)


class LatentDisplay:
    r"""Map of the latent codes of samples, coloured by class or by a quantity.

    Two latent dimensions are one scatter plot, and one is a histogram (or a scatter plot against a quantity). More are
    a scatter plot for each pair, with a histogram for each latent dimension on the diagonal.

    It is recommended to use :meth:`from_estimator` to create a display.

    Parameters
    ----------
    latent_codes : ndarray of shape (n_samples, nz)
        Latent codes.
    y : array-like of shape (n_samples,) or None, default=None
        Values that colour the samples. Labels, and whole numbers with at most 20 different values, are classes with a
        legend; other numbers are a quantity with a colour bar.
    covariances : ndarray of shape (n_shown, nz, nz) or None, default=None
        Covariances of the posteriors q(z | x) of some samples.
    means : ndarray of shape (n_shown, nz) or None, default=None
        Means of the same posteriors.
    names : list of str or None, default=None
        Labels of the axes; None stands for z_0, z_1, ...

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes; with several panels, the axes around them.
    axes_ : ndarray of matplotlib Axes, of shape (n_dimensions, n_dimensions)
        The panels, of shape (1, 1) for one or two latent dimensions.
    figure_ : matplotlib Figure
        The figure.
    scatter_ : matplotlib PathCollection or None
        The samples in the first panel. They are in a random order, so that no class hides the others.
    ellipses_ : matplotlib EllipseCollection or None
        Regions of one standard deviation of the posteriors.
    contour_ : matplotlib ContourSet or None
        Density of the latent codes.

    See Also
    --------
    LoadingsDisplay : How the features change along each latent dimension.
    TraversalDisplay : What the latent space decodes to.

    References
    ----------
    Hyndman (1996), "Computing and graphing highest density regions", section 3 (the levels of the contours). Kingma &
    Welling (2014), "Auto-encoding variational Bayes", section 3 (the posterior).

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.plotting import LatentDisplay
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> display = LatentDisplay.from_estimator(PCAReducer(2).fit(X), X, y=y)
    >>> display.ax_.get_xlabel()
    '$z_{0}$ (92.5 % of the variance)'
    """

    def __init__(
        self,
        latent_codes: NDArray[Any],
        *,
        y: ArrayLike | None = None,
        covariances: NDArray[Any] | None = None,
        means: NDArray[Any] | None = None,
        names: Sequence[str] | None = None,
    ):
        self.latent_codes = latent_codes
        self.y = y
        self.covariances = covariances
        self.means = means
        self.names = names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        y: ArrayLike | None = None,
        dimensions: Sequence[int] | None = None,
        ellipses: bool = False,
        contour: bool = False,
        cmap: Any = SEQUENTIAL,
        ax: Any = None,
        **kwargs: Any,
    ) -> "LatentDisplay":
        """Encode samples and show the map.

        Parameters
        ----------
        estimator : object
            Fitted transformer, such as an estimator of this package or scikit-learn's PCA; a Pipeline that ends with
            one, or with one before a last step that predicts; or a search over these.
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,) or None, default=None
            Classes, or a quantity, to colour the samples.
        dimensions : list of int or None, default=None
            Latent dimensions to show, at most 5. None selects the four with the largest variance.
        ellipses : bool, default=False
            Whether to show the region of one standard deviation of the posterior q(z | x) of at most 100 samples. Only
            a `VAETransformer` has one.
        contour : bool, default=False
            Whether to show the smallest regions that contain 50 % and 90 % of the samples, by a kernel density estimate
            from at most 1,000 of them.
        cmap : str or matplotlib Colormap, default="viridis"
            Colours of a quantity, and of more than ten classes.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.scatter`, or of :meth:`matplotlib.axes.Axes.stairs` for the
            histogram of a single latent dimension.

        Returns
        -------
        display : LatentDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        TypeError
            If the estimator has no `transform`, or no posterior and `ellipses=True`.
        ValueError
            If `dimensions` are not latent dimensions, or X and y differ in length.

        See Also
        --------
        plot : Shows it again.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import LatentDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = LatentDisplay.from_estimator(pca, X, y=y, dimensions=[0, 2], contour=True)
        >>> len(display.contour_.levels)
        2
        """
        pyplot()
        Z = encode(estimator, X, cls.__name__)
        means, covariances = _posteriors(estimator, X, cls.__name__) if ellipses else (None, None)
        names = latent_names(estimator, Z.shape[1])
        display = cls(Z, y=y, covariances=covariances, means=means, names=names)
        return display.plot(ax, dimensions=dimensions, contour=contour, cmap=cmap, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        dimensions: Sequence[int] | None = None,
        contour: bool = False,
        cmap: Any = SEQUENTIAL,
        **kwargs: Any,
    ) -> "LatentDisplay":
        """Show the map.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        dimensions : list of int or None, default=None
            Latent dimensions to show, at most 5. None selects the four with the largest variance.
        contour : bool, default=False
            Whether to show the smallest regions that contain 50 % and 90 % of the samples.
        cmap : str or matplotlib Colormap, default="viridis"
            Colours of a quantity, and of more than ten classes.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.scatter`, or of :meth:`matplotlib.axes.Axes.stairs` for the
            histogram of a single latent dimension.

        Returns
        -------
        display : LatentDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_estimator : Computes and shows.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import LatentDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = LatentDisplay(pca.transform(X), y=y).plot()
        >>> display.axes_.shape  # all pairs of three latent dimensions
        (3, 3)
        """
        at_most = DEFAULT_PAIRED if dimensions is None else MAX_PAIRED
        chosen = most_varied(self.latent_codes, dimensions, at_most, type(self).__name__)
        colouring = Colouring(self.y, len(self.latent_codes), cmap)
        self.scatter_ = self.ellipses_ = self.contour_ = None
        size = 2.0 * len(chosen) + 1 if len(chosen) > 2 else 4.8
        ax = axes_or_new(ax, size * 1.25, size)
        self.axes_ = self._pairs(ax, chosen, colouring, contour, kwargs)
        colouring.explain(ax)
        return finish(self, ax, *(panel for panel in self.axes_.ravel() if panel is not None))

    def _pairs(
        self, ax: Any, chosen: list[int], colouring: Colouring, contour: bool, kwargs: dict[str, Any]
    ) -> NDArray[Any]:
        """The panels, which are the lower triangle of a table of all pairs."""
        if len(chosen) == 1:
            self._alone(ax, chosen[0], colouring, kwargs)
            return np.array([[ax]], dtype=object)
        if len(chosen) == 2:
            self._pair(ax, chosen[0], chosen[1], colouring, contour, kwargs)
            return np.array([[ax]], dtype=object)
        axes = panels(ax, len(chosen) ** 2, len(chosen)).reshape(len(chosen), -1)
        for (i, j), panel in np.ndenumerate(axes):
            if i < j:
                panel.remove()
                axes[i, j] = None
            elif i == j:
                self._distribution(panel, chosen[i], colouring)
            else:
                self._pair(panel, chosen[j], chosen[i], colouring, contour, kwargs)
        _label_outer(axes)
        return axes

    def _alone(self, ax: Any, k: int, colouring: Colouring, kwargs: dict[str, Any]) -> None:
        if colouring.quantity is None:
            self._distribution(ax, k, colouring, **kwargs)
            ax.set(ylabel="density")
        else:
            self.scatter_ = self._scatter(ax, self.latent_codes[:, k], colouring.quantity, colouring, kwargs)
            ax.set(xlabel=self._name(k), ylabel="y")

    def _distribution(self, ax: Any, k: int, colouring: Colouring, **kwargs: Any) -> None:
        z = self.latent_codes[:, k]
        edges = bin_edges(z, int(np.clip(3 * len(z) ** (1 / 3), 10, 40)))
        for members, colour in colouring.groups():
            histogram(ax, z[members], edges, colour=colour, **kwargs)
        ax.set(xlabel=self._name(k))
        ax.set_yticks([])

    def _pair(self, ax: Any, j: int, k: int, colouring: Colouring, contour: bool, kwargs: dict[str, Any]) -> None:
        scatter = self._scatter(ax, self.latent_codes[:, j], self.latent_codes[:, k], colouring, kwargs)
        self.scatter_ = self.scatter_ or scatter
        ax.set(xlabel=self._name(j), ylabel=self._name(k))
        if self.covariances is not None and self.means is not None:
            ellipses = _ellipses(ax, self.means[:, [j, k]], self.covariances[:, [[j], [k]], [j, k]])
            self.ellipses_ = self.ellipses_ or ellipses
        if contour:
            drawn = _density_contour(ax, self.latent_codes[:, [j, k]])
            self.contour_ = self.contour_ or drawn

    def _scatter(self, ax: Any, x: NDArray[Any], y: NDArray[Any], colouring: Colouring, kwargs: dict[str, Any]) -> Any:
        order = np.random.default_rng(0).permutation(len(x))
        # Many samples are small and transparent, and rasterized, so that a PDF of them stays small.
        crowd = len(x) > 1000
        size, alpha = np.clip(12_000 / len(x), 3, 24), 0.5 if crowd else 0.85
        style = {"s": size, "alpha": alpha, "linewidths": 0, "rasterized": crowd}
        return ax.scatter(x[order], y[order], **colouring.style(order) | style | kwargs)

    def _name(self, k: int) -> str:
        return f"$z_{{{k}}}$" if self.names is None else self.names[k]


def _posteriors(estimator: Any, X: Any, caller: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means and covariances of the posteriors of at most `MAX_ELLIPSES` samples."""
    model, before = step_with(estimator, f"ellipses=True of {caller}", "kl_per_dimension_")
    from sklatent._nn.inference import infer  # loads PyTorch, which the other pictures do without

    X = apply(before, X)
    ends = np.eye(model.n_components_)[:, None, :]  # (nz, 1, nz)

    def moments(module: Any, x: Any, ends: Any) -> Any:
        q = module.posterior(x)
        # A sample is mu + L eps, so the unit vectors tell the columns of L, whatever the posterior's covariance is.
        return (q.sample(ends.expand(-1, len(x), -1)) - q.mu).permute(1, 2, 0), q.mu

    X = X[evenly_spaced(len(X), MAX_ELLIPSES)]
    factors = infer(model.module_, lambda *args: moments(*args)[0], X, ends)
    means = infer(model.module_, lambda *args: moments(*args)[1], X, ends)
    return means, factors @ factors.swapaxes(1, 2)


def _ellipses(ax: Any, means: NDArray[Any], covariances: NDArray[Any]) -> Any:
    variances, axes = np.linalg.eigh(covariances)
    widths, heights = 2 * np.sqrt(np.maximum(variances, 0)).T
    angles = np.degrees(np.arctan2(axes[:, 1, 0], axes[:, 0, 0]))
    collection = pyplot().matplotlib.collections.EllipseCollection(
        widths, heights, angles, units="xy", offsets=means, offset_transform=ax.transData
    )
    collection.set(facecolor="none", edgecolor="black", linewidth=0.6, alpha=0.6)
    return ax.add_collection(collection)


def _density_contour(ax: Any, Z: NDArray[Any]) -> Any:
    Z = Z[evenly_spaced(len(Z), MAX_DENSITY_SAMPLES)]
    try:
        density = gaussian_kde(Z.T)
    except (ValueError, np.linalg.LinAlgError) as error:
        message = f"contour=True needs latent codes that vary in two dimensions, got {len(Z)} samples that do not."
        raise ValueError(message) from error
    margin = 0.1 * np.ptp(Z, axis=0)
    x, y = (np.linspace(*ends, N_GRID) for ends in zip(Z.min(axis=0) - margin, Z.max(axis=0) + margin, strict=True))
    heights = density(np.stack(np.meshgrid(x, y)).reshape(2, -1)).reshape(N_GRID, N_GRID)
    levels = np.quantile(density(Z.T), [1 - fraction for fraction in CONTOURS])
    return ax.contour(x, y, heights, levels=levels, colors=["#444444"], linewidths=[0.8, 1.4])


def _label_outer(axes: NDArray[Any]) -> None:
    """Names at the left and below only."""
    last = len(axes) - 1
    for (i, j), panel in np.ndenumerate(axes):
        if panel is not None:
            panel.xaxis.label.set_text(panel.get_xlabel().partition(" (")[0] if i == last else "")
            panel.yaxis.label.set_text(panel.get_ylabel().partition(" (")[0] if j == 0 and i > 0 else "")
            panel.tick_params(labelbottom=i == last, labelleft=j == 0 and i > 0, labelsize="small")
