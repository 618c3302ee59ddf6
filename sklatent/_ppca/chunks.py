"""Slices of samples: every loop that holds only a part of the data in memory takes them from here."""

__all__ = ["CHUNK_SIZE", "slices"]

from collections.abc import Iterator

# Values in a chunk where nothing asks for less: 32 MB in float64.
CHUNK_SIZE = 2**22


def slices(n_samples: int, size: int, n_values: int = 1, *, max_samples: int | None = None) -> Iterator[slice]:
    """Slices that cover n_samples in order, each with as many samples as `size` values are, and at least one.

    Parameters
    ----------
    n_samples : int
        Number of samples. There is no slice if it is 0.
    size : int
        Largest number of values in a chunk, unless a single sample has more.
    n_values : int, default=1
        Number of values for each sample. With 1, `size` is a number of samples.
    max_samples : int or None, default=None
        Largest number of samples in a chunk.
    """
    step = max(1, size // max(n_values, 1))
    if max_samples is not None:
        step = min(step, max_samples)
    return (slice(start, start + step) for start in range(0, n_samples, step))
