"""What the fused search gives is what scikit-learn's search gives, whatever the estimators and the scorers do."""

import re
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from functools import partial

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_backend
from search_cases import TOLERANCE, SearchCase, mean_score, score_beyond_pca, score_of_refit, search_difference
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import Callback
from torch import nn

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
)
from sklatent._memo import is_open
from sklatent.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV

pytestmark = pytest.mark.slow


def vae(**params):
    return VAETransformer(random_state=0, **({"hidden_sizes": (4,), "max_epochs": 2, "batch_size": 16} | params))


def pipeline(*steps):
    return Pipeline([*((f"step{k}", step) for k, step in enumerate(steps))])


@pytest.fixture(scope="module")
def data(digits):
    """Two classes, and few features."""
    X, y = digits
    return np.array(X[:60, 18:24]), y[:60] % 2


def assert_equal_searches(estimator, grid, X, y=None, cv=2, **params):
    """Scores and the best candidate of both searches; gives the fused one."""
    ours, theirs = (
        kind(clone(estimator), grid, cv=cv, **params).fit(X, y) for kind in (FusedGridSearchCV, GridSearchCV)
    )
    assert search_difference(ours, theirs) <= TOLERANCE
    return ours


def routes(search):
    return set(search.cv_results_["route"])


@pytest.mark.parametrize("number", range(24))
def test_random_search_equals_grid_search(number):
    case = SearchCase(number)
    assert case.difference() <= TOLERANCE, case


# Scorers that fit


def score_beyond_network(estimator, X, y=None):
    return mean_score(estimator, X) - vae(max_epochs=1).fit(X).score(X)


def score_of_refit_on_shuffled_targets(estimator, X, y):
    y = np.random.default_rng(0).permutation(y)
    return clone(estimator).fit(X, y).score(X, y)


def score_of_refit_with_other_parameters(estimator, X, y=None):
    return mean_score(clone(estimator).set_params(nz=1).fit(X, y), X)


def score_of_second_fit(estimator, X, y=None):
    """Without a clone of it."""
    return mean_score(estimator.fit(X, y), X)


@pytest.mark.parametrize(
    "scoring",
    [
        score_beyond_pca,
        score_beyond_network,
        score_of_refit,
        score_of_refit_with_other_parameters,
        score_of_second_fit,
    ],
)
@pytest.mark.parametrize(("estimator", "route"), [(PCAReducer(), "shared_svd"), (vae(max_epochs=1), "stacked")])
def test_scorer_that_fits_latent_models(estimator, route, scoring, data):
    search = assert_equal_searches(estimator, {"nz": [1, 2]}, data[0], scoring=scoring, return_train_score=True)
    assert routes(search) == {route}


class DecisionColumn(TransformerMixin, BaseEstimator):
    """Puts a column beside X that depends on the targets."""

    def fit(self, X, y):
        self.classifier_ = LogisticRegression().fit(X, y)
        return self

    def transform(self, X):
        return np.column_stack([X, self.classifier_.decision_function(X)])


@pytest.mark.parametrize("scoring", [score_of_refit, score_of_refit_on_shuffled_targets, score_of_second_fit])
@pytest.mark.parametrize(
    "estimator",
    [
        pipeline(StandardScaler(), GenerativeClassifier(PCAReducer())),
        pipeline(FunctionTransformer(lambda X: 2 * X), GenerativeClassifier(PCAReducer())),
        pipeline(StandardScaler(), DecisionColumn(), GenerativeClassifier(PCAReducer())),
    ],
    ids=["scaled", "doubled", "supervised"],
)
def test_scorer_that_fits_the_pipeline_anew(estimator, scoring, data):
    """The steps fitted in the search are not those of other samples or targets."""
    grid = {f"step{len(estimator) - 1}__estimator__nz": [1, 2]}
    search = assert_equal_searches(estimator, grid, *data, scoring=scoring, return_train_score=True)
    assert routes(search) == {"shared_svd"}


def test_scorer_that_fits_a_search(data):
    def scoring(estimator, X, y=None):
        return mean_score(estimator, X) - FusedGridSearchCV(PCAReducer(), {"nz": [1, 2]}, cv=2).fit(X).best_score_

    assert routes(assert_equal_searches(PCAReducer(), {"nz": [2, 3]}, data[0], scoring=scoring)) == {"shared_svd"}


