"""Rate and distortion against closed forms, torch.distributions and Monte Carlo integration."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from sklatent import AutoencoderTransformer, LatentOutlierDetector, PCAReducer, VAETransformer
from sklatent._ppca.missing_values import FactorModel
from sklatent.metrics import (
    active_units_scorer,
    distortion_scorer,
    log_likelihood_samples,
    rate_distortion,
    rate_scorer,
)
from sklatent.model_selection import FusedGridSearchCV

SCORERS = {"rate": rate_scorer, "distortion": distortion_scorer, "active": active_units_scorer}


def samples(n=300, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)) @ rng.standard_normal((2, d)) + 0.3 * rng.standard_normal((n, d)) + 1


@pytest.mark.parametrize("nz", [1, 2, 4, 6])
def test_pca_has_the_rate_and_distortion_of_its_exact_posterior(nz):
    X, new = samples(), samples(40, seed=1)
    pca = PCAReducer(nz).fit(X)
    noise = pca.noise_variance_ or pca.explained_variance_[-1]
    loadings = pca.components_.T * np.sqrt(pca.explained_variance_ - noise)
    precision = np.eye(nz) + loadings.T @ loadings / noise
    means = np.linalg.solve(precision, loadings.T @ (new - pca.mean_).T / noise).T
    q = MultivariateNormal(torch.as_tensor(means), precision_matrix=torch.as_tensor(precision))
    p = MultivariateNormal(torch.zeros(nz).double(), torch.eye(nz).double())
    errors = ((new - pca.mean_ - means @ loadings.T) ** 2).sum(axis=1)
    errors = errors + np.trace(loadings @ np.linalg.inv(precision) @ loadings.T)  # expected over q
    rate, distortion = rate_distortion(pca, new)
    assert rate == pytest.approx(kl_divergence(q, p).mean().item(), rel=1e-9)
    assert distortion == pytest.approx(errors.mean() / (2 * noise) + 3 * np.log(2 * np.pi * noise), rel=1e-9)
    assert rate + distortion == pytest.approx(-pca.score(new), rel=1e-12)


def test_rate_of_pca_on_its_training_samples_is_that_of_reverse_water_filling():
    X = samples()
    pca = PCAReducer(2).fit(X)
    posterior = pca.noise_variance_ / pca.explained_variance_
    # The variance of the posterior means has the divisor n, where that of the model has n - 1.
    correction = ((1 - posterior) / len(X)).sum() / 2
    assert rate_distortion(pca, X)[0] == pytest.approx(-np.log(posterior).sum() / 2 - correction, rel=1e-10)


def test_pca_takes_missing_values():
    X = samples()
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    pca = PCAReducer(2).fit(X)
    rate, distortion = rate_distortion(pca, X)
    assert rate + distortion == pytest.approx(-pca.score(X), rel=1e-9)
    assert 0 < rate < rate_distortion(pca, samples())[0]
    nothing = np.full((1, 6), np.nan)
    assert rate_distortion(pca, nothing) == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("density", ["laplace", "residual"])
def test_linear_autoencoder_has_the_exact_posterior(density):
    X = samples()
    model = AutoencoderTransformer(2, hidden_sizes=(), density=density, max_epochs=5, random_state=0).fit(X)
    origin, *ends = model.inverse_transform(np.vstack([model.latent_mean_, model.latent_mean_ + np.eye(2)]))
    loadings = (np.array(ends) - origin).T @ np.linalg.cholesky(model.latent_covariance_)
    exact = FactorModel(origin, loadings, float(model.noise_variance_))
    rate, distortion = rate_distortion(model, X)
    assert rate == pytest.approx(exact.kl(X).mean(), rel=1e-6)
    assert distortion == pytest.approx(-exact.log_density(X).mean() - rate, rel=1e-6)
    assert active_units_scorer(model, X) == (exact.encode(X).var(axis=0) > 0.01).sum()
    if density == "laplace":
        assert rate + distortion == pytest.approx(-model.score(X), rel=1e-9)


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal", "bernoulli"])
def test_terms_of_a_curved_autoencoder_add_up_to_its_score(likelihood):
    X = samples() if likelihood != "bernoulli" else (samples() > 1).astype(float)
    model = AutoencoderTransformer(2, likelihood=likelihood, max_epochs=3, random_state=0).fit(X)
    rate, distortion = rate_distortion(model, X)
    assert rate > 0
    assert rate + distortion == pytest.approx(-model.score(X), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_vae_has_the_terms_of_its_bound(prior, posterior):
    X = samples()
    vae = VAETransformer(2, prior=prior, posterior=posterior, n_draws=500, max_epochs=3, random_state=0).fit(X)
    new = X[:40]
    rate, distortion = rate_distortion(vae, new)
    module = vae.module_.double()
    with torch.no_grad():
        q = module.posterior(torch.as_tensor(new))
        z = q.sample(torch.randn(4000, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        eta = module.likelihood.mean(module.decode(z))
        noise = torch.as_tensor(vae.noise_variance_).sqrt()
        log_prob = Independent(Normal(eta, noise), 1).log_prob(torch.as_tensor(new))
        factor = q.factor if posterior == "full" else torch.diag_embed(q.variances.sqrt())
        exact = MultivariateNormal(q.mu, scale_tril=factor)
        kl = exact.log_prob(z) - module.prior_density().log_prob(z)
    for found, expected in [(rate, kl), (distortion, -log_prob)]:
        means = expected.mean(dim=1)
        error = means.std().item() * (1 / 500 + 1 / 4000) ** 0.5  # of the two Monte Carlo estimates
        assert found == pytest.approx(means.mean().item(), abs=5 * error + 1e-6)
    if prior == "standard_normal":
        p = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
        assert rate == pytest.approx(kl_divergence(exact, p).mean().item(), rel=1e-6)


def test_bound_of_the_vae_is_below_its_importance_weighted_score(digits):
    X = digits[0][:300]
    vae = VAETransformer(4, max_epochs=5, random_state=0).fit(X)
    assert -sum(rate_distortion(vae, X)) < vae.score(X)


@pytest.mark.slow
def test_larger_beta_moves_along_the_curve(digits):
    X = digits[0]
    found = [rate_distortion(VAETransformer(4, beta=b, max_epochs=4, random_state=0).fit(X), X) for b in (0.1, 1, 30)]
    rates, distortions = zip(*found, strict=True)
    assert rates[0] > rates[1] > rates[2] >= 0
    assert distortions[0] < distortions[1] < distortions[2]


@pytest.mark.parametrize("nz", [1, 2, 4])
def test_active_units_of_pca_are_the_components_above_the_noise(nz):
    X = samples()
    pca = PCAReducer(nz).fit(X)
    ratio = pca.noise_variance_ / pca.explained_variance_
    assert active_units_scorer(pca, X) == ((1 - ratio) * (len(X) - 1) / len(X) > 0.01).sum()


def test_active_units_are_those_of_the_fit():
    X = samples()
    vae = VAETransformer(5, beta=4.0, hidden_sizes=(), max_epochs=20, lr=0.02, random_state=0).fit(X)
    assert 0 < active_units_scorer(vae, X) == vae.active_units_.sum() < 5


def test_rate_and_distortion_are_those_of_the_samples_a_pipeline_is_given(model):
    X = samples()
    pipeline = make_pipeline(StandardScaler(), model).fit(X)
    rate, distortion = rate_distortion(pipeline, X)
    inner = rate_distortion(pipeline[-1], pipeline[0].transform(X))
    assert rate == pytest.approx(inner[0], rel=1e-12)
    assert distortion == pytest.approx(inner[1] + np.log(pipeline[0].scale_).sum(), rel=1e-12)
    assert rate_scorer(pipeline, X) == pytest.approx(-rate, rel=1e-12)
    assert distortion_scorer(pipeline, X) == pytest.approx(-distortion, rel=1e-12)
    if isinstance(model, PCAReducer):
        assert rate + distortion == pytest.approx(-log_likelihood_samples(pipeline, X).mean(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("search", [GridSearchCV, FusedGridSearchCV])
def test_scorers_follow_the_model_before_a_classifier_in_one_search(digits, search):
    X, y = digits
    pipeline = make_pipeline(
        PCA(30), VAETransformer(max_epochs=4, random_state=0), StandardScaler(), LogisticRegression(max_iter=1000)
    )
    scoring = {"accuracy": "accuracy", "rate": rate_scorer, "active": active_units_scorer}
    grid = {"vaetransformer__beta": [0.1, 10.0], "vaetransformer__nz": [2, 8]}
    found = search(pipeline, grid, scoring=scoring, refit="accuracy", cv=2).fit(X, y)
    rates = -found.cv_results_["mean_test_rate"].reshape(2, 2)  # (beta, nz)
    assert (rates[0] > rates[1]).all()
    assert (found.cv_results_["mean_test_active"] <= [2, 8, 2, 8]).all()
    assert found.best_params_["vaetransformer__nz"] == 8
    assert rate_scorer(found, X) < 0


def test_results_do_not_depend_on_order_or_batch(model):
    X = samples()
    model.fit(X)
    halves = [rate_distortion(model, part) for part in (X[150:], X[:150])]
    assert np.mean(halves, axis=0) == pytest.approx(rate_distortion(model, X), rel=1e-9)


def test_no_fitted_attribute_changes(model):
    X = samples().astype(np.float32)
    before = set(vars(model.fit(X)))
    found = [*rate_distortion(model, X), rate_scorer(model, X)]
    assert all(type(value) is float for value in found)
    assert type(active_units_scorer(model, X)) is int
    assert set(vars(model)) == before


@pytest.mark.parametrize("scorer", [rate_distortion, *SCORERS.values()])
@pytest.mark.parametrize(
    "estimator",
    [GaussianMixture(1), make_pipeline(StandardScaler(), PCA(1)), LatentOutlierDetector(PCAReducer(1)), None],
    ids=lambda estimator: type(estimator).__name__,
)
def test_other_estimators_have_no_rate(scorer, estimator):
    if estimator is not None:
        estimator.fit(samples())
    with pytest.raises(
        TypeError, match="need a PCAReducer, an AutoencoderTransformer or a VAETransformer, or a Pipeli"
    ):
        scorer(estimator, samples())


@pytest.mark.slow
@pytest.mark.parametrize("scorer", [rate_distortion, *SCORERS.values()])
def test_bad_samples_are_refused(scorer, model):
    X = samples()
    with pytest.raises(NotFittedError):
        scorer(model, X)
    model.fit(X)
    with pytest.raises(ValueError, match=r"X has 5 features, but .* is expecting 6 features"):
        scorer(model, X[:, :5])
    with pytest.raises(ValueError, match="infinity"):
        scorer(model, np.where(np.arange(6) == 2, np.inf, X))
    with pytest.raises(ValueError, match="0 sample"):
        scorer(model, X[:0])


def test_distortion_is_not_defined_behind_a_step_that_loses_information():
    X = samples()
    pipeline = make_pipeline(PCA(4), PCAReducer(2)).fit(X)
    with pytest.raises(ValueError, match="PCA loses information about the samples: it keeps 4 of 6 dimensions"):
        rate_distortion(pipeline, X)
    assert rate_scorer(pipeline, X) < 0
    assert active_units_scorer(pipeline, X) == 2


def test_samples_outside_the_support_have_no_distortion():
    X = np.exp(samples())
    pipeline = make_pipeline(FunctionTransformer(np.log), PCAReducer(2)).fit(X)
    X[3:5, 0] = -1
    with pytest.raises(ValueError, match="within the support of the steps before PCAReducer, got 2 of 300 samples out"):
        rate_distortion(pipeline, X)


def test_samples_that_a_likelihood_does_not_support_are_refused():
    X = (samples() > 1).astype(float)
    vae = VAETransformer(2, likelihood="bernoulli", max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(rate_distortion(vae, X)).all()
    with pytest.raises(ValueError, match="X must"):
        rate_distortion(vae, X + 1)
