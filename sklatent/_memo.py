"""What was learned before, for fits that have still to come: how a search hands it to those that ask."""

__all__ = ["Memo", "Outcome", "checksum", "fingerprint", "is_equal", "is_open", "model_key", "recall", "settings"]

import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from threading import RLock
from types import FunctionType
from typing import Any
from weakref import WeakSet

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from sklatent._ppca.chunks import slices

# Values of two arrays that are compared at a time: one chunk is held in the cache, and the first difference ends it.
CHUNK_SIZE = 2**17
# Samples that tell most arrays apart at a glance: the folds of a search differ in all but a few.
N_HINTS = 8

# Memos that `recall` asks, for as long as a search or a part of one holds them. All threads see them, whoever started
# them.
_open: WeakSet["Memo"] = WeakSet()


def recall(model: Any, X: Any, weights: Any = None) -> Any:
    """What a model with these settings has learned from these samples and weights; None where no open memo knows.

    An instance of RandomState in the settings is moved on, as learning would have moved it.

    Raises
    ------
    Exception
        The one that learning has ended with.
    """
    if not len(_open):
        return None
    key = model_key(model, weights)
    for memo in list(_open):
        found = memo.find(key, X)
        if found is not None:
            return found.hand_over(model)
    return None


def is_open() -> bool:
    """Whether a fit might find what it is about to learn, in this process."""
    return len(_open) > 0


def model_key(model: Any, weights: Any = None) -> Hashable:
    """What a model is known by, beside its samples: its class, what was set on it before the fit, and the weights."""
    return type(model), settings(model), fingerprint(weights)


def settings(model: Any, without: Collection[str] = ()) -> tuple[tuple[str, Hashable], ...]:
    """What was set on an estimator before its fit: its parameters, and what a subclass makes of its own."""
    names = [name for name in sorted(vars(model)) if not (name.startswith("_") or name.endswith("_"))]
    return tuple((name, fingerprint(getattr(model, name))) for name in names if name not in without)