def test_callable_refit_that_fits_latent_models(data):
    def refit(results):
        return int(np.argmin(results["mean_test_score"] + PCAReducer(1).fit(data[0]).score(data[0])))

    search = assert_equal_searches(PCAReducer(), {"nz": [1, 2, 3]}, data[0], scoring=score_beyond_pca, refit=refit)
    assert search.best_index_ == np.argmin(search.cv_results_["mean_test_score"])
    assert search.best_estimator_.n_components_ == search.best_params_["nz"]


# Estimators that fit more than one latent model


class Residual(TransformerMixin, BaseEstimator):
    """What a latent model of its own leaves of X."""

    def __init__(self, model=None):
        self.model = model

    def fit(self, X, y=None):
        self.model_ = clone(self.model or PCAReducer(1)).fit(X)
        return self

    def transform(self, X):
        return X - self.model_.inverse_transform(self.model_.transform(X))


class BesideItsScore(Residual):
    """X, with its scores under a latent model beside it."""

    def transform(self, X):
        return np.column_stack([X, self.model_.score_samples(X)])


@pytest.mark.parametrize(
    "inner", [PCAReducer(1), AutoencoderTransformer(1, density="residual", max_epochs=1, random_state=0)]
)
@pytest.mark.parametrize(
    "steps",
    [
        lambda inner, latent: [Residual(inner), latent, LogisticRegression()],
        lambda inner, latent: [StandardScaler(), latent, BesideItsScore(inner), LogisticRegression()],
        lambda inner, latent: [Residual(inner), latent, BesideItsScore(inner), LogisticRegression()],
        lambda inner, latent: [FeatureUnion([("inner", inner), ("scale", StandardScaler())]), latent],
    ],
    ids=["before", "after", "both", "union"],
)
def test_other_steps_that_fit_latent_models(steps, inner, data):
    estimator = pipeline(*steps(inner, vae(max_epochs=1)))
    scoring = None if isinstance(estimator[-1], VAETransformer) else "neg_log_loss"
    name = next(name for name, step in estimator.steps if isinstance(step, VAETransformer))
    search = assert_equal_searches(estimator, {f"{name}__nz": [1, 2]}, *data, scoring=scoring)
    assert routes(search) == {"stacked"}


class Twice(LatentOutlierDetector):
    """Fits its model to X, and once more to what the first fit finds likely."""

    def fit(self, X, y=None):
        scores = super().fit(X).score_samples(X)
        return super().fit(X[scores >= np.median(scores)])


class Again(GenerativeClassifier):
    """Fits the same to the same."""

    def fit(self, X, y):
        super().fit(X, y)
        return super().fit(X, y)


class AgainItself(VAETransformer):
    """Fits itself twice, the second time by what the first has left of an instance of RandomState."""

    def fit(self, X, y=None):
        super().fit(X)
        return super().fit(X)


@pytest.mark.parametrize("random_state", [0, np.random.RandomState(0)], ids=["int", "instance"])
@pytest.mark.parametrize(
    ("kind", "prefix"), [(Twice, "estimator__"), (Again, "estimator__"), (AgainItself, ""), (VAETransformer, "")]
)
def test_estimator_that_fits_its_model_twice(kind, prefix, random_state, data):
    params = {"hidden_sizes": (4,), "max_epochs": 1, "n_draws": 2, "random_state": random_state}
    few = {"n_splits": 2} if kind is Twice else {}
    estimator = kind(VAETransformer(**params), **few) if prefix else kind(**params)
    assert_equal_searches(estimator, {f"{prefix}nz": [1, 2]}, *data, scoring=score_of_refit)


# Subclasses


class ZeroScores(PCAReducer):
    def score_samples(self, X):
        return np.zeros(len(X))


class OwnScore(PCAReducer):
    def score(self, X, y=None):
        return float(self.n_components_)


class OwnFit(PCAReducer):
    def fit(self, X, y=None):
        return super().fit(np.tanh(X))


class OwnFitWithoutSuper(PCAReducer):
    def fit(self, X, y=None):
        other = PCAReducer(self.nz).fit(2 * X)
        vars(self).update({name: value for name, value in vars(other).items() if name.endswith("_")})
        return self


