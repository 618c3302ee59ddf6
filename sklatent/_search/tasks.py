"""Fits that are run twice: once to see what they are about to learn, and once more with that at hand."""

__all__ = ["SearchFit", "SharedData", "check_latent_steps"]

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import delayed

from sklatent._base import _BaseLatentModel, fit_hook
from sklatent._classification import GenerativeClassifier
from sklatent._outliers import LatentOutlierDetector
from sklatent._pca import PCAReducer
from sklatent._ppca.density import NestedScores
from sklatent._search.grouping import DeferredFit, fingerprint, settings
from sklatent._sklearn_compat import check_method_params, fit_and_score, safe_split

# Fitted steps of Pipelines and what they made of the rows, by the rows and all steps up to there.
Steps = dict[Hashable, tuple[Any, Any]]
# What was learned for the models of a candidate on a fold: by the key of each fit, its route, what came of it, and the
# `random_state` that the fit left behind.
Outcomes = dict[Hashable, list[tuple[str, Any, Any]]]

# What a subclass may define anew and still learn what its base class learns. All else may have a part in that.
INFERENCE = {
    "decision_function",
    "inverse_transform",
    "predict",
    "predict_log_proba",
    "predict_proba",
    "sample",
    "score",
    "score_samples",
    "transform",
    "_parameter_constraints",
    "_sklearn_auto_wrap_output_keys",
}


