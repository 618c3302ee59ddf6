"""Samples with missing values in all three models: marginal scores, conditional means and imputations."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal, norm
from sklearn import config_context
from sklearn.datasets import load_iris
from skorch.callbacks import Callback

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent.model_selection import FusedGridSearchCV

N_FEATURES = 6


def correlated(rng, n_samples=300):
    """Two factors and noise."""
    loadings = rng.standard_normal((N_FEATURES, 2))
    return rng.standard_normal((n_samples, 2)) @ loadings.T + 0.5 * rng.standard_normal((n_samples, N_FEATURES)) + 3


def punched(X, rng, fraction=0.4):
    return np.where(rng.random(X.shape) < fraction, np.nan, X)


@pytest.fixture
def complete(rng):
    return correlated(rng)


@pytest.fixture
def X(complete, rng):
    X = punched(complete, rng)
    X[5] = np.nan
    return X


def linear_density(model):
    """Mean and covariance of a linear decoder with Gaussian noise and the prior of the model."""
    basis = model.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]))
    loadings = (basis[1:] - basis[0]).T
    prior = getattr(model, "latent_covariance_", np.eye(2))
    mean = basis[0] + loadings @ getattr(model, "latent_mean_", np.zeros(2))
    return mean, loadings @ prior @ loadings.T + np.diag(np.broadcast_to(model.noise_variance_, N_FEATURES))


def exact_marginals(X, mean, covariance):
    """Log-densities of the observed values, and conditional means of the others."""
    scores, filled = np.zeros(len(X)), X.copy()
    for i, x in enumerate(X):
        seen = ~np.isnan(x)
        filled[i, ~seen] = mean[~seen]
        if seen.any():
            inner = covariance[np.ix_(seen, seen)]
            scores[i] = multivariate_normal(mean[seen], inner).logpdf(x[seen])
            filled[i, ~seen] += covariance[np.ix_(~seen, seen)] @ np.linalg.solve(inner, x[seen] - mean[seen])
    return scores, filled


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
@pytest.mark.parametrize("trained_on", ["incomplete", "complete"])
def test_linear_vae_has_the_exact_marginal_and_conditional_mean(X, complete, likelihood, trained_on):
    samples = X if trained_on == "incomplete" else complete
    vae = VAETransformer(2, hidden_sizes=(), likelihood=likelihood, max_epochs=15, n_draws=1000, random_state=0)
    vae.fit(samples)
    scores, filled = exact_marginals(X, *linear_density(vae))
    # The importance samples from the prior leave an error of about 1 / sqrt(n_draws).
    np.testing.assert_allclose(vae.score_samples(X), scores, atol=0.1)
    assert vae.score(X) == pytest.approx(scores.mean(), abs=0.01)
    error = (vae.impute(X) - filled)[np.isnan(X)]
    assert np.sqrt(np.mean(error**2)) < 1.5e-2 * complete.std()  # the Monte Carlo error


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
def test_linear_autoencoder_has_the_exact_marginal_and_conditional_mean(X, likelihood):
    autoencoder = AutoencoderTransformer(2, hidden_sizes=(), likelihood=likelihood, max_epochs=15, random_state=0)
    autoencoder.fit(X)
    scores, filled = exact_marginals(X, *linear_density(autoencoder))
    # The decoder's weights are float32.
    np.testing.assert_allclose(autoencoder.score_samples(X), scores, atol=1e-4)
    np.testing.assert_allclose(autoencoder.impute(X), filled, atol=1e-4)


@pytest.mark.slow
def test_linear_autoencoder_is_probabilistic_pca(X):
    """Of the observed values: EM for the density of the latent codes has the same limit as that of PCA."""
    pca = PCAReducer(2).fit(X)
    autoencoder = AutoencoderTransformer(2, hidden_sizes=(), max_epochs=100, random_state=0).fit(X)
    assert autoencoder.noise_variance_ == pytest.approx(pca.noise_variance_, rel=0.05)
    assert autoencoder.score(X) > pca.score(X) - 0.05


def test_conditional_mean_of_pca_is_exact(X):
    pca = PCAReducer(2).fit(X)
    scores, filled = exact_marginals(X, pca.mean_, pca.get_covariance())
    np.testing.assert_allclose(pca.score_samples(X), scores, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(pca.impute(X), filled, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard_normal", "mixture"])
def test_curved_vae_agrees_with_quadrature(prior, rng):
    t = rng.standard_normal(200)
    complete = np.stack([t, t**2, np.sin(2 * t)], axis=1) + 0.2 * rng.standard_normal((200, 3))
    X = punched(complete, rng, 0.3)
    vae = VAETransformer(1, prior=prior, n_prior_components=3, n_draws=2000, max_epochs=15, random_state=0).fit(X)
    z = np.linspace(-9, 9, 4001)
    density = vae.module_.prior_density().log_prob(torch.from_numpy(z[:, None]).float()).detach().numpy()
    means = vae.inverse_transform(z[:, None])
    terms = norm(means, np.sqrt(vae.noise_variance_)).logpdf(X[:, None])
    log_joint = np.nansum(terms, axis=2) + density
    scores = logsumexp(log_joint, axis=1) + np.log(z[1] - z[0])
    assert vae.score(X) == pytest.approx(scores.mean(), abs=0.02)
    weights = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    error = ((vae.impute(X) - weights @ means) / complete.std(axis=0))[np.isnan(X)]
    assert np.sqrt(np.mean(error**2)) < 3e-2  # 2000 importance samples of a posterior that may have two modes


@pytest.mark.slow
@pytest.mark.parametrize(
    "likelihood", ["gaussian", "gaussian_diagonal", "bernoulli", "continuous_bernoulli", "poisson"]
)
def test_every_likelihood_takes_missing_values(network, likelihood, X):
    X = {"bernoulli": (X > 3).astype(float), "poisson": np.round(np.abs(X)), "continuous_bernoulli": (X % 1)}.get(
        likelihood, X
    ) + 0 * X
    model = network(2, likelihood=likelihood, max_epochs=3, random_state=0).fit(X)
    assert_all_answers(model, X)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"noise": 0.3},
        {"noise": 0.3, "noise_kind": "masking"},
        {"early_stopping": True},
        {"output_activation": "sigmoid"},
        {"hidden_sizes": (), "likelihood": "gaussian_diagonal"},
        {"backbone": "conv", "hidden_sizes": (4,), "image_shape": (1, 2, 3)},
        {"init": "random"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_option_takes_missing_values(network, parameters, X):
    X = (X - np.nanmin(X)) / np.ptp(X[~np.isnan(X)])
    assert_all_answers(network(2, max_epochs=3, random_state=0, **parameters).fit(X), X)


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{"prior": "mixture"}, {"prior": "vamp"}, {"posterior": "full"}, {"n_draws": 1}])
def test_every_option_of_a_vae_takes_missing_values(parameters, X):
    assert_all_answers(VAETransformer(2, max_epochs=3, random_state=0, **parameters).fit(X), X)


def assert_all_answers(model, X):
    missing = np.isnan(X)
    scores = model.score_samples(X)
    assert np.isfinite(scores).all()
    assert scores[5] == 0  # nothing is observed
    np.testing.assert_array_equal(np.isnan(model.score_features(X)), missing)
    assert np.isfinite(model.transform(X)).all()
    for sample in (False, True):
        filled = model.impute(X, sample=sample, random_state=0)
        np.testing.assert_array_equal(filled[~missing], X[~missing])
        assert np.isfinite(filled).all()
    assert np.isfinite(np.asarray(model.noise_variance_)).all() or np.isnan(model.noise_variance_)


def test_a_callable_backbone_sees_means(network, X):
    def backbone(input_shape, nz, n_code):
        return torch.nn.Linear(*input_shape, n_code), torch.nn.Linear(nz, *input_shape)

    assert_all_answers(network(2, backbone=backbone, max_epochs=3, random_state=0).fit(X), X)


@pytest.mark.slow
def test_missing_values_are_left_out_of_the_loss(network, complete):
    """A feature with few observed values weighs as much as they are: the noise variance is their mean squared error."""
    X = complete.copy()
    X[:250, 0] = np.nan
    model = network(2, hidden_sizes=(), max_epochs=40, random_state=0).fit(X)
    assert model.noise_variance_ == pytest.approx(PCAReducer(2).fit(X).noise_variance_, rel=0.15)


def test_scores_do_not_depend_on_other_samples(model, X):
    model.fit(X)
    np.testing.assert_allclose(model.score_samples(X[3:7]), model.score_samples(X)[3:7], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.impute(X[3:7]), model.impute(X)[3:7], rtol=1e-9)


def test_complete_samples_score_the_same_beside_incomplete_ones(network, complete, X):
    model = network(2, max_epochs=3, random_state=0).fit(complete)
    both = model.score_samples(np.vstack([complete[:10], X[:10]]))
    np.testing.assert_allclose(both[:10], model.score_samples(complete[:10]), rtol=1e-9)


@pytest.mark.slow
def test_float32_agrees_with_float64(model, X):
    model.fit(X)
    single = X.astype(np.float32)
    assert model.impute(single).dtype == np.float32
    same = single.astype(np.float64)
    np.testing.assert_allclose(model.impute(single), model.impute(same), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(model.score_samples(single), model.score_samples(same), rtol=1e-3, atol=1e-3)


def test_impute_leaves_complete_samples_alone(model, complete):
    filled = model.fit(complete).impute(complete)
    np.testing.assert_array_equal(filled, complete)
    assert filled is not complete


def test_impute_keeps_a_data_frame(model, X):
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(len(X)) + 7)
    filled = model.fit(frame).set_output(transform="pandas").impute(frame)
    assert list(filled.columns) == list("abcdef")
    np.testing.assert_array_equal(filled.index, frame.index)
    assert not filled.isna().any(axis=None)


def test_random_imputations_are_reproducible_and_differ(model, X):
    model.fit(X)
    one, same, other = (model.impute(X, sample=True, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other)[np.isnan(X)].all()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [PCAReducer, AutoencoderTransformer, VAETransformer])
def test_random_imputations_have_the_exact_conditional_moments(estimator, X):
    is_pca = estimator is PCAReducer
    model = estimator(2).fit(X) if is_pca else estimator(2, hidden_sizes=(), max_epochs=15, random_state=0).fit(X)
    mean, covariance = (model.mean_, model.get_covariance()) if is_pca else linear_density(model)
    imputations = np.array([model.impute(X[:60], sample=True, random_state=seed) for seed in range(100)])
    _, filled = exact_marginals(X[:60], mean, covariance)
    missing = np.isnan(X[:60])
    deviations = (imputations - filled)[:, missing] / conditional_deviations(X[:60], covariance)[missing]
    # 160 values that are partly dependent, 100 times each.
    assert np.mean(deviations) == pytest.approx(0, abs=0.05)
    assert np.std(deviations) == pytest.approx(1, abs=0.05)


def conditional_deviations(X, covariance):
    """Standard deviation of each missing value given the observed ones."""
    variances = np.zeros(X.shape)
    for x, out in zip(X, variances, strict=True):
        seen = ~np.isnan(x)
        cross = covariance[np.ix_(~seen, seen)]
        rest = covariance[np.ix_(~seen, ~seen)] - cross @ np.linalg.pinv(covariance[np.ix_(seen, seen)]) @ cross.T
        out[~seen] = np.diag(rest)
    return np.sqrt(variances)


@pytest.mark.slow
def test_intervals_cover_what_is_missing(rng):
    """Nine tenths of the missing values are between the quantiles of 5 % and 95 % of 100 imputations."""
    complete = correlated(rng, 2000)
    X = punched(complete, rng, 0.3)
    pca = PCAReducer(2).fit(X)
    low, high = np.quantile([pca.impute(X, sample=True, random_state=k) for k in range(100)], [0.05, 0.95], axis=0)
    covered = ((low <= complete) & (complete <= high))[np.isnan(X)].mean()
    assert 0.87 < covered < 0.92  # quantiles of 100 samples cover 0.89, with a standard error of 0.007


@pytest.mark.slow
def test_stacked_networks_equal_their_own_fits(network, X):
    models = [network(nz, max_epochs=3, random_state=0) for nz in (1, 2)]
    search = FusedGridSearchCV(network(max_epochs=3, random_state=0), {"nz": [1, 2]}, cv=3).fit(X)
    assert set(search.cv_results_["route"]) == {"stacked"}
    folds = [(np.r_[100:300], np.r_[:100]), (np.r_[:100, 200:300], np.r_[100:200]), (np.r_[:200], np.r_[200:300])]
    for k, model in enumerate(models):
        scores = [model.fit(X[train]).score(X[test]) for train, test in folds]
        assert search.cv_results_["mean_test_score"][k] == pytest.approx(np.mean(scores), abs=1e-3)


@pytest.mark.slow
def test_folds_with_and_without_missing_values_are_not_stacked_together(network, complete):
    X = complete.copy()
    X[0, 0] = np.nan  # in the training samples of two of three folds
    search = FusedGridSearchCV(network(max_epochs=2, random_state=0), {"nz": [1, 2]}, cv=3).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.slow
def test_warm_start_and_partial_fit_keep_the_architecture(network, complete, X):
    model = network(2, max_epochs=2, warm_start=True, random_state=0).fit(complete)
    assert not model.fit(X).module_.sees_missing
    model = network(2, max_epochs=2, random_state=0).partial_fit(X).partial_fit(complete).partial_fit(X)
    assert model.module_.sees_missing
    assert_all_answers(model, X)


@pytest.mark.slow
def test_checkpoint_of_a_fit_with_missing_values(network, X, tmp_path):
    parameters = {"max_epochs": 4, "random_state": 0}
    whole = network(2, **parameters).fit(X)
    path = tmp_path / "state"

    class Stop(Exception):
        pass

    class Halt(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                raise Stop

    with pytest.raises(Stop):
        network(2, checkpoint=path, callbacks=[Halt()], **parameters).fit(X)
    resumed = network(2, checkpoint=path, **parameters).fit(X)
    np.testing.assert_array_equal(resumed.score_samples(X), whole.score_samples(X))


@pytest.mark.slow
def test_memory_map_gives_what_memory_gives(network, X, tmp_path, monkeypatch):
    monkeypatch.setattr("sklatent._sources.stored.MAPPED_SIZE", 0)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    kept = network(2, max_epochs=3, random_state=0).fit(mapped)
    free = network(2, max_epochs=3, random_state=0).fit(X)
    np.testing.assert_allclose(kept.module_.standardizer.loc, free.module_.standardizer.loc, rtol=1e-12)
    assert kept.score(X) == pytest.approx(free.score(X), abs=0.2)  # batches are shuffled in another way


@pytest.mark.slow
def test_an_encoder_that_is_told_what_is_missing_knows_it(X, complete):
    """Samples of few observed values have wider posteriors."""
    vae = VAETransformer(2, init="random", random_state=0).fit(X)  # from PCA it would not improve on a linear model
    module = vae.module_.observing(True)
    with torch.no_grad():
        wide = module.posterior(torch.full((1, N_FEATURES), torch.nan)).variances.mean()
        narrow = module.posterior(torch.from_numpy(complete).float()).variances.mean()
    assert wide > 2 * narrow


def test_impute_takes_tensors(X):
    pytest.importorskip("scipy", minversion="1.14", reason="array_api_dispatch asks for SciPy 1.14")
    pca = PCAReducer(2).fit(X)
    with config_context(array_api_dispatch=True):
        tensors = PCAReducer(2).fit(torch.from_numpy(X))
        filled = tensors.impute(torch.from_numpy(X))
        sampled = tensors.impute(torch.from_numpy(X), sample=True, random_state=0)
    assert isinstance(filled, torch.Tensor)
    np.testing.assert_allclose(filled.numpy(), pca.impute(X), rtol=1e-6)
    np.testing.assert_allclose(sampled.numpy(), pca.impute(X, sample=True, random_state=0), rtol=1e-5)


def test_impute_refuses_sparse_samples(complete):
    pca = PCAReducer(2).fit(complete)
    with pytest.raises(TypeError, match="impute does not support sparse inputs"):
        pca.impute(sparse.csr_array(complete))


@pytest.mark.parametrize("n_samples", [1, 2])
def test_few_samples_with_a_missing_value(model, n_samples):
    """Each feature has at least one observed value."""
    X = np.array([[1.0, 2.0, 3.0], [np.nan, 4.0, 3.0]])[:n_samples]
    filled = model.set_params(nz=1).fit(X).impute([[np.nan, 2.0, np.nan]])
    assert np.isfinite(filled).all()
    assert filled[0, 1] == 2


@pytest.mark.slow
def test_a_feature_that_only_a_left_out_sample_observes(network, complete):
    """Ten of the samples are left out of the training, and each of twenty features is observed in one sample."""
    X = np.full((100, 23), np.nan)
    X[:, :3] = complete[:100, :3]
    X[np.arange(20) * 5, np.arange(3, 23)] = complete[:20, 3]
    for likelihood in ("gaussian", "gaussian_diagonal"):
        model = network(2, likelihood=likelihood, max_epochs=3, random_state=0).fit(X)
        assert np.isfinite(model.score_samples(X)).all()
        assert np.isfinite(model.impute(X)).all()


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
@pytest.mark.parametrize("n_observed", [1, 3])
def test_samples_left_out_or_trained_on_without_any_observed_value(network, likelihood, n_observed, rng):
    """Two of 17 samples of one feature are left out, or a fifth."""
    X = np.full((17, 1), np.nan)
    X[:n_observed, 0] = rng.standard_normal(n_observed)
    weights = np.linspace(1, 2, 17)
    for seed in range(6):
        model = network(1, likelihood=likelihood, max_epochs=1, early_stopping=seed > 2, random_state=seed)
        for given in (None, weights):
            model.fit(X, sample_weight=given)
            assert np.isfinite(model.noise_variance_).all()
            assert np.isfinite(model.score_samples(X)).all()
            assert np.isfinite(model.impute(X)).all()


def test_partial_fit_of_pca_names_what_it_refuses(X, complete):
    pca = PCAReducer(2).partial_fit(complete)
    before = pca.components_.copy()
    with pytest.raises(ValueError, match="PCAReducer does not accept missing values in partial_fit"):
        pca.partial_fit(X)
    np.testing.assert_array_equal(pca.components_, before)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
def test_a_posterior_with_two_modes_is_met_in_both(prior):
    """Two clusters that differ in the columns that are missing; the integral over z is the truth."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 600)
    X = 0.3 * rng.standard_normal((600, 5))
    X[:, 3:] += np.where(side, 3, -3)[:, None]
    vae = VAETransformer(1, prior=prior, n_draws=2048, random_state=0).fit(X)
    Q = X[:50].copy()
    Q[:, 3:] = np.nan
    Z = np.linspace(-9, 9, 4001)[:, None]
    with torch.no_grad():
        log_prior = vae.module_.prior_density().log_prob(torch.from_numpy(Z)).numpy()
    means = vae.inverse_transform(Z)
    log_joint = norm.logpdf(Q[:, None, :3], means[:, :3], np.sqrt(vae.noise_variance_)).sum(axis=-1) + log_prior
    weights = softmax(log_joint, axis=1)
    scores = logsumexp(log_joint, axis=1) + np.log(Z[1, 0] - Z[0, 0])
    np.testing.assert_allclose(vae.score_samples(Q), scores, atol=0.1)
    np.testing.assert_allclose(vae.impute(Q)[:, 3:].mean(axis=0), (weights @ means[:, 3:]).mean(axis=0), atol=0.1)
    drawn = np.mean([vae.impute(Q, sample=True, random_state=k)[:, 3] > 0 for k in range(20)])
    assert drawn == pytest.approx((weights @ (means[:, 3] > 0)).mean(), abs=0.05)
    few = vae.set_params(n_draws=32).score_samples(Q)
    assert np.mean(few - scores) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("network", [AutoencoderTransformer, VAETransformer, PCAReducer])
def test_parquet_with_missing_values(network, tmp_path):
    X = load_iris().data.copy()
    X[::5, 2] = np.nan
    pd.DataFrame(X, columns=list("abcd")).to_parquet(tmp_path / "iris.parquet")
    params = {} if network is PCAReducer else {"max_epochs": 2, "random_state": 0}
    found = network(2, **params).fit(tmp_path / "iris.parquet")
    np.testing.assert_allclose(
        found.mean_ if network is PCAReducer else found.module_.standardizer.loc.numpy(),
        np.nanmean(X, axis=0),
        rtol=0.02,
    )
    assert np.isfinite(found.score_samples(pd.DataFrame(X, columns=list("abcd")))).all()
