from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, RandomizedSearchCV, ShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
)
from sklatent._nn.stacked_training import StackedNet
from sklatent.metrics import reconstruction_scorer
from sklatent.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV

# Nats, or units of another score: weights of a stack agree with those of single fits to some 1e-6.
ATOL = 1e-5
GRID = {"nz": [2, 4], "beta": [0.5, 2.0]}


def vae(**params):
    return VAETransformer(random_state=0, **({"hidden_sizes": (16,), "max_epochs": 3, "batch_size": 64} | params))


def pipeline(latent, **params):
    steps = [("scale", StandardScaler()), ("latent", latent), ("classify", LogisticRegression(max_iter=500))]
    return Pipeline(steps, **params)


@pytest.fixture(scope="module")
def rows(digits):
    return digits[0][:300], digits[1][:300]


def assert_same_search(ours, theirs, route):
    """What GridSearchCV says, and one key more."""
    assert list(ours.cv_results_) == [*theirs.cv_results_, "route"]
    assert list(ours.cv_results_["route"]) == [route] * len(ours.cv_results_["params"])
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    for key, values in theirs.cv_results_.items():
        if "_test_" in key or "_train_" in key:
            np.testing.assert_allclose(ours.cv_results_[key], values, rtol=1e-12, atol=ATOL, err_msg=key)
    for name in ("best_params_", "best_index_", "n_splits_", "multimetric_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "grid", "route"),
    [
        (vae(), GRID, "stacked"),
        (vae(), {"nz": [2, 3], "noise": [0.0, 0.2], "random_state": [0, 1]}, "stacked"),
        (AutoencoderTransformer(hidden_sizes=(16,), max_epochs=20, random_state=0), {"nz": [2, 3]}, "stacked"),
        (AutoencoderTransformer(hidden_sizes=(16,), max_epochs=1, random_state=0), {"nz": [2, 8]}, "stacked"),
        (PCAReducer(), {"nz": [1, 5, None], "whiten": [False, True]}, "shared_svd"),
        (pipeline(vae()), {"latent__nz": [2, 4], "classify__C": [0.1, 1.0]}, "stacked"),
        (pipeline(PCAReducer()), {"latent__nz": [2, 4], "scale__with_std": [False, True]}, "shared_svd"),
        (GenerativeClassifier(vae()), {"estimator__nz": [2, 3]}, "stacked"),
        (LatentOutlierDetector(vae()), {"estimator__nz": [2, 3]}, "stacked"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_search_equals_grid_search(estimator, grid, route, rows):
    X, y = rows
    if isinstance(estimator, GenerativeClassifier):
        y = y % 2
    params = {"cv": 3, "return_train_score": True}
    if isinstance(estimator, LatentOutlierDetector):
        params["scoring"] = lambda detector, X, y: float(detector.score_samples(X).mean() - detector.offset_)
    ours = FusedGridSearchCV(estimator, grid, **params).fit(X, y)
    theirs = GridSearchCV(estimator, grid, **params).fit(X, y)
    assert_same_search(ours, theirs, route)
    assert ours.best_score_ == pytest.approx(theirs.best_score_, abs=ATOL)
    assert type(ours.best_estimator_) is type(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_processes_finish_the_fits(n_jobs, rows):
    grid = {"latent__nz": [2, 4], "classify__C": [0.1, 1.0]}
    search = FusedGridSearchCV(pipeline(vae()), grid, cv=3, n_jobs=n_jobs).fit(*rows)
    assert_same_search(search, GridSearchCV(pipeline(vae()), grid, cv=3).fit(*rows), "stacked")


@pytest.mark.slow
def test_randomized_search(rows):
    distributions = {"nz": [2, 3, 4], "beta": loguniform(0.1, 10)}
    params = {"n_iter": 4, "cv": 3, "random_state": 0}
    ours = FusedRandomizedSearchCV(vae(), distributions, **params).fit(rows[0])
    assert_same_search(ours, RandomizedSearchCV(vae(), distributions, **params).fit(rows[0]), "stacked")


@pytest.mark.slow
@pytest.mark.parametrize("refit", ["reconstruction", False, lambda results: int(np.argmin(results["param_nz"]))])
def test_several_metrics(refit, rows):
    params = {
        "scoring": {"nats": lambda model, X, y=None: model.score(X), "reconstruction": reconstruction_scorer},
        "refit": refit,
        "cv": 3,
    }
    ours = FusedGridSearchCV(vae(), GRID, **params).fit(rows[0])
    assert_same_search(ours, GridSearchCV(vae(), GRID, **params).fit(rows[0]), "stacked")
    assert hasattr(ours, "best_estimator_") is (refit is not False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cv", [KFold(7), KFold(3, shuffle=True, random_state=0), ShuffleSplit(2, random_state=0), GroupKFold(3)], ids=str
)
def test_splitters_and_groups(cv, rows):
    """300 rows in seven folds: of unequal size."""
    groups = np.arange(300) % 4 if isinstance(cv, GroupKFold) else None
    ours = FusedGridSearchCV(vae(), {"nz": [2, 3]}, cv=cv).fit(rows[0], groups=groups)
    assert_same_search(ours, GridSearchCV(vae(), {"nz": [2, 3]}, cv=cv).fit(rows[0], groups=groups), "stacked")


@pytest.mark.slow
def test_data_frame(rows):
    X = pd.DataFrame(rows[0]).rename(columns="pixel{}".format)
    search = FusedGridSearchCV(vae(), {"nz": [2, 3]}, cv=3).fit(X)
    assert_same_search(search, GridSearchCV(vae(), {"nz": [2, 3]}, cv=3).fit(X), "stacked")
    assert list(search.feature_names_in_) == list(X.columns)


@pytest.mark.slow
def test_a_grid_of_estimators_takes_each_route(rows):
    grid = [{"latent": [PCA()], "latent__n_components": [2]}, {"latent": [vae(), PCAReducer()], "latent__nz": [2, 4]}]
    ours = FusedGridSearchCV(pipeline(None), grid, cv=3).fit(*rows)
    theirs = GridSearchCV(pipeline(None), grid, cv=3).fit(*rows)
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], atol=ATOL)
    assert list(ours.cv_results_["route"]) == ["individual", "stacked", "stacked", "shared_svd", "shared_svd"]


@pytest.mark.slow
def test_networks_of_different_architecture_form_groups(rows, monkeypatch):
    sizes = count_stacks(monkeypatch)
    grid = [{"hidden_sizes": [(8,), (16,)], "nz": [2, 3]}, {"lr": [1e-3]}]
    search = FusedGridSearchCV(vae(), grid, cv=3, refit=False).fit(rows[0])
    assert sizes == [6, 6, 3]
    assert set(search.cv_results_["route"]) == {"stacked"}


@pytest.mark.slow
@pytest.mark.parametrize(("max_models", "sizes"), [(None, [12]), (5, [4, 4, 4]), (1, [])])
def test_max_models_splits_a_group(max_models, sizes, rows, monkeypatch):
    found = count_stacks(monkeypatch)
    search = FusedGridSearchCV(vae(), GRID, cv=3, max_models=max_models).fit(rows[0])
    assert found == sizes
    assert_same_search(search, GridSearchCV(vae(), GRID, cv=3).fit(rows[0]), "stacked" if sizes else "individual")


def test_memory_splits_a_group(rows, monkeypatch):
    found = count_stacks(monkeypatch)
    monkeypatch.setattr("sklatent._nn.grouping.free_memory", lambda device: 4e6)
    FusedGridSearchCV(vae(), GRID, cv=3, refit=False).fit(rows[0])
    assert sum(found) == 12
    assert len(found) > 1


def count_stacks(monkeypatch):
    sizes, train_each = [], StackedNet.train_each

    def count(self, *args):
        sizes.append(len(self.nets))
        return train_each(self, *args)

    monkeypatch.setattr(StackedNet, "train_each", count)
    return sizes


class Counter(TransformerMixin, BaseEstimator):
    """Counts its fits."""

    n_fits = 0

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y=None):
        type(self).n_fits += 1
        self.is_fitted_ = True
        return self

    def transform(self, X):
        return self.factor * X


@pytest.mark.slow
@pytest.mark.parametrize("n_settings", [1, 2])
def test_steps_before_are_fitted_once_a_fold_and_setting(n_settings, rows):
    Counter.n_fits = 0
    steps = Pipeline([("count", Counter()), ("scale", StandardScaler()), ("latent", vae())])
    grid = {"latent__nz": [2, 3], "latent__beta": [0.5, 1.0], "count__factor": [1.0, 2.0][:n_settings]}
    search = FusedGridSearchCV(steps, grid, cv=3, refit=False).fit(rows[0])
    assert Counter.n_fits == 3 * n_settings
    assert set(search.cv_results_["route"]) == {"stacked"}


@pytest.mark.slow
@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("wrap", [LatentOutlierDetector, GenerativeClassifier])
def test_steps_within_another_estimator_are_fitted_once(wrap, frame, rows):
    """They are given an array, whatever X is, since the estimator around them validates it."""
    Counter.n_fits = 0
    X, y = pd.DataFrame(rows[0]).rename(columns="pixel{}".format) if frame else rows[0], rows[1] % 2
    estimator = wrap(Pipeline([("count", Counter()), ("latent", vae(max_epochs=1))]))
    scoring = lambda estimator, X, y: float(estimator.score_samples(X).mean())  # noqa: E731
    search = FusedGridSearchCV(estimator, {"estimator__latent__nz": [2, 3]}, cv=3, refit=False, scoring=scoring)
    assert set(search.fit(X, y).cv_results_["route"]) == {"stacked"}
    assert Counter.n_fits == 3 * (2 if wrap is GenerativeClassifier else 6)


@pytest.mark.slow
def test_steps_that_cannot_be_hashed_are_the_candidates_own(rows):
    steps = Pipeline([("double", FunctionTransformer(lambda X: 2 * X)), ("latent", vae())])
    search = FusedGridSearchCV(steps, {"latent__nz": [2, 3]}, cv=3).fit(rows[0])
    assert_same_search(search, GridSearchCV(steps, {"latent__nz": [2, 3]}, cv=3).fit(rows[0]), "stacked")


@pytest.mark.slow
def test_a_step_that_works_in_place_spoils_no_fold(rows):
    X, y = rows
    steps = pipeline(vae()).set_params(scale__copy=False)
    grid = {"latent__nz": [2, 3], "scale__with_mean": [True, False]}
    ours = FusedGridSearchCV(steps, grid, cv=3).fit(X.copy(), y)
    theirs = GridSearchCV(steps, grid, cv=3).fit(X.copy(), y)
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], atol=ATOL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("error_score", [np.nan, -5.0])
def test_a_loss_that_is_not_finite_gets_the_error_score(error_score, rows):
    grid = {"beta": [1.0, 1e39], "nz": [2, 3]}
    with pytest.warns(FitFailedWarning, match="6 fits failed out of a total of 12(.|\n)*The loss became"):
        search = FusedGridSearchCV(vae(), grid, cv=3, error_score=error_score, refit=False).fit(rows[0])
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"][2:], [error_score] * 2)
    expected = GridSearchCV(vae(), {"beta": [1.0], "nz": [2, 3]}, cv=3).fit(rows[0]).cv_results_["mean_test_score"]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"][:2], expected, atol=ATOL)


