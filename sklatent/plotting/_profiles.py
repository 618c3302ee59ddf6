"""What pictures of samples share: panels of profiles over the features, and units."""

__all__ = [
    "MAX_IMAGES",
    "MAX_NAMED",
    "MAX_PANELS",
    "image_range",
    "profile_panels",
    "share_profile_axes",
    "shown_names",
    "units",
]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklatent.plotting._canvas import axes_or_new, panels, plain
from sklatent.plotting._models import as_array, observed_moments

# Numbers of images beside or above one another, and of panels of profiles, which take longer.
MAX_IMAGES, MAX_PANELS = 50, 15
# More features than this are not named along an axis.
MAX_NAMED = 16
# Number of panels of profiles beside one another.
N_COLUMNS = 5


def image_range(X: NDArray[Any]) -> dict[str, float]:
    """One grey scale for all images, so that they can be compared."""
    return {"vmin": float(np.nanmin(X)), "vmax": float(np.nanmax(X))}


def profile_panels(ax: Any, n_panels: int, names: Sequence[str]) -> tuple[NDArray[Any], Any]:
    n_columns = min(n_panels, N_COLUMNS)
    below = 0.1 * max(map(len, names), default=0)  # inches of the names of features
    ax = axes_or_new(ax, 1.2 + 2.3 * n_columns, 1.2 + below + 1.7 * -(-n_panels // n_columns))
    return panels(ax, n_panels, n_columns, gap=(0.08, 0.25)), ax


def units(X: Any) -> tuple[Any, Any, str]:
    """Origin, scale and name of the units of profiles: standard deviations from the mean of X, or None's own units."""
    if X is None:
        return 0.0, 1.0, "units of X"
    mean, spread = observed_moments(as_array(X))
    return mean, np.where(spread > 0, spread, 1.0), "standard deviations"


def shown_names(names: Sequence[str] | None, n_features: int) -> list[str]:
    """Names of the features along an axis; none if they are too many."""
    if n_features > MAX_NAMED:
        return []
    return [plain(name) for name in names] if names is not None else [f"x{j}" for j in range(n_features)]


def share_profile_axes(axes: NDArray[Any], names: Sequence[str]) -> None:
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