class OwnFitTransform(PCAReducer):
    def fit_transform(self, X, y=None):
        return -self.fit(2 * X).transform(X)


class OwnHook(PCAReducer):
    def _learn(self, X, weights=None):
        return super()._learn(3 * X, weights)


class OwnDecomposition(PCAReducer):
    def _learn(self, X, weights=None):
        return super()._learn(X * np.arange(1, 1 + X.shape[1]), weights)


class OwnComponents(PCAReducer):
    def _publish(self, learned):
        super()._publish(learned)
        self.components_ = np.roll(self.components_, 1, axis=1)


class LearnMixin:
    def _learn(self, X, weights=None):
        return super()._learn(X[::2], weights)


class MixedIn(LearnMixin, PCAReducer):
    pass


class OwnTransform(PCAReducer):
    def transform(self, X):
        return np.square(super().transform(X))


class OwnModule(VAETransformer):
    def _build_module(self, X, seed, *args):
        return super()._build_module(X[:, ::-1].copy(), seed + 1, *args)


class OwnNetwork(AutoencoderTransformer):
    def _learn(self, X):
        return super()._learn(X[::2])


class OwnPublication(VAETransformer):
    def _publish(self, learned):
        super()._publish(learned)
        with np.errstate(all="ignore"):
            self.module_.likelihood.log_variance.data.add_(1.0)


class OwnNetworkScore(AutoencoderTransformer):
    def score_samples(self, X):
        return -np.square(X - self.inverse_transform(self.transform(X))).sum(axis=1)


class OwnDefaults(VAETransformer):
    """Has fewer parameters, from which it makes those of a network; the learning rate from the latent dimension."""

    def __init__(self, nz=2, size=4, random_state=None):
        super().__init__(nz, hidden_sizes=(size,), lr=0.01 / nz, max_epochs=2, batch_size=16, random_state=random_state)
        self.size = size


class OwnPrior(GenerativeClassifier):
    def _make_class_prior(self):
        return np.array([0.9, 0.1])


class OwnSelection(GenerativeClassifier):
    def fit(self, X, y):
        return super().fit(X[:-5], y[:-5])

    def predict_proba(self, X):
        return np.clip(super().predict_proba(X), 0.1, 0.9)


class OwnThreshold(LatentOutlierDetector):
    def _threshold(self, scores):
        return float(scores.min())

    def score(self, X, y=None):
        return float(self.decision_function(X).mean())


class OwnPipeline(Pipeline):
    def fit(self, X, y=None, **params):
        return super().fit(X[:-5], y[:-5], **params)

    def score(self, X, y=None):
        return -super().score(X, y)


@pytest.mark.parametrize(
    "kind",
    [
        ZeroScores,
        OwnScore,
        OwnFit,
        OwnFitWithoutSuper,
        OwnFitTransform,
        OwnHook,
        OwnDecomposition,
        OwnComponents,
        MixedIn,
        OwnTransform,
        OwnModule,
        OwnNetwork,
        OwnPublication,
        OwnNetworkScore,
        OwnDefaults,
    ],
)
@pytest.mark.parametrize("wrap", [None, GenerativeClassifier, "pipeline"])
def test_subclass_of_a_model(kind, wrap, data):
    params = {} if issubclass(kind, PCAReducer) else {"random_state": 0}
    if not issubclass(kind, (PCAReducer, OwnDefaults)):
        params |= {"hidden_sizes": (4,), "max_epochs": 1}
    model = kind(**params)
    if wrap is None:
        assert_equal_searches(model, {"nz": [1, 2, 3]}, *data)
    elif wrap is GenerativeClassifier:
        assert_equal_searches(wrap(model), {"estimator__nz": [1, 3]}, *data, scoring=mean_score)
    else:
        steps = pipeline(StandardScaler(), model, LogisticRegression())
        assert_equal_searches(steps, {"step1__nz": [1, 3]}, *data, scoring="neg_log_loss")


def test_subclass_beside_its_base_class(data):
    grid = {"step1": [PCAReducer(), OwnDecomposition(), OwnTransform(), OwnHook()], "step1__nz": [1, 2]}
    steps = pipeline(StandardScaler(), PCAReducer(), LogisticRegression())
    assert_equal_searches(steps, grid, *data, scoring="neg_log_loss")


