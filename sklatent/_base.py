"""What every estimator shares: validation, precision, chunks, and the public methods."""

__all__: list[str] = []

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, check_scalar, validate_data

from sklatent._memo import recall
from sklatent._sklearn_compat import Interval, fit_context, get_container_adapter

FLOAT_DTYPES = [np.float64, np.float32]


class _BaseLatentModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A generative model p(z) p(x | z) with an encoder.

    The public methods check, validate and cut their input into chunks, then call the hooks of the subclass: `_learn`
    and `_publish`, `_encode`, `_decode`, `_log_prob`, `_sample`. Hooks trust what they get: finite two-dimensional
    float32 or float64 arrays of the right width, as many samples as need `_CHUNK_SIZE` values at most (in `_learn` all
    of them). `_learn` sets nothing on the estimator; `_publish` sets the fitted attributes from what it returns.
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {}
    _CHUNK_SIZE = 2**22
    _N_SCORE_ROWS = 128

    n_components_: int

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> Any:
        """Fit the model to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to fit. float32 and float64 are taken as they are, other numbers as float64.
        y : Ignored
            Present for scikit-learn's conventions.

        Returns
        -------
        self : object
            The fitted estimator. When `fit` raises, the estimator is as it was before.
        """
        with all_or_nothing(self):
            if not getattr(self, "warm_start", False):
                forget_fit(self)
            self._publish(self._learn_or_recall(self._validate_training_rows(X)))
        return self

    def transform(self, X: ArrayLike) -> NDArray:
        """Encode the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            The codes, in the precision of X. Repeatable: nothing is drawn.
        """
        check_is_fitted(self)
        X = self._validate_rows(X)
        return self._by_chunks(self._encode, X)

    def inverse_transform(self, Z: ArrayLike) -> NDArray:
        """Decode the codes Z to the expected rows E[x | z].

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            In the precision of Z; a DataFrame with the fitted column names where `set_output` asks for one.
        """
        check_is_fitted(self)
        codes = check_array(Z, dtype=self._float_dtypes(Z), estimator=self, input_name="Z")
        if codes.shape[1] != self.n_components_:
            raise ValueError(
                f"Z has {codes.shape[1]} features, but {type(self).__name__} is expecting {self.n_components_} "
                "features as codes."
            )
        rows = self._by_chunks(self._decode, codes)
        adapter = get_container_adapter("transform", self)
        if adapter is None:
            return rows
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)])
        return adapter.create_container(rows, Z, columns=np.asarray(names, dtype=object))

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each row of X in nats."""
        check_is_fitted(self)
        X = self._validate_rows(X)
        self._check_scorable(X)
        # Blocks that stay in the cache: longer ones are slower.
        n_samples = int(np.clip(self._CHUNK_SIZE // self._n_score_values(), 1, self._N_SCORE_ROWS))
        scores = self._by_chunks(lambda samples: self._log_prob(_dense(samples)), X, n_samples=n_samples)
        xp = array_namespace(scores)
        return xp.astype(scores, xp.float64, copy=False)

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean of `score_samples` over the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Present for scikit-learn's conventions.

        Returns
        -------
        score : float
            Nats a row; larger is better.
        """
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, *, mean: bool = False, random_state: Any = None) -> NDArray:
        """Draw new rows: z from the latent density, then x given z.

        Parameters
        ----------
        n_samples : int, default=1
        mean : bool, default=False
            Whether to return E[x | z] in place of a draw of x given z, that is, to leave out the observation noise.
        random_state : int, RandomState instance or None, default=None
            Pass an int for the same rows at each call.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), float64
        """
        check_is_fitted(self)
        check_scalar(n_samples, "n_samples", (int, np.integer), min_val=1)
        return self._sample(n_samples, mean, spawn_seeds(random_state, 1)[0])

    def _learn(self, X: NDArray) -> Any:
        """What the model learns from X; pure, but for a `random_state` that moves on."""
        raise NotImplementedError

    def _publish(self, learned: Any) -> None:
        """Set the fitted attributes."""
        raise NotImplementedError

    # How `learn_many` learns, in a word, and whether a fit without a seed learns something else each time.
    _ROUTE: ClassVar[str] = "individual"
    _is_random = True

    @classmethod
    def _learn_many(cls, models: Sequence[Any], Xs: Sequence[NDArray], **limits: Any) -> list[Any]:
        """What each of many models learns, where they can learn together, and None elsewhere."""
        return [None] * len(models)

    def _learn_or_recall(self, X: NDArray) -> Any:
        """What a search has learned for a model like this from the same samples, or else what `_learn` does."""
        known = None if hasattr(self, "n_components_") else recall(self, X)  # a warm start goes on from what it has
        return self._learn(X) if known is None else known

    def _encode(self, X: NDArray) -> NDArray:
        raise NotImplementedError

    def _decode(self, Z: NDArray) -> NDArray:
        raise NotImplementedError

    def _log_prob(self, X: NDArray) -> NDArray:
        raise NotImplementedError

    def _sample(self, n_samples: int, mean: bool, seed: int) -> NDArray:
        raise NotImplementedError

    def _check_scorable(self, X: NDArray) -> None:
        """Raise ValueError where p(x) is not defined."""

    def _validate_training_rows(self, X: ArrayLike) -> NDArray:
        return validate_data(self, X, dtype=FLOAT_DTYPES)

    def _validate_rows(self, X: ArrayLike) -> NDArray:
        return validate_data(self, X, dtype=FLOAT_DTYPES, reset=False)

    def _float_dtypes(self, X: Any) -> list:
        """The precisions that X may have; another is turned into the first."""
        return FLOAT_DTYPES

    def _n_score_values(self) -> int:
        """How many values `_log_prob` holds at a time for each row."""
        return self.n_features_in_

    def _by_chunks(self, hook: Callable[..., NDArray], *arrays: NDArray, n_samples: int | None = None) -> NDArray:
        """Call a hook on chunks of n_samples of arrays that belong together, and join what it gives."""
        n_samples = n_samples or max(1, self._CHUNK_SIZE // self.n_features_in_)
        starts = range(0, arrays[0].shape[0], n_samples)
        parts = [hook(*(array[start : start + n_samples] for array in arrays)) for start in starts]
        return array_namespace(parts[0]).concat(parts)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def learn_many(models: Sequence[_BaseLatentModel], Xs: Sequence[NDArray], **limits: Any) -> list[Any]:
    """What many models learn, those of each family together.

    Parameters
    ----------
    models : sequence of estimator
        With the parameters of their fits. They stay as they are, but for a `random_state` that moves on.
    Xs : sequence of ndarray of shape (n_samples, n_features)
        What `training_samples` has made of the samples of each. Models that share samples share the array.
    **limits
        For networks: `max_models` to train as one, and `verbose`.

    Returns
    -------
    learned : list
        For each model what `_learn` returns, the exception that ended its training, or None where nothing else can
        learn together with it.
    """
    learned: list[Any] = [None] * len(models)
    families: list[Any] = [
        next(base for base in type(model).__mro__ if "_learn_many" in vars(base)) for model in models
    ]
    for family in dict.fromkeys(families):
        numbers = [k for k, found in enumerate(families) if found is family]
        outcomes = family._learn_many([models[k] for k in numbers], [Xs[k] for k in numbers], **limits)
        for k, outcome in zip(numbers, outcomes, strict=True):
            learned[k] = outcome
    return learned


def learn(model: _BaseLatentModel, X: NDArray) -> Any:
    """What a model learns by itself, from what `training_samples` has made of its samples."""
    return model._learn(X)


def is_reproducible(model: _BaseLatentModel) -> bool:
    """Whether another fit to the same samples learns the same."""
    return getattr(model, "random_state", None) is not None or not model._is_random


def route(model: _BaseLatentModel) -> str:
    """How `learn_many` learns models of this family, in a word."""
    return model._ROUTE


def training_samples(model: _BaseLatentModel, X: ArrayLike) -> NDArray:
    """X as the `fit` of a model hands it on: checked, and in a precision that the model takes."""
    return clone(model)._validate_training_rows(X)


class SequenceOf(Interval):
    """scikit-learn's `Interval`, for each element of a list or tuple.

    Parameters
    ----------
    type, left, right, closed : as for `Interval`
    length : int or None, default=None
        Number of elements; None allows any.
    """

    def __init__(self, type: Any, left: Any, right: Any, *, closed: str, length: int | None = None):
        super().__init__(type, left, right, closed=closed)
        self.length = length

    def is_satisfied_by(self, val: Any) -> bool:
        if not isinstance(val, (list, tuple)) or self.length not in (None, len(val)):
            return False
        return all(super(SequenceOf, self).is_satisfied_by(element) for element in val)

    def __str__(self) -> str:
        size = "" if self.length is None else f" of length {self.length}"
        return f"a list or tuple{size} whose every element is {super().__str__()}"


def forget_fit(estimator: BaseEstimator) -> None:
    """Start a refit clean: no attribute of the former fit survives beside those of the new one."""
    for name in [name for name in vars(estimator) if name.endswith("_") and not name.startswith("__")]:
        delattr(estimator, name)


def resolve_device(device: str) -> str:
    """The device to compute on; "auto" takes CUDA where there is one. Loads PyTorch."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r} must be 'auto', 'cpu', 'cuda' or 'cuda:<number>'.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but PyTorch finds no CUDA device. Use 'auto' or 'cpu'.")
    return device


def spawn_seeds(random_state: Any, n_seeds: int) -> list[int]:
    """Independent seeds from `random_state`; the global generators stay untouched, with None too."""
    if random_state is None:
        return [int(seed) for seed in np.random.SeedSequence().generate_state(n_seeds)]
    return [int(seed) for seed in check_random_state(random_state).randint(2**31 - 1, size=n_seeds)]


def _dense(X: Any) -> Any:
    """Samples one after the other in memory: a frame lies by columns, and its products would round in another way."""
    X = X.toarray() if hasattr(X, "toarray") else X
    return np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X


@contextmanager
def all_or_nothing(estimator: BaseEstimator) -> Iterator[None]:
    """Put back the attributes of an estimator when the block raises, Ctrl-C included.

    Except what scikit-learn's callbacks want for their teardown, which comes after.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        callbacks = {name: value for name, value in vars(estimator).items() if name.startswith(("_callback", "_skl_"))}
        vars(estimator).clear()
        vars(estimator).update(before | callbacks)
        raise
