"""Exported models give the numbers of the estimators in ONNX Runtime, and what cannot be exported is refused."""

import json
import logging
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, QuantileTransformer, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

import sklatent
from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentImputer,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
)
from sklatent.export import to_onnx

pytest.importorskip("skl2onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Rounding in float32, through a few layers.
TOLERANCE = 1e-5
QUICK = {"max_epochs": 1, "random_state": 0}


def run(model, X):
    """What ONNX Runtime computes for X."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (values,) = session.run(None, {session.get_inputs()[0].name: np.asarray(X, dtype=np.float32)})
    return values


def error(found, expected):
    """Largest error relative to the largest value."""
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def check(estimator, method, X, sizes=(1, 2, 3, None)):
    """Compare any number of samples with the estimator, which computes in float64 for float64 samples."""
    model = to_onnx(estimator, method=method)
    X = np.asarray(X, dtype=np.float32)
    expected = np.asarray(getattr(estimator, method)(X.astype(np.float64)))
    for n in sizes:
        found = run(model, X[:n])
        if method != "predict":
            assert found.dtype == np.float32
            assert error(found, expected[:n]) < TOLERANCE
        else:
            assert found.tolist() == expected[:n].tolist()
    return model


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.mark.parametrize("method", ["transform", "score_samples"])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("nz", [1, 3, 4, None])
def test_pca_equals_its_own_results(nz, whiten, method, iris):
    check(PCAReducer(nz, whiten=whiten).fit(iris[0]), method, iris[0])


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_decodes_as_it_does_itself(whiten, iris):
    pca = PCAReducer(2, whiten=whiten).fit(iris[0])
    check(pca, "inverse_transform", pca.transform(iris[0]))


def test_pca_equals_scikit_learn(iris):
    X = iris[0].astype(np.float32)
    reference = PCA(2).fit(X.astype(np.float64))
    pca = PCAReducer(2).fit(X)
    assert error(run(to_onnx(pca), X), reference.transform(X.astype(np.float64))) < TOLERANCE
    assert (
        error(run(to_onnx(pca, method="score_samples"), X), reference.score_samples(X.astype(np.float64))) < TOLERANCE
    )


def test_pca_far_from_the_origin_keeps_its_digits(rng):
    X = (rng.standard_normal((200, 6)) + 1000).astype(np.float32)
    pca = PCAReducer(3).fit(X)
    for method in ("transform", "score_samples"):
        check(pca, method, X)


@pytest.mark.parametrize("method", ["transform", "score_samples"])
def test_pca_of_degenerate_data_is_finite(method, rng):
    X = np.repeat(rng.standard_normal((30, 1)), 4, axis=1).astype(np.float32)
    X[:, 3] = 1
    assert np.isfinite(run(check(PCAReducer(2).fit(X), method, X), X)).all()


def test_pca_of_tensors_and_float32(iris):
    pytest.importorskip("scipy", minversion="1.14", reason="array_api_dispatch asks for SciPy 1.14")
    X = torch.from_numpy(iris[0].astype(np.float32))
    import sklearn

    with sklearn.config_context(array_api_dispatch=True):
        pca = PCAReducer(2).fit(X)
        expected = pca.transform(X).numpy()
    assert error(run(to_onnx(pca), X), expected) < TOLERANCE


def _digits_for(likelihood, X):
    return np.round(X * 16) if likelihood == "poisson" else X


LIKELIHOODS = ["gaussian", "gaussian_diagonal", "bernoulli", "continuous_bernoulli", "poisson"]
CONV = {"backbone": "conv", "hidden_sizes": (4, 8)}


def networks():
    """All combinations, with an epoch each."""
    for likelihood in LIKELIHOODS:
        for backbone in ({}, CONV, {"hidden_sizes": ()}, {"activation": "gelu"}):
            yield AutoencoderTransformer(3, likelihood=likelihood, **backbone, **QUICK)
            for prior in ("standard_normal", "mixture", "vamp"):
                for posterior in ("diagonal", "full"):
                    vae = VAETransformer(
                        3, likelihood=likelihood, prior=prior, posterior=posterior, **backbone, **QUICK
                    )
                    yield vae


def check_network(network, X):
    X = _digits_for(network.likelihood, X)
    network.fit(X)
    check(network, "transform", X, sizes=(1, 129))
    check(network, "inverse_transform", network.transform(X), sizes=(1, 129))


@pytest.mark.slow
def test_network_equals_its_own_results(rng):
    check_network(AutoencoderTransformer(1, hidden_sizes=(4,), likelihood="gaussian", **QUICK), rng.random((40, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        AutoencoderTransformer(2, **QUICK),
        AutoencoderTransformer(2, output_activation="sigmoid", activation="tanh", **CONV, **QUICK),
        VAETransformer(2, likelihood="continuous_bernoulli", posterior="full", **QUICK),
        VAETransformer(2, likelihood="gaussian_diagonal", prior="vamp", activation="relu", **QUICK),
        VAETransformer(2, likelihood="poisson", prior="mixture", **CONV, **QUICK),
    ],
    ids=lambda network: f"{type(network).__name__}-{network.likelihood}-{network.backbone}",
)
def test_network_of_the_digits_equals_its_own_results(network, digits):
    check_network(clone(network), digits[0][:300])


@pytest.mark.slow
@pytest.mark.parametrize("network", list(networks())[::9], ids=lambda network: str(network).replace(" ", ""))
def test_every_ninth_network_equals_its_own_results(network, digits):
    check_network(clone(network), digits[0][:100])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 6, 9), (2, 5, 5), (3, 4, 4)])
def test_images_of_any_shape(shape, rng):
    X = rng.random((40, int(np.prod(shape))))
    check_network(VAETransformer(2, image_shape=shape, **CONV, **QUICK), X)


@pytest.mark.slow
def test_network_in_units_far_from_one(rng):
    X = rng.standard_normal((200, 5)) * [1e4, 1e3, 1e4, 1, 1e4] + 1e5
    check(AutoencoderTransformer(2, **QUICK).fit(X), "transform", X, sizes=(1, None))


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "continuous_bernoulli"])
def test_residual_density_equals_its_own(likelihood, digits):
    X = digits[0][:200]
    network = AutoencoderTransformer(2, likelihood=likelihood, density="residual", **QUICK).fit(X)
    check(network, "score_samples", X, sizes=(1, None))


def _networks_with(encoder, decoder):
    return lambda input_shape, nz, n_code: (encoder(input_shape, n_code), decoder(input_shape, nz))


@pytest.mark.slow
def test_callable_backbone_equals_its_own_results(digits):
    def encoder(shape, n_code):
        return nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.LeakyReLU(), nn.Linear(16, n_code)
        )

    backbone = _networks_with(encoder, lambda shape, nz: nn.Linear(nz, 64))
    check_network(VAETransformer(2, backbone=backbone, **QUICK), digits[0][:200])


class FixedSize(nn.Linear):
    """A layer that cannot take any number of samples."""

    def forward(self, x):
        return super().forward(torch.cat([x[k] for k in range(len(x))]).reshape(len(x), -1))


@pytest.mark.slow
def test_backbone_that_depends_on_the_number_of_samples_is_refused(digits):
    backbone = _networks_with(lambda shape, n_code: FixedSize(64, n_code), lambda shape, nz: nn.Linear(nz, 64))
    network = AutoencoderTransformer(2, backbone=backbone, **QUICK).fit(digits[0][:100])
    with pytest.raises(ValueError, match="cannot be exported: PyTorch's exporter does not accept"):
        to_onnx(network)


LABELS = {
    "integers": lambda y: y,
    "texts": lambda y: np.array(["setosa", "versicolor", "virginica"])[y],
    "booleans": lambda y: y == 1,
    "fractions": lambda y: y.astype(np.float64),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("rejection", [{}, {"reject_threshold": -2.0}, {"reject_fraction": 0.2}])
def test_classifier_predicts_its_own_labels(labels, rejection, iris):
    X, y = iris
    check(GenerativeClassifier(PCAReducer(2), **rejection).fit(X, LABELS[labels](y)), "predict", X)


@pytest.mark.parametrize("method", ["predict_proba", "score_samples"])
@pytest.mark.parametrize("prior", [None, [0.5, 0.5, 0.0]])
def test_classifier_equals_its_own_results(method, prior, iris):
    check(GenerativeClassifier(PCAReducer(2), class_prior=prior).fit(*iris), method, iris[0])


def test_classifier_of_full_rank_is_quadratic_discriminant_analysis(rng):
    """With one feature, the density of each class is a normal one, as in naive Bayes."""
    X = rng.standard_normal((60, 1)) + np.repeat([0.0, 2.0], 30)[:, None]
    y = np.repeat([0, 1], 30)
    reference = GaussianNB(var_smoothing=0).fit(X, y)
    # Variances with divisor n - 1 instead of n.
    reference.var_ *= 30 / 29
    model = to_onnx(GenerativeClassifier(PCAReducer(1)).fit(X, y), method="predict_proba")
    assert error(run(model, X), reference.predict_proba(X.astype(np.float32).astype(np.float64))) < TOLERANCE


@pytest.mark.slow
def test_classifier_where_all_densities_vanish_gives_the_prior(iris):
    X, y = iris
    classifier = GenerativeClassifier(AutoencoderTransformer(1, density="residual", **QUICK), class_prior=[0.3, 0.7])
    classifier.fit(X, y > 0)
    far = np.full((1, 4), 1e30, dtype=np.float32)
    assert classifier.score_samples(far).tolist() == [-np.inf]
    assert run(to_onnx(classifier, method="score_samples"), far).tolist() == [-np.inf]
    assert run(to_onnx(classifier, method="predict"), far).tolist() == classifier.predict(far).tolist() == [True]
    found = run(to_onnx(classifier, method="predict_proba"), far)
    assert error(found, classifier.predict_proba(far)) < TOLERANCE


@pytest.mark.parametrize("method", ["predict", "decision_function", "score_samples"])
@pytest.mark.parametrize("estimator", [None, PCAReducer(2)])
def test_detector_equals_its_own_results_for_new_samples(method, estimator, iris):
    detector = LatentOutlierDetector(estimator, contamination=0.1).fit(iris[0][::2])
    check(detector, method, iris[0][1::2] + 0.01)


PIPELINES = [
    (make_pipeline(StandardScaler(), PCAReducer(2)), "transform"),
    (make_pipeline(StandardScaler(), PCAReducer(2)), "score_samples"),
    (make_pipeline(PCAReducer(3), LatentOutlierDetector(PCAReducer(1))), "decision_function"),
    (make_pipeline(StandardScaler(), make_pipeline(PCAReducer(3), PCAReducer(2))), "score_samples"),
    (make_pipeline(PCAReducer(2), LogisticRegression()), "predict"),
    (make_pipeline(PCAReducer(2), LogisticRegression()), "predict_proba"),
    pytest.param(
        make_pipeline(StandardScaler(), VAETransformer(2, **QUICK), LogisticRegression()),
        "predict_proba",
        marks=pytest.mark.slow,
    ),
    (make_pipeline(PCAReducer(2), KNeighborsClassifier()), "predict"),
    (make_pipeline(StandardScaler(), GenerativeClassifier(PCAReducer(2), reject_threshold=-3)), "predict"),
    (make_pipeline(StandardScaler(), GenerativeClassifier(PCAReducer(2))), "predict_proba"),
    pytest.param(make_union(PCAReducer(2), AutoencoderTransformer(1, **QUICK)), "transform", marks=pytest.mark.slow),
    (ColumnTransformer([("a", PCAReducer(1), [3, 1]), ("b", StandardScaler(), [0])]), "transform"),
    (GridSearchCV(make_pipeline(StandardScaler(), PCAReducer()), {"pcareducer__nz": [1, 2]}), "transform"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "method"), PIPELINES, ids=lambda value: value if isinstance(value, str) else "")
def test_pipeline_equals_its_own_results(pipeline, method, iris):
    X = iris[0].astype(np.float32).astype(np.float64)
    pipeline = clone(pipeline).fit(X[::2], iris[1][::2])
    model = check(pipeline, method, X[1::2] + 2.0**-9)
    assert [output.name for output in model.graph.output] == [method]


def test_pipeline_with_texts_as_labels(iris):
    X, y = iris
    pipeline = make_pipeline(StandardScaler(), GenerativeClassifier(PCAReducer(2))).fit(X, LABELS["texts"](y))
    check(pipeline, "predict", X)


def test_direct_use_of_skl2onnx_after_an_export(iris):
    import skl2onnx

    pipeline = make_pipeline(StandardScaler(), PCAReducer(2)).fit(iris[0])
    to_onnx(pipeline)
    X = iris[0].astype(np.float32)
    assert error(run(skl2onnx.to_onnx(pipeline, X, target_opset=18), X), pipeline.transform(iris[0])) < TOLERANCE


BAD = np.array([[np.nan, 0, 0, 0], [np.inf, 0, 0, 0], [0, 0, -np.inf, 0], [np.nan] * 4])


@pytest.mark.parametrize(
    "estimator",
    [
        PCAReducer(2),
        pytest.param(AutoencoderTransformer(2, activation="relu", **QUICK), marks=pytest.mark.slow),
        pytest.param(
            VAETransformer(2, image_shape=(1, 2, 2), activation="relu", **CONV, **QUICK), marks=pytest.mark.slow
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_samples_that_are_not_finite_give_nan(estimator, iris):
    estimator = clone(estimator).fit(iris[0])
    found = run(to_onnx(estimator), np.vstack([BAD, iris[0][:2]]))
    assert np.isnan(found[:4]).all()
    assert np.isfinite(found[4:]).all()
    codes = run(to_onnx(estimator, method="inverse_transform"), BAD[:, :2])
    assert np.isnan(codes[[0, 1, 3]]).all()


@pytest.mark.slow
def test_samples_that_are_not_finite_are_rejected(iris):
    X, y = iris
    for density in (PCAReducer(2), AutoencoderTransformer(1, density="residual", **QUICK)):
        classifier = GenerativeClassifier(density).fit(X, np.minimum(y, 1))
        assert run(to_onnx(classifier, method="predict"), BAD).tolist() == [-1] * 4
        assert np.isnan(run(to_onnx(classifier, method="predict_proba"), BAD)).all()
        detector = LatentOutlierDetector(density, n_splits=None).fit(X)
        assert run(to_onnx(detector, method="predict"), BAD).tolist() == [-1] * 4
        assert np.isnan(run(to_onnx(detector, method="score_samples"), BAD)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps", [("no", "scale", "pca"), ("scale", "pca", "no"), ("no", "inner", "no"), ("scale", "no", "pca")]
)
def test_steps_that_do_nothing(steps, iris):
    X = iris[0]
    inner = Pipeline([("first", "passthrough"), ("scale", StandardScaler()), ("pca", PCAReducer(2)), ("last", None)])
    parts = {"no": "passthrough", "scale": StandardScaler(), "pca": PCAReducer(2), "inner": inner}
    model = Pipeline([(f"{name}{k}", parts[name]) for k, name in enumerate(steps)]).fit(X)
    np.testing.assert_allclose(run(to_onnx(model), X), model.transform(X), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_classifier_without_probabilities(iris):
    model = make_pipeline(PCAReducer(2), LinearSVC()).fit(*iris)
    np.testing.assert_array_equal(run(to_onnx(model, method="predict"), iris[0]), model.predict(iris[0]))


class Subclass(PCAReducer):
    """May compute anything."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "method", "message"),
    [
        (VAETransformer(1, **QUICK), "score_samples", "cannot be exported: the importance-weighted bound needs random"),
        (AutoencoderTransformer(1, **QUICK), "score_samples", "density='laplace': Laplace's approximation searches"),
        (
            AutoencoderTransformer(1, likelihood="poisson", density="residual", **QUICK),
            "score_samples",
            "ONNX has no logarithm of the gamma function",
        ),
        (
            PCAReducer(1),
            "score",
            r"method must be one of \['transform', 'inverse_transform', 'score_samp",
        ),
        (PCAReducer(1), None, "Got None instead"),
        (
            GenerativeClassifier(PCAReducer(1)),
            "transform",
            r"must be one of \['predict', 'predict_proba', 'score_sam",
        ),
        (
            GenerativeClassifier(VAETransformer(1, **QUICK)),
            "predict",
            "score_samples of VAETransformer cannot be exported",
        ),
        (
            GenerativeClassifier(GaussianMixture()),
            "predict",
            "score_samples of GaussianMixture cannot be exported within",
        ),
        (
            LatentOutlierDetector(make_pipeline(StandardScaler(), PCAReducer(1))),
            "predict",
            "score_samples of Pipeline cannot be exported within another estimator",
        ),
        (
            make_pipeline(StandardScaler(), PCAReducer(1)),
            "inverse_transform",
            r"must be one of \['transform', 'score_sam",
        ),
        (make_pipeline(FunctionTransformer(np.abs), PCAReducer(1)), "transform", "Pipeline cannot be exported"),
        (Pipeline([("nothing", "passthrough")]), "transform", "all of its steps are 'passthrough'"),
        (
            CalibratedClassifierCV(make_pipeline(PCAReducer(1), LogisticRegression()), cv=2),
            "predict_proba",
            "CalibratedClassifierCV cannot be exported: skl2onnx leaves the",
        ),
        (make_pipeline(LatentImputer(), PCAReducer(1)), "transform", "LatentImputer cannot be exported, since each"),
        (LatentImputer(PCAReducer(1)), "transform", "LatentImputer cannot be exported, since each"),
        (make_pipeline(QuantileTransformer(n_quantiles=5), Subclass(1)), "transform", "Pipeline cannot be exported"),
        (
            make_pipeline(PCAReducer(1), VAETransformer(1, **QUICK)),
            "score_samples",
            "the importance-weighted bound needs",
        ),
        (Subclass(1), "transform", "Subclass cannot be exported"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_refused(estimator, method, message, iris):
    estimator = clone(estimator).fit(np.round(iris[0]), iris[1])
    with pytest.raises(ValueError, match=message):
        to_onnx(estimator, method=method)


def test_estimator_must_be_fitted(model):
    with pytest.raises(ValueError, match="not fitted yet"):
        to_onnx(model)
    with pytest.raises(TypeError, match="estimator must be a fitted estimator"):
        to_onnx("pca")


@pytest.mark.parametrize(
    ("package", "estimator"),
    [
        ("onnx", PCAReducer(1)),
        ("onnxscript", AutoencoderTransformer(1, **QUICK)),
        ("skl2onnx", make_pipeline(StandardScaler(), PCAReducer(1))),
    ],
    ids=str,
)
def test_missing_package_is_named(package, estimator, iris, monkeypatch):
    estimator = clone(estimator).fit(iris[0])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "sklatent\[onnx\]"'):
        to_onnx(estimator)


def test_metadata_say_what_was_exported(iris):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(iris[0], columns=["a", "b", "c", "d"])
    model = to_onnx(make_pipeline(StandardScaler(), PCAReducer(2)).fit(X), method="score_samples")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["estimator"] == "Pipeline"
    assert facts["method"] == "score_samples"
    assert json.loads(facts["feature_names"]) == ["a", "b", "c", "d"]
    assert json.loads(facts["versions"])["sklatent"] == sklatent.__version__
    assert "PCAReducer(nz=2)" in facts["parameters"]
    assert {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}["ai.onnx"] == 18


@pytest.mark.slow
def test_file_contains_no_program_text_and_no_paths(digits):
    text = to_onnx(AutoencoderTransformer(2, **QUICK).fit(digits[0][:50])).SerializeToString()
    for trace in (b"site-packages", b"sklatent/", b".py", b"def "):
        assert trace not in text


@pytest.mark.slow
def test_export_changes_nothing(digits):
    network = VAETransformer(2, **QUICK).fit(digits[0][:50])
    state = torch.get_rng_state()
    before = network.transform(digits[0])
    first, second = (to_onnx(network).SerializeToString() for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(network.transform(digits[0]), before)


def test_reference_implementation_of_onnx_agrees(iris):
    reference = pytest.importorskip("onnx.reference")
    X = iris[0].astype(np.float32)
    for method, estimator in (("score_samples", PCAReducer(2)), ("predict_proba", GenerativeClassifier(PCAReducer(2)))):
        estimator = clone(estimator).fit(*iris)
        (found,) = reference.ReferenceEvaluator(to_onnx(estimator, method=method)).run(None, {"X": X})
        assert error(found, getattr(estimator, method)(X.astype(np.float64))) < TOLERANCE


@pytest.mark.parametrize("columns", [["a", "b"], "a", slice(0, 1)])
def test_columns_selected_by_name_are_refused(columns, iris):
    frame = pd.DataFrame(iris[0], columns=list("abcd"))
    selected = ColumnTransformer([("scaled", StandardScaler(), [columns] if columns == "a" else columns)])
    pipeline = make_pipeline(selected, PCAReducer(1)).fit(frame)
    if isinstance(columns, slice):
        assert to_onnx(pipeline).graph.input[0].name == "X"
    else:
        with pytest.raises(ValueError, match="ColumnTransformer cannot be exported if it selects columns by name"):
            to_onnx(pipeline)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PCAReducer, AutoencoderTransformer, VAETransformer])
def test_models_of_incomplete_samples(kind, iris, rng):
    """Their encoders are told which values are missing: none, for those that a file takes."""
    X = iris[0].astype(np.float32)
    incomplete = np.where(rng.random(X.shape) < 0.2, np.float32(np.nan), X)
    model = kind(2, **({} if kind is PCAReducer else QUICK)).fit(incomplete)
    check(model, "transform", X)
    found, is_complete = run(to_onnx(model), incomplete), ~np.isnan(incomplete).any(axis=1)
    np.testing.assert_array_equal(~np.isnan(found).any(axis=1), is_complete)


@pytest.mark.slow
def test_file_runs_without_torch_and_scikit_learn(digits, tmp_path):
    X = digits[0][:20].astype(np.float32)
    network = VAETransformer(2, **QUICK).fit(digits[0][:100])
    (tmp_path / "model.onnx").write_bytes(to_onnx(network).SerializeToString())
    np.save(tmp_path / "X.npy", X)
    code = """
        import sys; sys.modules.update(dict.fromkeys(["torch", "sklearn", "sklatent", "skorch"]))
        import numpy, onnxruntime
        session = onnxruntime.InferenceSession("model.onnx")
        numpy.save("Z.npy", session.run(None, {"X": numpy.load("X.npy")})[0])
    """
    subprocess.run([sys.executable, "-c", "\n".join(map(str.strip, code.splitlines()))], cwd=tmp_path, check=True)
    assert error(np.load(tmp_path / "Z.npy"), network.transform(X)) < TOLERANCE


def _speaking_linear(speak):
    class Linear(nn.Linear):
        def forward(self, x):
            speak()
            return super().forward(x)

    return Linear


@pytest.mark.slow
def test_the_users_own_remarks_are_heard_in_an_export(digits, caplog):
    def speak():
        warnings.warn("of my own", UserWarning, stacklevel=1)
        logging.getLogger("mine").warning("of my own, too")

    linear = _speaking_linear(speak)
    backbone = _networks_with(lambda shape, n_code: linear(64, n_code), lambda shape, nz: nn.Linear(nz, 64))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network = AutoencoderTransformer(2, backbone=backbone, **QUICK).fit(digits[0][:100])
        caught.clear()
        caplog.clear()
        to_onnx(network)
    assert {str(warning.message) for warning in caught} == {"of my own"}
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} == {"mine"}


@pytest.mark.parametrize("error", [MemoryError, TypeError, KeyboardInterrupt])
def test_failures_of_another_kind_are_not_taken_for_a_refusal(error, digits, monkeypatch):
    def export(*args, **kwargs):
        raise error("no")

    network = AutoencoderTransformer(2, **QUICK).fit(digits[0][:40])
    monkeypatch.setattr(torch.export, "export", export)
    before = logging.getLogger("torch").level, list(warnings.filters)
    with pytest.raises(error, match="no"):
        to_onnx(network)
    assert (logging.getLogger("torch").level, list(warnings.filters)) == before
