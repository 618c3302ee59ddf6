"""Scree plot: what each latent dimension contributes."""

__all__ = ["PERCENTILE", "ScreeDisplay", "noise_variances", "retained"]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklatent._base import spawn_seeds
from sklatent._ppca.dimension import flipped_eigenvalues
from sklatent.plotting._canvas import BLUE, GREY, ORANGE, axes_or_new, finish, pyplot
from sklatent.plotting._models import apply, check_count, step_with

# Horn's band ends at this percentile of the variances of samples without correlations.
PERCENTILE = 95
MAX_FLIPS = 1000


class ScreeDisplay:
    r"""Scree plot: the explained variance of each component, or the KL divergence of each latent dimension of a VAE.

    For PCA the bars are the explained variances, and the line is the cumulative fraction of the total variance. If X is
    passed, Horn's parallel analysis adds a reference: the variances of the components of centred samples whose every
    value has been given a random sign, which destroys all correlations. Components above the 95th percentile of these,
    from the first one on, are retained; the others cannot be told from noise. `PCAReducer(nz="parallel")` counts in the
    same way, but a second time what the strong components leave, so it finds weak ones beside them.

    For a VAE the bars are the KL divergences of the latent dimensions in nats, and the active ones are coloured.

    It is recommended to use :meth:`from_estimator` to create a display.

    Parameters
    ----------
    values : ndarray of shape (nz,)
        Explained variance in squared units of X, or KL divergence in nats.
    fractions : ndarray of shape (nz,) or None, default=None
        Fraction of the total variance that each component explains.
    noise_variances : ndarray of shape (n_flips, nz) or None, default=None
        Variances of the components of samples with random signs.
    active : ndarray of shape (nz,), bool, or None, default=None
        Mask of the latent dimensions that are retained, or active. None stands for all.
    ylabel : str, default="explained variance (squared units of X)"
        Label of the values.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the values.
    figure_ : matplotlib Figure
        The figure.
    bars_ : matplotlib BarContainer
        The values.
    line_ : matplotlib Line2D or None
        The cumulative fraction, in per cent on the axes at the right.
    band_ : matplotlib Line2D or None
        The 95th percentile of the variances of samples with random signs.

    See Also
    --------
    LoadingsDisplay : How the features change along each latent dimension.

    References
    ----------
    Horn (1965), "A rationale and test for the number of factors in factor analysis". Hong, Sheng & Dobriban (2020),
    "Selecting the number of components in PCA via random signflips". Burda, Grosse & Salakhutdinov (2016), "Importance
    weighted autoencoders", section 5.1 (active units).

    Examples
    --------
    >>> from sklatent.plotting import ScreeDisplay
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = load_wine().data
    >>> pipeline = make_pipeline(StandardScaler(), PCA()).fit(X)
    >>> display = ScreeDisplay.from_estimator(pipeline, X, random_state=0)
    >>> int(display.active.sum())  # components that are more than noise
    3
    """

    def __init__(
        self,
        values: NDArray[Any],
        *,
        fractions: NDArray[Any] | None = None,
        noise_variances: NDArray[Any] | None = None,
        active: NDArray[Any] | None = None,
        ylabel: str = "explained variance (squared units of X)",
    ):
        self.values = values
        self.fractions = fractions
        self.noise_variances = noise_variances
        self.active = active
        self.ylabel = ylabel

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        *,
        n_flips: int = 20,
        random_state: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "ScreeDisplay":
        """Show what the latent dimensions of a fitted estimator contribute.

        Parameters
        ----------
        estimator : object
            Fitted estimator with `explained_variance_` (`PCAReducer`, scikit-learn's PCA) or `kl_per_dimension_`
            (`VAETransformer`), or a Pipeline with one of these among its steps.
        X : array-like of shape (n_samples, n_features) or None, default=None
            Training samples, for the parallel analysis. Not used for a VAE.
        n_flips : int, default=20
            Number of times that the values are given random signs, at most 1,000. Each takes n_samples * n_features^2
            operations, in float32.
        random_state : int, RandomState instance or None, default=None
            Controls the random signs. Pass an int for reproducible results.
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.bar`.

        Returns
        -------
        display : ScreeDisplay
            The display, whose attributes are the artists.

        Raises
        ------
        TypeError
            If no step has one of the two attributes, such as an `AutoencoderTransformer`.
        ValueError
            If X has fewer than two samples, or missing values, or `n_flips` is not valid.

        See Also
        --------
        plot : Shows it again.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import ScreeDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = ScreeDisplay.from_estimator(pca, X, random_state=0)
        >>> display.noise_variances.shape
        (20, 3)
        """
        pyplot()
        check_count("n_flips", n_flips, MAX_FLIPS)
        model, before = step_with(estimator, cls.__name__, "kl_per_dimension_", "explained_variance_")
        if hasattr(model, "kl_per_dimension_"):
            ylabel = "KL divergence (nats per sample)"
            return cls(model.kl_per_dimension_, active=model.active_units_, ylabel=ylabel).plot(ax, **kwargs)
        variances = np.asarray(model.explained_variance_)
        noise = active = None
        if X is not None:
            noise = noise_variances(model, apply(before, X), n_flips, random_state)
            active = retained(variances, noise)
        fractions = getattr(model, "explained_variance_ratio_", None)
        return cls(variances, fractions=fractions, noise_variances=noise, active=active).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "ScreeDisplay":
        """Show the scree plot.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to use; None creates a figure.
        **kwargs : dict
            Keyword arguments of :meth:`matplotlib.axes.Axes.bar`.

        Returns
        -------
        display : ScreeDisplay
            The display, whose attributes are the artists.

        See Also
        --------
        from_estimator : Computes and shows.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklatent.plotting import ScreeDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pca = PCA(3).fit(X)
        >>> display = ScreeDisplay(pca.explained_variance_, fractions=pca.explained_variance_ratio_).plot(width=0.5)
        >>> float(display.bars_[0].get_width())
        0.5
        """
        nz = len(self.values)
        active = np.ones(nz, dtype=bool) if self.active is None else np.asarray(self.active)
        ax = axes_or_new(ax, float(np.clip(2.5 + 0.35 * nz, 4.8, 12)), 3.8)
        style = {"color": np.where(active, BLUE, GREY), "width": 0.75} | kwargs
        self.bars_ = ax.bar(np.arange(nz), self.values, **style)
        ax.set(xlabel="latent dimension", ylabel=self.ylabel)
        ax.xaxis.set_major_locator(pyplot().matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        self.band_ = None if self.noise_variances is None else _plot_band(ax, self.noise_variances)
        self.line_ = None if self.fractions is None else _plot_cumulative(ax, self.fractions)
        if self.active is not None:
            ax.set_title(f"{active.sum()} of {nz} {'active' if self.band_ is None else 'above noise'}")
        return finish(self, ax)


def retained(variances: NDArray[Any], noise: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of the components above the noise, from the first one on, (nz,)."""
    return np.logical_and.accumulate(variances > np.percentile(noise, PERCENTILE, axis=0))


def _plot_band(ax: Any, noise_variances: NDArray[Any]) -> Any:
    low, high = np.percentile(noise_variances, [100 - PERCENTILE, PERCENTILE], axis=0)
    at = np.arange(len(high))
    ax.fill_between(at, low, high, color="black", alpha=0.15, linewidth=0)
    (band,) = ax.plot(at, high, color="black", linestyle="--", linewidth=1.2, label="random signs, 95 %")
    ax.legend(frameon=False, loc="center right")
    return band


def _plot_cumulative(ax: Any, fractions: NDArray[Any]) -> Any:
    right = ax.twinx()
    total = 100 * np.cumsum(fractions)
    (line,) = right.plot(np.arange(len(total)), total, color=ORANGE, marker="o", markersize=3.5)
    right.set(ylim=(0, 105))
    right.set_ylabel("cumulative variance (%)", color=ORANGE)
    right.tick_params(axis="y", colors=ORANGE)
    right.spines[["top", "left"]].set_visible(False)
    return line


def noise_variances(pca: Any, X: NDArray[Any], n_flips: int, random_state: Any) -> NDArray[Any]:
    """Variances of the components of X with random signs, (n_flips, nz)."""
    if len(X) < 2 or not np.isfinite(X).all():
        raise ValueError(
            f"X of ScreeDisplay must have at least 2 samples and no missing values, got {len(X)} samples with "
            f"{np.sum(~np.isfinite(X))} values that are NaN or infinite."
        )
    if X.shape[1] != pca.n_features_in_:
        raise ValueError(f"X has {X.shape[1]} features, but {type(pca).__name__} is expecting {pca.n_features_in_}.")
    rng = np.random.default_rng(spawn_seeds(random_state, 1)[0])
    X = X - X.mean(axis=0)
    scale = np.abs(X).max() or 1.0  # so that squares of float32 do not overflow
    X = (X / scale).astype(np.float32)  # a picture needs no more digits, and this takes half the time
    spectra = np.stack([flipped_eigenvalues(X, rng) for _ in range(n_flips)])[:, ::-1].astype(np.float64)
    variances = np.maximum(spectra, 0) * (scale**2 / (len(X) - 1))
    nz = len(pca.explained_variance_)
    # Fewer samples than components have no more variances than samples.
    return np.pad(variances, [(0, 0), (0, max(nz - variances.shape[1], 0))])[:, :nz]
