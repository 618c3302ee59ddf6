"""What the report says, by the data in its file: against scikit-learn, closed forms and the estimators themselves."""

import json
import re
from base64 import b64decode

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import AutoencoderTransformer, LatentImputer, PCAReducer, VAETransformer
from sklatent.report import write_report


@pytest.fixture(scope="module")
def wine():
    return load_wine(as_frame=True).data


@pytest.fixture(scope="module")
def pca(wine):
    return make_pipeline(StandardScaler(), PCAReducer(2)).fit(wine)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


def read(path):
    """The data of a report."""
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)[1])


def unpack(packed):
    return np.frombuffer(b64decode(packed["data"]), dtype=packed["dtype"])


def unpack_pictures(packed):
    return packed["low"] + (packed["high"] - packed["low"]) * unpack(packed) / 254


def test_losses_of_each_epoch(wine, path):
    vae = VAETransformer(2, max_epochs=4, early_stopping=True, random_state=0)
    losses = read(write_report(make_pipeline(StandardScaler(), vae).fit(wine), wine, path))["losses"]
    history = make_pipeline(StandardScaler(), vae).fit(wine)[-1].history_
    assert [name for name, _ in losses["curves"]] == ["train_loss", "train_reconstruction", "valid_loss"]
    for name, values in losses["curves"]:
        np.testing.assert_allclose(values, [epoch[name] for epoch in history], rtol=1e-5)
    assert losses["warmup"] == 2
    assert read(write_report(PCAReducer(2).fit(wine), wine, path))["losses"] is None


@pytest.mark.parametrize("offset", [0, 1e6])
def test_images_are_scored_in_the_precision_that_they_need(offset, digits, path):
    X = digits[0][:200] / 3 + offset
    pca = PCAReducer(2).fit(X)
    content = read(write_report(pca, X, path, image_shape=(8, 8)))
    # 2e-5: eight times the rounding of a score in float32, of about 100 nats.
    np.testing.assert_allclose(unpack(content["scores"]), pca.score_samples(X), rtol=2e-5, atol=1e-3)


def test_latent_codes_scores_and_samples(pca, wine, path):
    content = read(write_report(pca, wine, path))
    np.testing.assert_allclose(unpack(content["codes"]).reshape(-1, 2), pca.transform(wine), rtol=1e-6)
    np.testing.assert_allclose(unpack(content["scores"]), pca.score_samples(wine), rtol=1e-6)
    np.testing.assert_allclose(unpack(content["samples"]["values"]).reshape(-1, 13), wine, rtol=1e-6)
    np.testing.assert_array_equal(unpack(content["indices"]), np.arange(len(wine)))
    assert content["feature_names"] == list(wine.columns)
    assert [content[name] for name in ("n_samples", "n_features", "nz")] == [178, 13, 2]


def test_images_are_carried_to_half_a_level(digits, path):
    X = digits[0]
    content = read(write_report(PCAReducer(2).fit(X), X, path, image_shape=(8, 8)))
    carried = unpack(content["samples"]["places"])
    np.testing.assert_allclose(
        unpack_pictures(content["samples"]["values"]).reshape(-1, 64), X[carried], atol=0.5 / 254
    )
    assert content["image_shape"] == [1, 8, 8]


