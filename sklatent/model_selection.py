"""Searches over parameters that do once what their candidates have in common, and train networks side by side."""

__all__ = ["FusedGridSearchCV", "FusedRandomizedSearchCV"]

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils.parallel import Parallel

from sklatent._search.grouping import fit_together
from sklatent._search.tasks import SearchFit, SharedData, check_latent_steps
from sklatent._sklearn_compat import BaseSearchCV, Interval, fit_context


class _FusedSearch:
    """What both searches add to scikit-learn's."""

    max_models: int | None
    _parameter_constraints: ClassVar[dict[str, list]] = {
        "max_models": [Interval(Integral, 1, None, closed="left"), None]
    }

    @fit_context(prefer_skip_nested_validation=False)  # the parameters of `estimator` are its own to validate
    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit and score every candidate on every fold, and refit the best.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        **params : dict
            As for scikit-learn's search: `groups`, and what goes to `fit`, to the splitter and to the scorers.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Where scikit-learn's search raises it, and where a Pipeline has two latent steps, or none in any candidate.
        """
        return _fit_by(partial(_FusedParallel, max_models=self.max_models))(self, X, y, **params)

    def _format_results(self, candidate_params: Any, n_splits: int, out: Any, more_results: Any = None) -> Any:
        results = super()._format_results(candidate_params, n_splits, out, more_results)  # type: ignore[misc]
        routes = [set().union(*(fit["routes"] for fit in out[k : k + n_splits])) for k in range(0, len(out), n_splits)]
        results["route"] = np.array(["+".join(sorted(found)) for found in routes], dtype=object)
        return results


class FusedGridSearchCV(_FusedSearch, GridSearchCV):
    r"""Exhaustive search over a grid, with the networks of all candidates and folds trained as one.

    In all it gives this is :class:`sklearn.model_selection.GridSearchCV`: the same splits, fits, scores, attributes and
    methods. What differs is how the fits are done, by the route that `cv_results_["route"]` names for each candidate:

    - "fused": networks that differ in `nz`, `beta`, `noise`, `kl_warmup` and `random_state` alone train as one, whose
      weights are stacked and whose codes are padded to the widest. Each sees the rows, the order and the draws that it
      would see by itself. For small networks, whose steps are too short to keep a computer busy, that is several times
      faster.
    - "spectrum": one decomposition for each fold serves a :class:`~sklatent.PCAReducer` at every `nz`.
    - "ordinary": as by scikit-learn's search. So go other estimators, networks that nothing else in the grid matches,
      that have callbacks or a `checkpoint`, or that PyTorch's `vmap` refuses (one of your own with dropout, say), and
      subclasses that change more than how a fitted model transforms and scores.

    A "+" joins the routes of a candidate whose folds or classes took several.

    Parameters
    ----------
    estimator : estimator
        A model of this package, a Pipeline with one of them as a step, or a :class:`~sklatent.GenerativeClassifier` or
        :class:`~sklatent.LatentOutlierDetector` around one, by itself or as that step. In a Pipeline the steps before
        it are fitted once for each fold and distinct setting, and the steps after it as usual. Another estimator is
        searched as by scikit-learn.
    param_grid : dict or list of dicts
        Values to try for each parameter.
    scoring : str, callable, list, tuple or dict, default=None
        None takes the estimator's own score, which for a latent model is in nats.
    refit : bool, str or callable, default=True
        Whether to fit the best candidate to all rows; with several metrics, the name of the one that decides.
    cv : int, cross-validation generator or iterable, default=None
        None stands for 5 folds.
    verbose : int, default=0
        As for scikit-learn, and from 1 on a line about each stack.
    error_score : "raise" or number, default=nan
        Score of a candidate whose fit fails on a fold: of a network whose loss is not finite too, beside which the
        others go on.
    return_train_score : bool, default=False
    n_jobs : int, default=None
        Processes for all but the fused training, which takes PyTorch's threads: scoring, and the steps after the latent
        one. They pay where those take long.
    pre_dispatch : int or str, default="2*n_jobs"
        As for scikit-learn.
    max_models : int or None, default=None
        Networks to train as one, at most. None takes as many as half of the free memory holds.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        As of scikit-learn's search, and `route`. `mean_fit_time` holds a candidate's share of what was done together.
    best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
        As of scikit-learn's search.
    n_features_in_ : int
        Number of columns seen in `fit`, with `refit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Column names, where `fit` saw string names, with `refit`.

    Notes
    -----
    A stacked product adds up in another order than a single one where `nz` is padded, so weights agree with those of a
    single fit to some 1e-6 and not to the bit; so do scores. A model with callbacks of its own takes the ordinary
    route; those of the search are not told of fits that are done together. Every fold has its rows in memory, so a
    search with k folds holds k - 1 times X.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : The same results, one fit after the other.

    Examples
    --------
    >>> from sklatent import VAETransformer
    >>> from sklatent.model_selection import FusedGridSearchCV
    >>> from sklearn.datasets import load_iris
    >>> vae = VAETransformer(hidden_sizes=(16,), max_epochs=20, random_state=0)
    >>> search = FusedGridSearchCV(vae, {"nz": [1, 2], "beta": [1.0, 4.0]}, cv=3).fit(load_iris().data)
    >>> search.best_params_
    {'beta': 1.0, 'nz': 2}
    >>> set(search.cv_results_["route"])
    {'fused'}
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **GridSearchCV._parameter_constraints,
        **_FusedSearch._parameter_constraints,
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        n_jobs: int | None = None,
        pre_dispatch: Any = "2*n_jobs",
        max_models: int | None = None,
    ):
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
            n_jobs=n_jobs,
            pre_dispatch=pre_dispatch,
        )
        self.max_models = max_models


class FusedRandomizedSearchCV(_FusedSearch, RandomizedSearchCV):
    r"""Search over candidates drawn at random, with the networks of all of them and of all folds trained as one.

    To :class:`sklearn.model_selection.RandomizedSearchCV` it is what `FusedGridSearchCV` is to scikit-learn's grid
    search.

    Parameters
    ----------
    estimator : estimator
        As for `FusedGridSearchCV`, like all that is not listed here.
    param_distributions : dict or list of dicts
        Values of each parameter to choose from, or a distribution to draw it from.
    n_iter : int, default=10
        Number of candidates.
    random_state : int, RandomState instance or None, default=None
        Of the candidates.
    scoring, refit, cv, verbose, error_score, return_train_score, n_jobs, pre_dispatch, max_models
        As for `FusedGridSearchCV`.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        As of scikit-learn's search, and `route`; the other attributes too.

    See Also
    --------
    FusedGridSearchCV : Every combination; says what is done together.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklatent import VAETransformer
    >>> from sklatent.model_selection import FusedRandomizedSearchCV
    >>> from sklearn.datasets import load_iris
    >>> vae = VAETransformer(hidden_sizes=(16,), max_epochs=20, random_state=0)
    >>> candidates = {"nz": [1, 2], "beta": loguniform(0.1, 10)}
    >>> search = FusedRandomizedSearchCV(vae, candidates, n_iter=4, cv=3, random_state=0).fit(load_iris().data)
    >>> set(search.cv_results_["route"])
    {'fused'}
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **RandomizedSearchCV._parameter_constraints,
        **_FusedSearch._parameter_constraints,
    }

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any,
        *,
        n_iter: int = 10,
        scoring: Any = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        random_state: Any = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        n_jobs: int | None = None,
        pre_dispatch: Any = "2*n_jobs",
        max_models: int | None = None,
    ):
        super().__init__(
            estimator,
            param_distributions,
            n_iter=n_iter,
            scoring=scoring,
            refit=refit,
            cv=cv,
            verbose=verbose,
            random_state=random_state,
            error_score=error_score,
            return_train_score=return_train_score,
            n_jobs=n_jobs,
            pre_dispatch=pre_dispatch,
        )
        self.max_models = max_models


def _fit_by(parallel: Callable[..., Parallel]) -> Callable[..., Any]:
    """scikit-learn's `BaseSearchCV.fit`, with another name for `Parallel`.

    It hands the fits of all candidates on all folds to one call of that name, and offers no other place to see them
    together: `_run_search` sees the candidates without the rows. A copy of its hundred lines would follow one version
    of scikit-learn, and a patch of its module would be seen by every other search. So its code runs as it is, with one
    of its global names bound to something else.
    """
    fit = inspect.unwrap(BaseSearchCV.fit)
    return FunctionType(
        fit.__code__, {**fit.__globals__, "Parallel": parallel}, fit.__name__, fit.__defaults__, fit.__closure__
    )


class _FusedParallel(Parallel):
    """Call `_fit_and_score` for all candidates and folds, after the fits within that can be done together."""

    def __init__(self, *, max_models: int | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.max_models = max_models

    def __call__(self, tasks: Iterable[tuple[Any, Any, Any]]) -> list[dict[str, Any]]:
        fits = [SearchFit(estimator, X, y, keywords) for _, (estimator, X, y), keywords in tasks]
        check_latent_steps([fit.configured() for fit in fits if fit.fold == 0])
        shared = SharedData()
        for fit in fits:
            fit.record(shared)
        deferred = [part for fit in fits for part in fit.deferred]
        fit_together(deferred, self.max_models, fits[0].keywords["verbose"] if fits else 0)
        served = [fit.nested_result(shared) for fit in fits]
        called = iter(super().__call__(fit.call() for fit, result in zip(fits, served, strict=True) if not result))
        results = [result or next(called) for result in served]
        return [
            {**result, "fit_time": result["fit_time"] + fit.seconds, "routes": fit.routes}
            for fit, result in zip(fits, results, strict=True)
        ]
