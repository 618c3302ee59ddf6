"""Colours of samples by class or by a quantity."""

__all__ = ["Colouring"]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklatent.plotting._canvas import BLUE, CLASS_COLOURS, GREY, plain, pyplot
from sklatent.plotting._models import classes_or_quantity

# A legend has columns of so many classes, and two of them.
COLUMN = 20


class Colouring:
    """Colours of samples: one for all, one for each class, or a scale for a quantity.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or None
    n_samples : int
    cmap : str or matplotlib Colormap
        Colours of a quantity, and of more classes than can be told apart.

    Attributes
    ----------
    quantity : ndarray of shape (n_samples,) or None
        Finite values or NaN, unless y is None or has classes.
    classes : ndarray of shape (n_classes,) or None
        Different values of y, unless y is None or a quantity.
    members : ndarray of shape (n_samples,) or None
        Index of the class of each sample.
    """

    def __init__(self, y: ArrayLike | None, n_samples: int, cmap: Any):
        self.quantity: NDArray[Any] | None = None
        self.classes: NDArray[Any] | None = None
        self.members: NDArray[Any] | None = None
        self.cmap = pyplot().get_cmap(cmap).with_extremes(bad=GREY)
        if y is not None:
            self.classes, self.members, self.quantity = classes_or_quantity(y, n_samples)

    def style(self, order: NDArray[Any]) -> dict[str, Any]:
        """Keyword arguments of `scatter` for samples in an order."""
        if self.quantity is not None:
            return {"c": self.quantity[order], "cmap": self.cmap, "plotnonfinite": True}
        if self.members is not None:
            return {"c": np.asarray(self._palette())[self.members[order]]}
        return {"color": BLUE}

    def groups(self) -> list[tuple[Any, Any]]:
        """The samples of each class, with their colour."""
        if self.classes is None:
            return [(slice(None), BLUE)]
        return [(self.members == k, colour) for k, colour in enumerate(self._palette())]

    def explain(self, ax: Any) -> None:
        """Add the legend of the classes, or the colour bar of the quantity."""
        if self.classes is not None:
            handles = [_dot(*pair) for pair in zip(self.classes[: 2 * COLUMN], self._palette(), strict=False)]
            n_columns = 1 + (len(handles) - 1) // COLUMN
            ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, ncols=n_columns)
        elif self.quantity is not None and np.isfinite(self.quantity).any():
            norm = pyplot().Normalize(np.nanmin(self.quantity), np.nanmax(self.quantity))
            scale = pyplot().matplotlib.cm.ScalarMappable(norm, self.cmap)
            ax.figure.colorbar(scale, ax=ax, label="y", fraction=0.04, pad=0.02).outline.set_visible(False)

    def _palette(self) -> Sequence[Any]:
        """One colour for each class. More than ten cannot all be told apart, and follow the scale of a quantity."""
        n_classes = len(self.classes if self.classes is not None else ())
        if n_classes > len(CLASS_COLOURS):
            return self.cmap(np.linspace(0, 1, n_classes))[:, :3]
        return [pyplot().matplotlib.colors.to_rgb(colour) for colour in CLASS_COLOURS[:n_classes]]


def _dot(label: Any, colour: Any) -> Any:
    """A handle of the legend. The blank keeps matplotlib from hiding labels that begin with an underscore."""
    return pyplot().matplotlib.lines.Line2D([], [], color=colour, marker="o", linestyle="", label=f" {plain(label)}")
