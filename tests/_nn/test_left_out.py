"""The linear model that a network starts from, and which of both is kept."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, ttest_1samp
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._nn.left_out import Baseline
from sklatent._ppca.factors import factor_analysis
from sklatent.model_selection import FusedGridSearchCV

N_FACTORS = 3
NARROW = {"hidden_sizes": (64,), "random_state": 0}  # wide enough to learn 80 samples by heart


def factor_samples(n_samples, n_features, seed=0):
    """A few factors, and noise of variance 1."""
    rng = np.random.default_rng(seed)
    loadings = rng.standard_normal((N_FACTORS, n_features)) * [[3], [2], [1]]
    return rng.standard_normal((n_samples, N_FACTORS)) @ loadings + rng.standard_normal((n_samples, n_features)) + 5


@pytest.fixture(scope="module")
def wide():
    """Samples to fit and to test, with as many features as samples."""
    X = factor_samples(160, 80)
    return X[::2], X[1::2]


def baseline_of(model, X):
    return model._prepare(X).baseline


def covariance_of(loadings, baseline):
    """Covariance in the units of X, from loadings in standardized units and the noise variance of the start."""
    standardizer, noise = baseline.module.standardizer, np.asarray(baseline.module.likelihood.noise_variance)
    scale = standardizer.scale.numpy() * np.ones(len(loadings))
    return scale[:, None] * (loadings @ loadings.T) * scale + noise * np.eye(len(loadings))


def training_samples(model, X):
    training = model._prepare(X)
    return training.module.standardizer(training.train.X).double().numpy()


@pytest.mark.parametrize("missing", [False, True])
def test_its_densities_are_those_of_probabilistic_pca(missing):
    X = factor_samples(200, 8)
    if missing:
        X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    model = VAETransformer(N_FACTORS, random_state=0)
    baseline = baseline_of(model, X)
    pca = PCAReducer(N_FACTORS).fit(training_samples(model, X))
    loadings = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    covariance, mean = covariance_of(loadings, baseline), baseline.module.standardizer.loc.numpy()
    assert len(baseline.X) == 20
    assert np.isnan(baseline.X).any() == missing
    for x, found in zip(baseline.X, baseline.log_density, strict=True):
        seen = ~np.isnan(x)
        expected = multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(x[seen])
        assert found == pytest.approx(expected, abs=0.1 if missing else 1e-3)  # EM stops early for a start


def test_with_a_variance_for_each_feature_they_are_those_of_factor_analysis(network):
    X = factor_samples(200, 8) * np.arange(1, 9)
    model = network(N_FACTORS, likelihood="gaussian_diagonal", random_state=0)
    baseline = baseline_of(model, X)
    loadings, _ = factor_analysis(training_samples(model, X), N_FACTORS)
    expected = multivariate_normal(baseline.module.standardizer.loc.numpy(), covariance_of(loadings, baseline))
    np.testing.assert_allclose(baseline.log_density, expected.logpdf(baseline.X), atol=1e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
@pytest.mark.parametrize("n_features", [8, 120])
def test_its_noise_variance_is_that_of_the_samples(likelihood, n_features):
    model = VAETransformer(N_FACTORS, likelihood=likelihood, random_state=0)
    baseline = baseline_of(model, factor_samples(60 if n_features > 8 else 1000, n_features))
    assert np.mean(baseline.module.likelihood.noise_variance) == pytest.approx(1, abs=0.2)


def test_the_network_before_training_has_its_log_likelihoods(network, wide):
    model = network(N_FACTORS, **NARROW)
    training = model._prepare(wide[0])
    baseline = training.baseline
    start = model._learned(baseline.module, [], training, wide[0]).module
    scores = model._log_likelihood(start, baseline.X, seed=0)
    np.testing.assert_allclose(scores, baseline.log_density, atol=1)  # of 130; an autoencoder estimates a noise anew


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.6])
@pytest.mark.parametrize("weight", [None, 3.0])
def test_it_is_better_by_a_t_test(shift, weight, rng):
    scores, log_density = rng.standard_normal(12), shift + rng.standard_normal(12)
    expected = ttest_1samp(log_density - scores, 0, alternative="greater").pvalue < 0.1
    weights = None if weight is None else np.full(12, weight)
    assert Baseline(None, None, log_density, weights).beats(scores) == expected


def test_weights_choose_the_samples_of_the_t_test(rng):
    log_density, scores = rng.standard_normal(30) + 0.5, rng.standard_normal(30)
    for chosen in np.arange(30) < 10, np.arange(30) >= 10:
        part = Baseline(None, None, log_density[chosen], None).beats(scores[chosen])
        assert Baseline(None, None, log_density, chosen.astype(float)).beats(scores) == part


@pytest.mark.parametrize(("scores", "expected"), [([0.0], False), ([-np.inf, 9.0], True), ([1.0, 1.0], False)])
def test_one_sample_an_infinite_score_and_equal_ones(scores, expected):
    assert Baseline(None, None, np.ones(len(scores)), None).beats(np.array(scores)) is expected


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"likelihood": "gaussian_diagonal"}])
def test_a_network_that_overfits_is_given_up_for_its_start(network, wide, params, monkeypatch):
    train, test = wide
    model = network(N_FACTORS, **NARROW, **params)
    with pytest.warns(ConvergenceWarning, match=f"{network.__name__} is the linear model from which its training"):
        model.fit(train)
    start = network(N_FACTORS, **NARROW, **params | {"max_epochs": 1, "lr": 1e-30}).fit(train)
    assert not model.improved_
    assert model.score(test) == pytest.approx(start.score(test), abs=0.2)
    assert model.n_iter_ == len(model.history_) > start.n_iter_
    linear = PCAReducer(N_FACTORS).fit(train).transform(test)
    for k in range(N_FACTORS):  # the latent codes are those that belong to the weights
        assert abs(np.corrcoef(model.transform(test)[:, k], linear[:, k])[0, 1]) > 0.9
    monkeypatch.setattr(Baseline, "beats", lambda self, scores: False)
    trained = network(N_FACTORS, **NARROW, **params).fit(train)
    assert trained.improved_
    assert trained.score(test) < model.score(test) - 0.2


def test_without_a_linear_start_there_is_nothing_to_compare(network, wide):
    train, _ = wide
    X = (train - train.min()) / np.ptp(train)
    others = [
        {"init": "random"},
        {"output_activation": "sigmoid"},
        {"likelihood": "bernoulli"},
        {"hidden_sizes": ()},
        {"backbone": "conv", "image_shape": (1, 8, 10)},
    ]
    for params in others:
        assert baseline_of(network(N_FACTORS, random_state=0, **params), X) is None
    assert network(N_FACTORS, **NARROW).partial_fit(train).improved_


@pytest.mark.slow
def test_digits_improve_on_it(network, digits):
    X, _ = digits
    assert network(8, random_state=0, max_epochs=20).fit(X[::2]).improved_


@pytest.mark.slow
def test_layers_too_narrow_for_the_linear_model(network, wide):
    """The network before training carries a part of it only, so that is what has to be better."""
    train, test = wide
    params = {"hidden_sizes": (2,), "random_state": 0}
    model = network(N_FACTORS, **params).fit(train)
    start = network(N_FACTORS, max_epochs=1, lr=1e-30, **params).fit(train)
    assert model.score(test) > start.score(test) - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "weighted", "float32"])
def test_incomplete_weighted_and_float32_samples(network, wide, kind, rng):
    train, test = wide
    X = np.where(rng.random(train.shape) < 0.05, np.nan, train) if kind == "missing" else train
    weights = rng.integers(0, 3, len(X)) if kind == "weighted" else None
    model = network(N_FACTORS, **NARROW).fit(X.astype(np.float32 if kind == "float32" else float), None, weights)
    assert not model.improved_
    assert model.score(test) > PCAReducer(N_FACTORS).fit(train).score(test) - 3


@pytest.mark.slow
def test_a_checkpoint_leads_to_the_same_start(network, wide, tmp_path):
    model = network(N_FACTORS, **NARROW)
    expected = model.fit(wide[0]).score(wide[1])
    model.set_params(checkpoint=tmp_path / "state").fit(wide[0])
    assert (tmp_path / "state").exists()
    assert model.fit(wide[0]).score(wide[1]) == expected
    assert not model.improved_


@pytest.mark.slow
def test_a_warm_start_is_compared_with_the_linear_model_as_well(network, wide):
    model = network(N_FACTORS, warm_start=True, **NARROW).fit(wide[0])
    first = model.score(wide[1])
    assert not model.fit(wide[0]).improved_
    assert model.score(wide[1]) == pytest.approx(first, abs=0.1)


@pytest.mark.slow
def test_a_stack_gives_up_the_same_networks(network, wide):
    grid = {"nz": [1, N_FACTORS]}
    stacked, single = (
        search(network(**NARROW), grid, cv=2, refit=False).fit(np.concatenate(wide))
        for search in (FusedGridSearchCV, GridSearchCV)
    )
    assert set(stacked.cv_results_["route"]) == {"stacked"}
    expected = single.cv_results_["mean_test_score"]
    np.testing.assert_allclose(stacked.cv_results_["mean_test_score"], expected, rtol=1e-5)
    assert not single.estimator.set_params(nz=N_FACTORS).fit(wide[0]).improved_


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "name", "values"),
    [(AutoencoderTransformer, "density", ("laplace", "residual")), (VAETransformer, "n_draws", (1, 50))],
)
def test_it_does_not_depend_on_how_samples_are_scored(network, name, values, wide):
    one, other = (network(N_FACTORS, **NARROW, **{name: value}).fit(wide[0]) for value in values)
    assert not one.improved_
    np.testing.assert_array_equal(one.transform(wide[1]), other.transform(wide[1]))
