"""Estimators in files and in copies: the same numbers, no code, and an error wherever something does not fit."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
import torch
from damaged_files import CANARY, KINDS, Judge
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops.io.exceptions import UntrustedTypesFoundException
from torch import nn

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentImputer,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
    export,
)
from sklatent._memo import checksum
from sklatent._nn.likelihoods import LIKELIHOODS
from sklatent._nn.posteriors import POSTERIORS
from sklatent.export import TRUSTED_TYPES
from sklatent.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV

SMALL = {"hidden_sizes": (4,), "max_epochs": 2, "random_state": 0}
METHODS = ("transform", "inverse_transform", "score_samples", "score_features", "predict", "predict_proba", "p_values")


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def through_skops(model):
    return skops.io.loads(skops.io.dumps(model), trusted=TRUSTED_TYPES)


WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "joblib": through_joblib,
    "skops": through_skops,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def results(model, X):
    """What all methods of a model give for X."""
    found = {}
    for name in METHODS:
        if hasattr(model, name):
            found[name] = np.asarray(getattr(model, name)(X if name != "inverse_transform" else found["transform"]))
    return found


def assert_same(one, other, X):
    """Bit by bit, methods and numbers."""
    ours, theirs = results(one, X), results(other, X)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert type(one) is type(other)
    assert vars(one).keys() == vars(other).keys()
    if hasattr(one, "history_"):
        assert records(one) == records(other)
        assert one.loss_curve_ == other.loss_curve_


def records(model):
    """The history, but for the seconds that each epoch took."""
    return [epoch | {"dur": 0} for epoch in model.history_]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        VAETransformer(2, **SMALL),
        AutoencoderTransformer(2, backbone="conv", image_shape=(1, 2, 2), **SMALL),
        LatentImputer(PCAReducer(1)),
        LatentImputer(VAETransformer(2, **SMALL), add_indicator=True),
    ],
    ids=repr,
)
def test_models_of_missing_values_are_the_same(model, iris):
    X = np.where(np.random.default_rng(0).random(iris[0].shape) < 0.1, np.nan, iris[0])
    model = clone(model).fit(X)
    for way in WAYS.values():
        kept = way(model)
        np.testing.assert_array_equal(kept.transform(X), model.transform(X))
        if hasattr(model, "module_"):
            np.testing.assert_array_equal(kept.score_samples(X), model.score_samples(X))
            np.testing.assert_array_equal(
                kept.partial_fit(X).transform(X), copy.deepcopy(model).partial_fit(X).transform(X)
            )


@pytest.fixture(params=WAYS)
def way(request):
    """A way to keep or to copy an estimator."""
    return WAYS[request.param]


NETWORKS = [
    *(AutoencoderTransformer(2, likelihood=name, **SMALL) for name in LIKELIHOODS),
    *(VAETransformer(2, likelihood=name, **SMALL) for name in LIKELIHOODS),
    *(
        VAETransformer(2, prior=prior, posterior=posterior, n_prior_components=3, n_draws=4, **SMALL)
        for prior in ("mixture", "vamp")
        for posterior in POSTERIORS
    ),
    VAETransformer(2, posterior="full", likelihood="gaussian_diagonal", output_activation="sigmoid", **SMALL),
    AutoencoderTransformer(1, hidden_sizes=(), noise=0.3, noise_kind="masking", max_epochs=2, random_state=0),
    AutoencoderTransformer(2, backbone="conv", image_shape=(1, 2, 2), **SMALL),
    VAETransformer(2, backbone="conv", likelihood="bernoulli", activation="tanh", image_shape=(4, 1, 1), **SMALL),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda model: repr(model).replace(" ", "")[:90])
def test_networks_are_the_same(network, dtype, iris):
    X = np.round((iris[0] / 8).clip(0, 1)).astype(dtype) if network.likelihood != "gaussian" else iris[0].astype(dtype)
    if network.output_activation:
        X = (iris[0] / 8).astype(dtype)
    model = clone(network).fit(X[:60])
    for way in WAYS.values():
        assert_same(model, way(model), X[:7])


def test_pca_is_the_same(way, iris):
    X, _ = iris
    for model in (PCAReducer(), PCAReducer(2, whiten=True), PCAReducer(0.9)):
        assert_same(model.fit(X), way(model), X)
        assert_same(model.fit(X.astype(np.float32)), way(model), X.astype(np.float32))


def test_pca_of_tensors_is_that_of_arrays(iris):
    """A file holds NumPy arrays, which serve tensors of any device too."""
    pytest.importorskip("scipy", minversion="1.14", reason="array_api_dispatch asks for SciPy 1.14")
    X = torch.from_numpy(iris[0])
    with config_context(array_api_dispatch=True):
        model = PCAReducer(2).fit(X)
        for way in (through_joblib, through_skops):
            loaded = way(model)
            assert isinstance(loaded.components_, np.ndarray)
            # Products of another memory layout are rounded in another way.
            torch.testing.assert_close(loaded.transform(X), model.transform(X), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(loaded.score_samples(X), model.score_samples(X), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("network", [AutoencoderTransformer, VAETransformer])
def test_training_resumes_to_the_same_bits(network, way, iris):
    X, _ = iris
    model = network(2, **SMALL).partial_fit(X[:50]).partial_fit(X[50:100])
    kept = way(model)
    model.partial_fit(X[100:])
    assert kept.n_iter_ == 2
    assert_same(model, kept.partial_fit(X[100:]), X[:5])


def test_training_goes_on_from_the_generators_of_another_device(iris):
    """Those of CUDA have 16 bytes. The CPU cannot use them, and starts from the seeds."""
    X, _ = iris
    model = VAETransformer(2, **SMALL).partial_fit(X)
    model._training_state["generators"] = {name: torch.zeros(16, dtype=torch.uint8) for name in ("order", "noise")}
    one, other = (WAYS["pickle"](model).partial_fit(X) for _ in range(2))
    assert one.n_iter_ == 2
    assert_same(one, other, X[:5])


def test_sums_of_pca_resume_to_the_same_bits(way, iris):
    X, _ = iris
    model = PCAReducer(2).partial_fit(X[:50])
    kept = way(model)
    np.testing.assert_array_equal(kept.partial_fit(X[50:]).components_, model.partial_fit(X[50:]).components_)


@pytest.mark.slow
def test_warm_start_goes_on_from_a_file(way, iris):
    X, _ = iris
    model = VAETransformer(2, warm_start=True, **SMALL).fit(X)
    kept = way(model)
    np.testing.assert_array_equal(kept.fit(X).transform(X), model.fit(X).transform(X))


def test_later_parameters_do_not_reach_the_module(way, iris):
    """What was set after the fit is kept, and the network is still the one that was fitted."""
    X, _ = iris
    model = VAETransformer(2, **SMALL).fit(X)
    model.set_params(nz=3, hidden_sizes=(7, 7), likelihood="bernoulli", prior="vamp", beta=9.0, n_train_draws=4)
    kept = way(model)
    np.testing.assert_array_equal(kept.transform(X), model.transform(X))
    np.testing.assert_array_equal(kept.sample(3, random_state=0), model.sample(3, random_state=0))
    assert kept.get_params() == model.get_params()
    assert kept.module_.beta == 1.0
    assert kept.module_.n_train_draws == 1


def meta_estimators():
    vae = VAETransformer(2, **SMALL)
    pipeline = make_pipeline(StandardScaler(), PCAReducer(1))
    return [
        GenerativeClassifier(PCAReducer(1), reject_fraction=0.05),
        GenerativeClassifier(vae),
        LatentOutlierDetector(),
        LatentOutlierDetector(vae, n_splits=2),
        make_pipeline(StandardScaler(), vae),
        FusedGridSearchCV(vae, {"nz": [1, 2]}, cv=2),
        FusedGridSearchCV(pipeline, {"pcareducer__nz": [1, 2], "pcareducer__whiten": [True, False]}, cv=2),
        FusedRandomizedSearchCV(PCAReducer(), {"nz": [1, 2, None]}, n_iter=2, random_state=0),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("model", meta_estimators(), ids=lambda model: repr(model).replace(" ", "")[:60])
def test_estimators_around_them_are_the_same(model, way, iris):
    X, y = iris
    model = clone(model).fit(X, y)
    kept = way(model)
    assert_same(model, kept, X[:9])
    if hasattr(model, "cv_results_"):
        assert model.best_params_ == kept.best_params_
        assert checksum(model.cv_results_) == checksum(kept.cv_results_)


def test_unfitted_estimators_keep_their_parameters(model, way):
    assert way(model).get_params() == model.get_params()
    # `fit` says what is wrong with a parameter, as in a worker of a search.
    assert way(model.set_params(nz=-3)).nz == -3


def narrow(input_shape, nz, n_code):
    (n_features,) = input_shape
    return nn.Linear(n_features, n_code), nn.Sequential(nn.Linear(nz, 3), nn.Tanh(), nn.Linear(3, n_features))


@pytest.mark.parametrize("network", [AutoencoderTransformer, VAETransformer])
def test_a_callable_backbone_is_pickled_and_nothing_else_takes_it(network, iris):
    X, _ = iris
    model = network(2, backbone=narrow, max_epochs=1, random_state=0).partial_fit(X)
    for name in ("pickle", "joblib", "copy", "deepcopy"):
        assert_same(model, WAYS[name](model), X[:7])
    assert_same(WAYS["pickle"](model).partial_fit(X), model.partial_fit(X), X[:7])
    with pytest.raises(TypeError, match="a callable backbone can only be written by pickle or joblib"):
        skops.io.dumps(model)


def test_no_file_is_left_where_skops_refuses(tmp_path, iris):
    path = tmp_path / "model.skops"
    model = VAETransformer(2, backbone=narrow, max_epochs=1, random_state=0).fit(iris[0])
    with pytest.raises(TypeError, match="callable backbone"):
        skops.io.dump(model, path)
    assert not path.exists()


def test_skops_asks_whom_to_trust(model, iris):
    file = skops.io.dumps(model.fit(iris[0]))
    assert set(skops.io.get_untrusted_types(data=file)) <= set(TRUSTED_TYPES)
    with pytest.raises(UntrustedTypesFoundException):
        skops.io.loads(file)


def test_trusted_types_exist():
    """Each name is a class, and each public estimator is there."""
    found = [skops.io._utils.gettype(*name.rpartition(".")[::2]) for name in export.TRUSTED_TYPES]
    assert all(isinstance(kind, type) for kind in found)
    public = {AutoencoderTransformer, VAETransformer, PCAReducer, GenerativeClassifier, LatentOutlierDetector}
    assert public | {FusedGridSearchCV, FusedRandomizedSearchCV} <= set(found)
    assert sorted(TRUSTED_TYPES[:11]) == TRUSTED_TYPES[:11]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pickle", "skops"])
def test_files_are_as_small_as_their_weights(way, digits):
    X, _ = digits
    model = VAETransformer(8, max_epochs=50, random_state=0).fit(X[:60])
    n_bytes = sum(parameter.nbytes for parameter in model.module_.parameters())
    file = pickle.dumps(model) if way == "pickle" else skops.io.dumps(model)
    assert len(file) <= 1.1 * n_bytes + 20_000


def test_a_state_is_numbers(iris):
    """Without a module, a tensor or anything else of PyTorch and skorch."""
    X, _ = iris
    model = VAETransformer(2, **SMALL).partial_fit(X)
    names = {name.partition(".")[0] for name, _ in find_globals(pickle.dumps(model))}
    assert names == {"sklatent", "numpy"}


def find_globals(data):
    """Modules and names that a pickle imports."""

    class Finder(pickle.Unpickler):
        found: list = []  # noqa: RUF012

        def find_class(self, module, name):
            self.found.append((module, name))
            return super().find_class(module, name)

    Finder(io.BytesIO(data)).load()
    return Finder.found


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import pickle
import numpy as np
with open({path!r}, "rb") as file:
    X, fitted = pickle.load(file)
for model, expected in fitted:
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(model, name)(X), values, err_msg=repr(model))
try:
    import {package}
except ImportError:
    print("checked")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "models"),
    [
        (
            "skorch",
            [
                AutoencoderTransformer(2, **SMALL),
                VAETransformer(2, prior="mixture", **SMALL),
                GenerativeClassifier(VAETransformer(2, **SMALL)),
                LatentOutlierDetector(VAETransformer(2, **SMALL)),
                FusedGridSearchCV(VAETransformer(2, **SMALL), {"nz": [1, 2]}, cv=2),
            ],
        ),
        ("torch", [PCAReducer(2), LatentOutlierDetector()]),
    ],
    ids=["skorch", "torch"],
)
def test_models_load_and_predict_without(package, models, iris, tmp_path):
    X, y = iris
    fitted = []
    for model in models:
        model = clone(model).fit(X, y)
        expected = {name: values for name, values in results(model, X).items() if name != "inverse_transform"}
        fitted.append((model, expected))
    path = tmp_path / "models.pickle"
    path.write_bytes(pickle.dumps((X, fitted)))
    code = WITHOUT.format(package=package, path=str(path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "checked", run.stderr


def changed(model, change, is_signed=True):
    """A fitted model whose state was changed, with a checksum that fits the change or not."""
    state = model.__getstate__()
    state.pop("_checksum")
    state = copy.deepcopy(state)
    change(state)
    if is_signed:
        state["_checksum"] = checksum([type(model).__qualname__, state])
    else:
        state["_checksum"] = model.__getstate__()["_checksum"]
    return pickle.dumps((type(model), state))


def load(data):
    kind, state = pickle.loads(data)
    model = kind.__new__(kind)
    model.__setstate__(state)
    return model


def arrays(state):
    return state["module_"]["arrays"]


def put(home, name, value):
    def change(state):
        home(state)[name] = value(home(state)[name]) if callable(value) else value

    return change


def add(home, items):
    return lambda state: home(state).update(items)


def filled(value):
    """An array with another first value."""
    return lambda array: np.concatenate([np.full(1, value, array.dtype), array.reshape(-1)[1:]]).reshape(array.shape)


def standardizer(state):
    return state["module_"]["standardizer"]


def architecture(state):
    return state["_architecture"]


def training(state):
    return state["_training_state"]


WEIGHT = "encoder.0.weight"
DAMAGES = {
    "NaN weight": (put(arrays, WEIGHT, filled(np.nan)), rf"{WEIGHT} must be finite"),
    "infinite weight": (put(arrays, WEIGHT, filled(np.inf)), rf"{WEIGHT} must be finite"),
    "shape": (put(arrays, WEIGHT, lambda array: array[:, :2]), rf"{WEIGHT} must be an array of float32 of shape"),
    "precision": (put(arrays, WEIGHT, lambda array: array.astype(float)), rf"{WEIGHT} must be an array of float32"),
    "a list": (put(arrays, WEIGHT, lambda array: array.tolist()), rf"{WEIGHT} must be an array .* got list"),
    "missing": (lambda state: arrays(state).pop(WEIGHT), rf"missing \['{WEIGHT}'\]"),
    "unknown": (add(arrays, {"encoder.9.weight": np.zeros(3)}), r"unknown \['encoder.9.weight'\]"),
    "no scale": (put(standardizer, "scale", np.array(0.0)), "standardizer.scale must not be less than"),
    "negative scale": (put(standardizer, "scale", np.array(-1.0)), "standardizer.scale must not be less than"),
    "variances": (put(standardizer, "variances", filled(-1.0)), "standardizer.variances must not be less than 0.0"),
    "widths": (put(architecture, "hidden_sizes", (10**9, 10**9)), "missing .*, unknown"),
    "width": (put(architecture, "hidden_sizes", (10**12,)), r"must be an array of float32 of shape \(1000000000000"),
    "latent dimension": (put(architecture, "nz", 10**12), "n_components_ must be nz=1000000000000"),
    "latent dimensions": (
        lambda state: (architecture(state).update(nz=10**9), state.update(n_components_=10**9)),
        r"must be an array of float\d\d of shape .*\d000000000",
    ),
    "features": (
        put(lambda s: s, "n_features_in_", 10**12),
        r"standardizer.loc must be .* of shape \(1000000000000,\)",
    ),
    "architecture": (put(architecture, "likelihood", "cauchy"), "The 'likelihood' parameter of"),
    "unknown parameter": (add(architecture, {"depth": 3}), r"unknown parameters \['depth'\]"),
    "parameter": (put(lambda s: s, "lr", -1.0), "The 'lr' parameter of .* must be"),
    "history": (put(lambda s: s, "history_", "[[], []]"), "history_ must have n_iter_=3 records, got 0"),
    "moment": (
        put(lambda state: training(state)["optimizer"][0], "exp_avg_sq", filled(-1.0)),
        r"optimizer\.0\.exp_avg_sq must not be less than 0.0",
    ),
    "moments": (
        lambda state: training(state)["optimizer"].update({99: {}}),
        r"optimizer do not fit: missing \[\], unknown \['99'\]",
    ),
    "generator": (
        lambda state: training(state)["generators"].update(order=0 * training(state)["generators"]["order"]),
        "generators.order must be the state of a generator",
    ),
    "generators": (
        lambda state: training(state)["generators"].update(other=np.zeros(3, np.uint8)),
        r"unknown \['other'\]",
    ),
}


@pytest.fixture(scope="module", params=[AutoencoderTransformer, VAETransformer])
def trained(request, iris):
    return request.param(2, **SMALL).fit(iris[0]).partial_fit(iris[0])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_does_not_fit_is_refused_by_name(trained, damage):
    """Even where the checksum was computed again."""
    change, message = DAMAGES[damage]
    with pytest.raises(ValueError, match=rf"Cannot load {type(trained).__name__}: .*") as error:
        load(changed(trained, change))
    assert error.match(message)


def test_a_latent_covariance_must_be_positive_definite(iris):
    model = AutoencoderTransformer(2, **SMALL).fit(iris[0])
    with pytest.raises(ValueError, match=r"prior\.covariance must be positive definite"):
        load(changed(model, put(arrays, "prior.covariance", -np.eye(2))))


@pytest.mark.parametrize(
    "change",
    [
        put(arrays, WEIGHT, filled(0.5)),
        put(arrays, WEIGHT, lambda array: array[::-1]),
        put(lambda s: s, "active_units_", lambda array: ~array),
        put(lambda s: s, "_sklatent_version", "0.0.9"),
        put(lambda s: s, "n_draws", 3),
        lambda state: state.update(extra=1),
        lambda state: state.pop("kl_per_dimension_"),
    ],
)
def test_a_state_that_fits_but_was_changed_is_refused(change, iris):
    model = VAETransformer(2, **SMALL).fit(iris[0])
    load(changed(model, lambda state: None, is_signed=False))
    with pytest.raises(ValueError, match="its state is damaged, as its checksum tells"):
        load(changed(model, change, is_signed=False))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("components_", lambda array: array[:, :2], r"components_ must be an array of .* shape \(2, 4\)"),
        ("components_", lambda array: array * np.nan, "components_ must be finite"),
        ("explained_variance_", lambda array: -array, r"explained_variance_ must not be less than 0\.0"),
        ("noise_variance_", -1.0, r"noise_variance_ must not be less than 0\.0"),
        ("n_components_", 10**15, r"components_ must be an array of .* shape \(1000000000000000, 4\)"),
        ("solver", "qr", "The 'solver' parameter of PCAReducer"),
    ],
)
def test_a_state_of_pca_that_does_not_fit_is_refused_by_name(name, value, message, iris):
    model = PCAReducer(2).fit(iris[0])
    with pytest.raises(ValueError, match=f"Cannot load PCAReducer: {message}"):
        load(changed(model, put(lambda state: state, name, value)))


@pytest.mark.slow
def test_attributes_of_a_user_are_kept(way, model, iris):
    model.fit(iris[0]).note = {"who": "me", "values": [1, 2.5, None]}
    assert way(model).note == model.note


@pytest.mark.slow
def test_records_of_all_kinds_are_kept(way, iris):
    """Also where epochs differ in what was recorded, and where a callback has recorded an array."""
    model = VAETransformer(2, **SMALL).fit(iris[0]).partial_fit(iris[0])
    assert len({tuple(epoch) for epoch in model.history_}) == 2
    assert way(model).history_ == model.history_
    model.history_[0] |= {"nan": float("nan"), "none": None, "text": "ä'\"", "flag": False}
    assert repr(way(model).history_) == repr(model.history_)
    model.history_[0]["array"] = np.arange(3)
    np.testing.assert_array_equal(way(model).history_[0]["array"], np.arange(3))


def test_another_version_is_told(model, iris, monkeypatch):
    data = pickle.dumps(model.fit(iris[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(data)
    monkeypatch.setattr("sklatent.__version__", "9.0.0")
    with pytest.warns(InconsistentVersionWarning, match=r"from sklatent 0\.1\.0 with sklatent 9\.0\.0"):
        pickle.loads(data)


def test_parameters_that_a_version_did_not_know_have_their_defaults(iris):
    model = VAETransformer(2, **SMALL).fit(iris[0])
    old = load(changed(model, lambda state: (state.pop("n_draws"), state["_architecture"].pop("posterior"))))
    assert (old.n_draws, old.posterior) == (32, "diagonal")
    np.testing.assert_array_equal(old.score_samples(iris[0]), model.score_samples(iris[0]))


class Narrow(VAETransformer):
    """A class of a user's own, with fewer parameters."""

    def __init__(self, nz=1):
        super().__init__(nz, **SMALL)


