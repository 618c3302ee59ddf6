"""What the latent space decodes to."""

__all__ = ["TraversalDisplay", "traverse"]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from sklatent.plotting._canvas import SEQUENTIAL, axes_or_new, finish, pyplot, show_mosaic
from sklatent.plotting._models import (
    check_count,
    decode,
    encode,
    feature_names,
    image_shape_of,
    most_varied,
    step_with,
    to_images,
)
from sklatent.plotting._profiles import (
    MAX_IMAGES,
    MAX_PANELS,
    image_range,
    profile_panels,
    share_profile_axes,
    shown_names,
    units,
)

# A traversal covers this fraction of the latent density along each dimension.
COVERAGE = 0.95
DEFAULT_TRAVERSED = 10


class TraversalDisplay:
    r"""What the latent space decodes to: each latent dimension is moved while the others stay at their means.

    The values of latent dimension k are equally probable under a normal density,

    .. math:: z_k = m_k + s_k \Phi^{-1}(u), \qquad u = 0.025, \ldots, 0.975,

    with the means m and the standard deviations s of latent codes, or 0 and 1 for the prior N(0, I). Two latent
    dimensions of images are shown as a grid in which both are moved.

    It is recommended to use :meth:`from_estimator` to create a display.

    Parameters
    ----------
    values : ndarray of shape (n_dimensions, n_steps)
        Values of each latent dimension.
    X_decoded : ndarray of shape (n_dimensions, n_steps, n_features)
        Decoded samples; for a grid, of shape (n_steps, n_steps, n_features), where the first latent dimension moves
        from left to right and the second from bottom to top.
    dimensions : list of int
        Latent dimensions that are moved.
    grid : bool, default=False
        Whether two latent dimensions are moved together.
    image_shape : (channels, height, width) or None, default=None
        Shape of a sample as an image, with one channel or three. None stands for profiles.
    feature_names : list of str or None, default=None
        Names of the features; None stands for x0, x1, ...
    unit : str, default="units of X"
        Unit of the values.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes; for profiles, the axes around the panels.
    axes_ : ndarray of matplotlib Axes
        The panels.
    figure_ : matplotlib Figure
        The figure.
    image_ : matplotlib AxesImage or None
        The images, as one picture.
    lines_ : list of list of matplotlib Line2D
        The profiles of each latent dimension.

    See Also
    --------
    LatentDisplay : Where the samples are in the latent space.
    LoadingsDisplay : The mean change of each feature along each latent dimension.

    References
    ----------
    Kingma & Welling (2014), "Auto-encoding variational Bayes", figure 4. Higgins et al. (2017), "beta-VAE", section 4.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.plotting import TraversalDisplay
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data
    >>> display = TraversalDisplay.from_estimator(PCAReducer(4).fit(X), X, image_shape=(8, 8), n_steps=7)
    >>> display.X_decoded.shape
    (4, 7, 64)
    """

    def __init__(
        self,
        values: NDArray[Any],
        X_decoded: NDArray[Any],
        dimensions: Sequence[int],
        *,
        grid: bool = False,
        image_shape: tuple[int, ...] | None = None,
        feature_names: Sequence[str] | None = None,
        unit: str = "units of X",
    ):
        self.values = values
        self.X_decoded = X_decoded
        self.dimensions = dimensions
        self.grid = grid
        self.image_shape = image_shape
        self.feature_names = feature_names
        self.unit = unit

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        *,
        dimensions: Sequence[int] | None = None,
        n_steps: int = 9,
        image_shape: Sequence[int] | None = None,
        standardized: bool = False,
        ax: Any = None,
        **kwargs: Any,
    ) -> "TraversalDisplay":
        """Decode latent codes along the latent dimensions and show them.

        Parameters
        ----------
        estimator : object
            Fitted transformer with `inverse_transform`, a Pipeline of such transformers (a last step that predicts is
            left out), or a search over these.
        X : array-like of shape (n_samples, n_features) or None, default=None
            At least two samples, whose latent codes give the means and standard deviations. None stands for the prior
            of a `VAETransformer` with `prior="standard_normal"`.
        dimensions : list of int or None, default=None
            Latent dimensions to move: at most 50 for images, or 15 for profiles. None selects the ten with the largest
            variance.
        n_steps : int, default=9
            Number of values of each latent dimension, from 2 to 50.
        image_shape : (height, width), (channels, height, width) or None, default=None
            Shape of a sample as an image, with one channel or three. None stands for the `image_shape` of the
            estimator, or else for profiles.
        standardized : bool, default=False
            Whether to show profiles in standard deviations from the mean of each feature of X, which makes features of
            different units comparable. Not used for images.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.imshow`, or of :meth:`matplotlib.axes.Axes.plot` for
            profiles.

        Returns
        -------
        display : TraversalDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        TypeError
            If the estimator has no `inverse_transform`, or X is None and it has no prior.
        ValueError
            If X has fewer than two samples, or is None with `standardized=True`, or another parameter is not valid.

        See Also
        --------
        plot : Shows it again.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import TraversalDisplay
        >>> X = load_digits().data
        >>> pca = PCA(3).fit(X)
        >>> display = TraversalDisplay.from_estimator(pca, X, dimensions=[0, 1], n_steps=5, image_shape=(8, 8))
        >>> display.grid
        True
        """
        pyplot()
        check_count("n_steps", n_steps, MAX_IMAGES, at_least=2)
        if standardized and X is None:
            raise ValueError("standardized=True needs X, whose standard deviations are the units, got X=None.")
        mean, spread = _latent_moments(estimator, X, cls.__name__)
        shape = image_shape_of(estimator, image_shape, decode(estimator, mean[None], cls.__name__).shape[1])
        at_most = MAX_PANELS if shape is None else MAX_IMAGES
        ends = np.stack([mean - spread, mean + spread])
        chosen = most_varied(ends, dimensions, DEFAULT_TRAVERSED if dimensions is None else at_most, cls.__name__)
        grid = len(chosen) == 2 and shape is not None
        values, decoded = traverse(estimator, mean, spread, chosen, n_steps, grid=grid, caller=cls.__name__)
        loc, scale, unit = units(X if standardized and shape is None else None)
        names = feature_names(estimator, decoded.shape[-1])
        display = cls(
            values, (decoded - loc) / scale, chosen, grid=grid, image_shape=shape, feature_names=names, unit=unit
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "TraversalDisplay":
        """Show the decoded samples.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.imshow`, or of :meth:`matplotlib.axes.Axes.plot` for
            profiles.

        Returns
        -------
        display : TraversalDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_estimator : Computes and shows.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import TraversalDisplay
        >>> X = load_digits().data
        >>> pca = PCA(3).fit(X)
        >>> display = TraversalDisplay.from_estimator(pca, X, image_shape=(8, 8)).plot(cmap="magma")
        >>> display.image_.get_cmap().name
        'magma'
        """
        self.image_ = None
        self.lines_: list[Any] = []
        return (self._plot_profiles if self.image_shape is None else self._plot_images)(ax, kwargs)

    def _plot_images(self, ax: Any, kwargs: dict[str, Any]) -> "TraversalDisplay":
        n_rows, n_steps = self.X_decoded.shape[:2]
        ax = axes_or_new(ax, 1 + 0.55 * n_steps, 0.8 + 0.55 * n_rows)
        first, second = ([f"{value:.2g}" for value in self.values[k]] for k in (0, -1))
        names = [f"$z_{{{k}}}$" for k in self.dimensions]
        row_labels = second[::-1] if self.grid else names
        style = image_range(self.X_decoded) | kwargs
        images = to_images(self.X_decoded, self.image_shape or ())
        self.image_ = show_mosaic(ax, images, row_labels, first if self.grid else (), **style)
        if self.grid:
            ax.set(xlabel=names[0], ylabel=names[1])
        else:
            ax.set_xlabel(f"from the {50 * (1 - COVERAGE):.3g} % to the {50 * (1 + COVERAGE):.3g} % quantile")
        self.axes_ = np.array([ax], dtype=object)
        return finish(self, ax)

    def _plot_profiles(self, ax: Any, kwargs: dict[str, Any]) -> "TraversalDisplay":
        n_panels, n_features = len(self.dimensions), self.X_decoded.shape[-1]
        names = shown_names(self.feature_names, n_features)
        self.axes_, ax = profile_panels(ax, n_panels, names)
        norm = pyplot().Normalize(100 * (1 - COVERAGE) / 2, 100 * (1 + COVERAGE) / 2)
        scale = pyplot().matplotlib.cm.ScalarMappable(norm, SEQUENTIAL)
        colours = scale.to_rgba(np.linspace(norm.vmin, norm.vmax, self.X_decoded.shape[1]))
        for panel, k, decoded in zip(self.axes_, self.dimensions, self.X_decoded, strict=True):
            self.lines_.append(
                [panel.plot(x, **{"color": c} | kwargs)[0] for x, c in zip(decoded, colours, strict=True)]
            )
            panel.set_title(f"$z_{{{k}}}$", fontsize="medium")
        share_profile_axes(self.axes_, names)
        ax.set_ylabel(f"value ({self.unit})", labelpad=32)
        bar = ax.figure.colorbar(scale, ax=ax, label="quantile of z (%)", fraction=0.04, pad=0.02)
        bar.outline.set_visible(False)
        return finish(self, ax, *self.axes_)


def traverse(
    estimator: Any,
    mean: NDArray[Any],
    spread: NDArray[Any],
    chosen: list[int],
    n_steps: int,
    *,
    grid: bool,
    caller: str,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values of each chosen latent dimension, and the decoded samples, as `TraversalDisplay` has them."""
    steps = ndtri(np.linspace((1 - COVERAGE) / 2, (1 + COVERAGE) / 2, n_steps))
    values = mean[chosen, None] + spread[chosen, None] * steps
    Z = (_grid if grid else _lines)(mean, chosen, values)  # (n_rows, n_steps, nz)
    return values, decode(estimator, Z.reshape(-1, len(mean)), caller).reshape(*Z.shape[:2], -1)


def _latent_moments(estimator: Any, X: Any, caller: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of each latent dimension."""
    if X is None:
        vae, _ = step_with(estimator, f"X=None of {caller}", "kl_per_dimension_")
        if vae.prior != "standard_normal":
            raise ValueError(f"X=None of {caller} needs prior='standard_normal', got prior={vae.prior!r}. Pass X.")
        return np.zeros(vae.n_components_), np.ones(vae.n_components_)
    Z = encode(estimator, X, caller)
    if len(Z) < 2:
        raise ValueError(f"X of {caller} must have at least 2 samples, got {len(Z)}.")
    return Z.mean(axis=0), Z.std(axis=0)


def _lines(mean: NDArray[Any], chosen: list[int], values: NDArray[Any]) -> NDArray[Any]:
    """Latent codes in which one dimension moves, (n_dimensions, n_steps, nz)."""
    Z = np.tile(mean, (*values.shape, 1))
    Z[np.arange(len(chosen)), :, chosen] = values
    return Z


def _grid(mean: NDArray[Any], chosen: list[int], values: NDArray[Any]) -> NDArray[Any]:
    """Latent codes in which two dimensions move, to the right and upwards, (n_steps, n_steps, nz)."""
    n_steps = values.shape[1]
    Z = np.tile(mean, (n_steps, n_steps, 1))
    Z[:, :, chosen[0]] = values[0]
    Z[:, :, chosen[1]] = values[1, ::-1, None]
    return Z
