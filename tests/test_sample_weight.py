"""Weights of samples: integers count as repetition, zeros as absence, and ones change nothing."""

import numpy as np
import pytest
import sklearn
import torch
from search_cases import mean_score
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentImputer,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
)
from sklatent._nn.data import Batches, MappedRows, Rows
from sklatent._nn.left_out import left_out_samples
from sklatent._nn.missing import CodeStatistics, fit_latent_density
from sklatent._nn.modules import Noise
from sklatent._nn.start import leading_components
from sklatent._nn.summaries import moments_of_samples, tail_weight
from sklatent._ppca.factors import factor_analysis
from sklatent._ppca.missing_values import column_moments, factors_of_incomplete, spectrum_of_incomplete
from sklatent.model_selection import FusedGridSearchCV

# One step an epoch on all samples, so that shuffling has no part in it; no noise, and no samples left out. From the
# start at PCA the gradient vanishes but for rounding, which Adam turns into whole steps.
WHOLE = {
    "hidden_sizes": (),
    "init": "random",
    "batch_size": 1000,
    "max_epochs": 15,
    "lr": 0.02,
    "random_state": 0,
}


@pytest.fixture
def X(rng):
    return rng.standard_normal((60, 2)) @ rng.standard_normal((2, 5)) + 0.3 * rng.standard_normal((60, 5)) - 4


@pytest.fixture(params=["complete", "incomplete"])
def samples(request, X):
    """The same samples, as they are and with a quarter of the values missing."""
    missing = np.random.default_rng(2).random(X.shape) < 0.25
    return X if request.param == "complete" else np.where(missing, np.nan, X)


@pytest.fixture
def weights():
    return np.random.default_rng(1).integers(0, 4, 60).astype(float)


def results(model, X):
    """Numbers of a fitted model that its training determines."""
    state = [tensor.numpy() for tensor in model.module_.state_dict().values()]
    return [*state, np.asarray(model.loss_curve_), np.atleast_1d(model.noise_variance_), model.score_samples(X)]


