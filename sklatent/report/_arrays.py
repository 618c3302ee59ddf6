"""Arrays as text for the page: their bytes in base64, with the precision that the page needs."""

__all__ = ["floats", "integers", "pack", "pictures", "value_range"]

from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Pictures have 255 levels. The last value of a byte stands for a missing one.
N_LEVELS, MISSING = 255, 255


def pack(array: ArrayLike, dtype: str) -> dict[str, str]:
    """The values of an array, in C order and little-endian."""
    values = np.ascontiguousarray(array, dtype=dtype)
    return {"dtype": dtype, "data": b64encode(values.tobytes()).decode("ascii")}


def floats(array: ArrayLike, precision: int = 4) -> dict[str, str]:
    """Numbers of 4 or 8 bytes. Those that float32 cannot hold become infinite, which the page shows as such."""
    with np.errstate(over="ignore"):
        return pack(array, f"<f{precision}")


def integers(array: NDArray[Any]) -> dict[str, str]:
    """Indices and counts, in a byte each if that is possible."""
    return pack(array, "|u1" if array.max(initial=0) < 256 else "<i4")


def value_range(X: NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest finite value, which are 0 and 1 if there is none."""
    finite = X[np.isfinite(X)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def pictures(X: NDArray[Any], low: float, high: float) -> dict[str, Any]:
    """Values of pictures as levels between two values, a byte each: half a level is not seen."""
    scaled = (X - low) / ((high - low) or 1.0) * (N_LEVELS - 1)
    levels = np.where(np.isnan(X), MISSING, np.clip(np.nan_to_num(scaled), 0, N_LEVELS - 1).round())
    return pack(levels, "|u1") | {"low": low, "high": high}
