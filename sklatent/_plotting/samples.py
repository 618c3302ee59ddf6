"""Pictures of samples: reconstructions, and what the latent space decodes to."""

__all__ = ["ReconstructionDisplay", "TraversalDisplay"]

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from sklatent._plotting.canvas import (
    BLUE,
    ORANGE,
    SEQUENTIAL,
    axes_or_new,
    finish,
    panels,
    plain,
    pyplot,
    show_mosaic,
)
from sklatent._plotting.models import (
    as_array,
    check_count,
    decode,
    encode,
    feature_names,
    image_shape_of,
    most_varied,
    step_with,
    to_images,
)

# Numbers of images beside or above one another, and of panels of profiles, which take longer.
MAX_IMAGES, MAX_PANELS = 50, 20
# More features than this are not named along an axis.
MAX_NAMED = 16
# Number of panels of profiles beside one another.
N_COLUMNS = 5
# A traversal covers this fraction of the latent density along each dimension.
COVERAGE = 0.95
DEFAULT_TRAVERSED = 10


class ReconstructionDisplay:
    r"""Samples and their reconstructions, with the squared error :math:`\|x - \hat x\|^2` of each.

    Images are shown above their reconstructions. Other samples are shown as profiles over the features, with the
    reconstruction in the same panel.

    It is recommended to use :meth:`from_estimator` to create a display.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples.
    X_reconstructed : ndarray of shape (n_samples, n_features)
        Reconstructions of the samples.
    image_shape : (channels, height, width) or None, default=None
        Shape of a sample as an image, with one channel or three. None stands for profiles.
    feature_names : list of str or None, default=None
        Names of the features; None stands for x0, x1, ...
    unit : str, default="units of X"
        Unit of the values.

    Attributes
    ----------
    errors_ : ndarray of shape (n_samples,)
        Squared error of each sample, in squared units of the values.
    shown_ : ndarray of int
        Indices of the samples that are shown, from left to right.
    ax_ : matplotlib Axes
        The axes; for profiles, the axes around the panels.
    axes_ : ndarray of matplotlib Axes
        The panels.
    figure_ : matplotlib Figure
        The figure.
    image_ : matplotlib AxesImage or None
        The images, as one picture.
    lines_ : list of (matplotlib Line2D, matplotlib Line2D)
        The profiles of each sample and of its reconstruction.

    See Also
    --------
    sklatent.metrics.reconstruction_error : The mean of these errors.

    References
    ----------
    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.5 and figure 14.9.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.plotting import ReconstructionDisplay
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data
    >>> display = ReconstructionDisplay.from_estimator(PCAReducer(16).fit(X), X, image_shape=(8, 8), select="worst")
    >>> bool(display.shown_[0] == display.errors_.argmax())
    True
    """

    def __init__(
        self,
        X: NDArray,
        X_reconstructed: NDArray,
        *,
        image_shape: tuple[int, ...] | None = None,
        feature_names: Sequence[str] | None = None,
        unit: str = "units of X",
    ):
        self.X = X
        self.X_reconstructed = X_reconstructed
        self.image_shape = image_shape
        self.feature_names = feature_names
        self.unit = unit

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        image_shape: Sequence[int] | None = None,
        standardized: bool = False,
        select: Literal["first", "best", "worst", "extremes"] = "extremes",
        n_samples: int = 10,
        ax: Any = None,
        **kwargs: Any,
    ) -> "ReconstructionDisplay":
        """Reconstruct samples and show some of them.

        Parameters
        ----------
        estimator : object
            Fitted transformer with `inverse_transform`, a Pipeline of such transformers (a last step that predicts is
            left out), or a search over these.
        X : array-like of shape (n_samples, n_features)
            Samples. Missing values are left out of the errors.
        image_shape : (height, width), (channels, height, width) or None, default=None
            Shape of a sample as an image, with one channel or three. None stands for the `image_shape` of the
            estimator, or else for profiles.
        standardized : bool, default=False
            Whether to show profiles in standard deviations from the mean of each feature of X, which makes features of
            different units comparable. Not used for images.
        select : {"first", "best", "worst", "extremes"}, default="extremes"
            Which samples to show: the first ones, those with the smallest or largest errors, or both, from the best to
            the worst.
        n_samples : int, default=10
            Number of samples to show: at most 50 images, or 20 profiles.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.imshow`, or of :meth:`matplotlib.axes.Axes.plot` for
            profiles.

        Returns
        -------
        display : ReconstructionDisplay

        Raises
        ------
        TypeError
            If the estimator has no `transform` or no `inverse_transform`.
        ValueError
            If `image_shape` does not multiply to the number of features, or `select` or `n_samples` is not valid.
        """
        pyplot()
        X_reconstructed = decode(estimator, encode(estimator, X, cls.__name__), cls.__name__)
        n_features = X_reconstructed.shape[1]
        shape = image_shape_of(estimator, image_shape, n_features)
        loc, scale, unit = _units(X if standardized and shape is None else None)
        display = cls(
            (as_array(X) - loc) / scale,
            (X_reconstructed - loc) / scale,
            image_shape=shape,
            feature_names=feature_names(estimator, n_features),
            unit=unit,
        )
        return display.plot(ax, select=select, n_samples=n_samples, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        select: Literal["first", "best", "worst", "extremes"] = "extremes",
        n_samples: int = 10,
        **kwargs: Any,
    ) -> "ReconstructionDisplay":
        """Show samples and their reconstructions.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        select : {"first", "best", "worst", "extremes"}, default="extremes"
            Which samples to show: the first ones, those with the smallest or largest errors, or both, from the best to
            the worst.
        n_samples : int, default=10
            Number of samples to show: at most 50 images, or 20 profiles.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.imshow`, or of :meth:`matplotlib.axes.Axes.plot` for
            profiles.

        Returns
        -------
        display : ReconstructionDisplay
        """
        if select not in _SELECTIONS:
            raise ValueError(f"select={select!r} must be one of {list(_SELECTIONS)}.")
        check_count("n_samples", n_samples, MAX_PANELS if self.image_shape is None else MAX_IMAGES)
        self.errors_ = np.nansum((self.X - self.X_reconstructed) ** 2, axis=1)
        order = np.argsort(self.errors_, kind="stable")
        self.shown_ = _SELECTIONS[select](order, min(n_samples, len(order)))
        self.image_ = None
        self.lines_: list[Any] = []
        return (self._plot_profiles if self.image_shape is None else self._plot_images)(ax, kwargs)

    def _plot_images(self, ax: Any, kwargs: dict) -> "ReconstructionDisplay":
        pairs = np.stack([self.X[self.shown_], self.X_reconstructed[self.shown_]])
        ax = axes_or_new(ax, 1.4 + 0.85 * len(self.shown_), 2.6)
        labels = [f"{self.errors_[i]:.3g}" for i in self.shown_]
        style = _image_range(self.X[self.shown_]) | kwargs
        images = to_images(pairs, self.image_shape or ())
        self.image_ = show_mosaic(ax, images, ["sample", "reconstruction"], labels, **style)
        ax.set_xlabel(f"squared error (squared {self.unit})")
        self.axes_ = np.array([ax], dtype=object)
        return finish(self, ax)

    def _plot_profiles(self, ax: Any, kwargs: dict) -> "ReconstructionDisplay":
        names = _shown_names(self.feature_names, self.X.shape[1])
        self.axes_, ax = _profile_panels(ax, len(self.shown_), names)
        for panel, i in zip(self.axes_, self.shown_, strict=True):
            style = {"marker": "." if self.X.shape[1] <= MAX_NAMED else ""} | kwargs
            wide = {"color": BLUE, "label": "sample", "linewidth": 3, "alpha": 0.6}  # to be seen below an equal one
            (original,) = panel.plot(self.X[i], **wide | style)
            (copy,) = panel.plot(self.X_reconstructed[i], **{"color": ORANGE, "label": "reconstruction"} | style)
            self.lines_.append((original, copy))
            panel.set_title(f"sample {i}: {self.errors_[i]:.3g}", fontsize="small")
        _share_profile_axes(self.axes_, names)
        ax.set_ylabel(f"value ({self.unit})", labelpad=32)
        self.axes_[0].legend(frameon=False, fontsize="small", labelspacing=0.2)
        return finish(self, ax, *self.axes_)


