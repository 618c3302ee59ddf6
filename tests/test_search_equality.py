"""What the fused search gives is what scikit-learn's search gives, whatever the estimators and the scorers do."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from joblib import parallel_backend
from search_cases import TOLERANCE, search_difference
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback
from torch import nn

from sklatent import (
    GenerativeClassifier,
    VAETransformer,
)
from sklatent.model_selection import FusedGridSearchCV


def vae(**params):
    return VAETransformer(random_state=0, **({"hidden_sizes": (4,), "max_epochs": 2, "batch_size": 16} | params))


def pipeline(*steps):
    return Pipeline([*((f"step{k}", step) for k, step in enumerate(steps))])


@pytest.fixture(scope="module")
def data(digits):
    """Two classes, and few features."""
    X, y = digits
    return np.array(X[:60, 18:24]), y[:60] % 2


def assert_equal_searches(estimator, grid, X, y=None, cv=2, return_train_score=True, **params):
    """Scores and the best candidate of both searches; gives the fused one."""
    ours, theirs = (
        kind(clone(estimator), grid, cv=cv, return_train_score=return_train_score, **params).fit(X, y)
        for kind in (FusedGridSearchCV, GridSearchCV)
    )
    assert search_difference(ours, theirs) <= TOLERANCE
    return ours


def routes(search):
    return set(search.cv_results_["route"])


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


@pytest.mark.parametrize("route", ["fused", "ordinary"])
@pytest.mark.parametrize(
    ("backend", "n_search", "n_classifier"),
    [
        (None, None, None),
        ("threading", None, 2),
        ("threading", 2, None),
        ("threading", 2, 2),
        ("loky", 2, None),
        ("loky", None, 2),
        ("loky", 2, 2),
    ],
)
def test_each_class_is_fitted_once_on_every_backend(backend, n_search, n_classifier, route, data, tmp_path):
    path = tmp_path / "fits"
    one_by_one = {"callbacks": [CountingCallback(path)]}
    network = vae(
        max_epochs=1, **(one_by_one if route == "ordinary" else {"backbone": partial(counting_backbone, path)})
    )
    estimator = GenerativeClassifier(network, n_jobs=n_classifier)
    search = FusedGridSearchCV(estimator, {"estimator__beta": [1.0, 2.0]}, cv=3, n_jobs=n_search, refit=False)
    with nullcontext() if backend is None else parallel_backend(backend):
        search.fit(*data)
    assert len(path.read_text().splitlines()) == 2 * 3 * 2
    assert routes(search) == {route}


# What may not be shared


@pytest.mark.parametrize(
    "schedule", [{"lr_schedule": "cosine", "kl_warmup": 0.0}, {"lr_schedule": "constant", "kl_warmup": 1.0}], ids=str
)
@pytest.mark.parametrize("n_samples", [48, 49, 50])
def test_folds_on_both_sides_of_a_lone_last_sample(schedule, n_samples, digits):
    """Three folds of 32 to 34 training samples in batches of 16: a last one by itself would be a batch, and is not."""
    network = vae(max_epochs=4, lr=0.02, **schedule)
    assert_equal_searches(network, {"nz": [1, 2]}, digits[0][:n_samples, 18:24], cv=3)


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