class SharedData:
    """What the fits of a search have in common, each kept once."""

    def __init__(self) -> None:
        self.folds: dict[int, tuple[Any, Any]] = {}
        self.steps: Steps = {}
        self._nested: dict[tuple[int, int, str], NestedScores] = {}
        self._digests: dict[int, tuple[Any, Hashable]] = {}
        self._rows: dict[Hashable, Any] = {}

    def fold(self, number: int, estimator: Any, X: Any, y: Any, train: Any) -> tuple[Any, Any]:
        """Training rows and targets, for a fit that may change them."""
        if number not in self.folds:
            self.folds[number] = safe_split(estimator, X, y, train)
            self._keep(self.folds[number][0])
        rows, targets = self.folds[number]
        return _unspoilt(rows), targets

    def rows(self, X: Any) -> tuple[Hashable, Any]:
        """What tells the values of an array from others, and the first array that has them."""
        digest = self.digest(X)
        if digest not in self._rows:
            self._rows[digest] = X
            self._keep(X, digest)
        return digest, self._rows[digest]

    def step(self, key: Hashable, fit: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
        """The rows that a fitted step makes, for a fit that may change them, and the step."""
        if key not in self.steps:
            self.steps[key] = fit()
            self._keep(self.steps[key][0])
        rows, step = self.steps[key]
        return _unspoilt(rows), step

    def digest(self, X: Any) -> Hashable:
        """What tells the values of X from others; at no cost for what is kept here."""
        kept, digest = self._digests.get(id(X), (None, None))
        return fingerprint(X) if kept is None else digest

    def nested_scores(self, spectrum: Any, fold: int, part: str, X: Any, rows: Any) -> NestedScores:
        """Scores of the training or the test rows of a fold."""
        key = (id(spectrum), fold, part)
        if key not in self._nested:
            self._nested[key] = NestedScores(spectrum, X[rows])
        return self._nested[key]

    def _keep(self, X: Any, digest: Hashable = None) -> None:
        """Remember the digest of an array that nothing can change, and that is kept for as long."""
        if isinstance(X, np.ndarray):
            X.flags.writeable = False
            self._digests[id(X)] = X, digest or fingerprint(X)


class SearchFit:
    """The fit of one candidate on one fold.

    `record` runs the fit with its latent models standing still, and notes them with the rows that reach them. What the
    fit then does with an unfitted model fails, and ends the record. `call` runs the fit again, and each model takes
    what has been learned in the meantime by one of its class and settings from its rows; where there is none, of a
    model that the record did not come to or that a scorer fits, it is fitted as ever. So nothing here depends on what
    lies between an estimator and its latent models.

    Parameters
    ----------
    estimator, X, y, keywords
        What scikit-learn's search calls `fit_and_score` with.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, keywords: dict[str, Any]):
        self.estimator = estimator
        self.X = X
        self.y = y
        self.keywords = keywords
        self.fold = keywords["split_progress"][0]
        self.deferred: list[DeferredFit] = []
        self.steps: Steps = {}

    def configured(self) -> Any:
        """A clone with the parameters of the candidate."""
        return clone(self.estimator).set_params(**clone(self.keywords["parameters"], safe=False))

    def record(self, shared: SharedData) -> None:
        """Note the fits of latent models, and keep the fitted steps before them."""
        estimator, train = self.configured(), self.keywords["train"]
        if not _can_be_deferred(estimator):
            return
        X, y = shared.fold(self.fold, estimator, self.X, self.y, train)
        params = check_method_params(self.X, params=self.keywords["fit_params"] or {}, indices=train)
        self._remember(estimator, shared)

        def defer(model: Any, X: Any, *weights: Any) -> None:
            if _learns_alike(model) and _is_new(model) and not weights:
                digest, rows = shared.rows(X)
                twin = clone(model)
                self.deferred.append(DeferredFit(twin, rows, _fit_key(twin, digest)))

        with _hooked(defer):
            try:
                estimator.fit(X, **params) if y is None else estimator.fit(X, y, **params)
            except Exception:  # of a model that stands still; any other is met again by `call`, and reported
                return

    def nested_result(self, shared: SharedData) -> dict[str, Any] | None:
        """What `fit_and_score` would give, where one projection of a fold serves every candidate; None elsewhere."""
        if not self._has_nested_scores():
            return None
        start = time.perf_counter()
        fit = self.deferred[0]
        k = len(fit.outcome.components) if fit.model.nz is None else int(fit.model.nz)
        parts = {"test_scores": "test"} | ({"train_scores": "train"} if self.keywords["return_train_score"] else {})
        result: dict[str, Any] = {"fit_error": None, "fit_time": 0.0, "n_test_samples": len(self.keywords["test"])}
        for name, part in parts.items():
            result[name] = shared.nested_scores(fit.outcome, self.fold, part, self.X, self.keywords[part]).score(k)
            if not np.isfinite(result[name]):  # rows with NaN or infinity, which the ordinary score has more to say of
                return None
        result["score_time"] = time.perf_counter() - start
        return result

    def _has_nested_scores(self) -> bool:
        """Whether the candidate is a PCA by itself, scored by its own score, and nobody watches its fit."""
        keywords = self.keywords
        return (
            len(self.deferred) == 1
            and self.deferred[0].route == "spectrum"
            and type(self.estimator) is PCAReducer  # a subclass may score in another way
            and isinstance(self.X, np.ndarray)
            and type(keywords["scorer"]).__name__ == "_PassthroughScorer"
            and not (keywords["fit_params"] or keywords["score_params"])
            and keywords["verbose"] < 2
            and not getattr(keywords.get("caller"), "_skl_callbacks", None)
        )

    def call(self) -> tuple[Any, Any, Any]:
        """The task that finishes the fit, and scores it."""
        arguments = (self.estimator, self.X, self.y)
        if all(fit.route == "ordinary" for fit in self.deferred):
            return delayed(fit_and_score)(*arguments, **self.keywords)
        self._remember(self.estimator)
        outcomes: Outcomes = defaultdict(list)
        for fit in self.deferred:
            outcomes[fit.key].append((fit.route, fit.outcome, getattr(fit.model, "random_state", None)))
        return delayed(_replay)(outcomes, *arguments, **self.keywords)

    @property
    def routes(self) -> set[str]:
        """Those that its latent models took; the ordinary one where there is none."""
        return {fit.route for fit in self.deferred} or {"ordinary"}

    @property
    def seconds(self) -> float:
        """Time already spent on it."""
        return sum(fit.seconds for fit in self.deferred)

    def _remember(self, estimator: Any, shared: SharedData | None = None) -> None:
        if isinstance(estimator, Pipeline) and estimator.memory is None:
            estimator.set_params(memory=_StepMemory(self.steps, shared))


class _StepMemory:
    """Stands for joblib's Memory in a Pipeline: knows the steps that a candidate has fitted on a fold.

    Parameters
    ----------
    steps : dict
        The candidate's own.
    shared : SharedData or None
        Where steps that are not among them are looked up, and kept; None fits them and keeps nothing.
    """

    location = None  # by which a Pipeline knows that its steps are not to be cloned first

    def __init__(self, steps: Steps, shared: SharedData | None):
        self.steps = steps
        self.shared = shared

    def cache(self, function: Callable[..., Any], ignore: Sequence[str] = ()) -> Callable[..., Any]:
        """`function` fits a step, and gives the rows that it makes and itself."""
        digest = fingerprint if self.shared is None else self.shared.digest
        key: tuple[Hashable, ...] = ()

        def cached(transformer: Any, X: Any, y: Any, **keywords: Any) -> tuple[Any, Any]:
            nonlocal key
            key = key or (digest(X), fingerprint(y))  # what the later steps are given follows from these
            key = (*key, fingerprint(transformer), fingerprint(keywords.get("params")))
            fit = partial(function, transformer, X, y, **keywords)
            return self._fitted(key, fit, is_searched=_is_latent(transformer))

        return cached

    def _fitted(self, key: Hashable, fit: Callable[[], tuple[Any, Any]], is_searched: bool) -> tuple[Any, Any]:
        if key not in self.steps:
            if is_searched or self.shared is None:
                return fit()
            with _hooked(None):  # latent models within a step before are fitted there and then
                self.steps[key] = self.shared.step(key, fit)
        rows, step = self.steps[key]
        return rows, deepcopy(step)  # which may be fitted anew


def check_latent_steps(estimators: Sequence[Any]) -> None:
    """Refuse a Pipeline with two latent steps, and one that has none whatever the candidate."""
    pipelines = [estimator for estimator in estimators if isinstance(estimator, Pipeline)]
    names = [[name for name, step in pipeline.steps if _is_latent(step)] for pipeline in pipelines]
    for found in names:
        if len(found) > 1:
            raise ValueError(f"A Pipeline must have one latent step to be searched, got {len(found)}: {found}.")
    if pipelines and not any(names):
        steps = [name for name, _ in pipelines[0].steps]
        raise ValueError(f"A Pipeline must have one latent step to be searched, got none among its steps {steps}.")


def _is_latent(estimator: Any) -> bool:
    if isinstance(estimator, (GenerativeClassifier, LatentOutlierDetector)):
        estimator = estimator.estimator
    return isinstance(estimator, _BaseLatentModel)


def _can_be_deferred(estimator: Any) -> bool:
    """Whether a record would tell something, and tell nobody else."""
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    latent = [step for step in steps if _is_latent(step)]
    models = [getattr(step, "estimator", step) for step in latent]
    if not latent or not all(map(_learns_alike, [estimator, *latent, *models])):
        return False
    parts = [estimator, *estimator.get_params().values()]  # their own callbacks follow a fit, and not its record
    return not any(getattr(part, "_skl_callbacks", None) for part in parts)


def _learns_alike(estimator: Any) -> bool:
    """Whether a class learns as the class of this package, or the Pipeline, that it is or derives from."""
    classes = type(estimator).__mro__
    n = next(k for k, base in enumerate(classes) if base is Pipeline or base.__module__.startswith("sklatent."))
    changed = {name for base in classes[:n] for name in vars(base) if hasattr(classes[n], name)}
    return all(name in INFERENCE or name.startswith("__") or name.endswith("_request") for name in changed)


def _is_new(model: Any) -> bool:
    """Whether a fit starts from nothing: a former one is forgotten, unless it is to be gone on from."""
    return not hasattr(model, "n_components_")


def _fit_key(model: Any, digest: Hashable) -> Hashable:
    return type(model), settings(model), digest


@contextmanager
def _hooked(hook: Callable[..., None] | None) -> Iterator[None]:
    """Have the fits of latent models call something else."""
    token = fit_hook.set(hook)
    try:
        yield
    finally:
        fit_hook.reset(token)


def _replay(outcomes: Outcomes, *args: Any, **keywords: Any) -> dict[str, Any]:
    """Call `fit_and_score` with what its latent models have learned elsewhere, each for one fit."""

    def take(model: Any, X: Any, *weights: Any) -> None:
        waiting = outcomes.get(_fit_key(model, fingerprint(X)), []) if _is_new(model) and not weights else []
        route, outcome, random_state = waiting.pop(0) if waiting else ("ordinary", None, None)
        if route == "ordinary":
            return model._fit(X, *weights)
        model.random_state = random_state  # an instance has moved on
        if isinstance(outcome, Exception):
            raise outcome
        return model._publish(outcome, X)

    with _hooked(take):
        return fit_and_score(*args, **keywords)


def _unspoilt(X: Any) -> Any:
    """What a fit may be given again and again: an array that cannot be written to, or a copy of anything else."""
    return X if isinstance(X, np.ndarray) else deepcopy(X)