def assert_same_bits(ours, theirs, X):
    for found, expected in zip(results(ours, X), results(theirs, X), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
@pytest.mark.parametrize("value", [1, np.ones(60), [1] * 60], ids=["number", "array", "list"])
def test_weights_of_one_give_the_same_bits(network, likelihood, value, samples):
    plain, weighted = (network(2, likelihood=likelihood, max_epochs=3, random_state=0) for _ in range(2))
    assert_same_bits(weighted.fit(samples, sample_weight=value), plain.fit(samples), samples)
    assert weighted.score(samples, sample_weight=value) == plain.score(samples)
    assert_same_bits(weighted.partial_fit(samples, sample_weight=value), plain.partial_fit(samples), samples)


def test_equal_weights_give_the_loss_without_weights(network, X):
    """Only their ratios count in the loss. (A noise variance depends on the number of samples, which is their sum.)"""
    X = (X.mean(axis=0) < X).astype(float)
    params = {"likelihood": "bernoulli", "init": "random", "max_epochs": 3, "random_state": 0}
    plain, weighted = (network(2, **params) for _ in range(2))
    weighted.fit(X, sample_weight=np.full(60, 3.0))
    np.testing.assert_allclose(weighted.loss_curve_, plain.fit(X).loss_curve_, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
def test_weights_of_zero_are_absence(network, likelihood, samples, weights):
    kept = weights > 0
    ours, theirs = (network(2, likelihood=likelihood, max_epochs=3, random_state=0) for _ in range(2))
    assert_same_bits(
        ours.fit(samples, sample_weight=weights), theirs.fit(samples[kept], sample_weight=weights[kept]), samples
    )
    ours.fit(samples, sample_weight=kept)
    assert_same_bits(ours, theirs.fit(samples[kept]), samples)
    assert ours.score(samples, sample_weight=kept) == pytest.approx(theirs.score(samples[kept]), rel=1e-12)


def loss_and_gradient(model, X, weights, repeats):
    """Loss of all samples at the start of the training, with the random numbers of each sample repeated with it."""
    training = model._prepare(X, weights=weights)
    module = training.module.double()
    eps = torch.randn((60, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    eps = torch.from_numpy(eps.repeat(repeats, axis=0))
    n_latent = module.noise_widths[0]
    (x, relative), *rest = Batches(training.train, 1000)
    assert not rest
    loss = module.loss(module(x, Noise(eps[:, :n_latent], eps[:, :0])), 0.7, relative)
    return loss, torch.autograd.grad(loss, list(module.parameters()))


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal", "bernoulli", "poisson"])
@pytest.mark.parametrize("n_train_draws", [1, 3])
def test_loss_and_gradient_with_integer_weights_are_those_of_repetition(likelihood, n_train_draws, samples, weights):
    """From the same random weights, with the centre, scale and prior that the samples give."""
    samples = np.abs(samples.round() if likelihood == "poisson" else samples / np.nanmax(np.abs(samples)))
    params = {"likelihood": likelihood, "init": "random", "hidden_sizes": (), "noise": 0.0, "random_state": 0}
    counts = np.maximum(weights, 1).astype(int)
    model = VAETransformer(2, n_train_draws=n_train_draws, **params)
    ours = loss_and_gradient(model, samples, counts.astype(float), 1)
    theirs = loss_and_gradient(model, samples.repeat(counts, axis=0), None, counts)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    for found, expected in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_diagonal"])
def test_training_on_the_whole_with_integer_weights_is_that_of_repetition(likelihood, samples, weights):
    """An autoencoder has no random numbers but the order, which does not count in one batch."""
    counts = weights.astype(int)
    ours, theirs = (AutoencoderTransformer(2, likelihood=likelihood, **WHOLE) for _ in range(2))
    ours.fit(samples, sample_weight=weights)
    theirs.fit(samples.repeat(counts, axis=0))
    tolerance = {"rtol": 1e-5, "atol": 1e-6}  # of 15 steps of Adam in float32
    for name in ("loss_curve_", "latent_mean_", "latent_covariance_", "noise_variance_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), **tolerance)
    np.testing.assert_allclose(ours.transform(samples), theirs.transform(samples), **tolerance)
    np.testing.assert_allclose(ours.score_samples(samples), theirs.score_samples(samples), **tolerance)


@pytest.mark.slow
def test_linear_networks_with_weights_reach_the_optimum_of_pca(network, X, weights):
    """Trained in random batches: PCA with the same weights is exact. Without weights PCA is far from it."""
    model = network(2, hidden_sizes=(), max_epochs=600, batch_size=60, lr=0.01, random_state=0)
    model.fit(X, sample_weight=weights)
    weighted, plain = PCAReducer(2).fit(X, sample_weight=weights), PCAReducer(2).fit(X)
    expected = weighted.score(X, sample_weight=weights)
    assert model.score(X, sample_weight=weights) == pytest.approx(expected, abs=0.01)
    assert plain.score(X, sample_weight=weights) < expected - 0.05


@pytest.mark.slow
def test_weights_move_the_fit_of_a_deep_network(network, rng):
    """Two clusters: the one with the weight is the one that is fitted."""
    X = np.concatenate([rng.standard_normal((150, 3)) - 3, rng.standard_normal((150, 3)) + 3])
    scores = []
    for heavy in (X[:150], X[150:]):
        model = network(1, max_epochs=10, random_state=0)
        model.fit(X, sample_weight=np.where(np.isin(X[:, 0], heavy[:, 0]), 1.0, 0.01))
        scores.append([model.score(X[:150]), model.score(X[150:])])
    assert scores[0][0] > scores[0][1] + 0.5
    assert scores[1][1] > scores[1][0] + 0.5


# What is estimated from the samples


@pytest.mark.parametrize("n_left_out", [0, 20])
def test_statistics_of_integer_weights_are_those_of_repetition(n_left_out, samples, weights):
    """Mean, scale, spectrum, tail weight, and the samples left out with their correction."""
    counts = np.maximum(weights, 1).astype(int)
    model = AutoencoderTransformer(2, hidden_sizes=(8,), random_state=0)
    copies, w = samples.repeat(counts, axis=0), counts.astype(float)
    for ours, theirs in zip(moments_of_samples(samples, w), moments_of_samples(copies), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    standardizer = model._build_module(samples, 0, w).standardizer
    found, expected = tail_weight(samples, standardizer, w), tail_weight(copies, standardizer)
    assert found == pytest.approx(expected, rel=1e-12)
    parts = slice(n_left_out, None), slice(n_left_out or 1)
    ours = [Rows(samples[part], weights=w[part]) for part in parts]
    theirs = [Rows(samples[part].repeat(counts[part], axis=0)) for part in parts]
    module = model._build_module(samples, 0, w)
    left_out = [
        left_out_samples(leading_components(module, train, 2), standardizer, train, valid, 2)
        for train, valid in (ours, theirs)
    ]
    assert left_out[0].correction == pytest.approx(left_out[1].correction, rel=1e-9)
    assert left_out[0].prior_ratio == pytest.approx(left_out[1].prior_ratio, rel=1e-12)
    assert left_out[0].factor(1.3) == pytest.approx(left_out[1].factor(1.3), rel=1e-9)


def test_factor_analysis_with_integer_weights_is_that_of_repetition(samples, weights):
    fit = factors_of_incomplete if np.isnan(samples).any() else factor_analysis
    ours = fit(samples, 2, np.maximum(weights, 1))
    theirs = fit(samples.repeat(np.maximum(weights, 1).astype(int), axis=0), 2)
    np.testing.assert_allclose(ours.noise, theirs.noise, rtol=1e-9)
    np.testing.assert_allclose(ours.loadings @ ours.loadings.T, theirs.loadings @ theirs.loadings.T, rtol=1e-8)


def test_kl_per_dimension_with_weights_is_a_weighted_mean(samples, weights):
    model = VAETransformer(2, max_epochs=3, random_state=0).fit(samples, sample_weight=weights)
    with torch.no_grad():
        kl = model.module_.posterior(torch.as_tensor(samples)).kl_standard_normal().numpy()
    assert model.kl_per_dimension_.sum() == pytest.approx(np.average(kl, weights=weights), rel=1e-6)


def test_history_with_weights_holds_weighted_means(samples, weights):
    """At a learning rate of nothing, the epoch's means are those of the model itself."""
    model = AutoencoderTransformer(2, noise=0.0, hidden_sizes=(), max_epochs=1, lr=1e-30, batch_size=7, random_state=0)
    model.fit(samples, sample_weight=weights)
    training = model._prepare(samples[weights > 0], weights=weights[weights > 0])
    with torch.no_grad():
        terms = training.module(training.train.X, Noise(torch.empty(0), torch.empty(0)))
    expected = np.average(-terms.log_prob.numpy(), weights=weights[weights > 0])
    assert model.history_[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


# What is estimated from samples with missing values


@pytest.fixture
def incomplete(X):
    return np.where(np.random.default_rng(3).random(X.shape) < 0.4, np.nan, X)


def test_moments_of_observed_values_with_weights(incomplete, weights):
    mean, variance = column_moments(incomplete, weights)
    for j, column in enumerate(incomplete.T):
        observed = ~np.isnan(column)
        expected = np.average(column[observed], weights=weights[observed])
        assert mean[j] == pytest.approx(expected, rel=1e-12)
        expected = np.average((column[observed] - expected) ** 2, weights=weights[observed])
        assert variance[j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_spectrum_of_incomplete_samples_with_integer_weights_is_that_of_repetition(tolerance, incomplete, weights):
    """After the same number of steps of EM, so the start is that of repetition too."""
    kept = weights > 0
    incomplete, weights = incomplete[kept], weights[kept]
    ours, _ = spectrum_of_incomplete(incomplete, 2, weights, tolerance)
    theirs, _ = spectrum_of_incomplete(incomplete.repeat(weights.astype(int), axis=0), 2, tolerance=tolerance)
    np.testing.assert_allclose(ours.variances, theirs.variances, rtol=1e-8)
    np.testing.assert_allclose(ours.components, theirs.components, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-8)


@pytest.mark.parametrize("noise_ratio", [None, 0.7])
def test_latent_density_with_integer_weights_is_that_of_repetition(noise_ratio, rng, weights):
    z, root = rng.standard_normal((60, 2)), rng.standard_normal((60, 2, 2))
    squares, n_observed = rng.chisquare(4, 60), rng.integers(0, 6, 60).astype(float)
    codes = CodeStatistics(z, 0.3 * rng.standard_normal((60, 2)), root @ root.swapaxes(1, 2), squares, n_observed)
    copies = CodeStatistics(*(values.repeat(weights.astype(int), axis=0) for values in codes))
    found, expected = fit_latent_density(codes, weights, noise_ratio), fit_latent_density(copies, None, noise_ratio)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)
    assert not np.allclose(found.covariance, fit_latent_density(codes, None, noise_ratio).covariance, rtol=1e-2)


@pytest.mark.parametrize("n_train_draws", [1, 3])
def test_errors_of_a_vae_with_integer_weights_are_those_of_repetition(n_train_draws, samples, weights, rng):
    """With the random numbers of each sample repeated with it."""
    params = {"likelihood": "gaussian_diagonal", "max_epochs": 2, "random_state": 0}
    model = VAETransformer(2, n_train_draws=n_train_draws, **params).fit(samples)
    eps, counts = rng.standard_normal((60, n_train_draws, 2)), weights.astype(int)
    ours = model._mean_squares(model.module_, samples, eps, weights)
    copies = samples.repeat(counts, axis=0), eps.repeat(counts, axis=0)
    for found, expected in zip(ours, model._mean_squares(model.module_, *copies, None), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    np.testing.assert_allclose(ours[1], np.average(~np.isnan(samples), axis=0, weights=weights), rtol=1e-12)


@pytest.mark.parametrize("is_weighted", [True, False])
def test_fractions_of_observed_values_in_memory_and_in_files(is_weighted, incomplete, weights):
    kept = weights > 0
    given = weights if is_weighted else None
    mapped = MappedRows(incomplete, keep=kept, weights=given, has_missing=True)
    mapped.cuts = [slice(start, start + 7) for start in range(0, 60, 7)]
    rows = Rows(incomplete[kept], weights=weights[kept] if is_weighted else None)
    expected = np.average(~np.isnan(incomplete), axis=0, weights=weights if is_weighted else kept)
    for part in (rows, mapped):
        np.testing.assert_allclose(part.observed, expected, rtol=1e-12)


@pytest.mark.parametrize("is_weighted", [True, False])
def test_moments_of_a_file_of_which_a_block_lacks_a_feature(is_weighted, incomplete, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("sklatent._sources.stored.MAPPED_SIZE", 0)
    monkeypatch.setattr("sklatent._sources.stored.BLOCK_SIZE", 4 * 10 * incomplete[0].nbytes)  # blocks of 10 samples
    incomplete[20:50, 1] = np.nan
    mapped = np.memmap(tmp_path / "X", dtype=incomplete.dtype, mode="w+", shape=incomplete.shape)
    mapped[:] = incomplete
    given = weights if is_weighted else None
    for ours, theirs in zip(moments_of_samples(mapped, given), column_moments(incomplete, given), strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert moments_of_samples(mapped, given)[2]


def test_missing_values_of_samples_without_weight_in_a_file_are_absent(X, tmp_path, monkeypatch):
    monkeypatch.setattr("sklatent._sources.stored.MAPPED_SIZE", 0)
    mapped = np.memmap(tmp_path / "X", dtype=X.dtype, mode="w+", shape=X.shape)
    mapped[:] = X
    mapped[::3, 1] = np.nan
    kept = np.arange(60) % 3 > 0
    model = VAETransformer(2, max_epochs=2, random_state=0).fit(mapped, sample_weight=kept)
    assert not model.module_.likelihood.has_missing
    assert not model.module_.sees_missing
    with pytest.raises(ValueError, match="no observed value in column 1"):
        model.fit(np.where(kept[:, None] & (np.arange(5) == 1), np.nan, X), sample_weight=kept)


# How weights travel


@pytest.mark.parametrize("batch_size", [2, 7, 64])
def test_each_sample_meets_its_weight_in_memory_and_in_files(batch_size):
    X = np.arange(82.0).reshape(41, 2)
    weights = np.random.default_rng(0).integers(0, 3, 41).astype(float)
    kept = weights > 0
    mapped = MappedRows(X, keep=kept, weights=weights)
    mapped.cuts = [slice(start, start + 6) for start in range(0, 41, 6)]
    np.testing.assert_array_equal(mapped.weights, weights[kept])
    for rows in (Rows(X[kept], weights=weights[kept]), mapped):
        batches = list(Batches(rows, batch_size, torch.Generator().manual_seed(0)))
        x, relative = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
        assert relative.mean() == pytest.approx(1, rel=1e-6)
        np.testing.assert_allclose(relative, (weights / weights[kept].mean())[(x[:, 0] / 2).astype(int)], rtol=1e-6)


def test_files_with_weights_are_fitted_as_arrays(network, samples, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("sklatent._sources.stored.MAPPED_SIZE", 0)
    mapped = np.memmap(tmp_path / "X", dtype=samples.dtype, mode="w+", shape=samples.shape)
    mapped[:] = samples
    params = {"max_epochs": 5, "batch_size": 1000, "hidden_sizes": (), "random_state": 0}
    ours = network(2, **params).fit(mapped, sample_weight=weights)
    theirs = network(2, **params).fit(np.array(samples), sample_weight=weights)
    np.testing.assert_allclose(ours.module_.standardizer.loc, theirs.module_.standardizer.loc, rtol=1e-12)
    np.testing.assert_allclose(ours.module_.standardizer.scale, theirs.module_.standardizer.scale, rtol=1e-9)
    assert ours.score(samples) == pytest.approx(theirs.score(samples), abs=0.05)  # another order of the noise
    deep = network(2, max_epochs=2, random_state=0).fit(mapped, sample_weight=weights)
    assert np.isfinite(deep.score(samples, sample_weight=weights))


def test_checkpoint_of_other_weights_is_refused(network, X, weights, tmp_path):
    model = network(2, max_epochs=1, checkpoint=tmp_path / "state", random_state=0).fit(X, sample_weight=weights)
    model.fit(X, sample_weight=weights)
    for other in (None, weights + 1):
        with pytest.raises(ValueError, match="belongs to another fit: its data"):
            model.fit(X, sample_weight=other)


def test_weights_are_routed_through_a_pipeline(network, X, weights):
    expected = network(2, max_epochs=2, random_state=0).fit(StandardScaler().fit_transform(X), sample_weight=weights)
    steps = make_pipeline(StandardScaler(), network(2, max_epochs=2, random_state=0))
    name = steps.steps[1][0]
    steps.fit(X, **{f"{name}__sample_weight": weights})
    np.testing.assert_array_equal(steps.transform(X), expected.transform(StandardScaler().fit_transform(X)))
    with sklearn.config_context(enable_metadata_routing=True):
        asks = network(2, max_epochs=2, random_state=0).set_fit_request(sample_weight=True)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asks)
        routed.fit(X, sample_weight=weights)
    np.testing.assert_array_equal(steps.transform(X), routed.transform(X))


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [True, False])
def test_early_stopping_and_left_out_samples_with_weights(network, fraction, samples, weights):
    """The samples left out count by their weights too: with all of it on one side, by one side alone."""
    params = {"max_epochs": 4, "early_stopping": fraction, "random_state": 0}
    model = network(2, **params).fit(samples, sample_weight=weights + 0.1)
    other = network(2, **params).fit(samples, sample_weight=weights.max() - weights + 0.1)
    assert "valid_loss" in model.history_[-1]
    assert model.noise_variance_ != other.noise_variance_


# Estimators around estimators


@pytest.fixture
def classes(rng):
    X = rng.standard_normal((90, 3)) + np.repeat(np.arange(3), 30)[:, None]
    return X, np.repeat(["a", "b", "c"], 30), rng.integers(0, 4, 90).astype(float)


def test_classifier_with_integer_weights_is_that_of_repetition(classes):
    X, y, weights = classes
    counts = weights.astype(int)
    ours = GenerativeClassifier(PCAReducer(1)).fit(X, y, sample_weight=weights)
    theirs = GenerativeClassifier(PCAReducer(1)).fit(X.repeat(counts, axis=0), y.repeat(counts))
    np.testing.assert_allclose(ours.class_prior_, theirs.class_prior_, rtol=1e-12)
    np.testing.assert_array_equal(ours.class_count_, theirs.class_count_)
    np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-8)


def test_class_without_weight_is_absent(classes):
    X, y, _ = classes
    ours = GenerativeClassifier(PCAReducer(1)).fit(X, y, sample_weight=y != "b")
    assert ours.classes_.tolist() == ["a", "c"]


def test_classifier_gives_weights_to_networks(classes):
    X, y, weights = classes
    model = GenerativeClassifier(VAETransformer(1, max_epochs=2, random_state=0)).fit(X, y, sample_weight=weights)
    expected = VAETransformer(1, max_epochs=2, random_state=0).fit(X[y == "b"], sample_weight=weights[y == "b"])
    np.testing.assert_array_equal(model.estimators_[1].score_samples(X), expected.score_samples(X))


@pytest.mark.parametrize("reject", [None, 0.1])
def test_weights_of_one_change_no_classifier(reject, classes):
    X, y, _ = classes
    plain, weighted = (GenerativeClassifier(PCAReducer(1), reject_fraction=reject) for _ in range(2))
    weighted.fit(X, y, sample_weight=np.ones(90))
    np.testing.assert_array_equal(weighted.predict_proba(X), plain.fit(X, y).predict_proba(X))
    np.testing.assert_array_equal(weighted.predict(X), plain.predict(X))


@pytest.mark.parametrize("n_splits", [None, 3])
def test_detector_gives_weights_to_its_densities(n_splits, classes):
    X, _, weights = classes
    detector = LatentOutlierDetector(PCAReducer(1), n_splits=n_splits).fit(X, sample_weight=weights)
    expected = PCAReducer(1).fit(X, sample_weight=weights)
    new = X + 0.01
    np.testing.assert_allclose(detector.score_samples(new), expected.score_samples(new), rtol=1e-12)
    for model, part in zip(detector.fold_estimators_, detector._parts, strict=True):
        rest = np.setdiff1d(np.arange(90), part)
        expected = PCAReducer(1).fit(X[rest], sample_weight=weights[rest])
        np.testing.assert_allclose(model.score_samples(new), expected.score_samples(new), rtol=1e-12)


@pytest.mark.parametrize("density", [GaussianMixture(), make_pipeline(StandardScaler(), PCAReducer(1))], ids=type)
def test_densities_without_weights_are_refused(density, classes):
    X, y, weights = classes
    model = GenerativeClassifier(density)
    with pytest.raises(ValueError, match=f"sample_weight is not supported with estimator={type(density).__name__}"):
        model.fit(X, y, sample_weight=weights)
    assert not hasattr(model, "n_features_in_")


def test_detector_gives_weights_to_a_step(classes):
    X, _, weights = classes
    steps = make_pipeline(StandardScaler(), PCAReducer(1))
    detector = LatentOutlierDetector(steps).fit(X, pcareducer__sample_weight=weights)
    expected = steps.fit(X, pcareducer__sample_weight=weights)
    np.testing.assert_array_equal(detector.estimator_.score_samples(X), expected.score_samples(X))


@pytest.mark.parametrize(
    ("density", "weights", "error", "message"),
    [
        (PCAReducer(1), np.ones(89), ValueError, r"sample_weight.shape == \(89,\), expected \(90,\)"),
        (PCAReducer(1), -np.ones(90), ValueError, "Negative values in data passed to `sample_weight`"),
        (None, np.ones(90), ValueError, "sample_weight is not supported with nz='parallel'"),
        (GaussianMixture(), np.ones(90), TypeError, "unexpected keyword argument 'sample_weight'"),
    ],
)
def test_weights_that_a_detector_cannot_give(density, weights, error, message, classes):
    detector = LatentOutlierDetector(density)
    with pytest.raises(error, match=message):
        detector.fit(classes[0], sample_weight=weights)
    assert not hasattr(detector, "n_features_in_")


@pytest.mark.parametrize("owner", [GenerativeClassifier, LatentOutlierDetector])
def test_routing_decides_who_receives_weights(owner, classes):
    X, y, weights = classes
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            owner(PCAReducer(1)).fit(X, y, sample_weight=weights)
        asks, asks_not = (owner(PCAReducer(1).set_fit_request(sample_weight=value)) for value in (True, False))
        steps = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False), PCAReducer(1).set_fit_request(sample_weight=True)
        )
        for model in (asks, owner(steps)):
            model.fit(X, y, sample_weight=weights)
        if owner is GenerativeClassifier:
            asks_not.fit(X, y, sample_weight=weights)
        else:
            with pytest.raises(TypeError, match="not routed to any object"):
                asks_not.fit(X, y, sample_weight=weights)
        routed = owner(asks.estimator)
        if owner is GenerativeClassifier:  # which uses them itself
            routed.set_fit_request(sample_weight=True)
        routed = make_pipeline(routed).fit(X, y, sample_weight=weights)
    given = owner(PCAReducer(1)).fit(X, y, sample_weight=weights)
    new = X[weights > 0] + 0.01
    np.testing.assert_array_equal(asks.score_samples(new), given.score_samples(new))
    np.testing.assert_array_equal(routed.score_samples(new), given.score_samples(new))
    if owner is GenerativeClassifier:
        plain = PCAReducer(1).fit(X[(weights > 0) & (y == "a")])
        np.testing.assert_array_equal(asks_not.estimators_[0].score_samples(new), plain.score_samples(new))


# Imputation


STEPS = [PCAReducer(2), make_pipeline(StandardScaler(), PCAReducer(2))]


@pytest.mark.parametrize("estimator", STEPS, ids=lambda estimator: type(estimator).__name__)
def test_imputer_with_integer_weights_is_that_of_repetition(estimator, incomplete, weights):
    ours = LatentImputer(estimator).fit(incomplete, sample_weight=weights)
    theirs = LatentImputer(estimator).fit(incomplete.repeat(weights.astype(int), axis=0))
    np.testing.assert_allclose(ours.transform(incomplete), theirs.transform(incomplete), rtol=1e-6)


def test_imputer_gives_weights_to_its_model(incomplete, weights):
    network = VAETransformer(1, max_epochs=2, random_state=0)
    ours = LatentImputer(network).fit(incomplete, sample_weight=weights).transform(incomplete)
    theirs = network.fit(incomplete, sample_weight=weights).impute(incomplete)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)  # of samples in another layout


@pytest.mark.parametrize("estimator", [None, *STEPS], ids=lambda estimator: type(estimator).__name__)
def test_samples_without_weight_have_no_part_in_an_imputer(estimator, incomplete, weights):
    kept = weights > 0
    incomplete[kept, 1] = np.nan  # so that this feature has no observed value
    ours = LatentImputer(estimator, add_indicator=True).fit(incomplete, sample_weight=kept)
    theirs = LatentImputer(estimator, add_indicator=True).fit(incomplete[kept])
    np.testing.assert_allclose(ours.transform(incomplete), theirs.transform(incomplete), rtol=1e-9)
    assert ours.transform(incomplete).shape[1] < 10


def test_default_imputer_weighs_its_scaler_and_its_model(incomplete, weights):
    scaler, pca = LatentImputer().fit(incomplete, sample_weight=weights).estimator_
    masked = np.ma.masked_invalid(incomplete)
    np.testing.assert_allclose(scaler.mean_, np.ma.average(masked, axis=0, weights=weights), rtol=1e-12)
    reference = PCAReducer(pca.nz).fit(scaler.transform(incomplete), sample_weight=weights)
    np.testing.assert_allclose(pca.get_covariance(), reference.get_covariance(), rtol=1e-12)


def test_weights_choose_the_number_of_components_of_the_default(rng):
    """Of two groups, one with one factor and one with four."""

    def group(n_factors):
        loadings = rng.standard_normal((12, n_factors))
        loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
        return rng.standard_normal((300, n_factors)) @ loadings.T + 0.3 * rng.standard_normal((300, 12))

    X, first = np.vstack([group(1), group(4)]), np.repeat([True, False], 300)
    found = [
        LatentImputer().fit(X, sample_weight=np.where(first, weight, 1 - weight)).estimator_[-1].nz
        for weight in (1 - 1e-6, 1e-6)
    ]
    assert found == [1, 4]


@pytest.mark.slow
def test_routing_decides_which_steps_of_an_imputer_receive_weights(incomplete, weights):
    plain = StandardScaler().fit(incomplete[weights > 0])
    with sklearn.config_context(enable_metadata_routing=True):
        default = LatentImputer().fit(incomplete, sample_weight=weights)
        steps = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False), PCAReducer(2).set_fit_request(sample_weight=True)
        )
        imputer = LatentImputer(steps).set_fit_request(sample_weight=True)
        routed = make_pipeline(imputer).fit(incomplete, sample_weight=weights)[0]
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            LatentImputer(PCAReducer(2)).fit(incomplete, sample_weight=weights)
    expected = LatentImputer().fit(incomplete, sample_weight=weights).transform(incomplete)
    np.testing.assert_array_equal(default.transform(incomplete), expected)
    np.testing.assert_allclose(routed.estimator_[0].mean_, plain.mean_, rtol=1e-12)
    expected = PCAReducer(2).fit(plain.transform(incomplete), sample_weight=weights)
    np.testing.assert_allclose(routed.estimator_[1].components_, expected.components_, rtol=1e-9)


class Imputing(TransformerMixin, BaseEstimator):
    """Takes no weights."""

    def fit(self, X, y=None):
        return self

    def impute(self, X, **params):
        return np.nan_to_num(X)


@pytest.mark.parametrize(
    ("estimator", "weights", "message"),
    [
        (None, np.ones(59), r"sample_weight.shape == \(59,\), expected \(60,\)"),
        (None, -np.ones(60), "Negative values in data passed to `sample_weight`"),
        (None, np.zeros(60), "Sample weights must contain at least one non-zero number"),
        (None, np.full(60, np.nan), "Input sample_weight contains NaN"),
        (Imputing(), np.ones(60), "sample_weight is not supported with estimator=Imputing"),
        (make_pipeline(StandardScaler(), Imputing()), np.ones(60), "sample_weight is not supported with estimator=Imp"),
    ],
)
def test_weights_that_an_imputer_cannot_give(estimator, weights, message, incomplete):
    imputer = LatentImputer(estimator)
    with pytest.raises(ValueError, match=message):
        imputer.fit(incomplete, sample_weight=weights)
    assert not hasattr(imputer, "n_features_in_")


# Searches


def assert_equal_to_scikit_learn(estimator, grid, X, weights, **params):
    kinds = FusedGridSearchCV, GridSearchCV
    ours, theirs = (kind(estimator, grid, cv=3, **params).fit(X, **weights) for kind in kinds)
    for name in ours.cv_results_:
        if name.endswith("test_score"):
            np.testing.assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], rtol=1e-5)
    np.testing.assert_array_equal(ours.transform(X), theirs.transform(X))
    return set(ours.cv_results_["route"])


QUICK = {"max_epochs": 3, "batch_size": 8, "random_state": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{}, {"early_stopping": True}, {"likelihood": "gaussian_diagonal"}, {"hidden_sizes": ()}], ids=str
)
def test_search_with_weights_trains_stacks(params, network, samples, weights):
    """With zeros among the weights, so that the folds differ in their numbers of samples and of batches."""
    estimator = network(**QUICK, **params)
    found = assert_equal_to_scikit_learn(estimator, {"nz": [1, 2]}, samples, {"sample_weight": weights})
    assert found == {"stacked"}