class TraversalDisplay:
    r"""What the latent space decodes to: each latent dimension is moved while the others stay at their means.

    The values of latent dimension k are equally probable under a normal density,

    .. math:: z_k = m_k + s_k \Phi^{-1}(u), \qquad u = 0.025, \dots, 0.975,

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
        values: NDArray,
        X_decoded: NDArray,
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
            Latent dimensions to move: at most 50 for images, or 20 for profiles. None selects the ten with the largest
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

        Raises
        ------
        TypeError
            If the estimator has no `inverse_transform`, or X is None and it has no prior.
        ValueError
            If X has fewer than two samples, or is None with `standardized=True`, or another parameter is not valid.
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
        steps = ndtri(np.linspace((1 - COVERAGE) / 2, (1 + COVERAGE) / 2, n_steps))
        values = mean[chosen, None] + spread[chosen, None] * steps
        grid = len(chosen) == 2 and shape is not None
        Z = (_grid if grid else _lines)(mean, chosen, values)  # (n_rows, n_steps, nz)
        decoded = decode(estimator, Z.reshape(-1, len(mean)), cls.__name__).reshape(*Z.shape[:2], -1)
        loc, scale, unit = _units(X if standardized and shape is None else None)
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
        """
        self.image_ = None
        self.lines_: list[Any] = []
        return (self._plot_profiles if self.image_shape is None else self._plot_images)(ax, kwargs)

    def _plot_images(self, ax: Any, kwargs: dict) -> "TraversalDisplay":
        n_rows, n_steps = self.X_decoded.shape[:2]
        ax = axes_or_new(ax, 1 + 0.55 * n_steps, 0.8 + 0.55 * n_rows)
        first, second = ([f"{value:.2g}" for value in self.values[k]] for k in (0, -1))
        names = [f"$z_{{{k}}}$" for k in self.dimensions]
        row_labels = second[::-1] if self.grid else names
        style = _image_range(self.X_decoded) | kwargs
        images = to_images(self.X_decoded, self.image_shape or ())
        self.image_ = show_mosaic(ax, images, row_labels, first if self.grid else (), **style)
        if self.grid:
            ax.set(xlabel=names[0], ylabel=names[1])
        else:
            ax.set_xlabel(f"from the {50 * (1 - COVERAGE):.3g} % to the {50 * (1 + COVERAGE):.3g} % quantile")
        self.axes_ = np.array([ax], dtype=object)
        return finish(self, ax)

    def _plot_profiles(self, ax: Any, kwargs: dict) -> "TraversalDisplay":
        n_panels, n_features = len(self.dimensions), self.X_decoded.shape[-1]
        names = _shown_names(self.feature_names, n_features)
        self.axes_, ax = _profile_panels(ax, n_panels, names)
        norm = pyplot().Normalize(100 * (1 - COVERAGE) / 2, 100 * (1 + COVERAGE) / 2)
        scale = pyplot().matplotlib.cm.ScalarMappable(norm, SEQUENTIAL)
        colours = scale.to_rgba(np.linspace(norm.vmin, norm.vmax, self.X_decoded.shape[1]))
        for panel, k, decoded in zip(self.axes_, self.dimensions, self.X_decoded, strict=True):
            self.lines_.append(
                [panel.plot(x, **{"color": c} | kwargs)[0] for x, c in zip(decoded, colours, strict=True)]
            )
            panel.set_title(f"$z_{{{k}}}$", fontsize="medium")
        _share_profile_axes(self.axes_, names)
        ax.set_ylabel(f"value ({self.unit})", labelpad=32)
        bar = ax.figure.colorbar(scale, ax=ax, label="quantile of z (%)", fraction=0.04, pad=0.02)
        bar.outline.set_visible(False)
        return finish(self, ax, *self.axes_)


