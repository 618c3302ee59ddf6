from itertools import pairwise

import numpy as np
import pytest
import torch

from sklatent import VAETransformer


@pytest.fixture
def X(rng):
    return rng.standard_normal((80, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((80, 6)) - 4


def mean_kl(model):
    return model.history_[-1, "train_kl"]


def test_beta_changes_the_fit(X):
    light, heavy = (VAETransformer(2, beta=beta, random_state=0).fit(X) for beta in (0.1, 10))
    assert mean_kl(heavy) < mean_kl(light)
    assert np.abs(heavy.transform(X)).max() < np.abs(light.transform(X)).max()


def test_beta_weighs_the_loss_and_not_the_score(X):
    model = VAETransformer(2, beta=3.0, max_epochs=4, random_state=0).fit(X)
    last = model.history_[-1]
    assert last["train_loss"] == pytest.approx(last["train_reconstruction"] + 3 * last["train_kl"], rel=1e-5)
    score = model.score(X)
    model.module_.beta = 100.0
    assert model.score(X) == score


def test_transform_is_the_posterior_mean(X):
    model = VAETransformer(2, max_epochs=2, random_state=0).fit(X)
    with torch.no_grad():
        mu, log_var = model.module_.posterior(torch.as_tensor(X))
    np.testing.assert_allclose(model.transform(X), mu, rtol=1e-4, atol=1e-5)
    assert log_var.shape == (80, 2)


def test_more_draws_tighten_the_bound(X):
    model = VAETransformer(2, n_draws=1, random_state=0).fit(X)
    bounds = [model.set_params(n_draws=n_draws).score_samples(X) for n_draws in (1, 10, 100)]
    for fewer, more in pairwise(bounds):
        gain = more - fewer
        assert gain.mean() > -5 * gain.std() / np.sqrt(len(X))
    assert bounds[2].mean() > bounds[0].mean()


def test_draws_depend_on_values_and_on_nothing_else(X):
    model = VAETransformer(2, n_draws=4, max_epochs=1, random_state=0).fit(X)
    draws = model._draws(X)
    assert draws.shape == (4, 80, 2)
    np.testing.assert_array_equal(model._draws(X[[5, 3]]), draws[:, [5, 3]])
    np.testing.assert_array_equal(
        model._draws(np.float32(X)), model._draws(np.float64(np.float32(X))).astype(np.float32)
    )
    zero = np.zeros((1, 6))
    np.testing.assert_array_equal(model._draws(-zero), model._draws(zero))
    other = VAETransformer(2, n_draws=4, max_epochs=1, random_state=1).fit(X)._draws(X)
    assert not np.isclose(other, draws).any()


def test_draws_are_standard_normal_and_independent_between_rows(rng):
    X = rng.standard_normal((5000, 3))
    draws = VAETransformer(2, n_draws=2, max_epochs=1, random_state=0).fit(X)._draws(X)
    flat = draws.transpose(1, 0, 2).reshape(5000, 4)
    assert np.abs(flat.mean(axis=0)).max() < 5 / np.sqrt(5000)
    assert np.abs(np.cov(flat, rowvar=False) - np.eye(4)).max() < 5 * np.sqrt(2 / 5000)
    neighbours = (flat[1:] * flat[:-1]).mean(axis=0)
    assert np.abs(neighbours).max() < 5 / np.sqrt(5000)


def test_samples_decode_draws_from_the_prior(X):
    model = VAETransformer(2, max_epochs=2, random_state=0).fit(X)
    rows = model.sample(1000, mean=True, random_state=7)
    assert rows.shape == (1000, 6)
    # Codes of a compact prior: decoding standard normal codes gives the same distribution of rows.
    Z = np.random.default_rng(1).standard_normal((20_000, 2))
    decoded = model.inverse_transform(Z)
    error = decoded.std(axis=0) / np.sqrt(1000)
    assert (np.abs(rows.mean(axis=0) - decoded.mean(axis=0)) < 5 * error).all()


def test_a_linear_vae_stays_below_the_probabilistic_pca_optimum(rng):
    """Lucas et al. (2019): its optimum is that of probabilistic PCA, so the bound cannot pass the exact score."""
    from sklatent import PCAReducer

    X = rng.standard_normal((1000, 5)) * [3, 2, 0.5, 0.5, 0.5]
    model = VAETransformer(2, hidden_sizes=(), max_epochs=60, batch_size=100, lr=0.02, n_draws=100, random_state=0)
    score, optimum = model.fit(X).score(X), PCAReducer(2).fit(X).score(X)
    assert optimum - 0.05 < score < optimum + 1e-3
    assert model.noise_variance_ == pytest.approx(0.25, rel=0.1)
