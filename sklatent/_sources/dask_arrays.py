"""Samples in a `dask.array` or `dask.dataframe`: totals as a tree of tasks, and methods of models block by block."""

__all__ = [
    "DaskBlocks",
    "check_workers",
    "counted",
    "is_lazy",
    "lazy_array",
    "lazy_frame",
    "lazy_mean",
    "lazy_meta",
    "lazy_weights",
    "map_samples",
]

import operator
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_non_negative

from sklatent._ppca.blocks import Blocks

# Number of results that one task of the tree merges, and a worker holds at a time: each may be a scatter matrix.
SPLIT_EVERY = 4


def is_lazy(X: Any) -> bool:
    """Whether X is one of dask's collections, which needs no import of dask."""
    return type(X).__module__.partition(".")[0] in ("dask", "dask_expr")


def lazy_meta(X: Any) -> Any:
    """No samples of X in memory: an array or DataFrame with its features and their types.

    Raises
    ------
    TypeError
        If X is a collection of another kind, or an array whose blocks are not those of NumPy.
    """
    meta: Any = getattr(X, "_meta", None)
    if not (hasattr(meta, "to_numpy") or type(meta) is np.ndarray):  # a masked array would lose its mask
        kind = f"{type(X).__name__} of {type(meta).__name__}" if meta is not None else type(X).__name__
        raise TypeError(f"X must be a dask array of NumPy arrays or a dask DataFrame, got {kind}.")
    if meta.ndim != 2:
        return np.empty((1,) * meta.ndim, dtype=meta.dtype)
    if not np.isfinite(X.shape[1]):
        raise ValueError("X must have a known number of features, got a dask array whose X.shape[1] is unknown.")
    return meta if hasattr(meta, "to_numpy") else np.empty((0, int(X.shape[1])), dtype=meta.dtype)


def lazy_array(X: Any, dtype: Any, name: str = "X") -> Any:
    """X as a dask array of blocks with all features, in a precision."""
    if hasattr(X, "to_dask_array"):
        X = X.map_partitions(_floats, dtype, meta=_floats(X._meta, dtype)).to_dask_array()
    if X.numblocks[1] > 1:
        warnings.warn(
            f"{name} is chunked in columns, in {X.numblocks[1]} chunks: each of its blocks has to be put together "
            f"from them, on one worker and each time {name} is read. Call {name}.rechunk({{1: -1}}) once and keep the "
            "result."
        )
        X = X.rechunk({1: -1})
    return X.astype(dtype)


def counted(X: Any) -> Any:
    """A dask array with chunks of known sizes, which may have to be computed for it."""
    return X if np.isfinite(X.shape[0]) else X.copy().compute_chunk_sizes()


def lazy_weights(sample_weight: Any, X: Any) -> Any:
    """Weights as a dask array with the chunks of X. Their values are checked where they are used.

    Raises
    ------
    ValueError
        If they do not fit to the blocks of X.
    """
    import dask.array as da

    weights = sample_weight if is_lazy(sample_weight) else np.asarray(sample_weight)
    if hasattr(weights, "to_dask_array"):
        weights = weights.to_dask_array()
    if weights.ndim != 1:
        raise ValueError(f"sample_weight must be a 1D array for a dask array X, got a {weights.ndim}D array.")
    if np.isfinite([*X.chunks[0], *getattr(weights, "chunks", ((),))[0]]).all():
        if weights.shape != X.shape[:1]:
            raise ValueError(f"sample_weight.shape == {weights.shape}, expected {X.shape[:1]}!")
        return da.asarray(weights).rechunk((X.chunks[0],))
    if getattr(weights, "numblocks", None) != X.numblocks[:1]:
        raise ValueError(
            "sample_weight must be chunked as X where sizes of chunks are unknown: call compute_chunk_sizes() first. "
            f"Got {getattr(weights, 'npartitions', 1)} chunks of weights, and {X.numblocks[0]} of X."
        )
    return weights


