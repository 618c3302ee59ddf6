"""What the two network estimators share, and the autoencoder's own."""

import pickle
import threading
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._nn import objectives
from sklatent._nn.data import batch_sizes
from sklatent.datasets import make_curve_cloud
from sklatent.metrics import reconstruction_scorer
from sklatent.model_selection import FusedGridSearchCV


@pytest.fixture
def X(rng):
    return rng.standard_normal((60, 3)) @ rng.standard_normal((3, 9)) + 10


def weights(model):
    return model.module_.state_dict()


def assert_same_weights(first, second):
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name


@pytest.mark.slow
def test_codes_at_two_dimensions_beat_pca_on_digits(network, digits):
    """A classifier on two nonlinear codes is at least 0.10 more accurate than on two principal components."""
    X, y = digits
    split = train_test_split(X, y, random_state=0, stratify=y)

    def accuracy(reducer):
        X_train, X_test, y_train, y_test = split
        model = make_pipeline(reducer, StandardScaler(), LogisticRegression())
        return model.fit(X_train, y_train).score(X_test, y_test)

    assert accuracy(network(2, random_state=0)) > accuracy(PCA(2)) + 0.10


@pytest.mark.slow
def test_a_curve_is_one_number():
    """Figure 14.4: PCA fails on the cloud that an autoencoder's one code describes."""
    X = make_curve_cloud(random_state=0)
    error = lambda model: -reconstruction_scorer(model.fit(X), X)  # noqa: E731
    assert error(AutoencoderTransformer(1, random_state=0)) < 0.3 * error(PCAReducer(1))


def test_same_random_state_same_bits(network, X):
    first, second = (network(max_epochs=3, random_state=3).fit(X) for _ in range(2))
    assert_same_weights(first, second)
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    np.testing.assert_array_equal(first.sample(5, random_state=1), second.sample(5, random_state=1))
    other = network(max_epochs=3, random_state=4).fit(X)
    assert not np.allclose(first.transform(X), other.transform(X))


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_generators_are_untouched(network, X, random_state):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model = network(max_epochs=2, random_state=random_state, early_stopping=True).fit(X)
    model.score(X)
    model.inverse_transform(model.transform(X))
    model.sample(3, random_state=random_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (1e6, 0.0), (2.0**20, 0.0), (3.0, 100.0)])
def test_units_and_offsets_do_not_matter(network, X, a, b):
    """x -> a x + b, refitted: the same codes, and scores that move by the Jacobian."""
    model, moved = network(max_epochs=3, random_state=0), network(max_epochs=3, random_state=0)
    model.fit(X)
    moved.fit(a * X + b)
    # Weights are float32: a standardized sample that is rounded otherwise moves them by more than its last digit.
    np.testing.assert_allclose(moved.transform(a * X + b), model.transform(X), rtol=1e-4, atol=1e-5)
    expected = model.score_samples(X) - X.shape[1] * np.log(a)
    np.testing.assert_allclose(moved.score_samples(a * X + b), expected, rtol=1e-4)