@pytest.mark.slow
def test_search_with_weights_trains_stacks_of_importance_weighted_networks(X, weights):
    estimator = VAETransformer(n_train_draws=3, **QUICK)
    assert assert_equal_to_scikit_learn(estimator, {"nz": [1, 2]}, X, {"sample_weight": weights}) == {"stacked"}


@pytest.mark.slow
def test_weights_change_what_a_search_finds(network, X, weights):
    search = FusedGridSearchCV(network(**QUICK), {"nz": [1, 2]}, cv=3)
    weighted, plain = (search.fit(X, **given).cv_results_ for given in ({"sample_weight": weights}, {}))
    assert not np.isclose(weighted["mean_test_score"], plain["mean_test_score"], rtol=1e-3).any()


@pytest.mark.slow
@pytest.mark.parametrize("given", ["network", "scale", "both"])
def test_search_with_weights_for_steps_trains_stacks(given, X, weights):
    steps = Pipeline([("scale", StandardScaler()), ("network", VAETransformer(**QUICK))])
    names = ["scale", "network"] if given == "both" else [given]
    params = {f"{name}__sample_weight": weights for name in names}
    assert assert_equal_to_scikit_learn(steps, {"network__nz": [1, 2]}, X, params) == {"stacked"}


@pytest.mark.slow
def test_search_with_weights_for_a_nested_step(X, weights):
    steps = make_pipeline(StandardScaler(), make_pipeline(PCAReducer(4), VAETransformer(**QUICK)))
    params = {"pipeline__pcareducer__sample_weight": weights, "pipeline__vaetransformer__sample_weight": weights}
    found = assert_equal_to_scikit_learn(steps, {"pipeline__vaetransformer__nz": [1, 2]}, X, params)
    assert found == {"individual+stacked"}  # PCA is the same for all candidates