class DaskBlocks(Blocks):
    """Blocks of a dask array; totals are computed by its scheduler.

    Parameters
    ----------
    X : dask.array of shape (n_samples, n_features)
        In float32 or float64, with one chunk of columns. The sizes of the chunks may be unknown, or zero.
    """

    def __init__(self, X: Any):
        _check_current_workers()
        self.X = X
        self.n_features = int(X.shape[1])
        self.dtype = X.dtype

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        if np.isfinite(self.X.chunks[0]).all():
            return np.array(self.X.chunks[0], dtype=np.int64)
        from dask import compute, delayed

        return np.array(compute(*(delayed(len)(block) for block in _blocks_of(self.X)[0])), dtype=np.int64)

    @property
    def n_samples(self) -> int:
        """Number of samples, which may have to be counted."""
        return int(self._sizes.sum())

    def total(
        self, function: Callable[..., Any], merge: Callable[[Any, Any], Any], weights: Any, *arguments: Any
    ) -> Any:
        """What a function gives for each block, merged as a tree of tasks. A result travels once to each merge."""
        from dask import delayed

        blocks, parts = _blocks_of(self.X, weights)
        sent = delayed(arguments, traverse=False)  # one task, whose result each worker fetches once
        of_block, merged = delayed(partial(_of_block, function)), delayed(partial(_merged, merge))
        results = [of_block(*pair, sent) for pair in zip(blocks, parts, strict=True)]
        while len(results) > 1:
            results = [merged(results[k : k + SPLIT_EVERY]) for k in range(0, len(results), SPLIT_EVERY)]
        found = results[0].compute().value
        if found is None:
            raise ValueError(
                f"Found array with 0 sample(s) (shape=(0, {self.n_features})) while a minimum of 1 is required."
            )
        return found

    def every(self, step: int) -> NDArray[Any]:
        """Each `step`-th sample, in memory."""
        from dask import compute, delayed

        first = -np.cumsum([0, *self._sizes[:-1]]) % step  # in each block
        take = delayed(_every)
        return np.concatenate(compute(*(take(*pair, step) for pair in zip(_blocks_of(self.X)[0], first, strict=True))))


def map_samples(model: Any, method: str, X: Any, n_columns: int | None, dtype: Any) -> Any:
    """What a method of a model gives for the samples of each block, as a dask array.

    Parameters
    ----------
    model : object
        Sent once to each worker.
    method : str
    X : dask.array of shape (n_samples, n_features)
    n_columns : int or None
        Number of columns of the results; None for one number per sample.
    dtype : dtype
    """
    from dask import delayed

    _check_current_workers()
    width = () if n_columns is None else (n_columns,)
    return X.map_blocks(
        _call,
        delayed(model, traverse=False),
        method,
        width,
        np.dtype(dtype),
        dtype=dtype,
        drop_axis=1 if n_columns is None else None,
        chunks=X.chunks[:1] if n_columns is None else (X.chunks[0], (n_columns,)),
        meta=np.empty((0, *width), dtype=dtype),
    )


def lazy_mean(scores: Any, weights: Any) -> float:
    """Weighted mean of a dask array of scores. A score of -inf with a weight of zero does not count."""
    total, weight = DaskBlocks(scores[:, None]).total(_weighted_total, operator.add, weights)
    if weight == 0:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return float(total / weight)


def lazy_frame(array: Any, columns: Any, like: Any) -> Any:
    """A dask array as a dask DataFrame, with the index of another one if there is one."""
    import dask.dataframe as dd

    frame = dd.from_dask_array(array, columns=list(columns))
    if not hasattr(like, "index"):
        return frame
    frame = frame.clear_divisions() if hasattr(frame, "clear_divisions") else frame
    meta = frame._meta.set_index(like._meta.index)
    return dd.map_partitions(_with_index, frame, like.index, meta=meta, align_dataframes=False, enforce_metadata=False)