def test_float64_rows_far_from_the_origin_lose_nothing(network, X):
    near, far = (network(max_epochs=3, random_state=0).fit(X + offset) for offset in (0, 1e9))
    # X + 1e9 is rounded to 1e-7, and so are the samples that the float32 weights are trained on.
    np.testing.assert_allclose(far.transform(X + 1e9), near.transform(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_follows_the_rows(network, X, dtype):
    model = network(max_epochs=2, random_state=0).fit(X)
    Z = model.transform(X.astype(dtype))
    assert Z.dtype == model.inverse_transform(Z).dtype == dtype
    assert model.score_samples(X.astype(dtype)).dtype == np.float64
    # float64 at inference: a row alone is the row among others to float64 rounding.
    if dtype == np.float64:
        np.testing.assert_allclose(model.transform(X[:1]), Z[:1], rtol=1e-12)


def test_single_and_double_precision_agree(network, X):
    model, single = network(max_epochs=2, random_state=0).fit(X), X.astype(np.float32)
    double = single.astype(np.float64)  # the same values, so the same draws
    # Each layer rounds to float32, by 6e-8.
    np.testing.assert_allclose(model.transform(single), model.transform(double), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.score_samples(single), model.score_samples(double), rtol=1e-5)


def test_changed_weights_are_used_in_either_precision(network, X):
    model = network(max_epochs=2, random_state=0).fit(X)
    before = model.transform(X)
    with torch.no_grad():
        model.module_.encoder[-1].bias += 1
    for rows in (X, X.astype(np.float32)):  # the bias is float32 in both
        np.testing.assert_allclose(model.transform(rows), before + 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["transform", "score_samples"])
def test_order_subset_and_chunks_do_not_matter(network, X, method, monkeypatch):
    model = network(max_epochs=2, random_state=0).fit(X)
    values = getattr(model, method)(X)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(getattr(model, method)(X[order]), values[order], rtol=1e-10)
    np.testing.assert_allclose(getattr(model, method)(X[7:12]), values[7:12], rtol=1e-10)
    monkeypatch.setattr(network, "_CHUNK_SIZE", 100)
    np.testing.assert_allclose(getattr(model, method)(X), values, rtol=1e-10)


# Matrix products round by the number of samples that come together, and a score adds up n_features terms of both signs.
TOLERANCE = {np.float64: 1e-9, np.float32: 1e-5}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_features", "nz"), [(64, 3), (64, 8), (35, 2), (13, 1)])
def test_a_sample_scores_the_same_in_whatever_company_it_comes(model, digits, n_features, nz, dtype, rng):
    X = np.ascontiguousarray(digits[0][:400, -n_features:], dtype=dtype)
    fitted = model.set_params(nz=nz).fit(X)
    scores = fitted.score_samples(X)
    for size in (1, 2, 7, 127, 129, 399):
        index = rng.permutation(len(X))[:size]
        tolerance = TOLERANCE[dtype] * np.maximum(np.abs(scores[index]), n_features)
        assert (np.abs(fitted.score_samples(X[index]) - scores[index]) <= tolerance).all()


def test_inference_from_many_threads(network, X):
    model = network(max_epochs=2, random_state=0).fit(X)
    expected, found = model.score_samples(X), [None] * 8
    model = pickle.loads(pickle.dumps(model))  # with no float64 twin yet, so that the threads make it

    def score(i):
        found[i] = model.score_samples(X)

    threads = [threading.Thread(target=score, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scores in found:
        np.testing.assert_allclose(scores, expected, rtol=1e-10)


@pytest.mark.slow
def test_early_stopping_keeps_the_best_epoch(network, digits):
    X, _ = digits
    model = network(8, early_stopping=True, n_iter_no_change=2, lr=0.01, lr_schedule="constant", random_state=0)
    if network is VAETransformer:  # a warm-up would depend on the number of epochs
        model.set_params(kl_warmup=0)
    model.set_params(max_epochs=200, batch_size=32).fit(X[:300])
    losses = [epoch["valid_loss"] for epoch in model.history_]
    best = int(np.argmin(losses)) + 1
    assert model.n_iter_ == len(losses) == best + 2 < 200
    assert model.loss_curve_ == [epoch["train_loss"] for epoch in model.history_]
    assert_same_weights(model, clone(model).set_params(max_epochs=best).fit(X[:300]))


def test_early_stopping_leaves_rows_out(network, X):
    model = network(max_epochs=2, early_stopping=True, validation_fraction=0.5, random_state=0)
    with pytest.raises(ValueError, match="resulting train set will be empty"):
        model.fit(X[:1])
    assert {"valid_loss", "valid_reconstruction", "valid_kl"} <= set(model.fit(X).history_[-1])
    training = model._prepare(X)
    parts = [training.train.X, training.valid.X]
    assert [len(part) for part in parts] == [30, 30]
    np.testing.assert_array_equal(np.sort(torch.cat(parts), axis=0), np.sort(X, axis=0))


def test_history_holds_both_parts_of_the_loss(network, X):
    model = network(max_epochs=20, random_state=0)
    if network is VAETransformer:  # in a warm-up the loss is less than its parts
        model.set_params(kl_warmup=0)
    model.fit(X)
    assert model.n_iter_ == len(model.history_) == len(model.loss_curve_) == 20
    for epoch in model.history_:
        kl = epoch["train_kl"]
        assert kl > 0 if network is VAETransformer else kl == 0
        assert epoch["train_loss"] == pytest.approx(epoch["train_reconstruction"] + kl, rel=1e-6)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_verbose_prints_a_line_an_epoch(network, X, capsys):
    network(max_epochs=3, verbose=1, random_state=0).fit(X)
    assert len(capsys.readouterr().out.strip().splitlines()) == 2 + 3
    network(max_epochs=3, random_state=0).fit(X)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("n_samples", "n_steps"), [(20, 50), (1400, 50 * 22), (55_000, 20 * 430)])
def test_auto_aims_at_a_number_of_steps(network, n_samples, n_steps):
    model = network()
    assert model._n_epochs(n_samples) * len(batch_sizes(n_samples, model._n_batch(n_samples))) == n_steps


@pytest.mark.slow
@pytest.mark.parametrize("image_shape", [None, (1, 8, 8), (2, 8, 4)])
def test_conv_learns_digits(network, digits, image_shape):
    X, _ = digits
    model = network(4, backbone="conv", image_shape=image_shape, hidden_sizes=(8, 16), max_epochs=8, random_state=0)
    assert reconstruction_scorer(model.fit(X), X) > reconstruction_scorer(PCAReducer(1).fit(X), X)
    assert model.inverse_transform(model.transform(X[:3])).shape == (3, 64)


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{"likelihood": "bernoulli"}, {"output_activation": "sigmoid"}], ids=str)
def test_outputs_stay_in_the_unit_interval(network, digits, parameters):
    X, _ = digits
    model = network(2, max_epochs=10, random_state=0, **parameters).fit(X)
    Xr = model.inverse_transform(model.transform(X))
    assert Xr.min() >= 0
    assert Xr.max() <= 1
    assert reconstruction_scorer(model, X) > reconstruction_scorer(PCAReducer(1).fit(X), X)
    assert np.isnan(model.noise_variance_) == ("likelihood" in parameters)


def backbone_by_hand(input_shape, nz, n_code):
    n_features = int(np.prod(input_shape))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(n_features, 20), nn.Tanh(), nn.Linear(20, n_code))
    decoder = nn.Sequential(nn.Linear(nz, n_features), nn.Unflatten(1, input_shape))
    return encoder, decoder