def _extremes(order: NDArray, n_shown: int) -> NDArray:
    n_best = -(-n_shown // 2)
    return np.concatenate([order[:n_best], order[len(order) - (n_shown - n_best) :]])


# For samples in the order of their errors, and a number of samples to show, which ones to show.
_SELECTIONS = {
    "first": lambda order, n_shown: np.arange(n_shown),
    "best": lambda order, n_shown: order[:n_shown],
    "worst": lambda order, n_shown: order[::-1][:n_shown],
    "extremes": _extremes,
}


def _image_range(X: NDArray) -> dict[str, float]:
    """One grey scale for all images, so that they can be compared."""
    return {"vmin": float(np.nanmin(X)), "vmax": float(np.nanmax(X))}


def _latent_moments(estimator: Any, X: Any, caller: str) -> tuple[NDArray, NDArray]:
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


def _lines(mean: NDArray, chosen: list[int], values: NDArray) -> NDArray:
    """Latent codes in which one dimension moves, (n_dimensions, n_steps, nz)."""
    Z = np.tile(mean, (*values.shape, 1))
    Z[np.arange(len(chosen)), :, chosen] = values
    return Z


def _grid(mean: NDArray, chosen: list[int], values: NDArray) -> NDArray:
    """Latent codes in which two dimensions move, to the right and upwards, (n_steps, n_steps, nz)."""
    n_steps = values.shape[1]
    Z = np.tile(mean, (n_steps, n_steps, 1))
    Z[:, :, chosen[0]] = values[0]
    Z[:, :, chosen[1]] = values[1, ::-1, None]
    return Z


def _profile_panels(ax: Any, n_panels: int, names: Sequence[str]) -> tuple[NDArray, Any]:
    n_columns = min(n_panels, N_COLUMNS)
    below = 0.1 * max(map(len, names), default=0)  # inches of the names of features
    ax = axes_or_new(ax, 1.2 + 2.3 * n_columns, 1.2 + below + 1.7 * -(-n_panels // n_columns))
    return panels(ax, n_panels, n_columns, gap=(0.08, 0.25)), ax


def _units(X: Any) -> tuple[Any, Any, str]:
    """Origin, scale and name of the units of profiles: standard deviations from the mean of X, or None's own units."""
    if X is None:
        return 0.0, 1.0, "units of X"
    X = as_array(X)
    spread = np.nanstd(X, axis=0)
    return np.nanmean(X, axis=0), np.where(spread > 0, spread, 1.0), "standard deviations"


def _shown_names(names: Sequence[str] | None, n_features: int) -> list[str]:
    """Names of the features along an axis; none if they are too many."""
    if n_features > MAX_NAMED:
        return []
    return [plain(name) for name in names] if names is not None else [f"x{j}" for j in range(n_features)]


def _share_profile_axes(axes: NDArray, names: Sequence[str]) -> None:
    """One range of values for all panels, and labels at the left and below only."""
    limits = np.array([panel.get_ylim() for panel in axes])
    for number, panel in enumerate(axes):
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        is_lowest = number + N_COLUMNS >= len(axes)
        panel.tick_params(labelleft=number % N_COLUMNS == 0, labelbottom=is_lowest, labelsize="small")
        if names:
            panel.set_xticks(np.arange(len(names)), names, rotation=90)
        elif is_lowest:
            panel.set_xlabel("feature", fontsize="small")
