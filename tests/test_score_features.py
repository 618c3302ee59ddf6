"""log p(x_j | all other features), against the conditional normal densities of scipy and planted outliers."""

import numpy as np
import pytest
import scipy
import torch
from scipy import sparse
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import scale
from sklearn.utils.fixes import parse_version

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
)

N_FEATURES = 6
LINEAR = {"hidden_sizes": (), "max_epochs": 100, "lr": 0.02, "random_state": 0}


def conditionals(X, mean, covariance):
    """Log-densities of scipy's normal distribution of each value given the others that are not NaN."""
    scores = np.full(X.shape, np.nan)
    for i, x in enumerate(X):
        for j in np.flatnonzero(~np.isnan(x)):
            rest = np.flatnonzero(~np.isnan(x) & (np.arange(len(x)) != j))
            weights = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, j])
            variance = covariance[j, j] - weights @ covariance[rest, j]
            scores[i, j] = norm.logpdf(x[j], mean[j] + weights @ (x - mean)[rest], np.sqrt(variance))
    return scores


def without(X, j):
    """X with missing values of feature j."""
    X = X.copy()
    X[:, j] = np.nan
    return X


def plant(X, precision, rng):
    """Move one value of each sample by six of its conditional standard deviations."""
    features = rng.integers(X.shape[1], size=len(X))
    X = X.copy()
    X[np.arange(len(X)), features] += 6 * rng.choice([-1, 1], len(X)) / np.sqrt(np.diag(precision)[features])
    return X, features


@pytest.fixture
def X(rng):
    """Two factors and noise."""
    W = rng.standard_normal((2, N_FEATURES))
    return rng.standard_normal((600, 2)) @ W + 0.5 * rng.standard_normal((600, N_FEATURES)) + 3


