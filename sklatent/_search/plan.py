"""What the fits of a search are about to learn: found out before the first of them, and learned together."""

__all__ = ["Candidate", "Plan", "Task", "holds_latent", "learned_together"]

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import process_routing

from sklatent._base import BaseLatentModel, is_reproducible, learn, learn_many, learns_like, route, training_samples
from sklatent._memo import Memo, Outcome, fingerprint, is_open, model_key
from sklatent._sklearn_compat import check_method_params, has_callbacks, safe_split

# An unfitted latent model, the samples that it will be fitted to, and their weights or None.
Fit = tuple[Any, Any, Any]
# Parameters of a fit, by name.
Params = Mapping[str, Any]
# Numbers of a candidate and a fold.
Task = tuple[int, int]


@dataclass
class _Wish:
    """A fit that one or more tasks will ask for."""

    model: Any
    X: Any
    weights: Any
    tasks: list[Task]


# What a subclass may define anew and still fit what its base class fits. All else may have a part in that.
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


class Plan:
    """The fits of some candidates on all folds, and a memo in which those fits find what they have to learn.

    A plan is made from the candidates alone, and learns once it sees the folds. It walks through each candidate to the
    latent models within and to the samples that will reach them: a model is there at once; a Pipeline fits the steps
    before its latent steps, each once for all candidates that share it; and an estimator around others lists what it
    will fit by a method `fits_within(X, y)`. What lies elsewhere is not planned, and is fitted as ever.

    Parameters
    ----------
    estimator : estimator
        Of the search.
    candidates : sequence of dict
        Parameters of each candidate.
    fit_params : mapping, default={}
        Parameters of the fits of the estimator, such as weights of the samples. They are followed to latent models,
        through Pipelines, and into estimators whose `fits_within` takes them.
    **limits
        As for `learn_many`.

    Attributes
    ----------
    candidates : list of Candidate
        What to search instead: the same parameters, which carry the memo to where a fit takes place.
    memo : Memo
    seconds : list of float
        For each candidate, its part of the time spent here: the mean over the folds.
    """

    def __init__(
        self,
        estimator: Any,
        candidates: Sequence[dict[str, Any]],
        fit_params: Params = MappingProxyType({}),
        **limits: Any,
    ):
        self.memo = Memo()
        self.limits = limits
        self._fit_params = {name: value for name, value in fit_params.items() if value is not None}
        configured = [_configured(estimator, params) for params in candidates]
        self._estimators = [found if found is not None and _can_be_planned(found) else None for found in configured]
        self.candidates = [
            Candidate(number, params, self.memo, [] if found is None else list(_pipelines(found)))
            for number, (params, found) in enumerate(zip(candidates, self._estimators, strict=True))
        ]
        self.seconds = [0.0] * len(candidates)
        # For each candidate, the entries of the memo that its fits will find, with the way in which each was learned.
        self._entries: list[list[Any]] = [[] for _ in candidates]
        self._is_complete = [found is not None for found in self._estimators]
        self._elsewhere: list[set[str]] = [set() for _ in candidates]

    def learn(self, X: Any, y: Any, splits: Sequence[tuple[Any, Any]], tasks: Iterable[Task] | None = None) -> None:
        """Learn together what the fits on the training samples of all splits have in common, or some of them."""
        self._n_splits = len(splits)
        walks: dict[Task, Iterator[list[Fit]]] = {}
        memory = _StepMemory(self.memo, keep=True)
        samples: dict[int, Any] = {}
        for number, fold in self.tasks(len(splits)) if tasks is None else tasks:
            estimator, (train, _) = self._estimators[number], splits[fold]
            if fold not in samples:
                params = check_method_params(X, self._fit_params, indices=train)
                samples[fold] = *safe_split(estimator, X, y, train), params
            rows, targets, params = samples[fold]
            walks[number, fold] = _walk(estimator, rows, targets, params, memory)
        while walks:
            wanted = {task: fits for task, walk in walks.items() if (fits := self._next(task, walk))}
            self._learn(wanted)
            walks = {task: walks[task] for task in wanted}

    def tasks(self, n_splits: int) -> list[Task]:
        """The fits that are planned, fold by fold."""
        planned = [number for number, estimator in enumerate(self._estimators) if estimator is not None]
        return [(number, fold) for fold in range(n_splits) for number in planned]

    def divide(self, n_splits: int, n_parts: int) -> list[list[Task]]:
        """The planned fits in parts, each of fits that learn together, and none larger than its share of all.

        What is alike is cut between folds if possible, so that each part needs few of them. Fits that may learn the
        same stay together.
        """
        alike: dict[Hashable, dict[Hashable, list[Task]]] = defaultdict(lambda: defaultdict(list))
        keys = {
            number: (tuple(map(learns_like, models)), tuple(map(model_key, models)))
            for number, estimator in enumerate(self._estimators)
            if estimator is not None
            for models in [_latent_parts(estimator)]
        }
        for number, fold in self.tasks(n_splits):
            kind, models = keys[number]
            alike[kind][fold, models].append((number, fold))
        largest = math.ceil(sum(map(len, alike.values())) / n_parts)
        return [
            list(chain.from_iterable(part))
            for units in alike.values()
            for part in _even_parts(list(units.values()), math.ceil(len(units) / largest))
        ]

    def take_over(self, number: int, route: str, seconds: float) -> None:
        """Note how fits of a candidate were learned elsewhere, and in what part of the time spent on learning."""
        self._elsewhere[number].update(route.split("+"))
        self.seconds[number] += seconds

    def routes(self) -> Iterator[str]:
        """How each candidate was fitted, by what its fits have found; several ways are joined by a "+"."""
        for entries, is_complete, elsewhere in zip(self._entries, self._is_complete, self._elsewhere, strict=True):
            found = {way if entry.is_found else "individual" for entry, way in entries} | elsewhere
            yield "+".join(sorted(found if is_complete and found else found | {"individual"}))

    def close(self) -> None:
        """Let no further fit find anything."""
        self.memo.close()

    def _next(self, task: Task, walk: Iterator[list[Fit]]) -> list[Fit]:
        """The next fits of a task, which nothing but what is already learned leads to."""
        try:
            return next(walk, [])
        except Exception:  # of a step before, say; the fit meets it too, and there it is reported
            self._is_complete[task[0]] = False
            return []

    def _learn(self, wanted: dict[Task, list[Fit]]) -> None:
        """Learn what several fits want together, or several candidates want alike."""
        start = time.perf_counter()
        wishes = self._wishes(wanted)
        keys = [model_key(wish.model, wish.weights) for wish in wishes]  # before learning moves on a random state
        models, Xs, weights = ([getattr(wish, name) for wish in wishes] for name in ("model", "X", "weights"))
        outcomes = learn_many(models, Xs, weights, **self.limits)
        for wish, key, outcome in zip(wishes, keys, outcomes, strict=True):
            way = "individual" if outcome is None else route(wish.model)
            if outcome is None and len(wish.tasks) > 1:  # nothing else is like it, but several candidates want it
                outcome = _learn_alone(wish)
            if outcome is not None:
                entry = self.memo.add(key, wish.X, Outcome(wish.model, outcome), n_times=len(wish.tasks))
            for candidate, _ in wish.tasks:
                if outcome is None:
                    self._is_complete[candidate] = False
                else:
                    self._entries[candidate].append((entry, way))
        seconds = (time.perf_counter() - start) / max(sum(len(wish.tasks) for wish in wishes), 1)
        for candidate, _ in (task for wish in wishes for task in wish.tasks):
            self.seconds[candidate] += seconds / self._n_splits

    def _wishes(self, wanted: dict[Task, list[Fit]]) -> list[_Wish]:
        """The fits that are wanted, each once where another fit would learn the same."""
        wishes: dict[Any, _Wish] = {}
        for task, fits in wanted.items():
            for number, (model, X, own) in enumerate(fits):
                samples, weights = self.memo.samples(X), own if own is None else self.memo.samples(own)
                key = (model_key(model, weights), id(samples), None if is_reproducible(model) else (task, number))
                if key not in wishes:  # learning moves on an instance of RandomState, and nothing else
                    is_instance = isinstance(getattr(model, "random_state", None), np.random.RandomState)
                    wishes[key] = _Wish(clone(model) if is_instance else model, samples, weights, [])
                wishes[key].tasks.append(task)
        return list(wishes.values())