@pytest.mark.parametrize("image_shape", [None, (1, 3, 3)])
def test_backbone_of_ones_own(network, X, image_shape):
    model = network(backbone=backbone_by_hand, image_shape=image_shape, max_epochs=2, random_state=0)
    assert model.fit(X).transform(X).shape == (60, 2)
    assert model.inverse_transform(model.transform(X)).shape == X.shape
    assert_same_weights(model, clone(model).fit(X))


def test_pickle_keeps_the_model(network, X):
    model = network(max_epochs=2, random_state=0).fit(X)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.transform(X), model.transform(X))
    np.testing.assert_array_equal(copy.score_samples(X), model.score_samples(X))
    assert_same_weights(copy, model)


def test_refit_forgets_the_former_fit(network, X):
    model = network(max_epochs=2, random_state=0)
    model.fit(pd.DataFrame(X, columns=list("abcdefghi")))
    model.set_params(nz=1).fit(X[:, :5])
    assert model.transform(X[:, :5]).shape == (60, 1)
    assert not hasattr(model, "feature_names_in_")
    fresh = clone(model).fit(X[:, :5])
    assert set(vars(model)) == set(vars(fresh))
    assert_same_weights(model, fresh)


def test_decoded_frames_have_the_fitted_names(model, X):
    frame = pd.DataFrame(X, columns=list("abcdefghi"), index=np.arange(60) + 100)
    model.set_output(transform="pandas").fit(frame)
    decoded = model.inverse_transform(model.transform(frame))
    assert list(decoded.columns) == list("abcdefghi")
    assert list(decoded.index) == list(frame.index)
    pd.testing.assert_frame_equal(
        decoded,
        pd.DataFrame(
            clone(model).set_output(transform="default").fit(X).inverse_transform(model.transform(frame).to_numpy()),
            columns=decoded.columns,
            index=decoded.index,
        ),
    )


def test_decoded_frames_without_names(model, X):
    model.set_output(transform="polars").fit(X)
    assert model.inverse_transform(model.transform(X)).columns == [f"x{i}" for i in range(9)]


@pytest.mark.slow
def test_grid_search_over_a_pipeline(network, digits):
    X, y = digits
    pipeline = make_pipeline(StandardScaler(), network(max_epochs=3, random_state=0), LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipeline, {f"{network.__name__.lower()}__nz": [1, 8]}, cv=2).fit(X[:300], y[:300])
    assert search.best_params_ == {f"{network.__name__.lower()}__nz": 8}


def test_sample_leaves_out_the_noise_when_asked(network, X):
    model = network(1, max_epochs=5, random_state=0).fit(X)
    noisy, clean = (model.sample(20_000, mean=mean, random_state=0) for mean in (False, True))
    residual = noisy - clean
    # Five standard errors of the variance of a normal sample.
    np.testing.assert_allclose(residual.var(), model.noise_variance_, rtol=5 * np.sqrt(2 / residual.size))
    assert noisy.dtype == clean.dtype == np.float64


@pytest.mark.slow
def test_samples_are_bits_with_bernoulli(network, digits):
    X = (digits[0] > 0.5).astype(float)
    model = network(2, likelihood="bernoulli", max_epochs=3, random_state=0).fit(X)
    assert set(np.unique(model.sample(50, random_state=0))) == {0.0, 1.0}
    assert 0 < np.median(model.sample(50, mean=True, random_state=0)) < 1