@pytest.mark.parametrize("model", [PCAReducer(), vae(max_epochs=1)], ids=["components", "network"])
@pytest.mark.parametrize(
    ("wrap", "scoring"), [(OwnPrior, mean_score), (OwnSelection, "neg_log_loss"), (OwnThreshold, None)]
)
def test_subclass_of_a_classifier_or_detector(wrap, scoring, model, data):
    assert_equal_searches(wrap(model), {"estimator__nz": [1, 2]}, *data, scoring=scoring)


def test_subclass_of_a_pipeline(data):
    steps = OwnPipeline([("scale", StandardScaler()), ("latent", PCAReducer()), ("classify", LogisticRegression())])
    assert_equal_searches(steps, {"latent__nz": [1, 2]}, *data)


@pytest.mark.parametrize(
    ("estimator", "route"),
    [(OwnNetworkScore(hidden_sizes=(4,), max_epochs=1), "stacked"), (OwnTransform(), "shared_svd")],
)
def test_subclass_that_only_scores_or_transforms_in_its_own_way_is_fitted_together(estimator, route, data):
    assert routes(FusedGridSearchCV(estimator, {"nz": [1, 2]}, cv=2).fit(data[0])) == {route}


# How often models are fitted


def counting_backbone(path, input_shape, nz, n_code):
    """Leaves a line for each network that is built."""
    leave_line(path)
    (n_features,) = input_shape
    return nn.Linear(n_features, n_code), nn.Linear(nz, n_features)


class CountingCallback(Callback):
    """Leaves a line for each training. It follows one network, so that networks are trained one by one."""

    def __init__(self, path):
        self.path = path

    def on_train_begin(self, net, **kwargs):
        leave_line(self.path)


def leave_line(path):
    with path.open("a") as file:
        file.write("fit\n")


@pytest.mark.parametrize(
    ("route", "backend", "n_search", "n_classifier"),
    [
        ("stacked", None, None, None),
        ("stacked", "threading", None, 2),
        ("stacked", "threading", 2, None),
        ("stacked", "threading", 2, 2),
        ("stacked", "loky", 2, None),
        ("stacked", "loky", None, 2),
        ("stacked", "loky", 2, 2),
        ("individual", None, None, None),
        ("individual", "threading", None, 2),
        ("individual", "loky", 2, 2),
    ],
)
def test_each_class_is_fitted_once_on_every_backend(route, backend, n_search, n_classifier, data, tmp_path):
    path = tmp_path / "fits"
    one_by_one = {"callbacks": [CountingCallback(path)]}
    network = vae(
        max_epochs=1, **(one_by_one if route == "individual" else {"backbone": partial(counting_backbone, path)})
    )
    estimator = GenerativeClassifier(network, n_jobs=n_classifier)
    search = FusedGridSearchCV(estimator, {"estimator__beta": [1.0, 2.0]}, cv=3, n_jobs=n_search, refit=False)
    with nullcontext() if backend is None else parallel_backend(backend):
        search.fit(*data)
    assert len(path.read_text().splitlines()) == 2 * 3 * 2
    assert routes(search) == {route}