class TestPCA:
    @pytest.mark.parametrize("nz", [1, 2, 5, None])
    @pytest.mark.parametrize("offset", [0, 1000])
    def test_scores_are_scipys_conditional_densities(self, nz, offset, X):
        X = X + offset
        pca = PCAReducer(nz).fit(X)
        # atol: rounding of an offset of 1000 standard deviations.
        np.testing.assert_allclose(
            pca.score_features(X[:20]), conditionals(X[:20], pca.mean_, pca.get_covariance()), rtol=1e-10, atol=1e-10
        )

    @pytest.mark.parametrize("nz", [1, 2, 5, None])
    def test_they_add_up_to_the_density_of_all_features(self, nz, X):
        pca = PCAReducer(nz).fit(X)
        scores = pca.score_features(X)
        for j in range(N_FEATURES):
            total = scores[:, j] + pca.score_samples(without(X, j))
            np.testing.assert_allclose(total, pca.score_samples(X), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("nz", [1, 2, 5, None])
    def test_missing_values_leave_the_other_observed_ones(self, nz, X, rng):
        pca = PCAReducer(nz).fit(X)
        X = X[:20].copy()
        X[rng.random(X.shape) < 0.4] = np.nan
        X[0] = np.nan
        X[1, 1:] = np.nan
        scores = pca.score_features(X)
        np.testing.assert_array_equal(np.isnan(scores), np.isnan(X))
        np.testing.assert_allclose(scores, conditionals(X, pca.mean_, pca.get_covariance()), rtol=1e-9, atol=1e-9)

    def test_features_within_the_span_of_the_components_know_no_noise(self, X):
        """A constant feature leaves no noise, whose floor would multiply the rounding errors of the others."""
        pair = X[:, :2]
        scores = PCAReducer(2).fit(np.c_[pair, np.ones(len(X))]).score_features(np.c_[pair, np.ones(len(X))])
        np.testing.assert_allclose(scores[:, :2], PCAReducer(2).fit(pair).score_features(pair), rtol=1e-10, atol=1e-10)
        assert np.isfinite(scores).all()

    @pytest.mark.parametrize(
        "X",
        [np.ones((5, 3)), np.zeros((1, 3)), np.eye(4)[:2], np.diag([1e-150, 1.0, 1e150]), np.arange(4.0)[:, None]],
        ids=["constant", "one sample", "few samples", "scales", "one feature"],
    )
    def test_degenerate_data_have_finite_scores(self, X):
        assert np.isfinite(PCAReducer().fit(X).score_features(X + 1)).all()

    def test_squares_beyond_float64_have_no_density(self, X):
        huge = np.stack([X[0], np.full(N_FEATURES, 1e300), without(X, 1)[0], np.full(N_FEATURES, 1e300)])
        huge[3, 1] = np.nan
        with np.errstate(over="ignore", invalid="ignore"):
            scores = PCAReducer(2).fit(X).score_features(huge)
        assert np.isfinite(scores[0]).all()
        assert np.isneginf(scores[1]).all()
        np.testing.assert_array_equal(np.isnan(scores[2:]), np.isnan(huge[2:]))

    def test_one_feature_has_the_density_of_its_samples(self, X):
        pca = PCAReducer(1).fit(X[:, :1])
        np.testing.assert_allclose(pca.score_features(X[:, :1])[:, 0], pca.score_samples(X[:, :1]), rtol=1e-12)

    @pytest.mark.parametrize("n_features", [20, 200])
    @pytest.mark.parametrize("mean", [0, 1000])
    @pytest.mark.parametrize("alone", [False, True])
    def test_float32_samples_have_the_scores_of_the_same_values_in_float64(self, n_features, mean, alone, rng):
        """Whether the products are in float32, or in float64 since one feature lies within the span of the axes."""
        X = rng.standard_normal((300, 3)) @ rng.standard_normal((3, n_features)) + rng.standard_normal(
            (300, n_features)
        )
        if alone:
            X[:, 0] *= 1e3
        X = (X + mean).astype(np.float32)
        pca = PCAReducer(3).fit(X.astype(np.float64))
        exact = pca.score_features(X.astype(np.float64))
        scores = pca.score_features(X)
        assert scores.dtype == np.float64
        # 2e-3: float32 residuals of up to 4 standard deviations, of values up to a thousand times as large.
        np.testing.assert_allclose(scores, exact, rtol=1e-4, atol=2e-3 if mean else 1e-4)
        assert np.isfinite(pca.score_features(np.full((1, n_features), 1e37, dtype=np.float32))).all()

    def test_float32_is_computed_in_float64(self, X):
        pca, single = PCAReducer(2).fit(X), PCAReducer(2).fit(X.astype(np.float32))
        scores = single.score_features(X.astype(np.float32))
        assert scores.dtype == np.float64
        # The fit has float32 components: relative errors of 6e-8, times those of an ill-conditioned covariance.
        np.testing.assert_allclose(scores, pca.score_features(X), rtol=1e-5, atol=1e-5)

    def test_sparse_samples_have_the_scores_of_dense_ones(self, X):
        pca = PCAReducer(2).fit(X)
        np.testing.assert_array_equal(pca.score_features(sparse.csr_array(X)), pca.score_features(X))

    @pytest.mark.skipif(parse_version(scipy.__version__) < parse_version("1.14"), reason="asks for SciPy 1.14")
    def test_tensors_have_the_scores_of_arrays(self, X):
        expected = PCAReducer(2).fit(X).score_features(without(X[:9], 1))
        with config_context(array_api_dispatch=True):
            scores = PCAReducer(2).fit(torch.asarray(X)).score_features(torch.asarray(without(X[:9], 1)))
        assert isinstance(scores, torch.Tensor)
        np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)

    def test_whitening_does_not_matter(self, X):
        expected = PCAReducer(2).fit(X).score_features(X)
        np.testing.assert_array_equal(PCAReducer(2, whiten=True).fit(X).score_features(X), expected)


@pytest.mark.slow
class TestLinearNetworks:
    """Networks of a plane are probabilistic PCA: within 0.02 nats, as far as training has converged."""

    def test_autoencoder_is_probabilistic_pca(self, X):
        expected = PCAReducer(2).fit(X).score_features(X)
        scores = AutoencoderTransformer(2, **LINEAR).fit(X).score_features(X)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=0.02)

    def test_autoencoder_has_the_conditionals_of_its_own_density(self, X):
        model = AutoencoderTransformer(2, **LINEAR).fit(X)
        origin, *axes = model.inverse_transform(np.eye(3, 2, -1))
        J = np.array(axes) - origin
        covariance = J.T @ model.latent_covariance_ @ J + model.noise_variance_ * np.eye(N_FEATURES)
        expected = conditionals(X[:9], origin + model.latent_mean_ @ J, covariance)
        # The search for the most probable latent code ends when the next step gains less than 1e-13 nats.
        np.testing.assert_allclose(model.score_features(X[:9]), expected, rtol=1e-6, atol=1e-6)

    def test_vae_is_probabilistic_pca(self, X):
        expected = PCAReducer(2).fit(X).score_features(X)
        errors = np.abs(VAETransformer(2, **LINEAR).fit(X).score_features(X) - expected)
        assert errors.mean() < 0.02