def noisy_factors(is_homoscedastic, n_train=500, n_test=5000, n_features=25, rank=5):
    """The model of scikit-learn's example of probabilistic PCA beside factor analysis, with held-out samples."""
    rng = np.random.RandomState(42)
    U, _, _ = np.linalg.svd(rng.randn(n_features, n_features))
    n = n_train + n_test
    X = rng.randn(n, rank) @ U[:, :rank].T
    noise = np.ones(n_features) if is_homoscedastic else rng.rand(n_features) + 0.5
    X += noise * rng.randn(n, n_features)
    return X[:n_train], X[n_train:]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("is_homoscedastic", [True, False])
def test_linear_network_with_a_variance_for_each_feature_is_factor_analysis(network, is_homoscedastic, dtype):
    train, test = noisy_factors(is_homoscedastic)
    # Enough steps for the weights to converge; at the default number both networks end up to 0.1 nats below.
    linear = {"hidden_sizes": (), "max_epochs": 100, "batch_size": 100, "lr": 0.02}
    model = network(5, likelihood="gaussian_diagonal", random_state=0, **linear).fit(train.astype(dtype))
    reference = FactorAnalysis(5, tol=1e-8, max_iter=20_000, svd_method="lapack").fit(train)
    assert model.score(test.astype(dtype)) == pytest.approx(reference.score(test), abs=0.05)


@pytest.mark.slow
def test_a_variance_for_each_feature_wins_on_digits(network, digits):
    """Some pixels are constant, and some nearly so."""
    X, _ = digits
    one, each = (
        network(8, likelihood=likelihood, max_epochs=10, random_state=0).fit(X[:900])
        for likelihood in ("gaussian", "gaussian_diagonal")
    )
    assert each.score(X[900:]) > one.score(X[900:]) + 10
    drawn = each.sample(500, random_state=0)
    assert len(np.unique(drawn, axis=0)) == 500
    # The aggregate posterior of a VAE is wider or narrower than its prior, hence the factor of two.
    assert 0.5 < drawn.var(axis=0).sum() / X.var(axis=0).sum() < 2
    assert len(np.unique(each.sample(500, mean=True, random_state=0).round(3), axis=0)) > 490


