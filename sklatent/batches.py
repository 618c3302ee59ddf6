"""How rows reach the model: minibatches gathered from rows that lie on the device."""

__all__ = ["Batches", "Rows"]

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


class Rows(Dataset):
    """Rows of an array, on a device and in their own precision; an index is a tensor of row numbers.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Shared, not copied, when it is contiguous and writeable and the device is the CPU.
    device : str or torch.device
    """

    def __init__(self, X: NDArray, device: str | torch.device = "cpu"):
        # PyTorch takes no negative strides, and warns about memory that it may not write to.
        self.X = torch.from_numpy(np.require(X, requirements=["C", "W"])).to(device)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.X[index]


class Batches:
    """Minibatches of `Rows`, each gathered at once.

    Parameters
    ----------
    rows : Rows
    batch_size : int
    generator : Generator or None, default=None
        Draws a new order at each pass; None keeps the order of the rows.

    Notes
    -----
    A last batch of one row joins its neighbour: batch norm has no variance to take from a single row.
    """

    def __init__(self, rows: Rows, batch_size: int, generator: torch.Generator | None = None):
        self.rows = rows
        self.batch_size = batch_size
        self.generator = generator

    def __iter__(self) -> Iterator[Tensor]:
        device = self.rows.X.device
        if self.generator is None:
            order = torch.arange(len(self.rows), device=device)
        else:
            order = torch.randperm(len(self.rows), generator=self.generator, device=device)
        for index in order.split(self.sizes()):
            yield self.rows[index]

    def sizes(self) -> list[int]:
        """Number of rows in each batch."""
        n_full, rest = divmod(len(self.rows), self.batch_size)
        sizes = [self.batch_size] * n_full + [rest] * (rest > 0)
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [sizes[-2] + 1]
        return sizes