@pytest.mark.slow
@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize(("backend", "n_jobs"), [(None, None), ("threading", 2), ("loky", None), ("loky", 2)])
@pytest.mark.parametrize(
    ("wrap", "prefix", "n_models"),
    [
        (lambda model: model, "", 1),
        (lambda model: pipeline(StandardScaler(), model), "step1__", 1),
        (lambda model: pipeline(StandardScaler(), model, LogisticRegression()), "step1__", 1),
        (lambda model: pipeline(PCAReducer(3), pipeline(StandardScaler(), model)), "step1__step1__", 1),
        (lambda model: pipeline(model, vae(nz=1, max_epochs=1), LogisticRegression()), "step0__", 1),
        (lambda model: LatentOutlierDetector(model, n_splits=None), "estimator__", 1),
        (lambda model: LatentOutlierDetector(pipeline(StandardScaler(), model)), "estimator__step1__", 6),
        (lambda model: LatentOutlierDetector(model, support_fraction=0.75, n_splits=2), "estimator__", 3),
        (lambda model: GenerativeClassifier(pipeline(StandardScaler(), model), n_jobs=2), "estimator__step1__", 2),
        (lambda model: pipeline(StandardScaler(), GenerativeClassifier(model)), "step1__estimator__", 2),
        (lambda model: GenerativeClassifier(model, reject_fraction=0.1), "estimator__", 12),
    ],
    ids=[
        "itself",
        "scaled",
        "classified",
        "nested",
        "two",
        "detector",
        "folds",
        "supports",
        "classes of scaled",
        "scaled classes",
        "rejection",
    ],
)
def test_each_model_is_fitted_once(wrap, prefix, n_models, backend, n_jobs, random_state, data, tmp_path):
    path = tmp_path / "fits"
    network = vae(max_epochs=1, backbone=partial(counting_backbone, path)).set_params(random_state=random_state)
    grid = {f"{prefix}beta": [1.0, 2.0]}
    scoring = mean_score if isinstance(wrap(network), LatentOutlierDetector) else None
    search = FusedGridSearchCV(
        wrap(network), grid, cv=3, n_jobs=n_jobs, refit=False, scoring=scoring, error_score="raise"
    )
    with nullcontext() if backend is None else parallel_backend(backend):
        search.fit(*data)
    assert len(path.read_text().splitlines()) == 2 * 3 * n_models
    assert all("stacked" in route for route in routes(search))


SCRIPT = """
import sys
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from sklatent import VAETransformer
from sklatent.model_selection import FusedGridSearchCV


class OwnScore(VAETransformer):
    def score_samples(self, X):
        return 0.5 * super().score_samples(X)


def backbone(path, input_shape, nz, n_code):
    with Path(path).open("a") as file:
        file.write("fit\\n")
    return nn.Linear(*input_shape, n_code), nn.Linear(nz, *input_shape)


if __name__ == "__main__":
    path = sys.argv[1]
    X = np.random.default_rng(0).standard_normal((60, 4))
    numbers = make_pipeline(FunctionTransformer(lambda X: 2 * X), StandardScaler())
    scale = ColumnTransformer([("numbers", numbers, [0, 1, 3])])
    network = OwnScore(backbone=partial(backbone, path), max_epochs=1, random_state=0)
    steps = make_pipeline(scale, FunctionTransformer(lambda X: X + 1.0), network)
    search = FusedGridSearchCV(steps, {"ownscore__nz": [1, 2]}, cv=3, n_jobs=2, refit=False, error_score="raise").fit(X)
    print(*search.cv_results_["route"], len(Path(path).read_text().splitlines()))
"""


