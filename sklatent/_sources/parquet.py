"""A Parquet dataset as an array that is read by slices."""

__all__ = ["ParquetRows", "is_dataset", "opened"]

import sys
from collections.abc import Generator, Iterator
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bytes of each column that are read at a time, and bytes of all columns that are decoded at a time.
BUFFER_SIZE = 2**16
BATCH_SIZE = 2**22


def is_dataset(X: Any) -> bool:
    """Whether X is the path of a file or folder, or a `pyarrow.dataset.Dataset`, which needs no import of pyarrow."""
    dataset = sys.modules.get("pyarrow.dataset")
    return isinstance(X, (str, PathLike)) or (dataset is not None and isinstance(X, dataset.Dataset))


def opened(X: Any) -> Any:
    """`ParquetRows` of a dataset, or of the one in a folder or file; anything else stays as it is."""
    return ParquetRows(X) if is_dataset(X) else X


class ParquetRows:
    """Samples of a Parquet dataset in the order of its files. The columns are found by their names in each file.

    A slice is decoded from the beginning of its row group, unless it follows the slice that was read before. So to read
    from the first sample to the last decodes each value once, and memory holds a slice, whatever the row groups are.

    Parameters
    ----------
    source : str, path or pyarrow.dataset.Dataset

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        float32 if all columns are, and float64 otherwise. Missing values become NaN.
    columns : list of str

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    TypeError
        If a column is not numeric.
    ValueError
        If the dataset has a filter, of which its files know nothing, or if a file lacks a column.
    """

    def __init__(self, source: Any):
        dataset = _dataset(source)
        self.columns = _feature_columns(dataset.schema)
        self.dtype = _common_dtype(dataset.schema, self.columns)
        self.groups = [(fragment, group.id) for fragment in dataset.get_fragments() for group in _row_groups(fragment)]
        self.ends = np.cumsum(
            [group.num_rows for fragment in dataset.get_fragments() for group in _row_groups(fragment)], dtype=np.int64
        )
        self.shape = (int(self.ends[-1]) if self.groups else 0, len(self.columns))
        self._position, self._stream = 0, self._arrays_from(0)
        self._rest = np.empty((0, len(self.columns)), dtype=self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | NDArray[Any]) -> NDArray[Any]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            return self._slice(start, max(start, stop)) if step == 1 else self._chosen(np.arange(start, stop, step))
        return self._chosen(np.asarray(index))

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        if start != self._position:
            self._close()
            self._stream = self._arrays_from(start)
        self._position = -1  # until this ends well
        found, n_read = np.empty((stop - start, len(self.columns)), dtype=self.dtype), 0
        while n_read < len(found):
            rest = self._rest if len(self._rest) else next(self._stream)
            part = rest[: len(found) - n_read]
            found[n_read : n_read + len(part)] = part
            n_read, self._rest = n_read + len(part), rest[len(part) :]
        self._position = stop
        if stop == self.shape[0]:
            self._close()
        return found

    def _close(self) -> None:
        """End the reading in order. The decoders of an open row group hold about 2 MB for each column."""
        self._stream.close()
        self._position, self._rest = -1, self._rest[:0].copy()

    def _arrays_from(self, start: int) -> Generator[NDArray[Any], None, None]:
        """The samples from number `start` on, some at a time."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        skipped = start - self._begin(first)
        for number in range(first, len(self.groups)):
            for batch in self._batches(number):
                if skipped < batch.num_rows:
                    yield self._array(batch, number)[skipped:]
                skipped = max(skipped - batch.num_rows, 0)

    def _chosen(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Samples of these numbers. Each row group that has some of them is read once."""
        self._close()
        found = np.empty((len(numbers), len(self.columns)), dtype=self.dtype)
        for number in np.unique(np.searchsorted(self.ends, numbers, side="right")):
            start = self._begin(number)
            for batch in self._batches(number):
                inside = (numbers >= start) & (numbers < start + batch.num_rows)
                if inside.any():
                    found[inside] = self._array(batch, number)[numbers[inside] - start]
                start += batch.num_rows
        return found

    def _begin(self, number: int) -> int:
        """Number of the first sample of a row group."""
        return int(self.ends[number - 1]) if number else 0

    def _batches(self, number: int) -> Iterator[Any]:
        """Record batches of a row group, decoded one after the other."""
        from pyarrow.parquet import ParquetFile

        fragment, group = self.groups[number]
        # With `pre_buffer`, and without a buffer size, all bytes of the row group are read at once.
        with ParquetFile(fragment.open(), buffer_size=BUFFER_SIZE, pre_buffer=False) as file:
            columns = [name for name in self.columns if name in file.schema_arrow.names]
            size = max(1, BATCH_SIZE // (len(self.columns) * self.dtype.itemsize))
            yield from file.iter_batches(size, row_groups=[group], columns=columns)

    def _array(self, batch: Any, number: int) -> NDArray[Any]:
        """A record batch with its columns in the order of the dataset; the values of partitions are constant."""
        from pyarrow.dataset import get_partition_keys

        fragment, _ = self.groups[number]
        constants = get_partition_keys(fragment.partition_expression)
        array = np.empty((batch.num_rows, len(self.columns)), dtype=self.dtype)
        for j, name in enumerate(self.columns):
            if name in batch.schema.names:
                array[:, j] = batch.column(name).to_numpy(zero_copy_only=False)
            elif name in constants:
                array[:, j] = constants[name]
            else:
                raise ValueError(f"Each file of X must have the column {name!r}, which {fragment.path} does not.")
        return array


def _dataset(source: Any) -> Any:
    try:
        import pyarrow.dataset
    except ImportError as error:
        raise ImportError('X as a Parquet dataset needs pyarrow: pip install "sklatent[dask]"') from error
    if isinstance(source, pyarrow.dataset.Dataset):
        return source
    return pyarrow.dataset.dataset(source, format="parquet", partitioning="hive")


def _row_groups(fragment: Any) -> Any:
    if not hasattr(fragment, "row_groups"):
        raise TypeError(f"X must be a dataset of Parquet files, got one of {type(fragment).__name__}.")
    return fragment.row_groups


def _feature_columns(schema: Any) -> list[str]:
    """Names of the columns that are not the index of a DataFrame."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in schema.names if name not in index]


def _common_dtype(schema: Any, columns: list[str]) -> np.dtype[Any]:
    from pyarrow import types

    kinds = [schema.field(name).type for name in columns]
    for name, kind in zip(columns, kinds, strict=True):
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(f"X must have numeric columns, got column {name!r} of {kind}.")
    return np.dtype(np.float32 if kinds and all(map(types.is_float32, kinds)) else np.float64)