def test_a_subclass_is_the_same(iris):
    model = Narrow(2).fit(iris[0])
    for way in (through_joblib, copy.copy, copy.deepcopy):
        assert_same(model, way(model), iris[0][:7])
    trusted = [*TRUSTED_TYPES, f"{Narrow.__module__}.Narrow"]
    assert_same(model, skops.io.loads(skops.io.dumps(model), trusted=trusted), iris[0][:7])


def test_a_copy_shares_nothing_that_training_writes(iris):
    X, _ = iris
    model = VAETransformer(2, **SMALL).partial_fit(X)
    for way in WAYS.values():
        before = model.transform(X)
        way(model).partial_fit(X)
        np.testing.assert_array_equal(model.transform(X), before)


def test_checksum_tells_values_apart():
    values = [0, 0.0, False, None, "0", "", [], (), [[]], {}, {"a": 0}, {"a": 1}, np.float32(0), np.float64(0)]
    values += [np.zeros(2), np.zeros((2, 1)), np.zeros(2, np.float32), np.array([0, None]), np.array(["a"])]
    values += [np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0]), -0.0, float("nan")]
    assert len({checksum(value) for value in values}) == len(values)
    assert checksum({"a": 1, "b": [2]}) == checksum({"b": [2], "a": 1})
    assert checksum(np.zeros((3, 2)).T) == checksum(np.zeros((2, 3)))