def fingerprint(value: Any) -> Hashable:
    """Equal for equal values; for functions and classes, for the same one; of what cannot be hashed equal to no other.

    Functions stand for themselves, since those of a script or a notebook cannot be found by their names in a worker.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return type(value), value
    if isinstance(value, (FunctionType, type)):
        return value
    if isinstance(value, partial):
        parts = value.func, *value.args, *value.keywords.values()
        return partial, tuple(map(fingerprint, parts)), tuple(value.keywords)
    try:
        # In one layout: a process may be handed the values of a view as an array of their own. SHA-1 takes less than
        # half the time of joblib's default.
        return joblib.hash(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value, hash_name="sha1")
    except Exception:  # one that holds a lambda, say, cannot be pickled
        if isinstance(value, BaseEstimator):
            return type(value), settings(value)
        return value if callable(value) else object()


def checksum(value: Any) -> str:
    """SHA-256 of numbers and text, nested in dicts, lists and tuples: the same in every process and version.

    `fingerprint` may change with the version of Python, so it cannot be kept in a file. Objects of this package that
    only hold numbers count as dicts of these. Of all others only the class counts: they answer for their own state.
    """
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    """What a value consists of, as bytes."""
    if isinstance(value, np.ma.MaskedArray):
        value = [np.asarray(value), np.ma.getmaskarray(value)]
    if isinstance(value, (np.ndarray, np.generic)):
        yield from _parts_of_array(np.asarray(value))
    elif isinstance(value, Mapping):
        yield b"dict:"
        yield from _parts(sorted(value.items(), key=lambda item: repr(item[0])))
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__}{len(value)}:".encode()
        for element in value:
            yield from _parts(element)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield f"{type(value).__name__}={value!r};".encode()
    else:
        yield f"{type(value).__qualname__};".encode()
        if type(value).__module__.startswith("sklatent.") and not isinstance(value, BaseEstimator):
            yield from _parts(vars(value))


def _parts_of_array(array: NDArray[Any]) -> Iterator[Any]:
    yield f"{array.dtype.str}{array.shape}:".encode()
    if array.dtype.hasobject:
        yield from _parts(array.tolist())
    else:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Outcome:
    """What a model has learned, or the exception that ended it, and where that has left its `random_state`."""

    def __init__(self, model: Any, learned: Any):
        self.learned = learned
        self.random_state = getattr(model, "random_state", None)

    def hand_over(self, model: Any) -> Any:
        """Give a model what it would have learned."""
        if isinstance(self.random_state, np.random.RandomState):
            model.random_state.set_state(self.random_state.get_state())
        if isinstance(self.learned, Exception):
            raise self.learned
        return self.learned


class Memo:
    """Values by a key and by samples, open to `recall` until nothing holds the memo any more.

    Samples are compared by their values, every one of them: that reads two arrays once, in a fraction of the time that
    a hash takes, and cannot err. No two fits find the same object, so that none sees what another makes of it.

    A memo stays in its process, as do the fits that are to find something in it.
    """

    def __init__(self) -> None:
        self._samples: list[Any] = []
        self._numbers: dict[Hashable, list[int]] = defaultdict(list)  # of samples, by what tells most of them apart
        self._entries: dict[tuple[Hashable, int | None], list[_Entry]] = defaultdict(list)
        self._lock = RLock()
        _open.add(self)

    def add(self, key: Hashable, X: Any, value: Any, *, n_times: int | None = None) -> "_Entry":
        """Keep a value, to be found so many times or any number of times."""
        with self._lock:
            entry = _Entry(value, n_times)
            self._entries[key, self._add_samples(X)].append(entry)
            return entry

    def find(self, key: Hashable, X: Any) -> Any:
        """A copy of the value for a key and samples equal to X; None where there is none."""
        with self._lock:
            entries = self._entries.get((key, self._number(X)), ())
            return next((value for entry in entries if (value := entry.take()) is not None), None)

    def close(self) -> None:
        """Let no fit find anything any more."""
        _open.discard(self)

    def samples(self, X: Any) -> Any:
        """The first array kept whose values are those of X, which is X itself where there was none."""
        with self._lock:
            return self._samples[self._add_samples(X)]

    def _number(self, X: Any) -> int | None:
        """Number of the samples equal to X; None where there are none."""
        numbers = self._numbers.get(_hint(X), ())
        return next((number for number in numbers if _is_same(self._samples[number], X)), None)

    def _add_samples(self, X: Any) -> int:
        """The same, of X itself where there were none."""
        number = self._number(X)
        if number is None:
            number = len(self._samples)
            self._samples.append(X)
            self._numbers[_hint(X)].append(number)
        return number

    def __deepcopy__(self, memo: Any) -> "Memo":
        return self


class _Entry:
    """A value, and how often it was found.

    Parameters
    ----------
    value : object
    n_times : int or None
        How often it may be found; None for any number of times.
    """

    def __init__(self, value: Any, n_times: int | None):
        self.value = value
        self.n_times = n_times
        self.n_found = 0

    @property
    def is_found(self) -> bool:
        """Whether a fit has found it."""
        return self.n_found > 0

    def take(self) -> Any:
        """A copy of the value, and at the last time the value itself; then None."""
        if self.n_times is not None and self.n_found >= self.n_times:
            return None
        self.n_found += 1
        if self.n_found != self.n_times:
            return deepcopy(self.value)
        value, self.value = self.value, None
        return value


def _hint(X: Any) -> Hashable:
    """What tells most samples apart: some of them; for all but plain arrays a digest, which tells all."""
    if not _is_plain(X):
        return fingerprint(X)
    return X.shape, X.dtype.str, X[:: -(-len(X) // N_HINTS) or 1].tobytes()


def _is_plain(X: Any) -> bool:
    return isinstance(X, np.ndarray) and X.dtype.kind in "biuf"


def _is_same(ours: Any, X: Any) -> bool:
    """Whether samples of one hint have the same values."""
    return ours is X or not _is_plain(X) or is_equal(ours, X)


def is_equal(ours: NDArray[Any], X: NDArray[Any]) -> bool:
    """Whether two plain arrays have the same values, bit by bit."""
    if ours.shape != X.shape or ours.dtype != X.dtype:
        return False
    bits = f"u{X.dtype.itemsize}"
    cuts = slices(len(X), CHUNK_SIZE, X[:1].size)
    return all(np.array_equal(ours[cut].view(bits), X[cut].view(bits)) for cut in cuts)