@pytest.mark.slow
@pytest.mark.parametrize("hidden_sizes", [(), None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_vary_where_some_columns_hardly_do(network, rng, dtype, hidden_sizes):
    X = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((200, 6))
    rare = np.zeros((200, 2))
    rare[7] = 1
    X = np.hstack([X, 0.01 * X[:, :2], np.ones((200, 2)), rare]).astype(dtype)
    drawn = {}
    for likelihood in ("gaussian", "gaussian_diagonal"):
        model = network(2, likelihood=likelihood, hidden_sizes=hidden_sizes, random_state=0).fit(X)
        drawn[likelihood] = model.sample(300, mean=True, random_state=0)
    one, each = drawn.values()
    assert len(np.unique(each.round(4), axis=0)) == 300
    # The columns that vary give way to the others by little.
    assert each[:, :6].var(axis=0).sum() > 0.8 * one[:, :6].var(axis=0).sum()


@pytest.mark.parametrize("table", ["plain", "constant column", "duplicated columns", "wide", "two samples", "offset"])
def test_linear_evidence_with_a_variance_for_each_feature_is_that_of_its_normal_density(table, rng):
    X = rng.standard_normal((60, 5))
    X = {
        "plain": X,
        "constant column": np.hstack([X, np.ones((60, 1))]),
        "duplicated columns": np.hstack([X, X[:, :2]]),
        "wide": rng.standard_normal((6, 15)),
        "two samples": X[:2],
        "offset": X + 1e6,
    }[table]
    linear = {"hidden_sizes": (), "max_epochs": 4, "likelihood": "gaussian_diagonal"}
    model = AutoencoderTransformer(3, random_state=0, **linear).fit(X)
    origin = model.inverse_transform(np.zeros((1, 3)))
    loadings = (model.inverse_transform(np.eye(3)) - origin).T
    mean = model.inverse_transform(model.latent_mean_[None])[0]
    covariance = loadings @ model.latent_covariance_ @ loadings.T + np.diag(model.noise_variance_)
    expected = multivariate_normal(mean, covariance).logpdf(X)
    # Differences of reconstructions at 1e6 keep ten digits.
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one sample", "constant", "heavy tails", "wide", "duplicated columns", "low rank"])
def test_variances_of_the_features_are_bounded_on_any_table(network, name, rng):
    X = rng.standard_normal((40, 6))
    X = {
        "one sample": X[:1],
        "constant": np.ones((40, 6)),
        "heavy tails": X**9,
        "wide": X[:4],
        "duplicated columns": np.hstack([X, X]),
        "low rank": X[:, :2] @ X[:2],
    }[name]
    model = network(3, likelihood="gaussian_diagonal", max_epochs=5, random_state=0).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.sample(5, random_state=0)).all()
    variances = model.noise_variance_
    assert variances.min() >= variances.mean() / (len(X) + 1) * (1 - 1e-4)  # kept as a float32 logarithm


@pytest.mark.slow
def test_variances_of_the_features_go_on_from_one_partial_fit_to_the_next(network, digits):
    X = digits[0]
    model = network(4, likelihood="gaussian_diagonal", random_state=0)
    for _ in range(3):
        for rows in np.array_split(X[:900], 3):
            model.partial_fit(rows)
    one = network(4, max_epochs=9, batch_size=32, random_state=0).fit(X[:900])
    assert model.score(X[900:]) > one.score(X[900:])


@pytest.mark.slow
def test_variances_of_the_features_stay_where_they_are_from_one_warm_start_to_the_next(network):
    """The step that sets them after training has factor analysis as its fixed point."""
    train, test = noisy_factors(is_homoscedastic=False)
    linear = {"hidden_sizes": (), "max_epochs": 100, "batch_size": 100, "lr": 0.02}
    model = network(5, likelihood="gaussian_diagonal", random_state=0, warm_start=True, **linear)
    for _ in range(5):
        model.fit(train)
    reference = FactorAnalysis(5, tol=1e-8, max_iter=20_000, svd_method="lapack").fit(train)
    assert model.score(test) == pytest.approx(reference.score(test), abs=0.05)


class TestAutoencoder:
    @pytest.mark.slow
    def test_linear_autoencoder_spans_the_principal_subspace(self, rng):
        """Section 14.5.1: the same plane as PCA, though not the same axes."""
        X = rng.standard_normal((500, 6)) * [8, 6, 1, 1, 0.5, 0.5]
        model = AutoencoderTransformer(2, hidden_sizes=(), max_epochs=100, lr=0.02, random_state=0).fit(X)
        Q, _ = np.linalg.qr(model.module_.decoder[0].weight.detach().double().numpy())
        cosines = np.linalg.svd(Q.T @ PCAReducer(2).fit(X).components_.T, compute_uv=False)
        assert np.rad2deg(np.arccos(cosines.min())) < 2
        best = -reconstruction_scorer(PCAReducer(2).fit(X), X)
        assert best <= -reconstruction_scorer(model, X) < 1.01 * best

    @pytest.fixture
    def on_the_plane(self, rng):
        """Rows, and a linear autoencoder put on their principal plane in a random basis, its encoder off."""
        X = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 5)) * [3, 2, 1, 1, 1] + 4
        model = AutoencoderTransformer(2, hidden_sizes=(), max_epochs=1, random_state=0).fit(X)
        # In float64, as are the rows: the weights in float32 would be off the plane by its rounding.
        model.module_ = model.module_.double()
        basis = rng.standard_normal((2, 2))
        axes = basis @ PCAReducer(2).fit(X).components_
        with torch.no_grad():
            decoder, encoder = model.module_.decoder[0], model.module_.encoder[-1]
            decoder.weight.copy_(torch.as_tensor(axes.T))
            decoder.bias.zero_()
            encoder.weight.copy_(torch.as_tensor(np.linalg.pinv(axes.T) * 1.1 + 0.05))
            encoder.bias.fill_(0.3)
        vars(model).update(model._describe_latent_space(model.module_, X, model._prepare(X)))
        return model, X

    def test_linear_autoencoder_scores_as_probabilistic_pca(self, on_the_plane):
        model, X = on_the_plane
        pca = PCAReducer(2).fit(X)
        np.testing.assert_allclose(model.score_samples(X), pca.score_samples(X), rtol=1e-10)
        assert model.module_.likelihood.noise_variance == pytest.approx(pca.noise_variance_, rel=1e-10)

    def test_linear_autoencoder_samples_as_probabilistic_pca(self, on_the_plane):
        model, X = on_the_plane
        n, covariance = 100_000, PCAReducer(2).fit(X).get_covariance()
        found = np.cov(model.sample(n, random_state=0), rowvar=False)
        variances = np.diag(covariance)
        error = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
        np.testing.assert_array_less(np.abs(found - covariance), 5 * error)

    @pytest.mark.slow
    def test_trained_linear_autoencoder_scores_as_probabilistic_pca(self, rng):
        X = rng.standard_normal((500, 6)) * [8, 6, 1, 1, 0.5, 0.5]
        model = AutoencoderTransformer(2, hidden_sizes=(), max_epochs=100, lr=0.02, random_state=0).fit(X)
        # Adam ends this near to the optimum.
        assert model.score(X) == pytest.approx(PCAReducer(2).fit(X).score(X), abs=1e-3)

    @pytest.mark.slow
    def test_evidence_of_a_curve_is_near_its_integral(self):
        """p(x) by quadrature over the one code, for a decoder that training has bent."""
        X = make_curve_cloud(500, random_state=0)
        model = AutoencoderTransformer(1, random_state=0).fit(X)
        deviation = np.sqrt(model.latent_covariance_[0, 0])
        Z = model.latent_mean_[0] + deviation * np.linspace(-8, 8, 4001)
        prior = np.exp(-0.5 * ((Z - model.latent_mean_[0]) / deviation) ** 2) / np.sqrt(2 * np.pi) / deviation
        means, s2 = model.inverse_transform(Z[:, None]), model.noise_variance_
        squares = ((X[:, None] - means[None]) ** 2).sum(axis=2)  # (n, nodes)
        density = (prior * np.exp(-0.5 * squares / s2) / (2 * np.pi * s2)).sum(axis=1) * (Z[1] - Z[0])
        # Laplace's approximation takes the curve for straight within the noise.
        assert model.score(X) == pytest.approx(np.log(density).mean(), abs=0.01)

    def test_residual_is_the_likelihood_at_the_code(self, X):
        model = AutoencoderTransformer(2, density="residual", max_epochs=5, random_state=0).fit(X)
        residual = X - model.inverse_transform(model.transform(X))
        s2 = model.noise_variance_
        expected = -0.5 * ((residual**2).sum(axis=1) / s2 + 9 * np.log(2 * np.pi * s2))
        np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-6)

    @pytest.mark.parametrize("nz", [1, 3, 20])
    @pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
    def test_any_number_of_codes_has_a_finite_score(self, rng, nz, likelihood):
        X = rng.uniform(size=(30, 4))
        model = AutoencoderTransformer(nz, likelihood=likelihood, max_epochs=5, random_state=0).fit(X)
        assert np.isfinite(model.score_samples(X)).all()
        assert np.linalg.eigvalsh(model.latent_covariance_).min() > 0

    def test_bernoulli_evidence_of_one_code_is_near_its_integral(self, digits):
        X = (digits[0][:300] > 0.5).astype(float)
        model = AutoencoderTransformer(1, likelihood="bernoulli", max_epochs=5, random_state=0).fit(X)
        deviation = np.sqrt(model.latent_covariance_[0, 0])
        Z = model.latent_mean_[0] + deviation * np.linspace(-8, 8, 4001)
        log_prior = -0.5 * ((Z - model.latent_mean_[0]) / deviation) ** 2 - np.log(np.sqrt(2 * np.pi) * deviation)
        means = model.inverse_transform(Z[:, None]).clip(1e-12, 1 - 1e-12)  # saturated where the prior is nil
        log_joint = X @ np.log(means).T + (1 - X) @ np.log1p(-means).T + log_prior
        expected = np.logaddexp.reduce(log_joint, axis=1) + np.log(Z[1] - Z[0])
        # Laplace's approximation to a posterior that 64 bits have made narrow.
        assert model.score(X) == pytest.approx(expected.mean(), abs=0.05)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("density", ["laplace", "residual"])
    @pytest.mark.parametrize(
        "likelihood", ["gaussian", "gaussian_diagonal", "bernoulli", "continuous_bernoulli", "poisson"]
    )
    def test_an_extreme_sample_leaves_the_scores_beside_it_alone(self, digits, likelihood, density, dtype):
        X = np.round(digits[0][:300] * 16) if likelihood == "poisson" else digits[0][:300]
        X = X.astype(dtype)
        model = AutoencoderTransformer(2, likelihood=likelihood, density=density, max_epochs=3, random_state=0).fit(X)
        alone = model.score_samples(X[:5])
        factors = [1, 0] if "bernoulli" in likelihood else [3000, 1e6, 1e30]  # all that the support takes
        for factor in factors:
            extreme = np.concatenate([X[:2], X[2:3] * dtype(factor), X[3:5]])
            scores = model.score_samples(extreme)
            np.testing.assert_allclose(np.delete(scores, 2), np.delete(alone, 2), rtol=TOLERANCE[dtype])
            assert not np.isnan(scores[2])
            assert scores[2] < np.inf

    @pytest.mark.slow
    @pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson"])
    def test_evidence_is_that_of_a_search_to_convergence(self, digits, likelihood, monkeypatch):
        X = np.round(digits[0][:300] * (16 if likelihood == "poisson" else 1))
        model = AutoencoderTransformer(2, likelihood=likelihood, max_epochs=5, random_state=0).fit(X)
        scores = model.score_samples(X)
        monkeypatch.setattr(objectives, "GAIN_TOLERANCE", {torch.float64: 0.0})
        monkeypatch.setattr(objectives, "MAX_EVALUATIONS", 40)
        # Where the search ends, ln det H is within the square root of 2e-13 of its value at the mode.
        np.testing.assert_allclose(scores, model.score_samples(X), rtol=0, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal", "bernoulli", "poisson"])
    def test_evidence_is_about_the_maximum_that_an_optimizer_finds(self, digits, likelihood):
        """BFGS from the encoder's code, and the information by PyTorch's Jacobian. The two may climb other hills."""
        X = {"bernoulli": digits[0] > 0.5, "poisson": np.round(digits[0] * 16)}.get(likelihood, digits[0])
        X = X[:330].astype(float)
        model = AutoencoderTransformer(2, likelihood=likelihood, max_epochs=5, random_state=0).fit(X[:300])
        found, module = model.score_samples(X[300:]), model.module_.double()
        expected = np.array([self.evidence(module, x) for x in torch.as_tensor(X[300:])])
        close = np.abs(found - expected) < 1e-5  # BFGS ends within 1e-6 of the mode, relative to the curvature
        assert close.mean() >= 0.9
        assert found.mean() > expected.mean() - 0.01

    @staticmethod
    def evidence(module, x):
        normal = torch.distributions.MultivariateNormal(module.prior.mean, module.prior.covariance)

        def minus_log_joint(z):
            z = torch.as_tensor(z).requires_grad_()
            value = -module.log_likelihood(x[None])(z[None])[0] - normal.log_prob(z)
            return value.item(), torch.autograd.grad(value, z)[0].numpy()

        with torch.no_grad():
            start = module.encode(x[None])[0].numpy()
        mode = minimize(minus_log_joint, start, jac=True, options={"gtol": 1e-7})
        z = torch.as_tensor(mode.x)
        J = torch.autograd.functional.jacobian(lambda z: module.decode(z[None])[0], z)
        with torch.no_grad():
            information = module.likelihood.information(module.decode(z[None]))[0]
        H = torch.linalg.inv(module.prior.covariance) + J.mT @ (information[:, None] * J)
        return -mode.fun + np.log(2 * np.pi) - 0.5 * float(torch.logdet(H))

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "gelu"])
    def test_every_size_of_a_batch_gives_the_same_scores(self, digits, activation, dtype, monkeypatch):
        """With blocks of 128 samples and expansions of 64, which the batches fill, miss by one, or pass."""
        X = digits[0][:1000].astype(dtype)
        model = AutoencoderTransformer(3, activation=activation, init="random", max_epochs=3, random_state=0).fit(X)
        scores = model.score_samples(X)
        monkeypatch.setattr(objectives, "EXPANSION_ROWS", 64)
        monkeypatch.setattr(AutoencoderTransformer, "_N_SCORE_ROWS", 128)
        for size in (1, 2, 127, 128, 129, 1000):
            tolerance = TOLERANCE[dtype] * np.maximum(np.abs(scores[-size:]), X.shape[1])
            # Rounding in float32 may still turn the search to the other side of a kink, for one sample in a thousand.
            least = 0.99 if activation == "relu" and dtype is np.float32 else 1
            assert (np.abs(model.score_samples(X[-size:]) - scores[-size:]) <= tolerance).mean() >= least

    def test_a_sample_whose_steps_are_rounding_ends_the_search(self, digits, monkeypatch):
        """Gains that no longer fall are rounding: in float32 they may stay above any tolerance."""
        X = digits[0][:200].astype(np.float32)
        model = AutoencoderTransformer(2, max_epochs=5, random_state=0).fit(X)
        scores, sizes, expand = model.score_samples(X), [], objectives._expand
        monkeypatch.setattr(objectives, "GAIN_TOLERANCE", {torch.float32: 0.0})
        monkeypatch.setattr(objectives, "_expand", lambda *args: (sizes.append(len(args[2])), expand(*args))[1])
        # By float32 the place where the search ends moves ln det H.
        np.testing.assert_allclose(model.score_samples(X), scores, rtol=1e-4)
        assert sum(sizes) < 12 * len(X)