@pytest.mark.slow
def test_what_a_script_defines_is_fitted_once_in_workers(tmp_path):
    """Workers cannot import functions and classes of a script by their names, nor pickle those without a name."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "fits")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    assert found == ["stacked", "stacked", "6"]


def test_generator_of_splits(data):
    splits = list(KFold(3).split(data[0]))
    ours, theirs = (
        kind(vae(), {"nz": [1, 2]}, cv=iter(splits)).fit(data[0]) for kind in (FusedGridSearchCV, GridSearchCV)
    )
    assert search_difference(ours, theirs) <= TOLERANCE
    assert routes(ours) == {"stacked" if hasattr(ours, "_checked_cv_orig") else "individual"}


def test_results_hold_nothing_of_the_plan(data):
    search = FusedGridSearchCV(pipeline(StandardScaler(), vae()), {"step1__nz": [1, 2]}, cv=3).fit(data[0])
    assert {type(params) for params in search.cv_results_["params"]} == {dict}
    assert search.best_estimator_.memory is None
    assert not is_open()


class CountedStep(StandardScaler):
    """Counts its fits, of which none may be done twice."""

    n_fits = 0

    def fit(self, X, y=None, sample_weight=None):
        type(self).n_fits += 1
        return super().fit(X, y)


@pytest.mark.parametrize("copies", [True, False])
def test_steps_before_are_fitted_once_a_fold(copies, data):
    """A DataFrame cannot be kept from being written to, so each fit is given one of its own."""
    CountedStep.n_fits = 0
    steps = pipeline(CountedStep().set_output(transform="pandas"), StandardScaler(copy=copies), vae(max_epochs=1))
    FusedGridSearchCV(steps, {"step2__nz": [1, 2], "step1__with_std": [True, False]}, cv=3, refit=False).fit(data[0])
    assert CountedStep.n_fits == 3


def test_sample_weight(data):
    X = data[0]
    weights = np.random.default_rng(0).integers(1, 4, len(X))
    ours, theirs = (
        kind(PCAReducer(), {"nz": [1, 2]}, cv=2).fit(X, sample_weight=weights)
        for kind in (FusedGridSearchCV, GridSearchCV)
    )
    assert search_difference(ours, theirs) <= TOLERANCE


# What may not be shared


def add_squares(X):
    """Change a DataFrame in place, as scripts do."""
    for name in list(X.columns):
        X[f"{name} squared"] = X[name] ** 2 + X.shape[1]
    return X


def double(X):
    X *= 2
    return X


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FunctionTransformer(add_squares), FunctionTransformer()),
        (StandardScaler().set_output(transform="pandas"), FunctionTransformer(add_squares)),
        (StandardScaler(), FunctionTransformer(double)),
        (FunctionTransformer(double), StandardScaler(copy=False)),
        (StandardScaler(), StandardScaler(copy=False)),
    ],
    ids=["frame", "frame of a step", "array of a step", "array", "array of a step, by itself"],
)
def test_step_that_works_in_place(first, second, data):
    X = pd.DataFrame(data[0]).rename(columns="pixel{}".format)
    grid = {"step2__nz": [1, 2], "step1": [second, "passthrough"]}
    assert_equal_searches(pipeline(first, second, PCAReducer()), grid, X, refit=False)


@pytest.mark.parametrize(
    "schedule", [{"lr_schedule": "cosine", "kl_warmup": 0.0}, {"lr_schedule": "constant", "kl_warmup": 1.0}], ids=str
)
@pytest.mark.parametrize("n_samples", [48, 49, 50])
def test_folds_on_both_sides_of_a_lone_last_sample(schedule, n_samples, digits):
    """Three folds of 32 to 34 training samples in batches of 16: a last one by itself would be a batch, and is not."""
    network = vae(max_epochs=4, lr=0.02, **schedule)
    assert_equal_searches(network, {"nz": [1, 2]}, digits[0][:n_samples, 18:24], cv=3)


@pytest.mark.parametrize("network", [AutoencoderTransformer, VAETransformer])
def test_networks_with_a_variance_for_each_feature_are_fitted_together(network, digits):
    """Some features are constant, and each fold has units and variances of its own."""
    model = network(likelihood="gaussian_diagonal", hidden_sizes=(8,), max_epochs=3, batch_size=32, random_state=0)
    search = assert_equal_searches(model, {"nz": [2, 5]}, digits[0][:201], cv=3)
    assert routes(search) == {"stacked"}


@pytest.mark.parametrize("batch_size", [1, 2, 12, 24, 25, 100])
def test_batches_of_every_size(batch_size, data):
    """A batch of one sample is trained on in another mode, where nothing is corrupted and no KL weight rises."""
    network = vae(batch_size=batch_size, noise=0.3, max_epochs=1)
    assert_equal_searches(network, {"nz": [1, 2]}, data[0][:33], cv=[(np.arange(25), np.arange(25, 33))] * 2)


@pytest.mark.parametrize("name", ["validation_fraction", "n_iter_no_change", "tol", "early_stopping"])
def test_candidates_that_leave_out_other_samples(name, data):
    values = {"validation_fraction": [0.1, 0.4], "n_iter_no_change": [1, 5], "tol": [1e-4, 5.0]}
    network = vae(early_stopping=True, max_epochs=6, kl_warmup=0.2, n_iter_no_change=1)
    grid = {name: values.get(name, [True, False]), "nz": [1, 2]}
    assert_equal_searches(network, grid, data[0])


@pytest.mark.parametrize("random_state", [None, 0, np.random.RandomState(0)], ids=["None", "int", "instance"])
def test_random_state_of_models_that_are_equal(random_state, data):
    """Without a seed each model draws for itself, even where all else is the same."""
    network = vae(max_epochs=1).set_params(random_state=random_state)
    cv = [(np.arange(24), np.arange(40, 60))] * 2
    search = FusedGridSearchCV(network, {"nz": [1, 1]}, cv=cv).fit(data[0])
    scores = [search.cv_results_[f"split{k}_test_score"][j] for k in range(2) for j in range(2)]
    assert len(set(np.round(scores, 4))) == (4 if random_state is None else 1)


# Callbacks


class Tasks:
    """A callback of scikit-learn that notes what it is told of."""

    def __init__(self):
        self.begun = Counter()

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **kwargs):
        self.begun[f"{type(estimator).__name__} {context.task_name}"] += 1

    def on_fit_task_end(self, estimator, context, **kwargs):
        pass


class PropagatedTasks(Tasks):
    max_propagation_depth = None


def test_callbacks_of_a_model_are_told_of_every_epoch(data):
    pytest.importorskip("sklearn.callback")
    callback, network = Tasks(), vae(max_epochs=2)
    network.set_callbacks(callback)
    search = FusedGridSearchCV(network, {"nz": [1, 2]}, cv=3, refit=False).fit(data[0])
    assert callback.begun == {"VAETransformer fit": 6, "VAETransformer epoch": 12}
    assert routes(search) == {"individual"}


def test_callbacks_of_a_search_are_told_of_stacks_then_of_candidates(data):
    pytest.importorskip("sklearn.callback")
    callback, steps = PropagatedTasks(), pipeline(StandardScaler(), vae(max_epochs=2), LogisticRegression())
    search = FusedGridSearchCV(steps, {"step1__nz": [1, 2]}, cv=3).set_callbacks(callback).fit(*data)
    assert routes(search) == {"stacked"}
    assert callback.begun["Pipeline fit"] == callback.begun["LogisticRegression fit"] == 2 * 3 + 1
    assert callback.begun["VAETransformer epoch"] == 2  # of the refit
    ours = {task: n for task, n in callback.begun.items() if task.startswith("FusedGridSearchCV")}
    assert list(ours.items())[:5] == [
        ("FusedGridSearchCV fit", 1),
        ("FusedGridSearchCV train-together", 1),
        ("FusedGridSearchCV search", 1),
        ("FusedGridSearchCV stack", 1),
        ("FusedGridSearchCV epoch", 2),
    ]
    without = FusedGridSearchCV(steps, {"step1__nz": [1, 2]}, cv=3).fit(*data)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], without.cv_results_["mean_test_score"])


def test_each_stack_is_a_task_of_its_own_and_ends(data):
    pytest.importorskip("sklearn.callback")
    callback = Ends()
    grid = {"nz": [1, 2], "hidden_sizes": [(8,), (4,)]}
    FusedRandomizedSearchCV(vae(max_epochs=2), grid, n_iter=4, cv=2, random_state=0).set_callbacks(callback).fit(
        data[0]
    )
    assert callback.begun["FusedRandomizedSearchCV stack"] == 2
    assert callback.begun["FusedRandomizedSearchCV epoch"] == 4
    assert callback.ended == callback.begun


class Ends(Tasks):
    def __init__(self):
        super().__init__()
        self.ended = Counter()

    def on_fit_task_end(self, estimator, context, **kwargs):
        self.ended[f"{type(estimator).__name__} {context.task_name}"] += 1


class StopsEpochs(Tasks):
    def on_fit_task_end(self, estimator, context, **kwargs):
        return context.task_name == "epoch"


def test_a_callback_of_a_search_stops_a_stack(data):
    pytest.importorskip("sklearn.callback")
    callback = StopsEpochs()
    search = FusedGridSearchCV(vae(max_epochs=5), {"nz": [1, 2]}, cv=2, refit=False).set_callbacks(callback)
    assert routes(search.fit(data[0])) == {"stacked"}
    assert callback.begun["FusedGridSearchCV epoch"] == 1


def test_progress_bars_of_a_search_are_complete(data, capsys):
    """scikit-learn's own bars, as they stand at the end: one of the search, one of all stacks and one of each."""
    pytest.importorskip("rich")
    callback = pytest.importorskip("sklearn.callback").ProgressBar(max_propagation_depth=0)
    FusedGridSearchCV(vae(max_epochs=2), {"nz": [1, 2]}, cv=2).set_callbacks(callback).fit(data[0])
    lines = [line for line in capsys.readouterr().out.splitlines() if "%" in line]
    names = [re.match(r"\s*FusedGridSearchCV - ([\w-]+)", line)[1] for line in lines]
    assert names == ["fit", "train-together", "stack", "search"]
    assert all("100%" in line for line in lines)