def test_a_loss_that_is_not_finite_raises_where_it_shall(rows):
    with pytest.raises(FloatingPointError, match="The loss became inf in epoch 1"):
        FusedGridSearchCV(vae(), {"beta": [1.0, 1e39]}, cv=3, error_score="raise").fit(rows[0])


def test_ctrl_c_raises(rows, monkeypatch):
    def interrupted(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(StackedNet, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FusedGridSearchCV(vae(), GRID, cv=3).fit(rows[0])


def random_backbone(input_shape, nz, n_code):
    return nn.Sequential(nn.Linear(64, n_code), nn.Dropout(0.1)), nn.Linear(nz, 64)


@pytest.mark.slow
def test_a_network_that_vmap_refuses_takes_the_ordinary_route(rows):
    search = FusedGridSearchCV(vae(backbone=random_backbone), {"beta": [0.5, 1.0]}, cv=3).fit(rows[0])
    assert set(search.cv_results_["route"]) == {"individual"}


def test_what_follows_one_network_takes_the_ordinary_route(rows, tmp_path):
    grid = [{"checkpoint": [str(tmp_path / "file.npz")]}, {"callbacks": [[]], "nz": [2, 3]}]
    search = FusedGridSearchCV(vae(), grid, cv=[(np.arange(100), np.arange(100, 200))]).fit(rows[0])
    assert list(search.cv_results_["route"]) == ["individual", "stacked", "stacked"]


def test_fits_share_the_time_of_their_training(rows, monkeypatch):
    """By a clock that the training alone moves, so far that the real seconds of other work vanish beside it."""
    seconds, train_each = [0.0], StackedNet.train_each

    def train(self, *args):
        train_each(self, *args)
        seconds[0] += 12e9

    monkeypatch.setattr(StackedNet, "train_each", train)
    monkeypatch.setattr("sklatent._search.plan.time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    times = FusedGridSearchCV(vae(), GRID, cv=3, refit=False).fit(rows[0]).cv_results_["mean_fit_time"]
    np.testing.assert_allclose(times, 1e9, rtol=1e-6)


@pytest.mark.slow
def test_verbose_tells_of_each_stack(rows, capsys):
    FusedGridSearchCV(vae(), GRID, cv=3, verbose=2, refit=False).fit(rows[0])
    lines = capsys.readouterr().out.splitlines()
    first, *ours = sorted(lines[:3])  # scikit-learn splits X before or after it prints, by its version
    assert first == "Fitting 3 folds for each of 4 candidates, totalling 12 fits"
    assert ours[0] == f"[fused] 12 networks as one, {vae().max_epochs} epochs"
    assert ours[1].startswith("[fused] 12 networks trained as one in ")
    assert sum(line.startswith("[CV] END") and "nz=4" in line for line in lines) == 6


def test_verbose_tells_of_a_long_training_every_few_seconds(rows, capsys, monkeypatch):
    """By a clock that moves by four seconds each time that it is read: the epochs end after 4, 8, 12, ..."""
    seconds = iter(range(0, 10_000, 4))
    monkeypatch.setattr("sklatent._search.progress.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    FusedGridSearchCV(vae(max_epochs=6), {"nz": [1, 2]}, cv=2, verbose=1, refit=False).fit(rows[0])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[fused] epoch")]
    assert lines == [f"[fused] epoch {n} of 6, {4 * n} s" for n in (2, 4, 6)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "grid", "route"),
    [
        ([StandardScaler(), LogisticRegression()], {"step1__C": [0.1, 1.0]}, "individual"),
        ([PCAReducer(8), vae()], {"step0__nz": [6, 8], "step1__nz": [2, 3]}, "shared_svd+stacked"),
        ([StandardScaler(), PCAReducer(8), vae(), LogisticRegression()], {"step2__nz": [2, 3]}, "individual+stacked"),
        ([StandardScaler(), PCAReducer(8), vae(), LogisticRegression()], {}, "individual+stacked"),
        (
            [vae().set_params(random_state=np.random.RandomState(0)), vae(), LogisticRegression()],
            {"step1__nz": [1, 2]},
            "stacked",
        ),
        ([vae(), PCAReducer(), LogisticRegression()], {"step0__nz": [4, 5], "step1__nz": [2, 3]}, "shared_svd+stacked"),
        (
            [StandardScaler(), Pipeline([("scale", StandardScaler()), ("vae", vae())]), LogisticRegression()],
            {"step1__vae__nz": [2, 3]},
            "stacked",
        ),
        ([GenerativeClassifier(Pipeline([("scale", StandardScaler()), ("vae", vae())]))], {}, "stacked"),
        (
            [StandardScaler(), GenerativeClassifier(Pipeline([("scale", StandardScaler()), ("vae", vae())]))],
            {"step1__estimator__vae__nz": [2, 3]},
            "stacked",
        ),
    ],
    ids=[
        "no latent step",
        "two",
        "one of them alone",
        "one candidate of two",
        "instance of RandomState",
        "a network before",
        "nested",
        "one candidate of classes",
        "within a classifier",
    ],
)
def test_any_pipeline_is_searched(steps, grid, route, rows):
    X, y = rows[0], rows[1] % 2
    estimator = Pipeline([(f"step{k}", step) for k, step in enumerate(steps)])
    ours = FusedGridSearchCV(estimator, grid, cv=3).fit(X, y)
    assert_same_search(ours, GridSearchCV(estimator, grid, cv=3).fit(X, y), route)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"param_grid": {}, "max_models": 0}, "The 'max_models' parameter of FusedGridSearchCV must be"),
        ({"param_grid": {"nz": []}}, "need at least one|non-empty|empty"),
        ({"param_grid": {"n": [2]}}, "Invalid parameter 'n' for estimator VAETransformer"),
        ({"param_grid": {"nz": [2]}, "error_score": "ignore"}, "The 'error_score' parameter"),
        ({"param_grid": {"nz": [2]}, "scoring": "nats"}, "The 'scoring' parameter"),
    ],
)
def test_bad_input_is_refused_as_by_grid_search(params, error, rows):
    with pytest.raises(ValueError, match=error):
        FusedGridSearchCV(vae(), **params).fit(rows[0])


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_scorer_that_fails_gives_the_error_score(rows):
    def fails(y_true, y_pred):
        raise ValueError("no score")

    search = FusedGridSearchCV(vae(), {"nz": [2, 3]}, cv=3, scoring=make_scorer(fails), refit=False)
    with pytest.warns(UserWarning, match="Scoring failed"):
        assert np.isnan(search.fit(*rows).cv_results_["mean_test_score"]).all()


def test_an_invalid_candidate_fails_as_by_itself(rows):
    with (
        pytest.warns(FitFailedWarning, match="The 'nz' parameter of VAETransformer must be an int"),
        pytest.warns(UserWarning, match="One or more of the test scores are non-finite"),
    ):
        search = FusedGridSearchCV(vae(), {"nz": [0, 2, 3]}, cv=3).fit(rows[0])
    assert list(search.cv_results_["route"]) == ["individual", "stacked", "stacked"]
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [True, False, False]