@contextmanager
def learned_together(
    estimator: Any, X: Any, subsets: Sequence[Any], fit_params: Params = MappingProxyType({})
) -> Iterator[None]:
    """Within the block, clones of an estimator that are fitted to these subsets of X find what was learned together.

    Where a search has a memo open already, it has learned what `fits_within` lists, and nothing is learned here.
    """
    if is_open():
        yield
        return
    plan = Plan(estimator, [{}], fit_params)
    try:
        plan.learn(X, None, [(subset, None) for subset in subsets])
        yield
    finally:
        plan.close()


class Candidate(dict[str, Any]):
    """Parameters of a candidate, which carry a memo to the fit: a dict like any other, but for its clone.

    scikit-learn's search clones the parameters of a candidate where it fits them. The clone sets, for each Pipeline
    without a memory of its own, one that knows the steps which the plan has fitted.
    """

    def __init__(self, number: int, params: dict[str, Any], memo: Memo, pipelines: Sequence[str] = ()):
        super().__init__(params)
        self.number = number
        self.memo = memo
        self.pipelines = pipelines

    def __sklearn_clone__(self) -> dict[str, Any]:
        memories = {f"{prefix}memory": _StepMemory(self.memo) for prefix in self.pipelines}
        return clone(dict(self), safe=False) | memories