def test_scree_is_that_of_scikit_learn(wine, path):
    pca = PCA(5).fit(wine)
    scree = read(write_report(pca, wine, path))["scree"]
    np.testing.assert_allclose(scree["values"], pca.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(scree["fractions"], pca.explained_variance_ratio_, rtol=1e-5)


def test_parallel_analysis_counts_planted_components(path, rng):
    X = rng.standard_normal((400, 3)) @ (4 * rng.standard_normal((3, 20))) + rng.standard_normal((400, 20))
    scree = read(write_report(PCA(6).fit(X), X, path))["scree"]
    assert scree["active"] == [True] * 3 + [False] * 3
    assert "noise" not in read(write_report(PCA(6).fit(X), X, path, max_points=100))["scree"]  # not all samples


def test_loadings_are_correlations_with_components(pca, wine, path):
    loadings = read(write_report(pca, wine, path))["loadings"]
    Z = pca.transform(wine)
    expected = [[np.corrcoef(wine.iloc[:, j], z)[0, 1] for j in loadings["features"]] for z in Z.T]
    np.testing.assert_allclose(loadings["values"], expected, atol=1e-4)


def test_traversals_are_decoded_latent_codes(pca, wine, path):
    traversals = read(write_report(pca, wine, path))["traversals"]
    X = unpack(traversals["values"]).reshape(2, 11, -1)
    Z = np.tile(pca.transform(wine).mean(axis=0), (11, 1))
    Z[:, 1] = traversals["codes"][1]
    np.testing.assert_allclose(X[1], pca.inverse_transform(Z)[:, traversals["features"]], rtol=1e-4)


def test_worst_reconstructions_and_their_features(pca, wine, path):
    worst = read(write_report(pca, wine, path))["worst"]
    reconstructed = pca.inverse_transform(pca.transform(wine))
    residuals = (wine.to_numpy() - reconstructed) / wine.to_numpy().std(axis=0)
    errors = (residuals**2).sum(axis=1)
    np.testing.assert_array_equal(worst["places"], np.argsort(-errors)[:8])
    np.testing.assert_allclose(worst["figures"], np.sort(errors)[::-1][:8], rtol=1e-5)
    j, value, decoded, residual = worst["reasons"][0][0]
    first = worst["places"][0]
    assert j == np.abs(residuals[first]).argmax()
    np.testing.assert_allclose(
        [value, decoded, residual], [wine.iloc[first, j], reconstructed[first, j], residuals[first, j]], rtol=1e-5
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_surprising_samples_name_the_value_that_was_changed(scaled, wine, path):
    steps = [StandardScaler()] if scaled else []
    X = wine if scaled else pd.DataFrame(StandardScaler().fit_transform(wine), columns=wine.columns)
    model = make_pipeline(*steps, PCAReducer(4)).fit(X)
    X = X.copy()
    X.iloc[17, 6] += 8 * X.iloc[:, 6].std()  # flavanoids
    surprising = read(write_report(model, X, path))["surprising"]
    assert surprising["in_nats"]
    assert surprising["places"][0] == 17
    assert surprising["reasons"][0][0][0] == 6
    np.testing.assert_allclose(surprising["figures"], np.sort(model.score_samples(X))[:8], rtol=1e-5)


def test_scikit_learn_has_no_feature_scores_and_residuals_take_their_place(wine, path):
    surprising = read(write_report(PCA(2).fit(wine), wine, path))["surprising"]
    assert not surprising["in_nats"]


def test_classes_quantities_and_labels(pca, wine, path):
    labels = load_wine().target
    classes = read(write_report(pca, wine, path, y=labels))["colouring"]
    assert classes["classes"] == ["0", "1", "2"]
    np.testing.assert_array_equal(unpack(classes["members"]), labels)
    quantity = read(write_report(pca, wine, path, y=wine["proline"] / 7))["colouring"]
    np.testing.assert_allclose(unpack(quantity["quantity"]), wine["proline"] / 7, rtol=1e-6)


def test_max_points_thins_out_samples_and_labels_alike(pca, wine, path):
    content = read(write_report(pca, wine, path, y=load_wine().target, max_points=20))
    indices = unpack(content["indices"])
    assert len(indices) == 20
    assert (indices[0], indices[-1]) == (0, 177)
    np.testing.assert_array_equal(unpack(content["colouring"]["members"]), load_wine().target[indices])
    np.testing.assert_allclose(unpack(content["codes"]).reshape(-1, 2), pca.transform(wine.iloc[indices]), rtol=1e-6)
    assert content["n_samples"] == 178


@pytest.mark.parametrize("container", [np.asarray, pl.from_pandas, csr_array, lambda X: X.to_numpy().tolist()])
def test_any_container_of_samples_gives_the_same_report(container, wine, path):
    expected = read(write_report(PCAReducer(2).fit(wine), wine, path, feature_names=list("abcdefghijklm")))
    X = container(wine)
    found = read(write_report(PCAReducer(2).fit(X), X, path, feature_names=list("abcdefghijklm")))
    assert found["feature_names"] == list("abcdefghijklm")
    np.testing.assert_allclose(unpack(found["scores"]), unpack(expected["scores"]), rtol=1e-5)
    np.testing.assert_allclose(unpack(found["samples"]["values"]), unpack(expected["samples"]["values"]), rtol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [
        PCA(2),
        make_pipeline(StandardScaler(), make_pipeline(PCAReducer(2))),
        make_pipeline(StandardScaler(), PCAReducer(2), LogisticRegression()),
        GridSearchCV(make_pipeline(StandardScaler(), PCAReducer()), {"pcareducer__nz": [2]}, cv=2),
        PCAReducer(2).set_output(transform="pandas"),
        VAETransformer(2, max_epochs=2, random_state=0),
        AutoencoderTransformer(2, max_epochs=2, random_state=0),
    ],
    ids=["PCA", "nested", "classifier", "search", "pandas", "VAE", "autoencoder"],
)
def test_any_transformer_with_an_inverse_has_a_report(estimator, wine, path):
    estimator.fit(wine, load_wine().target)
    content = read(write_report(estimator, wine, path))
    assert content["decoder"]["layers"]
    assert len(unpack(content["codes"])) == 2 * len(wine)


def test_writing_changes_nothing_and_is_deterministic(wine, path):
    vae = VAETransformer(2, max_epochs=2, random_state=0).fit(wine)
    attributes = set(vars(vae))
    states = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    first = write_report(vae, wine, path).read_bytes()
    assert write_report(vae, wine, path).read_bytes() == first
    assert set(vars(vae)) == attributes
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_data_cannot_end_its_script(wine, path):
    hostile = "</script><script>alert(1)</script><!--"
    names = [hostile, *wine.columns[1:]]
    write_report(PCAReducer(2).fit(wine), wine, path, feature_names=names, y=np.full(178, hostile))
    page = path.read_text(encoding="utf-8")
    assert hostile not in page
    assert "alert(1)</script>" not in page
    assert read(path)["feature_names"][0] == hostile
    assert read(path)["colouring"]["classes"] == [hostile]


def test_the_page_asks_the_network_for_nothing(pca, wine, path):
    page = write_report(pca, wine, path).read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[^\"\s]*", page)) - {"http://www.w3.org/2000/svg"}  # the name of a namespace
    assert not addresses
    assert not re.search(r"<(link|img|iframe|object)\b|\bsrc=|@import|url\(", page)


@pytest.mark.parametrize("backbone", ["mlp", pytest.param("conv", marks=pytest.mark.slow)])
def test_a_report_of_two_thousand_digits_is_below_a_megabyte(backbone, digits, path):
    X, y = (np.concatenate([part, part[:203]]) for part in digits)
    vae = VAETransformer(2, backbone=backbone, max_epochs=1, n_draws=2, random_state=0).fit(X[:200])
    assert write_report(vae, X, path, y=y, image_shape=(8, 8)).stat().st_size < 1_000_000


@pytest.mark.parametrize("n_features", [1, 2, 300])
def test_any_number_of_features(n_features, path, rng):
    X = rng.standard_normal((50, n_features))
    content = read(write_report(PCAReducer(1).fit(X), X, path))
    assert content["n_features"] == n_features


@pytest.mark.parametrize("n_samples", [1, 2])
def test_few_samples(n_samples, pca, wine, path):
    content = read(write_report(pca, wine.iloc[:n_samples], path))
    assert (content["loadings"] is None) == (n_samples == 1)


def test_features_in_extreme_units(path, rng):
    X = rng.standard_normal((60, 3)) * [1e-30, 1.0, 1e30] + [0, 1e8, 0]
    content = read(write_report(make_pipeline(StandardScaler(), PCAReducer(2)).fit(X), X, path))
    assert content["decoder"]["layers"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": [0, 1]}, ValueError, "inconsistent numbers of samples"),
        ({"image_shape": (3, 3)}, ValueError, r"image_shape=\(3, 3\) must be"),
        ({"feature_names": ["a"]}, ValueError, "feature_names must have n_features=13 elements, got 1"),
        ({"max_points": 0}, ValueError, r"max_points=0 must be an int in the range \[1, 100000\]"),
        ({"max_points": 2.0}, ValueError, "max_points=2.0 must be an int"),
    ],
)
def test_bad_arguments_leave_no_file(arguments, error, message, pca, wine, path):
    with pytest.raises(error, match=message):
        write_report(pca, wine, path, **arguments)
    assert not path.exists()


@pytest.mark.slow
def test_what_has_no_report_is_refused(wine, path):
    with pytest.raises(NotFittedError):
        write_report(PCAReducer(2), wine, path)
    with pytest.raises(TypeError, match="write_report needs an estimator with transform, got LogisticRegression"):
        write_report(LogisticRegression(max_iter=10_000).fit(wine, load_wine().target), wine, path)
    with pytest.raises(TypeError, match="inverse_transform, got Pipeline with the step LatentImputer, which has none"):
        write_report(make_pipeline(LatentImputer(), StandardScaler(), PCAReducer(2)).fit(wine), wine, path)
    with pytest.raises(TypeError, match="must be str or path-like"):
        write_report(PCAReducer(2).fit(wine), wine, 3)
    assert not path.exists()