class TestDensityOfVagueCodes:
    """Samples that do not tell all latent dimensions: their moments would leave no variance at all."""

    @pytest.mark.parametrize(("nz", "likelihood"), [(5, "gaussian"), (8, "gaussian"), (5, "gaussian_diagonal")])
    def test_more_codes_than_features(self, nz, likelihood):
        X = load_iris().data
        model = AutoencoderTransformer(nz, likelihood=likelihood, random_state=0).fit(X[::2])
        assert model.score(X[1::2]) > PCAReducer(4).fit(X[::2]).score(X[1::2]) - 0.5

    @pytest.mark.slow
    def test_probabilities_near_zero_and_one(self):
        X = (load_digits().data > 7).astype(float)
        model = AutoencoderTransformer(8, likelihood="bernoulli", random_state=0).fit(X[:1200])
        p = (X[:1200].sum(axis=0) + 0.5) / 1201
        independent = (X[1200:] * np.log(p) + (1 - X[1200:]) * np.log1p(-p)).sum(axis=1).mean()
        assert model.score(X[1200:]) > independent + 3
        drawn = model.sample(500, random_state=0)
        assert np.abs(drawn.mean(axis=0) - X.mean(axis=0)).mean() < 0.1  # one image 500 times has 0.27

    def test_independent_bits(self):
        X = (np.random.default_rng(0).random((600, 4)) < 0.5).astype(float)
        model = AutoencoderTransformer(2, likelihood="bernoulli", random_state=0).fit(X[:300])
        assert model.score(X[300:]) == pytest.approx(-4 * np.log(2), abs=0.5)

    @pytest.mark.filterwarnings("ignore:AutoencoderTransformer ended its training")
    @pytest.mark.parametrize(("activation", "lr"), [("relu", 0.2), ("silu", 0.5), ("tanh", 1.0), ("silu", 10.0)])
    def test_more_codes_than_features_and_a_training_that_diverges(self, activation, lr):
        """It is scored or it fails, but not by an error of a factorization."""
        model = AutoencoderTransformer(5, activation=activation, lr=lr, max_epochs=8, random_state=0)
        with suppress(FloatingPointError):
            assert np.isfinite(model.fit(load_iris().data).score(load_iris().data))

    @pytest.mark.filterwarnings("ignore:AutoencoderTransformer ended its training")
    @pytest.mark.parametrize("lr", [0.2, 1.0])
    def test_codes_without_information_lose_to_the_linear_model(self, lr):
        X = load_iris().data
        with pytest.warns(ConvergenceWarning, match="is the linear model from which its training started"):
            model = AutoencoderTransformer(lr=lr, random_state=0).fit(X)
        assert model.score(X) == pytest.approx(PCAReducer(2).fit(X).score(X), abs=0.1)

    def test_codes_that_overflow_are_a_failed_training(self):
        model = AutoencoderTransformer(5, lr=0.5, max_epochs=8, random_state=0)
        with pytest.raises(FloatingPointError, match=r"Try a smaller lr \(now 0\.5\)"):
            model.fit(load_iris().data)
        assert not hasattr(model, "module_")

    def test_a_search_goes_on_after_such_a_training(self, monkeypatch):
        """One of the networks of a stack has codes that no covariance describes."""
        estimate = AutoencoderTransformer._density_of_complete

        def fails_for_one(self, *args):
            if self.random_state == 1:
                raise np.linalg.LinAlgError
            return estimate(self, *args)

        monkeypatch.setattr(AutoencoderTransformer, "_density_of_complete", fails_for_one)
        network = AutoencoderTransformer(max_epochs=2)
        search = FusedGridSearchCV(network, {"random_state": [0, 1]}, cv=2, error_score=-99.0, refit=False)
        with pytest.warns(FitFailedWarning, match="diverged"):
            search.fit(load_iris().data)
        kept, failed = search.cv_results_["mean_test_score"]
        assert failed == -99
        assert kept > -50


@pytest.mark.parametrize("network", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize(
    "change", [{"activation": "relu"}, {"likelihood": "poisson"}, {"output_activation": "sigmoid"}]
)
def test_weights_are_not_reused_for_another_function(network, change):
    X = np.random.default_rng(0).integers(0, 2, (60, 4)).astype(float)
    model = network(2, max_epochs=1, warm_start=True, random_state=0).fit(X)
    before = model.score(X)
    model.set_params(**change)
    (name,) = change
    for method in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=f"Cannot reuse the previous weights: {name}="):
            method(X)
    assert model.set_params(**{name: network().get_params()[name]}).score(X) == before