@pytest.mark.parametrize("kind", ["complete", "with zeros"])
def test_search_of_pca_with_weights_shares_the_decomposition(kind, X, weights):
    given = {"sample_weight": weights + (kind == "complete")}
    assert assert_equal_to_scikit_learn(PCAReducer(), {"nz": [1, 2, 3]}, X, given) == {"shared_svd"}


@pytest.mark.slow
@pytest.mark.parametrize("is_step", [False, True])
def test_search_with_routed_weights_trains_stacks(is_step, X, weights):
    with sklearn.config_context(enable_metadata_routing=True):
        asks = VAETransformer(**QUICK).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        estimator = Pipeline([("scale", scaler), ("network", asks)]) if is_step else asks
        grid = {"network__nz" if is_step else "nz": [1, 2]}
        try:
            GridSearchCV(estimator, grid, cv=3).fit(X, sample_weight=weights)
        except UnsetMetadataPassedError:
            pytest.skip("scikit-learn's own search, in its lowest version, asks the Pipeline and not its steps")
        assert assert_equal_to_scikit_learn(estimator, grid, X, {"sample_weight": weights}) == {"stacked"}
        asks.set_fit_request(sample_weight=False)
        assert assert_equal_to_scikit_learn(estimator, grid, X, {"sample_weight": weights}) == {"stacked"}