def test_checksum_is_that_of_earlier_versions():
    """Files carry it. SHA-256 of what `_parts` describes, by hand."""
    import hashlib

    text = b"list2:" + b"int=1;" + b"<f8(2,):" + np.array([1.0, 2.0]).tobytes()
    assert checksum([1, np.array([1.0, 2.0])]) == hashlib.sha256(text).hexdigest()


FILES = sorted((Path(__file__).parent / "data").glob("*/*.skops"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_files_of_every_version_load(path, iris):
    """`tests/data/write_files.py` has written them. The results are those of that time, but for rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)  # of scikit-learn's estimators too
        model = skops.io.load(path, trusted=TRUSTED_TYPES)
    expected = json.loads((path.parent / "expected.json").read_text())[path.stem]
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(model, name)(iris[0][::30]), values, rtol=1e-6, atol=1e-6)
    if path.stem == "partial":
        assert model.partial_fit(iris[0]).n_iter_ == 2
    if path.stem in ("vae", "conv", "autoencoder"):
        np.testing.assert_array_equal(clone(model).fit(iris[0]).n_iter_, model.n_iter_)


def test_there_are_files_of_every_kind():
    kinds = {"pca", "autoencoder", "vae", "pipeline", "classifier", "detector", "grid_search", "randomized_search"}
    assert kinds <= {path.stem for path in FILES if path.parent.name == "0.1.0"}
    assert all(path.stat().st_size < 20_000 for path in FILES)


DAMAGED = [
    PCAReducer(2),
    AutoencoderTransformer(2, **SMALL),
    VAETransformer(2, n_draws=2, **SMALL),
    LatentOutlierDetector(PCAReducer(1), n_splits=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_the_same(kind, judges):
    """500 of those of `benchmarks/safety.py`: none runs code, and none is another model without an error."""
    rng = np.random.default_rng(len(kind))
    found = sum((judge.count(kind, 7, rng) for judge in judges), Counter())
    assert found.total() == 28
    assert set(found) <= {"refused", "same", "useless"}
    if kind in ("truncated", "pickle inside", "entry missing", "huge shape"):
        assert set(found) == {"refused"}


@pytest.fixture(scope="module")
def judges(iris):
    return [Judge(clone(model).fit(iris[0]), iris[0][:5]) for model in DAMAGED]


@pytest.mark.slow
def test_the_judge_finds_what_it_looks_for(judges, tmp_path):
    """A model of other numbers is different, and an unpickled payload is code that ran."""
    judge = judges[0]
    other = PCAReducer(2).fit(load_iris().data + 1e-9)
    assert judge.outcome(skops.io.dumps(other)) == "different"
    assert judge.outcome(judge.file) == "same"
    code = (
        "import damaged_files, pickle; pickle.loads(pickle.dumps(damaged_files.Payload())); print(*damaged_files._log)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "pickle.find_class" in run.stdout, run.stderr
    assert CANARY in run.stderr
