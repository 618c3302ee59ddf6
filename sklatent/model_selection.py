"""Searches over parameters that do once what their candidates have in common, and train networks side by side."""

__all__ = ["FusedGridSearchCV", "FusedRandomizedSearchCV"]

from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn import get_config
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils.metadata_routing import process_routing

from sklatent._base import Persistent
from sklatent._search.parts import Shared
from sklatent._search.plan import Plan
from sklatent._search.progress import Progress
from sklatent._search.workers import Workers
from sklatent._sklearn_compat import DocLinkMixin, Interval, StagedSearchMixin, checked_cv, keeps_cv


class _FusedSearch(Persistent, DocLinkMixin, StagedSearchMixin):
    """What both searches add to scikit-learn's."""

    max_models: int | None
    _fit_params: dict[str, Any]
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "max_models": [Interval(Integral, 1, None, closed="left"), None]
    }

    def fit(self: Any, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit every candidate on every fold, and the best one to all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data.
        y : array-like of shape (n_samples,) or None, default=None
            Targets.
        **params : dict
            Parameters for the `fit` of the estimator, the scorer and the splitter, as for scikit-learn's search: by
            name, or by metadata routing if it is enabled. Models that are given `sample_weight` are learned together
            too.

        Returns
        -------
        self : object
            The fitted search.

        See Also
        --------
        sklearn.model_selection.GridSearchCV.fit : The same, one fit after the other.

        Examples
        --------
        >>> from sklatent import PCAReducer
        >>> from sklatent.model_selection import FusedGridSearchCV
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> search = FusedGridSearchCV(PCAReducer(), {"nz": [1, 2]}, cv=3)
        >>> search.fit(X).cv_results_["route"].tolist()
        ['shared_svd', 'shared_svd']
        >>> search.fit(X, sample_weight=1.0 + (y == 2)).cv_results_["route"].tolist()
        ['shared_svd', 'shared_svd']
        """
        self._fit_params = params
        try:
            with Workers.offered(self.n_jobs):
                return super().fit(X, y, **params)  # type: ignore[misc]
        finally:
            del self._fit_params

    def _run_search(self: Any, evaluate_candidates: Callable[..., dict[str, Any]], callback_ctx: Any = None) -> None:
        """Evaluate the candidates of scikit-learn's search, after a plan has learned what their fits will ask for.

        This is scikit-learn's own place for searches of other kinds. The plan sees the samples, the targets and the
        splits as the splitter of the search, and is closed before the refit. Where there are workers, they learn.
        """
        seconds: list[float] = []
        workers = Workers.taken()
        progress = Progress(self, callback_ctx, self.verbose)

        def evaluate(
            candidate_params: Iterable[dict[str, Any]],
            cv: Any = None,
            more_results: dict[str, Any] | None = None,
            **contexts: Any,
        ) -> dict[str, Any]:
            limits, fit_params = {"max_models": self.max_models}, _params_of_fits(self, self._fit_params)
            plan = Plan(self.estimator, list(candidate_params), fit_params, progress=progress, **limits)

            def learn(X: Any = None, y: Any = None, splits: Any = ()) -> None:
                if workers is None:
                    plan.learn(X, y, splits)
                    progress.close()
                    return
                shared = Shared(self.estimator, X, y, splits, limits, fit_params)
                how = {"plan": plan, "shared": shared, "progress": progress, "pre_dispatch": self.pre_dispatch}
                workers.run = partial(workers.search, **how)

            is_known = cv is not None or keeps_cv(self)
            splitter = _LearningSplitter(lambda y: cv or checked_cv(self, y), learn) if is_known else None
            if not is_known and workers is not None:
                learn()
            more_results = {**(more_results or {}), "route": plan.routes()}
            try:
                results = evaluate_candidates(plan.candidates, cv=splitter, more_results=more_results, **contexts)
            finally:
                plan.close()
            seconds.extend(plan.seconds)
            results["params"] = [dict(params) for params in results["params"]]
            results["mean_fit_time"] = results["mean_fit_time"] + np.array(seconds)
            results["route"] = np.array(results.pop("route"), dtype=object)
            return results

        super()._run_search(evaluate, **({} if callback_ctx is None else {"callback_ctx": callback_ctx}))  # type: ignore[misc]


class FusedGridSearchCV(_FusedSearch, GridSearchCV):
    r"""Exhaustive search over a grid, with the networks of all candidates and folds trained as one.

    This is :class:`sklearn.model_selection.GridSearchCV` with the same splits, scores, attributes and methods, for any
    estimator that it takes. Before the first fit, the models that the fits will ask for are found and learned together.
    `cv_results_["route"]` tells for each candidate how:

    - "stacked": networks that differ only in `nz`, `beta`, `noise`, `kl_warmup` and `random_state` are trained as one
      network, whose weights are stacked and whose latent dimensions are padded to the largest. Each sees the samples,
      the order and the noise that it would see by itself. For small networks, whose steps are too short to keep a
      computer busy, this is several times faster.
    - "shared_svd": one decomposition for each fold serves a :class:`~sklatent.PCAReducer` at every `nz`.
    - "individual": fitted as by scikit-learn's search. This holds for other estimators, for networks that nothing else
      in the grid matches, that have `callbacks` or a `checkpoint`, or that PyTorch's `vmap` refuses (for example one of
      your own with dropout), and for subclasses that change more than how a fitted model transforms and scores.

    A "+" joins the routes of a candidate whose latent models were fitted in several ways.

    Parameters
    ----------
    estimator : estimator
        Any estimator. Models of this package are found where they stand by themselves, as steps of Pipelines, nested
        ones too, and within estimators that have a method `fits_within`:
        :class:`~sklatent.GenerativeClassifier` and :class:`~sklatent.LatentOutlierDetector`. In a Pipeline, the steps
        before a latent step are fitted once for each fold and distinct setting, unless it has a `memory` of its own.
    param_grid : dict or list of dicts
        Values to try for each parameter.
    scoring : str, callable, list, tuple or dict, default=None
        Strategy to evaluate a candidate. None uses the `score` method of the estimator, which for a latent model is the
        mean log-likelihood in nats per sample.
    refit : bool, str or callable, default=True
        Whether to fit the best candidate to all samples; with several metrics, the name of the one that decides.
    cv : int, cross-validation generator or iterable, default=None
        None stands for 5 folds.
    verbose : int, default=0
        Level of messages, as for scikit-learn; from 1 on, also a line when a stack of networks begins and ends, and
        every few seconds while it is trained.
    error_score : "raise" or number, default=nan
        Score of a candidate whose fit fails on a fold. The loss of a network that becomes infinite or NaN counts as a
        failure of that network alone.
    return_train_score : bool, default=False
        Whether to compute the scores of the training samples of each fold too.
    n_jobs : int, default=None
        Number of workers of joblib's backend: processes, threads or, under
        ``joblib.parallel_config(backend="dask")``, the workers of a cluster. Fits that learn together are divided into
        so many parts, at most, and each worker learns, fits and scores a part by itself. None stands for 1 unless in a
        `joblib.parallel_config`: all in this process, with PyTorch's threads. On a cluster, None, 1 and -1 stand for as
        many parts as its workers have threads.
    pre_dispatch : int or str, default="2*n_jobs"
        Number of parts to dispatch ahead, as for scikit-learn. On a dask cluster, all are.
    max_models : int or None, default=None
        Largest number of networks to train as one. None takes as many as half of the free memory holds, with several
        workers all of them together.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        The results of scikit-learn's search, and `route`. `mean_fit_time` includes an equal part, for each fit, of the
        time spent on learning together.
    best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
        The attributes of scikit-learn's search.
    n_features_in_ : int
        Number of columns seen in `fit`, with `refit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Column names, where `fit` saw string names, with `refit`.

    Notes
    -----
    A stacked product adds up in another order than a single one where `nz` is padded, so weights and scores agree with
    those of a single fit to about 1e-6 and not to the last bit. The Monte Carlo samples of a VAE depend on every bit of
    its input: if a step before it is a network that is trained in a stack, its scores differ by the Monte Carlo error.

    Callbacks of the search, such as scikit-learn's :class:`~sklearn.callback.ProgressBar`, are told of each stack and
    of its epochs, as tasks of the search, and then of the candidates. If one asks to stop at the end of an epoch, the
    stack stops. Stacks that workers train are reported as they end, without their epochs, and are not stopped.

    The training samples of every fold stay in memory, so a search with k folds holds k - 1 times X. With several
    processes, each holds X and the training samples of its folds. Parameters of `fit`, by name or by metadata routing,
    are followed through Pipelines and into estimators whose `fits_within` takes them.

    With scikit-learn before 1.9 and a `cv` that can be iterated once only, such as a generator, each fit is individual.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : The same results, one fit after the other.

    Examples
    --------
    >>> from sklatent import VAETransformer
    >>> from sklatent.model_selection import FusedGridSearchCV
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import KFold
    >>> vae = VAETransformer(hidden_sizes=(16,), max_epochs=20, random_state=0)
    >>> cv = KFold(3, shuffle=True, random_state=0)  # the species come one after the other
    >>> search = FusedGridSearchCV(vae, {"nz": [1, 2], "beta": [1.0, 4.0]}, cv=cv).fit(load_iris().data)
    >>> search.best_params_
    {'beta': 1.0, 'nz': 2}
    >>> set(search.cv_results_["route"])
    {'stacked'}
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
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
    r"""Search over randomly chosen candidates, with the networks of all of them and of all folds trained as one.

    This is :class:`sklearn.model_selection.RandomizedSearchCV` with the models of all candidates and folds learned
    together, as `FusedGridSearchCV` does for a grid.

    Parameters
    ----------
    estimator : estimator
        Any estimator; see `FusedGridSearchCV`.
    param_distributions : dict or list of dicts
        Values of each parameter to choose from, or a distribution to sample it from.
    n_iter : int, default=10
        Number of candidates.
    random_state : int, RandomState instance or None, default=None
        Controls the choice of the candidates.
    scoring, refit, cv, verbose, error_score, return_train_score, n_jobs, pre_dispatch, max_models
        See `FusedGridSearchCV`.

    Attributes
    ----------
    cv_results_ : dict of ndarrays
        The results of scikit-learn's search, and `route`. The other attributes are those of `FusedGridSearchCV`.

    See Also
    --------
    FusedGridSearchCV : Searches every combination, and documents what is learned together.

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
    {'stacked'}
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
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


def _params_of_fits(search: Any, params: dict[str, Any]) -> dict[str, Any]:
    """What the fits within a search receive of the parameters of its own."""
    if get_config()["enable_metadata_routing"]:
        return dict(process_routing(search, "fit", **params).estimator.fit)
    return {name: value for name, value in params.items() if name != "groups"}


class _LearningSplitter:
    """The splitter of a search, which shows the splits to a plan before the search goes on with them.

    Parameters
    ----------
    cv : callable
        From the targets to the splitter.
    learn : callable
        Called with X, y and all splits.
    """

    def __init__(self, cv: Callable[[Any], Any], learn: Callable[[Any, Any, Any], None]):
        self.cv = cv
        self.learn = learn

    def split(self, X: Any, y: Any = None, **params: Any) -> list[tuple[Any, Any]]:
        """Training and test indices of each split."""
        splits = list(self.cv(y).split(X, y, **params))
        self.learn(X, y, splits)
        return splits