@pytest.mark.parametrize("estimator", [PCAReducer(2), AutoencoderTransformer(2), VAETransformer(2)], ids=repr)
@pytest.mark.slow
def test_the_least_score_is_that_of_a_planted_value(estimator, rng):
    W = rng.standard_normal((8, 2))
    covariance = W @ W.T + 0.3 * np.eye(8)
    X, X_new = (rng.multivariate_normal(np.zeros(8), covariance, size=n) for n in (1000, 500))
    X_new, features = plant(X_new, np.linalg.inv(covariance), rng)
    if "random_state" in estimator.get_params():
        estimator = clone(estimator).set_params(random_state=0)
    found = estimator.fit(X).score_features(X_new).argmin(axis=1)
    assert np.mean(found == features) >= (0.99 if isinstance(estimator, PCAReducer) else 0.95)


class TestAllModels:
    @pytest.mark.slow
    def test_order_subset_and_chunks_do_not_matter(self, model, X, monkeypatch):
        scores = model.fit(X).score_features(X)
        assert scores.shape == X.shape
        assert scores.dtype == np.float64
        X, scores = X[:200], scores[:200]
        order = np.random.default_rng(0).permutation(len(X))
        # The rounding of matrix products of other sizes.
        np.testing.assert_allclose(model.score_features(X[order]), scores[order], rtol=1e-8, atol=1e-8)
        monkeypatch.setattr(type(model), "_CHUNK_SIZE", 500)
        np.testing.assert_allclose(model.score_features(X), scores, rtol=1e-8, atol=1e-8)

    def test_nothing_changes(self, model, X):
        state = set(vars(model.fit(X)))
        np.testing.assert_array_equal(model.score_features(X), model.score_features(X))
        assert set(vars(model)) == state

    def test_units_shift_each_score_by_their_logarithm(self, model, X):
        scores = clone(model).fit(X).score_features(X)
        # A power of two, so that the networks see the same samples to the last bit.
        np.testing.assert_allclose(model.fit(4 * X).score_features(4 * X), scores - np.log(4), rtol=1e-6, atol=1e-6)

    def test_before_fit(self, model, X):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            model.score_features(X)

    def test_other_number_of_features(self, model, X):
        with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 6 features"):
            model.fit(X).score_features(X[:, :2])

    def test_infinity(self, model, X):
        with pytest.raises(ValueError, match="Input X contains infinity"):
            model.fit(X).score_features(np.full((1, N_FEATURES), np.inf))


def test_samples_that_overflow_leave_the_others_alone(network, X):
    X = X.astype(np.float32)
    model = network(2, max_epochs=3, random_state=0).fit(X)
    scores = model.score_features(X[:3])
    hostile = np.concatenate([X[:3], np.full((1, N_FEATURES), 1e38, dtype=np.float32)])
    mixed = model.score_features(hostile)
    np.testing.assert_allclose(mixed[:3], scores, rtol=1e-4, atol=1e-4)  # float32
    assert not np.isnan(mixed).any()
    assert not np.isposinf(mixed).any()


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "poisson", "gaussian_diagonal"])
def test_every_likelihood(network, likelihood, rng):
    X = rng.integers(0, 2, size=(60, 5)).astype(float)
    model = network(2, likelihood=likelihood, max_epochs=3, random_state=0).fit(X)
    scores = model.score_features(X)
    assert np.isfinite(scores).all()
    if likelihood in ("bernoulli", "poisson"):
        assert (scores <= 1e-9).all()  # logarithms of probabilities, and of estimates that may exceed 1 by rounding
    if likelihood != "gaussian_diagonal":
        with pytest.raises(ValueError, match="X must"):
            model.score_features(X - 0.5)


def test_residual_scores_add_up_to_those_of_the_samples(X):
    model = AutoencoderTransformer(2, density="residual", max_epochs=3, random_state=0).fit(X)
    np.testing.assert_allclose(model.score_features(X).sum(axis=1), model.score_samples(X), rtol=1e-12)


