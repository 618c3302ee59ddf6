"""What the pictures share: matplotlib on first use, colours, panels and mosaics of images."""

__all__ = [
    "BLUE",
    "CLASS_COLOURS",
    "GREY",
    "ORANGE",
    "SEQUENTIAL",
    "axes_or_new",
    "bin_edges",
    "finish",
    "histogram",
    "mosaic",
    "panels",
    "plain",
    "pyplot",
    "show_mosaic",
]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Petroff (2021), "Accessible color sequences for data visualization": ten colours chosen by measured preference under
# the condition that they differ for colour-blind readers and in grey.
CLASS_COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
BLUE, ORANGE, GREY = CLASS_COLOURS[0], CLASS_COLOURS[6], CLASS_COLOURS[3]
SEQUENTIAL = "viridis"
# Width of the gaps between the images of a mosaic, as a fraction of the size of an image.
MOSAIC_GAP = 0.06
MAX_LABEL_LENGTH = 24


def pyplot() -> Any:
    """matplotlib.pyplot; raise ImportError with what to install where matplotlib is missing."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('sklatent.plotting needs matplotlib: pip install "sklatent[plot]"') from error
    return plt


def axes_or_new(ax: Any, width: float, height: float) -> Any:
    """The axes that the user passed, or those of a new figure of this size in inches."""
    plt = pyplot()
    if ax is None:
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not isinstance(ax, plt.Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None, got {type(ax).__name__}.")
    return ax


def finish(display: Any, ax: Any, *panels: Any) -> Any:
    """Set `ax_` and `figure_`, as scikit-learn's Displays do, and take away the frames that carry no information."""
    for panel in panels or (ax,):
        panel.spines[["top", "right"]].set_visible(False)
    display.ax_, display.figure_ = ax, ax.figure
    return display


def panels(
    ax: Any, n_panels: int, n_columns: int, *, gap: tuple[float, float] = (0.1, 0.1), **kwargs: Any
) -> NDArray[Any]:
    """A grid of axes inside of one, of which only the labels stay, so that many panels fit wherever one does.

    Parameters
    ----------
    ax : matplotlib Axes
    n_panels, n_columns : int
    gap : (float, float)
        Horizontal and vertical gaps between panels, as fractions of the size of a panel.
    **kwargs
        For :meth:`matplotlib.axes.Axes.inset_axes`.

    Returns
    -------
    axes : ndarray of shape (n_panels,), object
        From left to right, and then downwards.
    """
    n_rows = -(-n_panels // n_columns)
    ax.set(xticks=[], yticks=[], frame_on=False)
    width = 1 / (n_columns + gap[0] * (n_columns - 1))
    height = 1 / (n_rows + gap[1] * (n_rows - 1))
    axes = np.empty(n_panels, dtype=object)
    for number in range(n_panels):
        i, j = divmod(number, n_columns)
        left, bottom = j * width * (1 + gap[0]), 1 - height - i * height * (1 + gap[1])
        axes[number] = ax.inset_axes((left, bottom, width, height), **kwargs)
    return axes


def bin_edges(values: ArrayLike, n_bins: int) -> NDArray[Any]:
    """Edges of bins of one width for finite values, which may all be equal up to rounding."""
    low, high = np.min(values), np.max(values)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-100):
        margin = 0.5 * max(1.0, 1e-9 * largest)
        low, high = low - margin, high + margin
    return np.linspace(low, high, n_bins + 1)


def histogram(ax: Any, values: NDArray[Any], edges: NDArray[Any], *, colour: Any, **kwargs: Any) -> Any:
    """The density of values as a filled step, with a clear outline where several overlap."""
    with np.errstate(invalid="ignore"):  # none of the values may lie within the edges
        heights = np.nan_to_num(np.histogram(values, edges, density=True)[0])
    ax.stairs(heights, edges, color=colour, fill=True, alpha=0.25)
    return ax.stairs(heights, edges, **{"color": colour} | kwargs)


def mosaic(images: ArrayLike) -> NDArray[Any]:
    """Tile images, with gaps of NaN, which matplotlib leaves blank (of 1, white, between colour images).

    Parameters
    ----------
    images : array-like of shape (n_rows, n_columns, height, width) or (n_rows, n_columns, height, width, 3)

    Returns
    -------
    tiles : ndarray of shape (n_rows * (height + gap) - gap, n_columns * (width + gap) - gap[, 3])
    """
    images = np.asarray(images, dtype=float)
    n_rows, n_columns, height, width, *channels = images.shape
    gap = mosaic_gap(height, width)
    tiles = np.full((n_rows, height + gap, n_columns, width + gap, *channels), 1.0 if channels else np.nan)
    tiles[:, :height, :, :width] = images.swapaxes(1, 2)
    return tiles.reshape(n_rows * (height + gap), n_columns * (width + gap), *channels)[:-gap, :-gap]


def mosaic_gap(height: int, width: int) -> int:
    """Width in pixels of the gaps between images of this size."""
    return max(1, round(MOSAIC_GAP * max(height, width)))


def show_mosaic(ax: Any, images: NDArray[Any], row_labels: Any = (), column_labels: Any = (), **kwargs: Any) -> Any:
    """Show a grid of images as one picture, with labels at the left and below; the labels may be fewer than images."""
    height, width = images.shape[2:4]
    gap = mosaic_gap(height, width)
    shown = ax.imshow(mosaic(images), **({"cmap": "gray_r", "interpolation": "nearest"} | kwargs))
    for axis, labels, size in ((ax.yaxis, row_labels, height), (ax.xaxis, column_labels, width)):
        axis.set_ticks(np.arange(len(labels)) * (size + gap) + (size - 1) / 2, labels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return shown


def plain(label: Any) -> str:
    """A name from the data as it stands: not as mathematics, on one line, and not too long for a label."""
    text = " ".join(str(label).split())
    text = text if len(text) <= MAX_LABEL_LENGTH else f"{text[: MAX_LABEL_LENGTH - 1]}…"
    return text.replace("$", r"\$")