class _StepMemory:
    """Stands for joblib's Memory in a Pipeline, and finds fitted steps in a memo.

    Parameters
    ----------
    memo : Memo
    keep : bool, default=False
        Whether to keep what it does not find.
    """

    location = None  # by which a Pipeline knows that its steps are not to be cloned first

    def __init__(self, memo: Memo, keep: bool = False):
        self.memo = memo
        self.keep = keep

    def __sklearn_clone__(self) -> "_StepMemory":
        return self

    def cache(self, function: Callable[..., Any], ignore: Sequence[str] = ()) -> Callable[..., Any]:
        """`function` fits a step, and gives the samples that it makes and itself."""

        def cached(transformer: Any, X: Any, y: Any, **keywords: Any) -> tuple[Any, Any]:
            key = "step", fingerprint(transformer), fingerprint(y), fingerprint(keywords.get("params"))
            found = self.memo.find(key, X)
            if found is None and self.keep:
                found = function(transformer, deepcopy(X), y, **keywords)  # which it may write to
                self.memo.add(key, X, deepcopy(found))
            return function(transformer, X, y, **keywords) if found is None else found

        return cached


def _configured(estimator: Any, params: dict[str, Any]) -> Any:
    """A clone with the parameters of a candidate; None where they do not belong to it, which its fit reports."""
    with suppress(Exception):
        return clone(estimator).set_params(**clone(params, safe=False))
    return None


def _walk(estimator: Any, X: Any, y: Any, params: Params, memory: _StepMemory) -> Iterator[list[Fit]]:
    """The latent models that an estimator fits: those of each step of the walk once those before are learned.

    Raises
    ------
    TypeError
        If it is not known to which models parameters of the fit go: if `fits_within` takes none.
    """
    if isinstance(estimator, BaseLatentModel):
        samples, weights = training_samples(estimator, X, **params)
        if isinstance(samples, np.ndarray):
            yield [(estimator, samples, weights)]
    elif isinstance(estimator, Pipeline):
        estimator = clone(estimator)  # whose steps will be fitted
        of_steps = _params_of_steps(estimator, params)
        for number, (name, step) in enumerate(estimator.steps):
            if holds_latent(step):
                Z = _transformed(estimator, number, X, y, params, memory)
                yield from _walk(step, Z, y, of_steps.get(name, {}), memory)
                if not all(map(is_reproducible, _latent_parts(step))):
                    return  # each candidate goes on with other latent codes
    else:
        fits = estimator.fits_within(X, y, **params)
        walks = [_walk(model, samples, None, own[0] if own else {}, memory) for model, samples, *own in fits]
        yield from (list(chain.from_iterable(fits)) for fits in zip_longest(*walks, fillvalue=()))