class TestDetector:
    @pytest.mark.slow
    def test_scores_are_those_of_the_estimator(self, model, X):
        detector = LatentOutlierDetector(model).fit(X)
        np.testing.assert_array_equal(detector.score_features(X), clone(model).fit(X).score_features(X))

    @pytest.mark.parametrize("fit", [False, True])
    @pytest.mark.parametrize("estimator", [GaussianMixture(), KernelDensity()], ids=repr)
    def test_estimators_without_the_method(self, estimator, fit, X):
        detector = LatentOutlierDetector(estimator)
        assert not hasattr(detector.fit(X) if fit else detector, "score_features")
        assert hasattr(LatentOutlierDetector(PCAReducer()), "score_features")

    def test_bad_input(self, X):
        with pytest.raises(NotFittedError):
            LatentOutlierDetector(PCAReducer(2)).score_features(X)
        with pytest.raises(ValueError, match="Input X contains infinity"):
            LatentOutlierDetector(PCAReducer(2)).fit(X).score_features(np.where(X > 3, np.inf, X))


class TestClassifier:
    @pytest.fixture
    def y(self, X):
        return np.where(X[:, 0] > 3, "big", "small")

    @pytest.mark.parametrize("prior", [None, [0.9, 0.1], [1.0, 0.0]])
    def test_they_add_up_to_the_density_of_all_features(self, prior, X, y):
        model = GenerativeClassifier(PCAReducer(2), class_prior=prior).fit(X, y)
        scores, log_prior = model.score_features(X), np.log(np.maximum(model.class_prior_, 1e-300))
        for j in range(N_FEATURES):
            marginals = [density.score_samples(without(X, j)) for density in model.estimators_]
            marginal = logsumexp(np.stack(marginals, axis=1) + log_prior, axis=1)
            np.testing.assert_allclose(scores[:, j] + marginal, model.score_samples(X), rtol=0, atol=1e-9)

    def test_one_class_is_its_density(self, X):
        model = GenerativeClassifier(PCAReducer(2)).fit(X, np.zeros(len(X)))
        np.testing.assert_allclose(model.score_features(X), PCAReducer(2).fit(X).score_features(X), rtol=1e-9)

    def test_networks(self, network, X, y):
        model = GenerativeClassifier(network(2, max_epochs=2, random_state=0)).fit(X, y)
        assert np.isfinite(model.score_features(X)).all()

    def test_samples_without_any_density(self, network, X, y):
        X = X.astype(np.float32)
        model = GenerativeClassifier(network(2, max_epochs=2, random_state=0)).fit(X, y)
        scores = model.score_features(np.stack([X[0], np.full(N_FEATURES, 1e38, dtype=np.float32)]))
        assert np.isfinite(scores[0]).all()
        assert np.isneginf(scores[1]).all()

    def test_far_samples_have_finite_scores(self, X, y):
        model = GenerativeClassifier(PCAReducer(2)).fit(X, y)
        assert np.isfinite(model.score_features(np.full((1, N_FEATURES), 1e6))).all()

    def test_missing_values_are_not_among_the_given_ones(self, X, y):
        classifier = GenerativeClassifier(PCAReducer(2)).fit(X, y)
        given = without(X, 1)
        scores = classifier.score_features(given)
        assert np.isnan(scores[:, 1]).all()
        for j in (0, 2):
            expected = classifier.score_samples(given) - classifier.score_samples(without(given, j))
            np.testing.assert_allclose(scores[:, j], expected, rtol=1e-7, atol=1e-7)

    def test_bad_input(self, X, y):
        with pytest.raises(NotFittedError):
            GenerativeClassifier(PCAReducer(2)).score_features(X)
        with pytest.raises(ValueError, match="Input X contains infinity"):
            GenerativeClassifier(PCAReducer(2)).fit(X, y).score_features(np.full_like(X, np.inf))
        assert not hasattr(GenerativeClassifier(KernelDensity()).fit(X, y), "score_features")


@pytest.mark.slow
def test_vae_of_incomplete_samples_against_quadrature():
    """The encoder has seen no missing values, and the mean errors with its posterior were 0.15 and 0.13."""
    for data, most in ((load_iris().data, 0.13), (load_breast_cancer().data, 0.1)):
        X = scale(data)
        vae = VAETransformer(1, random_state=0).fit(X)
        Q = np.where(np.random.default_rng(0).random(X.shape) < 0.3, np.nan, X)[:100]
        Q = Q[~np.isnan(Q).all(axis=1)]
        Z = np.linspace(-9, 9, 4001)[:, None]
        terms = np.nan_to_num(norm.logpdf(Q[:, None], vae.inverse_transform(Z), np.sqrt(vae.noise_variance_)))
        joint = terms.sum(axis=2) + norm.logpdf(Z[:, 0])
        expected = logsumexp(joint, axis=1)[:, None] - logsumexp(joint[..., None] - terms, axis=1)
        errors = np.abs(vae.score_features(Q) - expected)[~np.isnan(Q)]
        assert errors.mean() < most
