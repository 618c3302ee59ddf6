"""Samples and their reconstructions."""

__all__ = ["ReconstructionDisplay"]

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklatent.plotting._canvas import BLUE, ORANGE, axes_or_new, finish, pyplot, show_mosaic
from sklatent.plotting._models import as_array, check_count, decode, encode, feature_names, image_shape_of, to_images
from sklatent.plotting._profiles import (
    MAX_IMAGES,
    MAX_NAMED,
    MAX_PANELS,
    image_range,
    profile_panels,
    share_profile_axes,
    shown_names,
    units,
)


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
        X: NDArray[Any],
        X_reconstructed: NDArray[Any],
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
            Number of samples to show: at most 50 images, or 15 profiles.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.imshow`, or of :meth:`matplotlib.axes.Axes.plot` for
            profiles.

        Returns
        -------
        display : ReconstructionDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        TypeError
            If the estimator has no `transform` or no `inverse_transform`.
        ValueError
            If `image_shape` does not multiply to the number of features, or `select` or `n_samples` is not valid.

        See Also
        --------
        plot : Shows it again.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import ReconstructionDisplay
        >>> X = load_digits().data
        >>> pca = PCA(3).fit(X)
        >>> display = ReconstructionDisplay.from_estimator(pca, X, image_shape=(8, 8), n_samples=4)
        >>> display.shown_.shape
        (4,)
        """
        pyplot()
        X_reconstructed = decode(estimator, encode(estimator, X, cls.__name__), cls.__name__)
        n_features = X_reconstructed.shape[1]
        shape = image_shape_of(estimator, image_shape, n_features)
        loc, scale, unit = units(X if standardized and shape is None else None)
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
            Number of samples to show: at most 50 images, or 15 profiles.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.imshow`, or of :meth:`matplotlib.axes.Axes.plot` for
            profiles.

        Returns
        -------
        display : ReconstructionDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_estimator : Computes and shows.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import ReconstructionDisplay
        >>> X = load_digits().data
        >>> pca = PCA(3).fit(X)
        >>> X_reconstructed = pca.inverse_transform(pca.transform(X))
        >>> display = ReconstructionDisplay(X, X_reconstructed, image_shape=(1, 8, 8)).plot(select="first")
        >>> display.shown_
        array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
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

    def _plot_images(self, ax: Any, kwargs: dict[str, Any]) -> "ReconstructionDisplay":
        pairs = np.stack([self.X[self.shown_], self.X_reconstructed[self.shown_]])
        ax = axes_or_new(ax, 1.4 + 0.85 * len(self.shown_), 2.6)
        labels = [f"{self.errors_[i]:.3g}" for i in self.shown_]
        style = image_range(self.X[self.shown_]) | kwargs
        images = to_images(pairs, self.image_shape or ())
        self.image_ = show_mosaic(ax, images, ["sample", "reconstruction"], labels, **style)
        ax.set_xlabel(f"squared error (squared {self.unit})")
        self.axes_ = np.array([ax], dtype=object)
        return finish(self, ax)

    def _plot_profiles(self, ax: Any, kwargs: dict[str, Any]) -> "ReconstructionDisplay":
        names = shown_names(self.feature_names, self.X.shape[1])
        self.axes_, ax = profile_panels(ax, len(self.shown_), names)
        for panel, i in zip(self.axes_, self.shown_, strict=True):
            style = {"marker": "." if self.X.shape[1] <= MAX_NAMED else ""} | kwargs
            wide = {"color": BLUE, "label": "sample", "linewidth": 3, "alpha": 0.6}  # to be seen below an equal one
            (original,) = panel.plot(self.X[i], **wide | style)
            (copy,) = panel.plot(self.X_reconstructed[i], **{"color": ORANGE, "label": "reconstruction"} | style)
            self.lines_.append((original, copy))
            panel.set_title(f"sample {i}: {self.errors_[i]:.3g}", fontsize="small")
        share_profile_axes(self.axes_, names)
        ax.set_ylabel(f"value ({self.unit})", labelpad=32)
        self.axes_[0].legend(frameon=False, fontsize="small", labelspacing=0.2)
        return finish(self, ax, *self.axes_)


def _extremes(order: NDArray[Any], n_shown: int) -> NDArray[Any]:
    n_best = -(-n_shown // 2)
    return np.concatenate([order[:n_best], order[len(order) - (n_shown - n_best) :]])


# For samples in the order of their errors, and a number of samples to show, which ones to show.
_SELECTIONS = {
    "first": lambda order, n_shown: np.arange(n_shown),
    "best": lambda order, n_shown: order[:n_shown],
    "worst": lambda order, n_shown: order[::-1][:n_shown],
    "extremes": _extremes,
}
