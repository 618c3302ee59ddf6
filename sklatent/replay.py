"""Fits that are run twice: once to see what they are about to learn, and once more with that at hand."""

__all__ = ["SearchFit", "SharedData", "check_latent_steps"]

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.model_selection._validation import _fit_and_score
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.parallel import delayed
from sklearn.utils.validation import _check_method_params

from sklatent.base import _BaseLatentModel, fit_hook
from sklatent.classification import GenerativeClassifier
from sklatent.fusion import DeferredFit
from sklatent.nested import NestedScores
from sklatent.outliers import LatentOutlierDetector
from sklatent.pca import PCAReducer

# Fitted steps and what they made of the rows, by fold and all steps up to there.
Steps = dict[tuple[Hashable, ...], tuple[Any, Any]]


class SharedData:
    """What the fits of a search have in common, each kept once."""

    def __init__(self) -> None:
        self.folds: dict[int, tuple[Any, Any]] = {}
        self.steps: Steps = {}
        self._nested: dict[tuple[int, int, str], NestedScores] = {}
        self._rows: dict[Hashable, Any] = {}

    def fold(self, number: int, estimator: Any, X: Any, y: Any, train: Any) -> tuple[Any, Any]:
        """Training rows and targets."""
        if number not in self.folds:
            self.folds[number] = _safe_split(estimator, X, y, train)
            if isinstance(self.folds[number][0], np.ndarray):  # a step that works in place must not spoil them
                self.folds[number][0].flags.writeable = False
        return self.folds[number]

    def rows(self, X: Any) -> Any:
        """The first array that has the values of this one."""
        if id(X) not in self._rows:
            self._rows[id(X)] = X, self._rows.setdefault(joblib.hash(X), X)
        return self._rows[id(X)][1]

    def nested_scores(self, spectrum: Any, fold: int, part: str, X: Any, rows: Any) -> NestedScores:
        """Scores of the training or the test rows of a fold."""
        key = (id(spectrum), fold, part)
        if key not in self._nested:
            self._nested[key] = NestedScores(spectrum, X[rows])
        return self._nested[key]


class SearchFit:
    """The fit of one candidate on one fold.

    `record` runs the fit with its latent models standing still, and notes them with the rows that reach them. What the
    fit then does with an unfitted model fails, and ends the record. `call` runs the fit again, and each model takes
    what has been learned for it in the meantime. So nothing here depends on what lies between an estimator and its
    latent models.

    Parameters
    ----------
    estimator, X, y, keywords
        What scikit-learn's search calls `_fit_and_score` with.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, keywords: dict[str, Any]):
        self.estimator = estimator
        self.X = X
        self.y = y
        self.keywords = keywords
        self.candidate, self.fold = keywords["candidate_progress"][0], keywords["split_progress"][0]
        self.deferred: list[DeferredFit] = []

    def configured(self) -> Any:
        """A clone with the parameters of the candidate."""
        return clone(self.estimator).set_params(**clone(self.keywords["parameters"], safe=False))

    def record(self, shared: SharedData) -> None:
        """Note the fits of latent models, and keep the fitted steps before them."""
        estimator, train = self.configured(), self.keywords["train"]
        if not _can_be_deferred(estimator):
            return
        X, y = shared.fold(self.fold, estimator, self.X, self.y, train)
        params = _check_method_params(self.X, params=self.keywords["fit_params"] or {}, indices=train)
        self._remember(estimator, shared.steps)

        def defer(model: Any, X: Any) -> None:
            self.deferred.append(DeferredFit(model, shared.rows(X)))

        token = fit_hook.set(defer)
        try:
            estimator.fit(X, **params) if y is None else estimator.fit(X, y, **params)
        except Exception:  # of a model that stands still; any other is met again by `call`, and reported
            return
        finally:
            fit_hook.reset(token)

    def nested_result(self, shared: SharedData) -> dict[str, Any] | None:
        """What `_fit_and_score` would give, where one projection of a fold serves every candidate; None elsewhere."""
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
            and isinstance(self.estimator, PCAReducer)
            and isinstance(self.X, np.ndarray)
            and type(keywords["scorer"]).__name__ == "_PassthroughScorer"
            and not (keywords["fit_params"] or keywords["score_params"])
            and keywords["verbose"] < 2
            and not getattr(keywords.get("caller"), "_skl_callbacks", None)
        )

    def call(self, shared: SharedData) -> tuple[Any, Any, Any]:
        """The task that finishes the fit, and scores it."""
        arguments = (self.estimator, self.X, self.y)
        if all(fit.route == "ordinary" for fit in self.deferred):
            return delayed(_fit_and_score)(*arguments, **self.keywords)
        self._remember(self.estimator, {key: step for key, step in shared.steps.items() if key[0] == self.fold})
        outcomes = [(fit.route, fit.outcome) for fit in self.deferred]
        return delayed(_replay)(outcomes, *arguments, **self.keywords)

    @property
    def routes(self) -> set[str]:
        """Those that its latent models took; the ordinary one where there is none."""
        return {fit.route for fit in self.deferred} or {"ordinary"}

    @property
    def seconds(self) -> float:
        """Time already spent on it."""
        return sum(fit.seconds for fit in self.deferred)

    def _remember(self, estimator: Any, steps: Steps) -> None:
        if isinstance(estimator, Pipeline) and estimator.memory is None:
            estimator.set_params(memory=_StepMemory(steps, self.fold, self.candidate))


class _StepMemory:
    """Stands for joblib's Memory in a Pipeline: fits each distinct step once a fold.

    Parameters
    ----------
    steps : dict
    fold, candidate : int
    """

    def __init__(self, steps: Steps, fold: int, candidate: int):
        self.steps = steps
        self.fold = fold
        self.candidate = candidate

    def cache(self, function: Callable[..., Any], ignore: Sequence[str] = ()) -> Callable[..., Any]:
        """`function` fits a step, and gives the rows that it makes and itself."""
        key: tuple[Hashable, ...] = (self.fold,)

        def cached(transformer: Any, X: Any, y: Any, **keywords: Any) -> tuple[Any, Any]:
            nonlocal key
            key = (*key, self._fingerprint(transformer), self._fingerprint(keywords.get("params")))
            if key not in self.steps:
                self.steps[key] = function(transformer, X, y, **keywords)
            return self.steps[key]

        return cached

    def _fingerprint(self, value: Any) -> Hashable:
        try:
            return joblib.hash(value)
        except Exception:  # a lambda, say, cannot be hashed: the step is the candidate's own
            return self.candidate


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
    if not any(map(_is_latent, steps)):
        return False
    parts = [estimator, *estimator.get_params().values()]  # their own callbacks follow a fit, and not its record
    return not any(getattr(part, "_skl_callbacks", None) for part in parts)


def _replay(outcomes: Sequence[tuple[str, Any]], *args: Any, **keywords: Any) -> dict[str, Any]:
    """Call `_fit_and_score` with what its latent models have learned elsewhere, in the order of their fits."""
    queue = deque(outcomes)

    def take(model: Any, X: Any) -> None:
        route, outcome = queue.popleft()
        if isinstance(outcome, Exception):
            raise outcome
        if route == "ordinary":
            model._fit(X)
        else:
            model._publish(outcome, X)

    token = fit_hook.set(take)
    try:
        return _fit_and_score(*args, **keywords)
    finally:
        fit_hook.reset(token)
