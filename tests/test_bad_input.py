"""What is refused, in whose words, and what is left of the estimator; and the odd input that has to work."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer

X_GOOD = np.random.default_rng(0).uniform(size=(12, 4))


def with_value(value, dtype=np.float64):
    X = X_GOOD.astype(dtype)
    X[3, 1] = value
    return X


BAD_X = {
    "NaN": (with_value(np.nan), ValueError, "Input X contains NaN"),
    "inf": (with_value(np.inf), ValueError, "Input X contains infinity"),
    "no rows": (X_GOOD[:0], ValueError, r"Found array with 0 sample\(s\)"),
    "no columns": (X_GOOD[:, :0], ValueError, r"Found array with 0 feature\(s\)"),
    "1-D": (X_GOOD[0], ValueError, "Expected 2D array, got 1D array instead"),
    "3-D": (X_GOOD[None], ValueError, "Found array with dim 3"),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError, "inhomogeneous"),
    "complex": (X_GOOD + 1j, ValueError, "Complex data not supported"),
    "objects": (with_value("three", object), ValueError, "could not convert string to float: 'three'"),
    "strings": (np.full((5, 4), "three"), ValueError, "could not convert string to float"),
    "text column": (pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}), ValueError, "could not convert string to float"),
    "dicts": (with_value({}, object), TypeError, "argument must be"),
    "sparse": (sparse.csr_array(X_GOOD), TypeError, "Sparse data was passed"),
    "variance overflow": (with_value(1e200), ValueError, "The variance of X overflows float64"),
    "sum overflow": (np.array([[1.7e308], [1.7e308]]), ValueError, "The variance of X overflows float64"),
}

PCA_BAD = {
    "nz=0": ({"nz": 0}, "The 'nz' parameter of PCAReducer must be"),
    "nz=-1": ({"nz": -1}, "The 'nz' parameter of PCAReducer must be .* Got -1 instead"),
    "nz=2.0": ({"nz": 2.0}, "The 'nz' parameter of PCAReducer must be .* Got 2.0 instead"),
    "nz=1.0": ({"nz": 1.0}, "The 'nz' parameter of PCAReducer must be"),
    "nz='3'": ({"nz": "3"}, "The 'nz' parameter of PCAReducer must be .* Got '3' instead"),
    "nz=5": ({"nz": 5}, r"nz=5 must be between 1 and min\(n_samples, n_features\)=4 with solver='auto'"),
    "solver": ({"solver": "arpack"}, "The 'solver' parameter of PCAReducer must be"),
    "whiten": ({"whiten": "yes"}, "The 'whiten' parameter of PCAReducer must be"),
    "n_oversamples=0": ({"n_oversamples": 0}, "The 'n_oversamples' parameter of PCAReducer must be .* Got 0 instead"),
    "n_iter=0": ({"n_iter": 0}, "The 'n_iter' parameter of PCAReducer must be .* Got 0 instead"),
    "device unknown": ({"device": "tpu"}, "device='tpu' must be 'auto' or a device that PyTorch finds"),
    "device meta": ({"device": "meta"}, "device='meta' must be"),
    "random_state": ({"random_state": "seed"}, "The 'random_state' parameter of PCAReducer must be"),
}

NETWORK_BAD = {
    "nz=0": ({"nz": 0}, "The 'nz' parameter of .* must be an int in the range"),
    "nz=-1": ({"nz": -1}, "The 'nz' parameter of .* must be .* Got -1 instead"),
    "nz=2.0": ({"nz": 2.0}, "The 'nz' parameter of .* must be .* Got 2.0 instead"),
    "nz='3'": ({"nz": "3"}, "The 'nz' parameter of .* must be .* Got '3' instead"),
    "nz=None": ({"nz": None}, "The 'nz' parameter of .* must be .* Got None instead"),
    "hidden_sizes=512": ({"hidden_sizes": 512}, "'hidden_sizes' .* a list or tuple whose every element"),
    "hidden_sizes fractional": ({"hidden_sizes": (8, 2.5)}, r"'hidden_sizes' .* Got \(8, 2.5\) instead"),
    "hidden_sizes zero": ({"hidden_sizes": (8, 0)}, "'hidden_sizes' .* must be"),
    "hidden_sizes empty element": ({"hidden_sizes": ("",)}, "'hidden_sizes' .* must be"),
    "hidden_sizes None element": ({"hidden_sizes": (None, 8)}, "'hidden_sizes' .* must be"),
    "image_shape product": (
        {"image_shape": (1, 2, 3)},
        r"image_shape=\(1, 2, 3\) must multiply to n_features=4, got 6",
    ),
    "image_shape length": ({"image_shape": (2, 2)}, "'image_shape' .* a list or tuple of length 3"),
    "image_shape zero": ({"image_shape": (1, 0, 4)}, "'image_shape' .* must be"),
    "backbone": ({"backbone": "resnet"}, "'backbone' parameter"),
    "activation": ({"activation": "step"}, "'activation' parameter"),
    "likelihood": ({"likelihood": "cauchy"}, "'likelihood' parameter"),
    "output_activation": ({"output_activation": "relu"}, "'output_activation' parameter"),
    **{
        f"output_activation with {likelihood}": (
            {"output_activation": "sigmoid", "likelihood": likelihood},
            rf"output_activation='sigmoid' is only supported with likelihood in .*, got likelihood='{likelihood}'",
        )
        for likelihood in ("bernoulli", "continuous_bernoulli", "poisson")
    },
    "no channels": (
        {"hidden_sizes": (), "backbone": "conv"},
        r"hidden_sizes=\(\) must have at least one element with backbone='conv'",
    ),
    "noise=-1": ({"noise": -1.0}, "'noise' parameter .* Got -1.0 instead"),
    "noise_kind": ({"noise_kind": "salt"}, "'noise_kind' parameter"),
    "mask of all": (
        {"noise": 1.0, "noise_kind": "masking"},
        r"noise=1.0 must be a fraction in \[0, 1\) with noise_kind=",
    ),
    "max_epochs=0": ({"max_epochs": 0}, "'max_epochs' parameter"),
    "batch_size=0": ({"batch_size": 0}, "'batch_size' parameter"),
    "lr=0": ({"lr": 0.0}, "'lr' parameter"),
    "lr=inf": ({"lr": np.inf}, "'lr' parameter"),
    "lr=nan": ({"lr": np.nan}, "'lr' parameter"),
    "lr_schedule": ({"lr_schedule": "step"}, "'lr_schedule' parameter"),
    "validation_fraction=1": ({"validation_fraction": 1.0}, "'validation_fraction' parameter"),
    "device unknown": ({"device": "tpu"}, "device='tpu' must be 'auto' or a device that PyTorch finds"),
    "device nonsense": ({"device": "my computer"}, "device='my computer' must be"),
    "device meta": ({"device": "meta"}, "device='meta' must be"),
    "random_state": ({"random_state": "seed"}, "'random_state' parameter"),
}

AUTOENCODER_BAD = {
    "density": ({"density": "kernel"}, "The 'density' parameter of AutoencoderTransformer must be a str among"),
}

VAE_BAD = {
    "beta=-1": ({"beta": -1.0}, "The 'beta' parameter of VAETransformer must be .* Got -1.0 instead"),
    "beta=nan": ({"beta": np.nan}, "The 'beta' parameter of VAETransformer must be .* Got nan instead"),
    "beta=inf": ({"beta": np.inf}, "The 'beta' parameter of VAETransformer must be .* Got inf instead"),
    "beta='1'": ({"beta": "1"}, "The 'beta' parameter of VAETransformer must be"),
    "prior": ({"prior": "flat"}, "The 'prior' parameter of VAETransformer must be a str among"),
    "n_prior_components=0": ({"n_prior_components": 0}, "The 'n_prior_components' parameter of VAETransformer must be"),
    "posterior": ({"posterior": "flow"}, "The 'posterior' parameter of VAETransformer must be a str among"),
    "kl_warmup=1.1": ({"kl_warmup": 1.1}, "The 'kl_warmup' parameter of VAETransformer must be a float in the range"),
    "n_draws=0": ({"n_draws": 0}, "The 'n_draws' parameter of VAETransformer must be"),
}

BAD_PARAMETERS = [
    pytest.param(estimator, *case, id=f"{estimator.__name__} {name}")
    for estimator, cases in [
        (PCAReducer, PCA_BAD),
        (AutoencoderTransformer, NETWORK_BAD | AUTOENCODER_BAD),
        (VAETransformer, NETWORK_BAD | VAE_BAD),
    ]
    for name, case in cases.items()
]


def assert_untouched(estimator):
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    assert vars(estimator) == vars(clone(estimator))


TAKEN_BY_PCA = ("sparse",)  # which stay sparse


def is_taken(case, model):
    return case == "NaN" or (case in TAKEN_BY_PCA and isinstance(model, PCAReducer))


@pytest.fixture
def no_training(monkeypatch):
    """Fail at the first step of any training."""

    def train(self, *args):
        raise AssertionError("bad input has reached the training loop")

    monkeypatch.setattr("sklatent._nn.training.LatentNet.train", train)


@pytest.mark.parametrize("case", BAD_X)
def test_bad_rows(model, case, request):
    X, error, message = BAD_X[case]
    model.set_params(nz=1)
    if is_taken(case, model):
        assert np.isfinite(model.fit(X).score(X))
        return
    request.getfixturevalue("no_training")
    with pytest.raises(error, match=message):
        model.fit(X)
    assert_untouched(model)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["NaN", "inf", "no rows", "1-D", "3-D", "complex", "objects", "sparse"])
@pytest.mark.parametrize("method", ["transform", "score_samples", "score"])
def test_bad_rows_after_fit(model, case, method):
    X, error, message = BAD_X[case]
    model.fit(X_GOOD)
    if is_taken(case, model):
        assert np.isfinite(getattr(model, method)(X)).all()
        return
    with pytest.raises(error, match=message):
        getattr(model, method)(X)


@pytest.mark.parametrize(("estimator", "parameters", "message"), BAD_PARAMETERS)
@pytest.mark.usefixtures("no_training")
def test_bad_parameters(estimator, parameters, message):
    model = estimator(**parameters)
    with pytest.raises((ValueError, InvalidParameterError), match=message):
        model.fit(X_GOOD)
    assert_untouched(model)


@pytest.mark.usefixtures("no_training")
def test_cuda_where_there_is_none(model, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda:0' must be .* a device that PyTorch finds .*: 'cpu'\."):
        model.set_params(device="cuda:0").fit(X_GOOD)


BAD_WEIGHTS = {
    "negative": (np.r_[-1.0, np.ones(11)], "Negative values in data passed to `sample_weight`"),
    "too few": (np.ones(11), r"sample_weight.shape == \(11,\), expected \(12,\)"),
    "all zero": (np.zeros(12), "Sample weights must contain at least one non-zero number"),
    "NaN": (np.r_[np.nan, np.ones(11)], "Input sample_weight contains NaN"),
    "2-D": (np.ones((12, 1)), "Sample weights must be 1D array or scalar"),
    "overflow": (np.full(12, 1e308), "sample_weight must have a finite sum"),
    "shares": (np.full(12, 1 / 24), r"sample_weight must sum to more than 1\. Got 0.5"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.usefixtures("no_training")
def test_bad_weights(case, method, model):
    weights, message = BAD_WEIGHTS[case]
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X_GOOD, sample_weight=weights)
    assert_untouched(model)


@pytest.mark.parametrize("case", ["negative", "too few", "all zero"])
def test_bad_weights_of_a_score(case, model):
    weights, message = BAD_WEIGHTS[case]
    with pytest.raises(ValueError, match=message):
        model.fit(X_GOOD).score(X_GOOD, sample_weight=weights)


BAD_BATCHES = {
    "another width": (X_GOOD[:, :3], "X has 3 features, but PCAReducer is expecting 4 features as input"),
    "NaN": (with_value(np.nan), "Input X contains NaN"),
    "inf": (with_value(np.inf), "Input X contains infinity"),
    "complex": (X_GOOD + 1j, "Complex data not supported"),
    "overflow": (with_value(1e200), "The variance of X overflows float64"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_batch_leaves_the_former_ones(case):
    X, message = BAD_BATCHES[case]
    pca = PCAReducer(2).partial_fit(X_GOOD)
    state, scatter = dict(vars(pca)), pca.moments_.scatter.copy()
    with pytest.raises(ValueError, match=message):
        pca.partial_fit(X)
    assert vars(pca) == state
    np.testing.assert_array_equal(pca.moments_.scatter, scatter)


def test_first_batch_of_fewer_rows_than_components():
    pca = PCAReducer(3)
    with pytest.raises(ValueError, match=r"nz=3 must be between 1 and min\(n_samples, n_features\)=2 with"):
        pca.partial_fit(X_GOOD[:2])
    assert_untouched(pca)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sparse_with_what_is_not_finite(value):
    pca = PCAReducer(2)
    with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
        pca.fit(sparse.csr_array(with_value(value)))
    assert_untouched(pca)
    with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
        pca.fit(X_GOOD).transform(sparse.csr_array(with_value(value)))


def test_sparse_with_the_full_solver():
    with pytest.raises(TypeError, match='only support sparse inputs with the "auto", "covariance" and "randomized"'):
        PCAReducer(2, solver="full").fit(sparse.csr_array(X_GOOD))


@pytest.mark.usefixtures("no_training")
def test_a_column_of_nothing(model):
    X = X_GOOD.copy()
    X[:, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains no observed value in column 2"):
        model.fit(X)
    assert_untouched(model)


@pytest.mark.parametrize("value", [np.inf, 1e200])
@pytest.mark.usefixtures("no_training")
def test_missing_values_beside_what_is_too_large(model, value):
    X = with_value(value)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"contains infinity|overflows float64"):
        model.fit(X)
    assert_untouched(model)


@pytest.mark.parametrize("method", ["transform", "score_samples", "impute"])
def test_infinity_beside_missing_values_after_fit(model, method):
    X = with_value(np.inf)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="Input X contains infinity"):
        getattr(model.fit(X_GOOD), method)(X)


@pytest.mark.usefixtures("no_training")
def test_a_batch_with_a_column_of_nothing(network):
    X = X_GOOD.copy()
    X[:, 2] = np.nan
    model = network()
    with pytest.raises(ValueError, match="Input X contains no observed value in column 2"):
        model.partial_fit(X)
    assert_untouched(model)


@pytest.mark.parametrize(
    "parameters",
    [{"likelihood": "bernoulli"}, {"likelihood": "continuous_bernoulli"}, {"output_activation": "sigmoid"}],
    ids=str,
)
@pytest.mark.parametrize("value", [-0.01, 1.01])
@pytest.mark.usefixtures("no_training")
def test_values_outside_the_likelihoods_range(network, parameters, value):
    model = network(**parameters)
    X = with_value(value)
    for _ in range(2):  # the second time beside a missing value
        with pytest.raises(ValueError, match=r"X must lie in \[0, 1\] with likelihood=.*got values from"):
            model.fit(X)
        assert_untouched(model)
        X[0, 0] = np.nan


@pytest.mark.parametrize("value", [-1, 0.5])
@pytest.mark.usefixtures("no_training")
def test_what_is_no_count(network, value):
    model = network(likelihood="poisson")
    with pytest.raises(ValueError, match=r"X must be counts \(0, 1, 2, \.\.\.\) with likelihood='poisson'"):
        model.fit(np.round(with_value(0)) + (np.arange(4) == 1) * value)
    assert_untouched(model)


def test_values_outside_the_likelihoods_range_after_fit(network):
    model = network(likelihood="bernoulli", max_epochs=1, random_state=0).fit(X_GOOD)
    with pytest.raises(ValueError, match=r"X must lie in \[0, 1\]"):
        model.score_samples(X_GOOD + 1)


@pytest.mark.usefixtures("no_training")
def test_conv_of_features_that_make_no_square(network):
    with pytest.raises(ValueError, match=r"n_features=5 is not a square\. Pass image_shape"):
        network(backbone="conv").fit(np.ones((3, 5)))


def test_columns_that_differ_from_those_of_fit(model):
    frame = pd.DataFrame(X_GOOD, columns=list("abcd"))
    model.fit(frame)
    for method in (model.transform, model.score_samples):
        with pytest.raises(ValueError, match=r"Feature names seen at fit time, yet now missing:\n- d"):
            method(frame[list("abc")])
        with pytest.raises(ValueError, match="Feature names must be in the same order"):
            method(frame[list("bacd")])
        with pytest.raises(ValueError, match=r"Feature names unseen at fit time:\n- e"):
            method(frame.rename(columns={"a": "e"}))


def test_fewer_columns_than_in_fit(model):
    model.fit(X_GOOD)
    for method in (model.transform, model.score_samples):
        with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 4 features as input"):
            method(X_GOOD[:, :3])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.ones((3, 1)), "Z has 1 features, but .* is expecting 2 features as latent codes"),
        (np.ones((3, 3)), "Z has 3 features, but .* is expecting 2 features as latent codes"),
        (np.full((3, 2), np.nan), "Input Z contains NaN"),
        (np.ones(2), "Expected 2D array"),
    ],
    ids=["narrow", "wide", "NaN", "1-D"],
)
def test_bad_codes(model, codes, message):
    model.fit(X_GOOD)
    with pytest.raises(ValueError, match=message):
        model.inverse_transform(codes)


@pytest.mark.parametrize("n_samples", [0, -1])
def test_bad_number_of_samples(model, n_samples):
    with pytest.raises(ValueError, match=f"n_samples == {n_samples}, must be >= 1"):
        model.fit(X_GOOD).sample(n_samples)


def test_methods_before_fit(model):
    for method in ("transform", "inverse_transform", "score_samples", "score"):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            getattr(model, method)(X_GOOD)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        model.sample()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_fit_leaves_the_former_one(network, failure, monkeypatch):
    model = network(max_epochs=2, random_state=0).fit(X_GOOD)
    Z, state = model.transform(X_GOOD), dict(vars(model))

    def interrupted(self, batch, **fit_params):
        raise failure

    monkeypatch.setattr("sklatent._nn.training.LatentNet.train_step", interrupted)
    with pytest.raises(failure):
        model.fit(X_GOOD[:, :3])
    assert vars(model) == state
    np.testing.assert_array_equal(model.transform(X_GOOD), Z)


def test_a_loss_that_is_not_finite_raises(network):
    model = network(lr=1e30, lr_schedule="constant", max_epochs=50, random_state=0)
    with pytest.raises(FloatingPointError, match=r"The loss became .* in epoch \d+ with lr=1e\+30. Try a smaller lr"):
        model.fit(X_GOOD)
    assert_untouched(model)


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def memory_map(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


GOOD_X = {
    "one row": X_GOOD[:1],
    "one feature": X_GOOD[:, :1],
    "constant column": np.column_stack([X_GOOD, np.full(12, 3.0)]),
    "all constant": np.full((6, 3), 5.0),
    "all zero": np.zeros((6, 3)),
    "one value of 1e30": with_value(1e30),
    "one float32 value of 1e30": with_value(1e30, np.float32),
    "float16": X_GOOD.astype(np.float16),
    "bool": X_GOOD > 0.5,
    "int8": (X_GOOD * 100).astype(np.int8),
    "uint64": (X_GOOD * 100).astype(np.uint64),
    "read-only": read_only(X_GOOD),
    "Fortran order": np.asfortranarray(X_GOOD),
    "negative strides": X_GOOD[::-1, ::-1],
    "big-endian": X_GOOD.astype(">f8"),
    "list": X_GOOD.tolist(),
    "objects of numbers": X_GOOD.astype(object),
    "pandas": pd.DataFrame(
        {
            "int": [1, 2, 3, 4],
            "float32": np.arange(4, dtype=np.float32),
            "bool": [True, False, True, True],
            "nullable": pd.array([1, 2, 3, 5], dtype="Int64"),
        },
        index=list("wxyz"),
    ),
    "polars": pl.DataFrame({"int": [1, 2, 3, 4], "float": [0.5, 1.0, 2.0, 4.0], "bool": [True, False, True, True]}),
}


@pytest.mark.parametrize("case", GOOD_X)
def test_odd_rows_that_work(model, case):
    X = GOOD_X[case]
    if case in ("one row", "one feature"):
        model.set_params(nz=1)
    Z = model.fit(X).transform(X)
    assert Z.shape == (len(X), model.nz)
    for values in (Z, model.inverse_transform(Z), model.score_samples(X), model.sample(3, random_state=0)):
        assert np.isfinite(np.asarray(values)).all()
    assert type(model.score(X)) is float


def test_read_only_memory_map(model, tmp_path):
    X = memory_map(X_GOOD, tmp_path)
    np.testing.assert_array_equal(model.fit(X).transform(X), model.fit(X_GOOD).transform(X_GOOD))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mlp", "conv"])
def test_a_last_batch_of_one_row(network, backbone):
    X = np.random.default_rng(0).standard_normal((9, 16))
    model = network(backbone=backbone, batch_size=4, max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(model.score(X))
    assert np.isfinite(model.fit(X[:1]).score(X))


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


# Networks that do not fit, of features, latent dimension and the width of the encoder's output.
BAD_BACKBONES = {
    "encoder too narrow": (
        lambda d, nz, n: (nn.Linear(d, n - 1), nn.Linear(nz, d)),
        r"have n_code={n} .*\(2, {less}\)",
    ),
    "encoder too wide": (lambda d, nz, n: (nn.Linear(d, n + 1), nn.Linear(nz, d)), r"have n_code={n} .*\(2, {more}\)"),
    "encoder in another shape": (
        lambda d, nz, n: (nn.Sequential(nn.Linear(d, n), nn.Unflatten(1, (n, 1))), nn.Linear(nz, d)),
        r"have n_code={n} outputs.*\(2, {n}, 1\) for 2 samples instead",
    ),
    "encoder of other features": (
        lambda d, nz, n: (nn.Linear(d + 1, n), nn.Linear(nz, d)),
        r"fails for an input of shape \(2, 4\): mat1",
    ),
    "encoder gives a pair": (lambda d, nz, n: (Pair(d, n), nn.Linear(nz, d)), r"return a torch.Tensor\. Got .*tuple"),
    "decoder too narrow": (lambda d, nz, n: (nn.Linear(d, n), nn.Linear(nz, d - 1)), r"n_features=4 .*\(2, 3\) for 2"),
    "decoder of several samples": (
        lambda d, nz, n: (nn.Linear(d, n), nn.Sequential(nn.Linear(nz, d), nn.Flatten(0))),
        r"have n_features=4 outputs, in any shape, .*\(8,\) for 2",
    ),
    "decoder of another code": (
        lambda d, nz, n: (nn.Linear(d, n), nn.Linear(nz + 1, d)),
        r"fails for .*\(2, 3\): mat1",
    ),
    "one network": (lambda d, nz, n: nn.Linear(d, n), r"return a pair \(encoder, decoder\) .* Got Linear"),
    "three networks": (lambda d, nz, n: 3 * (nn.Linear(d, n),), r"return a pair \(encoder, decoder\)"),
    "nothing": (lambda d, nz, n: None, r"return a pair \(encoder, decoder\) .* Got None instead"),
    "functions": (lambda d, nz, n: (nn.Linear(d, n), torch.tanh), "pair .* of torch.nn.Module"),
}


@pytest.mark.parametrize("case", BAD_BACKBONES)
@pytest.mark.parametrize(
    ("model", "n_code"),
    [
        (AutoencoderTransformer(3), "3 outputs for each sample: 3 latent dimensions"),
        (VAETransformer(3), "6 outputs for each sample: 3 means, 3 log variances"),
        (
            VAETransformer(3, posterior="full"),
            "9 outputs for each sample: 3 means, 3 logarithms .*, 3 entries below it",
        ),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_networks_that_do_not_fit(model, n_code, case):
    networks, message = BAD_BACKBONES[case]
    model = clone(model).set_params(backbone=lambda shape, nz, n: networks(shape[0], nz, n))
    n = int(n_code[0])
    with pytest.raises(ValueError, match=message.format(n=n, less=n - 1, more=n + 1)) as raised:
        model.fit(X_GOOD)
    if "n_code" in message:
        assert re.search(n_code, str(raised.value))
    assert_untouched(model)


class Demanding(nn.Module):
    """Refuses a lone sample, and draws from the global generator."""

    def forward(self, x):
        if len(x) == 1:
            raise ValueError("one sample")
        return x + 0 * torch.rand_like(x)


def test_networks_are_tried_without_a_trace(network):
    made = []

    def backbone(input_shape, nz, n_code):
        frozen = nn.BatchNorm1d(8).eval()
        encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), frozen, nn.Dropout(0.5), nn.Linear(8, n_code))
        made.append((encoder, {name: tensor.clone() for name, tensor in encoder.state_dict().items()}))
        return nn.Sequential(Demanding(), encoder), nn.Sequential(Demanding(), nn.Linear(nz, 4))

    before = torch.get_rng_state()
    network(backbone=backbone, random_state=0)._prepare(X_GOOD)
    ((encoder, state),) = made
    assert torch.equal(torch.get_rng_state(), before)
    assert [layer.training for layer in encoder] == [True, True, False, True, True]
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
def test_the_unit_interval_has_the_rounding_of_scalers(likelihood, dtype):
    X = MinMaxScaler().fit_transform(load_breast_cancer().data.astype(dtype))
    X[0, 0] = np.nextafter(dtype(1), dtype(2))
    model = AutoencoderTransformer(2, likelihood=likelihood, max_epochs=1, random_state=0).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    X[0, 0] = 1.00001
    with pytest.raises(ValueError, match=r"got values from 0\.0 to 1\.00001"):
        model.fit(X)