def _params_of_steps(pipeline: Pipeline, params: Params) -> dict[str, dict[str, Any]]:
    """What the fit of each step of a Pipeline receives: by its name, or by metadata routing if it is enabled."""
    if not params:
        return {}
    if get_config()["enable_metadata_routing"]:
        routed = process_routing(pipeline, "fit", **params)
        return {name: dict(found.get("fit_transform", found.get("fit", {}))) for name, found in routed.items()}
    of_steps: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        step, _, own = name.partition("__")
        of_steps.setdefault(step, {})[own] = value
    return of_steps


def _transformed(pipeline: Pipeline, n_steps: int, X: Any, y: Any, params: Params, memory: _StepMemory) -> Any:
    """What the first steps of a Pipeline make of X."""
    if n_steps == 0:
        return X
    memory = memory if pipeline.memory is None else pipeline.memory
    first = Pipeline([*pipeline.steps[:n_steps], ("rest", "passthrough")], memory=memory)
    if get_config()["enable_metadata_routing"]:
        names = first.get_metadata_routing().consumes("fit_transform", params)
    else:
        names = [name for name in params if name.partition("__")[0] in first.named_steps]
    return first.fit_transform(X, y, **{name: params[name] for name in names})


def _can_be_planned(estimator: Any) -> bool:
    """Whether there is something to plan, and nobody who follows the fits by callbacks."""
    return holds_latent(estimator) and not any(map(has_callbacks, [estimator, *estimator.get_params().values()]))


def holds_latent(estimator: Any) -> bool:
    """Whether a walk through an estimator finds a latent model."""
    if not (hasattr(estimator, "get_params") and _fits_alike(estimator)):
        return False
    if isinstance(estimator, BaseLatentModel):
        return not hasattr(estimator, "n_components_")
    if isinstance(estimator, Pipeline):
        return any(holds_latent(step) for _, step in estimator.steps)
    return hasattr(estimator, "fits_within") and any(map(holds_latent, estimator.get_params(deep=False).values()))


def _latent_parts(estimator: Any) -> list[Any]:
    parts = [estimator, *estimator.get_params().values()]
    return [part for part in parts if isinstance(part, BaseLatentModel)]


def _fits_alike(estimator: Any) -> bool:
    """Whether a class fits as the class of this package, or the Pipeline, that it is or derives from."""
    classes = type(estimator).__mro__
    known = (k for k, base in enumerate(classes) if base is Pipeline or base.__module__.startswith("sklatent."))
    n = next(known, 0)
    changed = {name for base in classes[:n] for name in vars(base) if hasattr(classes[n], name)}
    return all(name in INFERENCE or name.startswith("__") or name.endswith("_request") for name in changed)


def _pipelines(estimator: Any, prefix: str = "") -> Iterator[str]:
    """Prefixes of the parameters of each Pipeline without a memory that a walk through an estimator comes to."""
    is_pipeline = isinstance(estimator, Pipeline)
    if is_pipeline and estimator.memory is None:
        yield prefix
    parts = dict(estimator.steps) if is_pipeline else estimator.get_params(deep=False)
    for name, part in parts.items():
        if holds_latent(part):
            yield from _pipelines(part, f"{prefix}{name}__")


def _even_parts(values: list[Any], n_parts: int) -> list[list[Any]]:
    """Consecutive parts of about the same length."""
    bounds = [len(values) * k // n_parts for k in range(n_parts + 1)]
    return [values[start:stop] for start, stop in pairwise(bounds)]


def _learn_alone(wish: _Wish) -> Any:
    try:
        return learn(wish.model, wish.X, wish.weights)
    except Exception:  # which each fit meets too, and there it is reported
        return None
