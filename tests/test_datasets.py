import numpy as np
import pytest
from PIL import Image
from sklearn.utils._param_validation import InvalidParameterError

from sklatent import PCAReducer, datasets
from sklatent.datasets import fetch_mnist, make_curve_cloud, make_plane_cloud


def test_plane_cloud_is_that_of_figure_14_3():
    X = make_plane_cloud(random_state=0)
    assert X.shape == (1000, 3)
    offset = X[:, 2] - X[:, 0]
    np.testing.assert_allclose(offset, offset.round(), atol=1e-12)
    assert set(offset.round()) == set(range(-5, 5))
    assert 95 < np.ptp(X[:, 0]) < 100
    assert 85 < np.ptp(X[:, 1]) < 90
    assert PCAReducer().fit(X).explained_variance_ratio_[:2].sum() > 0.99


def test_curve_cloud_lies_about_a_parabola():
    X = make_curve_cloud(10_000, noise=0.0, random_state=0)
    np.testing.assert_array_equal(X[:, 1], X[:, 0] ** 2)
    noisy = make_curve_cloud(10_000, noise=0.1, random_state=0)
    np.testing.assert_allclose((noisy - X).std(axis=0), 0.1, rtol=5 / np.sqrt(2 * 10_000))  # five standard errors


@pytest.mark.parametrize("make", [make_plane_cloud, make_curve_cloud])
def test_clouds_are_repeatable(make):
    np.testing.assert_array_equal(make(20, random_state=3), make(20, random_state=3))
    assert not np.array_equal(make(20, random_state=3), make(20, random_state=4))
    with pytest.raises(InvalidParameterError, match="'n_samples' parameter"):
        make(0)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A folder with an archive of MNIST's shapes, whose images are told apart by their first pixel."""
    arrays = {
        f"{kind}_{subset}": np.zeros((n, 28, 28) if kind == "X" else n, dtype=np.uint8)
        for subset, n in [("train", 60_000), ("test", 10_000)]
        for kind in "Xy"
    }
    arrays["X_train"][:, 0, 0] = np.arange(60_000) % 256
    arrays["y_train"][:] = np.arange(60_000) % 10
    arrays["y_test"][:] = 7
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("SKLATENT_DATA", str(tmp_path))
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize(("subset", "n"), [("train", 60_000), ("test", 10_000)])
def test_mnist_from_the_offline_folder(archive, subset, n):
    X, y = fetch_mnist(subset=subset)
    assert X.shape == (n, 784)
    assert X.dtype == np.float32
    np.testing.assert_array_equal(y, archive[f"y_{subset}"])
    np.testing.assert_allclose(X, archive[f"X_{subset}"].reshape(n, 784) / 255, rtol=1e-6)


def test_mnist_from_openml_where_there_is_no_folder(monkeypatch):
    """The same rows through `fetch_openml`, whose result has 70,000 rows of 784 numbers and labels as text."""
    X, y = np.zeros((70_000, 784), dtype=np.uint8), np.full(70_000, "3", dtype=object)
    X[60_000:] = 255

    def fetch_openml(name, **kwargs):
        assert name == "mnist_784"
        assert kwargs["data_home"] == "here"
        return X, y

    monkeypatch.setattr(datasets, "fetch_openml", fetch_openml)
    monkeypatch.delenv("SKLATENT_DATA", raising=False)
    test, labels = fetch_mnist(subset="test", data_home="here")
    assert test.shape == (10_000, 784)
    assert test.min() == 1
    assert set(labels) == {3}


@pytest.mark.parametrize("value", [None, ""])
def test_mnist_takes_no_file_of_the_current_folder(value, tmp_path, monkeypatch):
    class Downloads(Exception):
        pass

    def fetch_openml(*args, **kwargs):
        raise Downloads

    np.savez(tmp_path / "mnist.npz", x_train=np.zeros(2))  # as Keras names it
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "fetch_openml", fetch_openml)
    monkeypatch.delenv("SKLATENT_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("SKLATENT_DATA", value)
    with pytest.raises(Downloads):
        fetch_mnist()


def test_resizing_is_bilinear(rng):
    """Against Pillow, whose bilinear filter is the one the chapter's transform calls."""
    images = rng.uniform(size=(2, 28, 28)).astype(np.float32)
    for size in (32, 14):
        pictures = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in images]
        np.testing.assert_allclose(datasets._resize(images, size), np.stack(pictures), atol=1e-6)


def test_bad_subset():
    with pytest.raises(InvalidParameterError, match="'subset' parameter"):
        fetch_mnist(subset="validation")