@pytest.mark.slow
def test_search_with_weights_in_several_processes(X, weights):
    given = {"sample_weight": weights + 1}  # with zeros, networks of different folds are not alike
    assert assert_equal_to_scikit_learn(VAETransformer(**QUICK), {"nz": [1, 2]}, X, given, n_jobs=2) == {"stacked"}


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_search_reports_wrong_weights_as_scikit_learn_does(bad, X, weights):
    weights[3] = bad
    messages = []
    for kind in (FusedGridSearchCV, GridSearchCV):
        with pytest.raises(ValueError, match=r"sample_weight") as caught:
            kind(VAETransformer(**QUICK), {"nz": [1, 2]}, cv=3, error_score="raise").fit(X, sample_weight=weights)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def meta_estimators(model):
    """A classifier and a detector around a model, each with folds of its own."""
    return [GenerativeClassifier(model, reject_fraction=0.1), LatentOutlierDetector(model, n_splits=2)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The scoring")
@pytest.mark.parametrize("is_routed", [False, True])
@pytest.mark.parametrize("number", [0, 1], ids=["classifier", "detector"])
def test_search_with_weights_within_estimators_trains_stacks(number, is_routed, X, weights):
    y = np.arange(len(X)) % 2
    with sklearn.config_context(enable_metadata_routing=is_routed):
        model = VAETransformer(**QUICK)
        model = model.set_fit_request(sample_weight=True) if is_routed else model
        estimator = meta_estimators(model)[number]
        if is_routed and number == 0:
            estimator.set_fit_request(sample_weight=True)
        ours, theirs = (
            kind(estimator, {"estimator__nz": [1, 2]}, cv=2, scoring=mean_score, error_score="raise").fit(
                X, y, sample_weight=weights + 0.5
            )
            for kind in (FusedGridSearchCV, GridSearchCV)
        )
    assert set(ours.cv_results_["route"]) == {"stacked"}
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("number", [0, 1], ids=["classifier", "detector"])
def test_folds_with_weights_are_learned_together(number, X, weights, monkeypatch):
    """As many as without weights are learned by themselves: those which no other is like."""
    y = np.arange(len(X)) % 2
    n_alone = []
    learn = VAETransformer._learn
    monkeypatch.setattr(VAETransformer, "_learn", lambda *args: (n_alone.append(1), learn(*args))[1])
    counts = []
    for given in ({}, {"sample_weight": weights + 0.5}):
        n_alone.clear()
        meta_estimators(VAETransformer(2, **QUICK))[number].fit(X, y, **given)
        counts.append(len(n_alone))
    assert counts[0] == counts[1] < 2


@pytest.mark.parametrize("number", [0, 1], ids=["classifier", "detector"])
def test_densities_within_estimators_receive_the_weights_of_their_samples(number, X, weights):
    y, weights = np.arange(len(X)) % 2, weights + 0.5
    estimator = meta_estimators(PCAReducer(1))[number]
    fits = estimator.fits_within(X, y, sample_weight=weights)
    found = estimator.fit(X, y, sample_weight=weights)
    members = y == 0 if number == 0 else np.full(len(X), True)
    mean = np.average(X[members], axis=0, weights=weights[members])
    np.testing.assert_allclose((found.estimators_[0] if number == 0 else found.estimator_).mean_, mean, rtol=1e-12)
    model, samples, params = fits[0]
    np.testing.assert_allclose(model.fit(samples, **params).mean_, mean, rtol=1e-12)