def _floats(frame: Any, dtype: Any) -> Any:
    """A pandas DataFrame in a precision, with NaN for missing values of all types."""
    values = frame.to_numpy(dtype=dtype, na_value=np.nan)
    return type(frame)(values, columns=frame.columns, index=frame.index)


def _with_index(frame: Any, index: Any) -> Any:
    return frame.set_axis(index, axis=0)


def check_workers(client: Any) -> None:
    """Raise RuntimeError if workers of a cluster lack this package in this version.

    A worker that cannot unpickle a task drops its connection, and gets the task again, for ever.
    """
    package = __name__.partition(".")[0]

    def version() -> Any:  # sent by value, as functions within others are: a worker needs nothing to read it
        return import_module(package).__version__

    expected, found = sys.modules[package].__version__, client.run(version, on_error="return")
    # A connection that breaks is that of a worker which is lost in this moment.
    lacking = [worker for worker, state in found.items() if state != expected and not isinstance(state, OSError)]
    if lacking:
        state = found[lacking[0]]
        raise RuntimeError(
            f"Workers need {package} {expected}, the version of the client: {len(lacking)} of {len(found)} lack it, "
            f"first {lacking[0]} ({state if isinstance(state, Exception) else f'version {state}'}). Install it there."
        )


def _check_current_workers() -> None:
    """The same for the current cluster, if there is one."""
    distributed = sys.modules.get("distributed")
    try:
        client = distributed.default_client() if distributed is not None else None
    except ValueError:  # there is none
        return
    if client is not None and not client.asynchronous:
        check_workers(client)


def _blocks_of(X: Any, weights: Any = None) -> tuple[list[Any], list[Any]]:
    """The blocks of X and of the weights as delayed objects, which share the tasks before them."""
    from dask import optimize

    if weights is None:
        (X,) = optimize(X)
        blocks = X.to_delayed(optimize_graph=False).ravel().tolist()
        return blocks, [None] * len(blocks)
    return tuple(array.to_delayed(optimize_graph=False).ravel().tolist() for array in optimize(X, weights))


@dataclass(frozen=True)
class _Result:
    """What a function gave for some blocks; None if they have no samples. Schedulers ask for its size in memory."""

    value: Any

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + _n_bytes(self.value)


def _n_bytes(value: Any) -> int:
    """Bytes of the arrays in a result: in a tuple, or in the attributes of an object."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    parts = value if isinstance(value, tuple) else getattr(value, "__dict__", {}).values()
    return sum(map(_n_bytes, parts))


def _of_block(
    function: Callable[..., Any], block: NDArray[Any], weights: NDArray[Any] | None, arguments: tuple[Any, ...]
) -> _Result:
    """What a function gives for a block."""
    if weights is not None and weights.shape != block.shape[:1]:
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected {block.shape[:1]}!")
    if not len(block):
        return _Result(None)
    if weights is not None:  # which may all be zero in a block
        weights = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        check_non_negative(weights, "`sample_weight`")
    return _Result(function(block, weights, *arguments))


def _merged(merge: Callable[[Any, Any], Any], results: list[_Result]) -> _Result:
    found = [result.value for result in results if result.value is not None]
    return _Result(reduce(merge, found) if found else None)


def _every(block: NDArray[Any], first: int, step: int) -> NDArray[Any]:
    return block[first::step]


def _call(block: NDArray[Any], model: Any, method: str, width: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    if not len(block):  # which scikit-learn refuses
        return np.empty((0, *width), dtype=dtype)
    result: NDArray[Any] = getattr(model, method)(block)
    return result.astype(dtype, copy=False)


def _weighted_total(scores: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    if weights is None:
        return np.array([scores.sum(), len(scores)])
    kept = weights > 0
    return np.array([scores[kept, 0] @ weights[kept], weights.sum()])
