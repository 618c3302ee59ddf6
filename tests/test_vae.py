from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import make_circles
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import minmax_scale
from torch import distributions

from sklatent import PCAReducer, VAETransformer
from sklatent._base import spawn_seeds
from sklatent._nn.inference import infer
from sklatent._nn.modules import Noise
from sklatent._vae import _squared_errors


@pytest.fixture
def X(rng):
    return rng.standard_normal((80, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((80, 6)) - 4


def mean_kl(model):
    return model.history_[-1]["train_kl"]


@pytest.mark.slow
def test_beta_changes_the_fit(X):
    light, heavy = (VAETransformer(2, beta=beta, random_state=0).fit(X) for beta in (0.1, 10))
    assert mean_kl(heavy) < mean_kl(light)
    assert np.abs(heavy.transform(X)).max() < np.abs(light.transform(X)).max()


def test_beta_weighs_the_loss_and_not_the_score(X):
    model = VAETransformer(2, beta=3.0, max_epochs=4, random_state=0).fit(X)
    last = model.history_[-1]
    assert last["train_loss"] == pytest.approx(last["train_reconstruction"] + 3 * last["train_kl"], rel=1e-6)
    X = X.astype(np.float32)  # scored by the module itself, and not by its float64 twin
    score = model.score(X)
    model.module_.beta = 100.0
    assert model.score(X) == score


def test_transform_is_the_posterior_mean(X):
    model = VAETransformer(2, max_epochs=2, random_state=0).fit(X)
    with torch.no_grad():
        q = model.module_.posterior(torch.as_tensor(X))
    # The module is float32, and `transform` computes in the float64 of X.
    np.testing.assert_allclose(model.transform(X), q.mu, rtol=1e-5, atol=1e-6)
    assert q.log_var.shape == (80, 2)


@pytest.mark.slow
def test_more_draws_tighten_the_bound(X):
    model = VAETransformer(2, n_draws=1, init="random", random_state=0).fit(X)  # of a linear model one draw is exact
    X = model.sample(2000, random_state=0)
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
    single = X.astype(np.float32)
    np.testing.assert_array_equal(model._draws(single), model._draws(single.astype(np.float64)).astype(np.float32))
    zero = model.module_.standardizer.loc.numpy()[None]
    np.testing.assert_array_equal(model._draws(zero - 1e-300), model._draws(zero))
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


@pytest.mark.slow
def test_independent_draws_steady_the_mean_score(digits, monkeypatch):
    """Over the draws, the mean score spreads at least ten times less than with draws shared by all rows."""
    X, _ = digits
    model = VAETransformer(2, n_draws=8, max_epochs=20, random_state=0).fit(X)
    tied, shared = [], []
    for seed in range(20):
        model._draw_seed = seed
        tied.append(model.score(X))
        eps = np.random.default_rng(seed).standard_normal((8, 1, 2))
        monkeypatch.setattr(model, "_draws", lambda X, eps=eps: np.repeat(eps, len(X), axis=1))
        shared.append(model.score(X))
        monkeypatch.undo()
    assert np.std(shared) > 10 * np.std(tied)


def test_samples_decode_draws_from_the_prior(X):
    model = VAETransformer(2, max_epochs=2, random_state=0).fit(X)
    rows = model.sample(1000, mean=True, random_state=7)
    assert rows.shape == (1000, 6)
    # Codes of a compact prior: decoding standard normal codes gives the same distribution of rows.
    Z = np.random.default_rng(1).standard_normal((20_000, 2))
    decoded = model.inverse_transform(Z)
    error = decoded.std(axis=0) / np.sqrt(1000)
    assert (np.abs(rows.mean(axis=0) - decoded.mean(axis=0)) < 5 * error).all()


@pytest.mark.slow
def test_a_linear_vae_stays_below_the_probabilistic_pca_optimum(rng):
    """Lucas et al. (2019): its optimum is that of probabilistic PCA, so the bound cannot pass the exact score."""
    X = rng.standard_normal((1000, 5)) * [3, 2, 0.5, 0.5, 0.5]
    linear = {"hidden_sizes": (), "kl_warmup": 0, "max_epochs": 100, "batch_size": 100, "lr": 0.02}
    model = VAETransformer(2, n_draws=100, random_state=0, **linear)
    score, optimum = model.fit(X).score(X), PCAReducer(2).fit(X).score(X)
    assert optimum - 0.01 < score < optimum + 1e-3
    # Four standard errors of a variance, of 1000 samples in 3 directions.
    assert model.noise_variance_ == pytest.approx(0.25, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_every_prior_and_posterior_is_a_model(X, prior, posterior):
    params = {"prior": prior, "posterior": posterior, "n_prior_components": 3, "kl_warmup": 0}
    model = VAETransformer(2, random_state=0, **params).fit(X)
    first = model.history_[0]["train_loss"]
    assert model.loss_curve_[-1] < first + 0.5  # the noise variance of eight samples left out may raise it
    assert np.isfinite(model.score_samples(X)).all()
    assert model.kl_per_dimension_.shape == (2,)
    n = 4000
    rows = model.sample(n, random_state=0)
    # The rows are drawn from the density that is scored, so they score as the training rows do, or nearly.
    assert abs(model.score(rows) - model.score(X)) < 1.5
    # In standard deviations: three components of equal weight, at 80 samples, are not held to their mean.
    distance = np.abs(rows.mean(axis=0) - X.mean(axis=0)) / X.std(axis=0)
    assert distance.max() < (0.5 if prior == "vamp" else 0.15)


@pytest.mark.slow
def test_a_learned_prior_follows_clusters(rng):
    """Two far clusters: one normal prior cannot hold their codes, two components can."""
    X = np.concatenate([rng.standard_normal((300, 4)) - 6, rng.standard_normal((300, 4)) + 6])
    standard, mixture, vamp = (
        VAETransformer(1, prior=prior, n_prior_components=2, random_state=0).fit(X).score(X)
        for prior in ("standard_normal", "mixture", "vamp")
    )
    assert mixture > standard
    assert vamp > standard - 0.2


@pytest.mark.slow
def test_pseudo_inputs_start_at_rows_and_move(X):
    model = VAETransformer(2, prior="vamp", n_prior_components=5, max_epochs=1, lr=1e-12, random_state=0).fit(X)
    seen = model.module_.standardizer(torch.as_tensor(X)).detach().numpy()
    gaps = np.abs(model.module_.prior.pseudo_inputs.detach().numpy()[:, None] - seen).max(axis=2).min(axis=1)
    np.testing.assert_allclose(gaps, 0, atol=1e-6)
    moved = VAETransformer(2, prior="vamp", n_prior_components=5, random_state=0).fit(X).module_.prior.pseudo_inputs
    difference = moved.detach().numpy() - model.module_.prior.pseudo_inputs.detach().numpy()
    assert np.abs(difference).max() > 0.1


def test_kl_warmup_ends_before_training_does(X):
    """At the full weight the loss is the sum of its parts; in the first epoch it is less."""
    model = VAETransformer(2, kl_warmup=0.5, beta=2.0, init="random", max_epochs=20, random_state=0).fit(X)
    gaps = [row["train_reconstruction"] + 2 * row["train_kl"] - row["train_loss"] for row in model.history_]
    assert gaps[0] > 0
    np.testing.assert_allclose(gaps[11:], 0, atol=1e-5)  # float32 losses of about 10
    plain = VAETransformer(2, kl_warmup=0, beta=2.0, init="random", max_epochs=20, random_state=0).fit(X)
    assert not np.allclose(plain.transform(X), model.transform(X))


@pytest.mark.slow
def test_the_default_warmup_keeps_the_code_of_a_ring_from_collapsing():
    """A collapsed posterior leaves one normal density for all rows, which is what probabilistic PCA is on a ring."""
    X = make_circles(1000, noise=0.05, factor=0.99, random_state=0)[0]
    model = VAETransformer(1, random_state=0).fit(X)
    assert model.active_units_.all()
    assert model.score(X) > PCAReducer(1).fit(X).score(X) + 0.3


@pytest.mark.parametrize("kl_warmup", [0.0, 0.5, 1.0])
def test_early_stopping_compares_every_epoch_of_a_warmup(X, kl_warmup):
    """The validation loss has the full weight of the KL divergence from the first epoch on."""
    X = minmax_scale(X).clip(max=1.0)  # without a noise variance, which is set again after the validation
    params = {"likelihood": "bernoulli"}
    params |= {"lr": 0.02, "max_epochs": 200, "batch_size": 32, "random_state": 0}
    model = VAETransformer(2, kl_warmup=kl_warmup, early_stopping=True, n_iter_no_change=3, **params).fit(X)
    losses = np.array([epoch["valid_loss"] for epoch in model.history_])
    best = int(np.argmin(losses))
    assert len(losses) <= best + 1 + 4 < 200  # an epoch that is better by less than `tol` does not count
    split = train_test_split(X, test_size=0.1, random_state=_seed_of_the_split(model))[1]
    assert _validation_loss(model, split) == pytest.approx(losses[best], rel=1e-6)


def _seed_of_the_split(model):
    return spawn_seeds(model.random_state, 5)[4]


def _validation_loss(model, X):
    """With the noise of validation, by the published weights."""
    eps = torch.randn(len(X), 2, generator=torch.Generator().manual_seed(spawn_seeds(model.random_state, 4)[3]))
    with torch.no_grad():
        return float(model.module_.loss(model.module_(torch.as_tensor(X), Noise(eps, eps[:, :0]))))


def test_early_stopping_without_a_better_epoch_ends_in_the_warmup(X):
    model = VAETransformer(2, early_stopping=True, n_iter_no_change=1, tol=1e3, max_epochs=8, random_state=0).fit(X)
    assert model.n_iter_ == 2


def test_validation_loss_has_the_full_weight_during_a_warmup(X):
    model = VAETransformer(2, kl_warmup=1.0, early_stopping=True, max_epochs=3, random_state=0).fit(X)
    for row in model.history_:
        assert row["valid_loss"] == pytest.approx(row["valid_reconstruction"] + row["valid_kl"], rel=1e-6)


def test_kl_per_dimension_adds_up_to_the_kl(X):
    model = VAETransformer(3, random_state=0).fit(X)
    with torch.no_grad():
        kl = model.module_.posterior(torch.as_tensor(X)).kl_standard_normal().mean()
    assert model.kl_per_dimension_.sum() == pytest.approx(kl.item(), rel=1e-6)


@pytest.mark.slow
def test_unused_codes_are_told_from_used_ones(rng):
    """One factor and three codes: at beta = 2 the others, whose variance is that of the noise, do not pay."""
    X = rng.standard_normal((500, 1)) @ np.full((1, 6), 3.0) + rng.standard_normal((500, 6))
    model = VAETransformer(3, beta=2.0, hidden_sizes=(), lr=0.02, max_epochs=60, random_state=0).fit(X)
    assert model.active_units_.sum() == 1
    np.testing.assert_array_equal(model.active_units_, model.transform(X).var(axis=0) > 0.01)
    np.testing.assert_array_equal(model.active_units_, model.kl_per_dimension_ > 0.1)


def test_a_collapsed_posterior_warns_and_says_what_to_do(X):
    model = VAETransformer(2, beta=1000.0, random_state=0)
    with pytest.warns(
        ConvergenceWarning, match=r"Posterior collapse in VAETransformer: .* smaller beta \(now 1000.0\)"
    ):
        model.fit(X)
    assert not model.active_units_.any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "masking"])
def test_noise_corrupts_the_input_and_not_the_target(X, kind):
    """With all of the input gone, nothing is left to code, and the best copy is the mean."""
    amount = 100.0 if kind == "gaussian" else 0.999
    model = VAETransformer(2, noise=amount, noise_kind=kind, beta=0.0, max_epochs=30, random_state=0).fit(X)
    clean = VAETransformer(2, beta=0.0, max_epochs=30, random_state=0).fit(X)
    assert model.history_[-1]["train_reconstruction"] > clean.history_[-1]["train_reconstruction"] + 1
    X = X.astype(np.float32)  # encoded by the module itself, and not by its float64 twin
    codes, scores = model.transform(X), model.score_samples(X)
    model.module_.corrupt = None
    np.testing.assert_array_equal(model.transform(X), codes)
    np.testing.assert_array_equal(model.score_samples(X), scores)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal", "poisson"])
def test_a_sample_of_any_size_has_a_bound_and_leaves_those_beside_it_alone(digits, likelihood, prior, posterior, dtype):
    X = np.round(digits[0][:200] * 16).astype(dtype)
    params = {"likelihood": likelihood, "prior": prior, "posterior": posterior, "n_draws": 4, "max_epochs": 2}
    model = VAETransformer(2, random_state=0, **params).fit(X)
    alone, largest = model.score_samples(X[:5]), np.finfo(dtype).max / 16
    for factor in (3000, 1e30, largest):
        extreme = np.concatenate([X[:2], X[2:3] * dtype(factor), np.full((1, 64), largest, dtype), X[3:5]])
        scores = model.score_samples(extreme)
        # Matrix products round by the number of samples that come together.
        rtol = 1e-5 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(scores[[0, 1, 4, 5]], alone[[0, 1, 3, 4]], rtol=rtol)
        assert not np.isnan(scores).any()
        assert (scores < np.inf).all()


# The importance-weighted objective


def test_history_with_importance_samples_adds_up_to_the_bound(X):
    model = VAETransformer(2, n_train_draws=5, kl_warmup=0.5, max_epochs=4, random_state=0).fit(X)
    last = model.history_[-1]
    assert last["train_loss"] == pytest.approx(last["train_reconstruction"] + last["train_kl"], rel=1e-6)
    for row in model.history_:
        assert row["train_kl"] > 0


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
def test_linear_vae_with_importance_samples_reaches_the_evidence(X, likelihood):
    """The posterior of a linear model is one that q can take, so every bound has the same maximum: the evidence."""
    params = {"hidden_sizes": (), "lr": 0.02, "max_epochs": 60, "batch_size": 80, "random_state": 0}
    model, elbo = (VAETransformer(2, likelihood=likelihood, n_train_draws=k, **params).fit(X) for k in (8, 1))
    expected = PCAReducer(2).fit(X).score(X) if likelihood == "gaussian" else elbo.score(X)
    assert model.score(X) == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_importance_samples_with_every_prior_and_posterior(X, prior, posterior):
    params = {
        "prior": prior,
        "posterior": posterior,
        "noise": 0.1,
        "init": "random",
        "max_epochs": 3,
        "random_state": 0,
    }
    one, several = (VAETransformer(2, n_train_draws=k, **params).fit(X) for k in (1, 4))
    assert np.isfinite(several.score(X))
    assert several.score(X) != one.score(X)


@pytest.mark.parametrize("likelihood", ["gaussian_diagonal", "bernoulli"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_objective_of_incomplete_samples_equals_torch_distributions(X, likelihood, is_weighted):
    """MIWAE (Mattei & Frellsen 2019), sample by sample from the densities of the observed values, and its gradient."""
    n_samples, n_draws, rng = 12, 3, np.random.default_rng(0)
    X = minmax_scale(X[:n_samples]).clip(0, 1) if likelihood == "bernoulli" else X[:n_samples]
    X = np.where(rng.random(X.shape) < 0.4, np.nan, X)
    X[0] = np.nan  # nothing is known of it
    weights = rng.integers(1, 4, n_samples).astype(float) if is_weighted else None
    params = {"likelihood": likelihood, "hidden_sizes": (4,), "noise": 0.0, "init": "random", "random_state": 0}
    module = VAETransformer(2, n_train_draws=n_draws, **params)._prepare(X, weights=weights).module.double()
    eps, x = torch.from_numpy(rng.standard_normal((n_samples, 2, n_draws))), torch.from_numpy(X)
    relative = torch.ones(n_samples) if weights is None else torch.from_numpy(weights / weights.mean())
    noise = Noise(eps.flatten(1), torch.empty(0))
    found = module.loss(module(x, noise), 1.0, None if weights is None else relative)

    h, missing = (x - module.standardizer.loc) / module.standardizer.scale, x.isnan()
    mu, log_var = module.encoder(torch.cat([h.nan_to_num(0.0), missing.double()], dim=1)).chunk(2, dim=1)
    q, prior = distributions.Normal(mu, (log_var / 2).exp()), distributions.Normal(0.0, 1.0)
    log_weights = []
    for k in range(n_draws):
        z = mu + (log_var / 2).exp() * eps[:, :, k]
        eta = module.decoder(z)
        if likelihood == "bernoulli":
            log_probs = x.nan_to_num(0.0) * eta - torch.nn.functional.softplus(eta)
        else:
            scale = torch.from_numpy(module.likelihood.noise_variance).sqrt()
            density = distributions.Normal(module.standardizer.loc + module.standardizer.scale * eta, scale)
            log_probs = density.log_prob(x.nan_to_num(0.0))
        observed = torch.stack([values[~gaps].sum() for values, gaps in zip(log_probs, missing, strict=True)])
        log_weights.append(observed + (prior.log_prob(z) - q.log_prob(z)).sum(1))
    expected = -(relative * torch.stack(log_weights).exp().mean(0).log()).mean()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    parameters = [*module.encoder.parameters(), *module.decoder.parameters()]
    gradients = (torch.autograd.grad(loss, parameters) for loss in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def test_errors_at_importance_samples_that_overflow(X):
    """One that overflows does not count; where all do they count equally. Errors of missing values are NaN."""
    incomplete = np.where(np.random.default_rng(0).random(X.shape) < 0.3, np.nan, X)
    model = VAETransformer(2, likelihood="gaussian_diagonal", n_train_draws=3, max_epochs=2, random_state=0)
    module, few = model.fit(incomplete).module_, incomplete[:20]
    eps = np.random.default_rng(1).standard_normal((20, 3, 2))
    eps[:, 2] = 1e200
    found, expected = (infer(module, _squared_errors, few, numbers) for numbers in (eps, eps[:, :2]))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(few))
    eps[:] = 1e200
    with torch.no_grad():  # a decoder that does not see z, so that the errors themselves are finite
        for parameter in module.decoder.parameters():
            parameter.zero_()
    found = infer(module, _squared_errors, few, eps)
    constant = infer(module, lambda module, z: module.likelihood.mean(module.decode(z)), np.zeros((20, 2)))
    np.testing.assert_allclose(found, (few - constant) ** 2, rtol=1e-9)


def test_importance_samples_need_the_whole_kl_divergence(X):
    message = "n_train_draws=2 is only supported with beta=1, got beta=0.5"
    model = VAETransformer(2, n_train_draws=2, beta=0.5)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "module_")


@pytest.mark.slow
def test_importance_samples_in_training_raise_the_held_out_bound(digits):
    """Binary pixels, whose posterior is not normal. The same steps, and the same random numbers for the scores."""
    X = (np.random.default_rng(0).uniform(size=digits[0].shape) < digits[0]).astype(np.float32)
    train, test = train_test_split(X, random_state=0)
    params = {"likelihood": "bernoulli", "hidden_sizes": (64,), "max_epochs": 30, "n_draws": 500, "random_state": 0}
    scores = [VAETransformer(8, n_train_draws=k, **params).fit(train).score(test) for k in (1, 10)]
    assert scores[1] > scores[0]
