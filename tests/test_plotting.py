"""Pictures, by the data of their artists: against scikit-learn's PCA, closed forms and the estimators themselves."""

import doctest
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
    plotting,
)
from sklatent.metrics import distortion_scorer, log_likelihood_scorer, rate_distortion, rate_scorer
from sklatent.plotting import (
    LatentDisplay,
    LoadingsDisplay,
    LossCurveDisplay,
    RateDistortionDisplay,
    ReconstructionDisplay,
    ScoreDisplay,
    ScreeDisplay,
    TraversalDisplay,
)

DISPLAYS = [getattr(plotting, name) for name in plotting.__all__]
# What each of the displays of samples is made from.
OF_SAMPLES = [LatentDisplay, LoadingsDisplay, ReconstructionDisplay, TraversalDisplay]


@pytest.fixture(scope="module")
def iris():
    return load_iris(as_frame=True).data


@pytest.fixture(scope="module")
def vae(iris):
    return VAETransformer(2, max_epochs=10, random_state=0).fit(iris)


@pytest.fixture(scope="module")
def autoencoder(iris):
    return AutoencoderTransformer(2, max_epochs=3, random_state=0).fit(iris)


def by_value(points):
    """Points in an order of their own, since displays shuffle what they scatter."""
    return points[np.lexsort(points.T)]


def as_table(artist):
    return np.ma.getdata(artist.get_offsets())


# What all displays share


@pytest.mark.slow
@pytest.mark.parametrize("display", OF_SAMPLES)
@pytest.mark.parametrize(
    "estimator",
    [
        PCA(2),
        PCAReducer(2),
        make_pipeline(StandardScaler(), PCA(2)),
        make_pipeline(StandardScaler(), make_pipeline(PCAReducer(2))),
        make_pipeline(StandardScaler(), PCA(2), LogisticRegression()),
        GridSearchCV(make_pipeline(StandardScaler(), PCAReducer()), {"pcareducer__nz": [2]}, cv=2),
        PCAReducer(2).set_output(transform="pandas"),
    ],
    ids=["PCA", "PCAReducer", "Pipeline", "nested", "classifier", "search", "pandas"],
)
def test_displays_of_samples_take_any_transformer(display, estimator, iris):
    shown = display.from_estimator(estimator.fit(iris, load_iris().target), iris)
    assert shown.ax_.figure is shown.figure_
    shown.figure_.canvas.draw()


@pytest.mark.slow
@pytest.mark.parametrize("display", OF_SAMPLES)
@pytest.mark.parametrize("name", ["vae", "autoencoder"])
def test_displays_of_samples_take_networks(display, name, iris, request):
    display.from_estimator(request.getfixturevalue(name), iris).figure_.canvas.draw()


@pytest.mark.parametrize("display", OF_SAMPLES)
def test_displays_use_the_axes_that_are_passed(display, iris):
    figure, axes = plt.subplots(1, 2)
    shown = display.from_estimator(PCA(3).fit(iris), iris, ax=axes[1])
    assert shown.ax_ is axes[1]
    assert shown.figure_ is figure
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("display", OF_SAMPLES)
def test_an_unfitted_estimator_is_refused(display, iris):
    with pytest.raises(NotFittedError):
        display.from_estimator(PCAReducer(2), iris)


@pytest.mark.parametrize("display", OF_SAMPLES)
def test_what_encodes_nothing_is_refused(display, iris):
    model = LogisticRegression(max_iter=1000).fit(iris, load_iris().target)
    with pytest.raises(
        TypeError, match=f"{display.__name__} needs an estimator with transform, got LogisticRegression"
    ):
        display.from_estimator(model, iris)
    assert not plt.get_fignums()


@pytest.mark.parametrize("display", OF_SAMPLES)
@pytest.mark.parametrize("ax", ["ax", 0])
def test_what_is_no_axes_is_refused(display, ax, iris):
    with pytest.raises(TypeError, match=f"ax must be a matplotlib Axes or None, got {type(ax).__name__}"):
        display.from_estimator(PCA(2).fit(iris), iris, ax=ax)


@pytest.mark.parametrize("display", DISPLAYS)
def test_a_missing_matplotlib_is_named(display, monkeypatch, iris):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    method = getattr(display, "from_cv_results", None) or display.from_estimator
    arguments = {LossCurveDisplay: 1, RateDistortionDisplay: 1}.get(display, 2)
    with pytest.raises(ImportError, match=r'pip install "sklatent\[plot\]"'):
        method(*[PCA(2).fit(iris), iris][:arguments])


@pytest.mark.slow
@pytest.mark.parametrize("display", OF_SAMPLES)
def test_names_from_the_data_are_shown_as_they_stand(display):
    names = ["$\\frac", "_hidden", "a\nb", "x" * 99]
    X = pd.DataFrame(np.random.default_rng(0).standard_normal((30, 4)), columns=names)
    labels = {"y": np.resize(names, 30)} if display is LatentDisplay else {}
    shown = display.from_estimator(PCA(2).fit(X), X, **labels)
    shown.figure_.canvas.draw()
    texts = {text.get_text() for text in shown.figure_.findobj(matplotlib.text.Text)}
    assert {"\\$\\frac", "_hidden", "a b"} <= {text.strip() for text in texts}
    assert max(map(len, texts)) < 99


@pytest.mark.slow
@pytest.mark.parametrize("display", [LatentDisplay, ReconstructionDisplay])
@pytest.mark.parametrize("nz", [1, 2, 3])
def test_one_sample_is_shown(display, nz, iris):
    display.from_estimator(PCAReducer(nz).fit(iris), iris[:1]).figure_.canvas.draw()


@pytest.mark.parametrize("display", [LoadingsDisplay, TraversalDisplay])
def test_one_sample_has_no_spread(display, iris):
    with pytest.raises(ValueError, match="must have at least 2 samples, got 1"):
        display.from_estimator(PCAReducer(2).fit(iris), iris[:1])


@pytest.mark.slow
@pytest.mark.parametrize("nz", [1, 2, 50])
@pytest.mark.parametrize(
    "model",
    [PCA(), *(model(max_epochs=1, random_state=0) for model in (VAETransformer, AutoencoderTransformer))],
    ids=["PCA", "VAE", "autoencoder"],
)
def test_ten_thousand_samples_are_drawn(model, nz):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((10_000, nz)) @ rng.standard_normal((nz, 64)) + rng.standard_normal((10_000, 64))
    model.set_params(**{"nz" if "nz" in model.get_params() else "n_components": nz}).fit(X)
    for display in (*OF_SAMPLES, ScoreDisplay):
        display.from_estimator(model, X).figure_.canvas.draw()
    if isinstance(model, AutoencoderTransformer):  # its latent codes have no order
        with pytest.raises(TypeError, match="has kl_per_dimension_ or explained_variance_, got AutoencoderTransformer"):
            ScreeDisplay.from_estimator(model, X)
    else:
        ScreeDisplay.from_estimator(model, X).figure_.canvas.draw()


# LatentDisplay


def test_the_map_has_the_latent_codes(iris):
    pca = PCA(2).fit(iris)
    display = LatentDisplay.from_estimator(pca, iris)
    np.testing.assert_array_equal(by_value(as_table(display.scatter_)), by_value(pca.transform(iris)))
    fractions = 100 * pca.explained_variance_ratio_
    assert display.ax_.get_ylabel() == f"$z_{{1}}$ ({fractions[1]:.3g} % of the variance)"


@pytest.mark.parametrize("labels", [[2, 0, 1], ["c", "a", "b"], [2.0, 0.0, 1.0], [True, False, True]])
def test_classes_have_colours_and_a_legend(labels):
    Z = np.random.default_rng(0).standard_normal((60, 2))
    y = np.resize(labels, 60)
    display = LatentDisplay(Z, y=y).plot()
    legend = [text.get_text().strip() for text in display.ax_.get_legend().get_texts()]
    assert legend == [str(label) for label in np.unique(y)]
    expected = {line.get_label().strip(): line.get_color() for line in display.ax_.get_legend().get_lines()}
    points = as_table(display.scatter_)
    for z, label in zip(Z, y, strict=True):
        found = display.scatter_.get_facecolors()[np.flatnonzero((points == z).all(axis=1))[0]]
        np.testing.assert_allclose(found[:3], expected[str(label)])


def test_the_colours_of_classes_differ_for_colour_blind_readers():
    """Machado et al. (2009): the differences that remain without the cones for red, green or blue."""
    from sklatent.plotting._canvas import CLASS_COLOURS

    blindness = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in CLASS_COLOURS])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for matrix in blindness.values():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1) ** (1 / 2.4)
        distances = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(len(seen), 1)]
        assert distances.min() > 0.05


def test_a_quantity_has_a_colour_bar():
    rng = np.random.default_rng(0)
    Z, y = rng.standard_normal((60, 2)), rng.standard_normal(60)
    y[3] = np.nan
    display = LatentDisplay(Z, y=y).plot()
    found = np.column_stack([as_table(display.scatter_), np.ma.filled(display.scatter_.get_array(), np.nan)])
    np.testing.assert_array_equal(by_value(found), by_value(np.column_stack([Z, y])))
    assert len(display.figure_.axes) == 2


def test_many_classes_are_shown():
    Z = np.random.default_rng(0).standard_normal((300, 2))
    display = LatentDisplay(Z, y=np.arange(300).astype(str)).plot()
    assert len(np.unique(display.scatter_.get_facecolors(), axis=0)) > 200
    assert len(display.ax_.get_legend().get_texts()) == 40


def test_y_of_another_length_is_refused():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LatentDisplay(np.zeros((5, 2)), y=[0, 1]).plot()


def test_pairs_of_latent_dimensions(rng):
    Z = rng.standard_normal((50, 6)) * [1, 6, 2, 5, 3, 4]
    display = LatentDisplay(Z).plot()  # the four with the largest variance: 1, 3, 4, 5
    assert display.axes_.shape == (4, 4)
    points = as_table(display.axes_[2, 1].collections[0])
    np.testing.assert_array_equal(by_value(points), by_value(Z[:, [3, 4]]))
    assert display.axes_[0, 1] is None
    heights, edges, _ = display.axes_[3, 3].patches[-1].get_data()
    np.testing.assert_allclose(heights, np.histogram(Z[:, 5], edges, density=True)[0])


@pytest.mark.parametrize("y", [None, list("ab") * 25])
def test_one_latent_dimension_is_a_histogram(rng, y):
    Z = rng.standard_normal((50, 1))
    display = LatentDisplay(Z, y=y).plot()
    assert display.scatter_ is None
    areas = [heights @ np.diff(edges) for heights, edges, _ in (patch.get_data() for patch in display.ax_.patches)]
    np.testing.assert_allclose(areas, 1)


def test_one_latent_dimension_against_a_quantity(rng):
    Z, y = rng.standard_normal((50, 1)), rng.standard_normal(50)
    found = as_table(LatentDisplay(Z, y=y).plot().scatter_)
    np.testing.assert_array_equal(by_value(found), by_value(np.column_stack([Z[:, 0], y])))


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_ellipses_are_one_standard_deviation_of_the_posterior(posterior, iris):
    pipeline = make_pipeline(StandardScaler(), VAETransformer(3, posterior=posterior, max_epochs=3, random_state=0))
    display = LatentDisplay.from_estimator(pipeline.fit(iris), iris, dimensions=[2, 0], ellipses=True)
    module = pipeline[-1].module_
    with torch.no_grad():
        q = module.posterior(torch.from_numpy(pipeline[0].transform(iris)).float())
    shown = np.unique(np.linspace(0, 149, 100).round().astype(int))
    # The networks of the display are float64, those of the test float32.
    np.testing.assert_allclose(as_table(display.ellipses_), q.mu[shown][:, [2, 0]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.einsum("nii->ni", display.covariances), q.variances[shown], rtol=1e-4)
    # What maps the unit circle to an ellipse is a square root of the covariance.
    display.figure_.canvas.draw()
    roots = display.ellipses_.get_transforms()[:, :2, :2]
    expected = display.covariances[:, [[2], [0]], [2, 0]]
    np.testing.assert_allclose(roots @ roots.swapaxes(1, 2), expected, rtol=1e-10, atol=1e-12)


def test_ellipses_need_a_posterior(iris):
    with pytest.raises(TypeError, match=r"ellipses=True of LatentDisplay needs .* kl_per_dimension_, got PCA"):
        LatentDisplay.from_estimator(PCA(2).fit(iris), iris, ellipses=True)


def test_contours_are_regions_of_highest_density(rng):
    """Hyndman (1996): of a normal density the region of probability p has the radius sqrt(-2 ln(1 - p))."""
    Z = rng.standard_normal((2000, 2))
    display = LatentDisplay(Z).plot(contour=True)
    for path, fraction in zip(display.contour_.get_paths(), (0.9, 0.5), strict=True):
        radius = np.linalg.norm(path.vertices, axis=1).mean()
        assert radius == pytest.approx(np.sqrt(-2 * np.log(1 - fraction)), rel=0.1)  # a smoothed estimate


def test_contours_need_two_dimensions():
    with pytest.raises(ValueError, match="contour=True needs latent codes that vary in two dimensions, got 1 samples"):
        LatentDisplay(np.zeros((1, 2))).plot(contour=True)


@pytest.mark.parametrize("dimensions", [[], [0, 0], [3], [-1], [0.5], [True], list(range(6)), 1, "ab"])
def test_wrong_dimensions_are_refused(dimensions):
    with pytest.raises(ValueError, match=r"dimensions=.* must be None or a list of 1 to 5 different integers"):
        LatentDisplay(np.zeros((5, 3))).plot(dimensions=dimensions)


# ScreeDisplay


@pytest.mark.parametrize("estimator", [PCA(3), PCAReducer(3), make_pipeline(StandardScaler(), PCA(3))])
def test_scree_shows_the_explained_variance(estimator, iris):
    display = ScreeDisplay.from_estimator(estimator.fit(iris))
    pca = PCA(3).fit(iris if not hasattr(estimator, "steps") else StandardScaler().fit_transform(iris))
    np.testing.assert_allclose([bar.get_height() for bar in display.bars_], pca.explained_variance_)
    np.testing.assert_allclose(display.line_.get_ydata(), 100 * np.cumsum(pca.explained_variance_ratio_))
    assert display.band_ is None


@pytest.mark.parametrize(("n_samples", "n_features"), [(400, 10), (20, 50)])
def test_parallel_analysis_finds_the_planted_components(n_samples, n_features, rng):
    scale = 100
    X = rng.standard_normal((n_samples, 2)) * scale @ np.linalg.qr(rng.standard_normal((n_features, 2)))[0].T
    X += rng.standard_normal((n_samples, n_features))
    display = ScreeDisplay.from_estimator(PCA(8).fit(X), X, random_state=0)
    assert display.active.tolist() == [True] * 2 + [False] * 6
    np.testing.assert_allclose(display.band_.get_ydata(), np.percentile(display.noise_variances, 95, axis=0))


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_samples_with_random_signs_have_the_variances_of_pca(shape, scale, rng):
    X = rng.standard_normal(shape)
    X -= X.mean(axis=0)
    pca = PCA(4).fit(X)
    display = ScreeDisplay.from_estimator(pca, scale * X, n_flips=3, random_state=0)
    seed = np.random.RandomState(0).randint(2**31 - 1, size=1)[0]
    bits = np.random.default_rng(seed)
    for found in display.noise_variances:
        expected = PCA(4).fit(np.where(bits.integers(2, size=shape, dtype=bool), X, -X)).explained_variance_
        # 1e-5: eigenvalues in float32.
        np.testing.assert_allclose(found / scale**2, expected, rtol=1e-5, atol=1e-5 * expected[0])


def test_samples_without_correlations_have_no_components(rng):
    X = rng.standard_normal((300, 8))
    assert not ScreeDisplay.from_estimator(PCA().fit(X), X, n_flips=50, random_state=0).active.any()


def test_scree_of_a_vae_shows_the_divergence_of_each_dimension(vae):
    display = ScreeDisplay.from_estimator(vae)
    np.testing.assert_array_equal([bar.get_height() for bar in display.bars_], vae.kl_per_dimension_)
    assert display.ax_.get_title() == f"{vae.active_units_.sum()} of 2 active"
    assert "nats" in display.ax_.get_ylabel()


def test_scree_needs_variances_or_divergences(autoencoder):
    with pytest.raises(TypeError, match="has kl_per_dimension_ or explained_variance_, got AutoencoderTransformer"):
        ScreeDisplay.from_estimator(autoencoder)


def test_parallel_analysis_refuses_what_has_no_signs_to_flip(iris):
    pca = PCAReducer(2).fit(iris)
    with pytest.raises(ValueError, match="must have at least 2 samples and no missing values, got 1 samples"):
        ScreeDisplay.from_estimator(pca, iris[:1])
    with pytest.raises(ValueError, match="got 150 samples with 3 values that are NaN or infinite"):
        ScreeDisplay.from_estimator(pca, iris.replace({"petal width (cm)": {iris["petal width (cm)"].max(): np.nan}}))
    with pytest.raises(ValueError, match="X has 3 features, but PCAReducer is expecting 4"):
        ScreeDisplay.from_estimator(pca, iris.to_numpy()[:, :3])
    with pytest.raises(ValueError, match=r"n_flips=0 must be an int in the range \[1, 1000\]"):
        ScreeDisplay.from_estimator(pca, iris, n_flips=0)


# LoadingsDisplay


@pytest.mark.parametrize("estimator", [PCA(3), PCA(3, whiten=True), PCAReducer(3, whiten=True)])
def test_loadings_of_pca_are_scaled_axes(estimator, iris):
    display = LoadingsDisplay.from_estimator(estimator.fit(iris), iris)
    pca = PCA(3).fit(iris)
    np.testing.assert_allclose(display.loadings, pca.components_.T * np.sqrt(pca.explained_variance_), atol=1e-9)


@pytest.mark.parametrize("steps", [[], [StandardScaler()]])
def test_standardized_loadings_are_correlations(steps, iris):
    pipeline = make_pipeline(*steps, PCA(3)).fit(iris)
    display = LoadingsDisplay.from_estimator(pipeline, iris, standardized=True)
    expected = np.corrcoef(iris.T, pipeline.transform(iris).T)[:4, 4:]
    np.testing.assert_allclose(display.loadings, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["vae", "autoencoder"])
def test_loadings_of_a_network_are_its_mean_jacobian(name, iris, request):
    """Against the derivatives by PyTorch, with every sample."""
    model = request.getfixturevalue(name)
    module = model.module_
    loadings = LoadingsDisplay.from_estimator(model, iris).loadings
    Z = model.transform(iris)

    def decode(z):
        return module.likelihood.mean(module.decode(z[None]))[0]

    jacobians = torch.vmap(torch.func.jacrev(decode))(torch.from_numpy(Z).float()).detach().numpy()
    # PyTorch differentiates in float32.
    np.testing.assert_allclose(loadings, jacobians.mean(axis=0) * Z.std(axis=0, ddof=1), rtol=1e-3, atol=1e-4)


def test_bars_have_the_loadings(iris):
    display = LoadingsDisplay.from_estimator(PCA(2).fit(iris), iris)
    found = np.array([[bar.get_width() for bar in bars] for bars in display.bars_])
    np.testing.assert_array_equal(found, display.loadings.T)
    assert [label.get_text() for label in display.axes_[0].get_yticklabels()] == list(iris.columns)


def test_the_largest_loadings_are_shown(rng):
    loadings = rng.standard_normal((200, 3))
    display = LoadingsDisplay(loadings).plot(max_features=5, dimensions=[1])
    expected = np.sort(np.argsort(-np.abs(loadings[:, 1]))[:5])
    assert [label.get_text() for label in display.axes_[0].get_yticklabels()] == [f"x{j}" for j in expected]


def test_arrows_of_a_biplot_have_the_directions_of_the_loadings(iris):
    display = LoadingsDisplay.from_estimator(PCA(3).fit(iris), iris, kind="biplot", dimensions=[0, 2])
    order = [list(iris.columns).index(arrow.get_text()) for arrow in display.arrows_]
    ends = np.array([arrow.xy for arrow in display.arrows_])
    ratios = ends / display.loadings[order][:, [0, 2]]
    np.testing.assert_allclose(ratios, ratios[0, 0])
    np.testing.assert_array_equal(by_value(as_table(display.scatter_)), by_value(display.latent_codes[:, [0, 2]]))


def test_a_biplot_needs_two_dimensions(iris):
    with pytest.raises(ValueError, match="kind='biplot' needs two latent dimensions, got 1"):
        LoadingsDisplay.from_estimator(PCA(1).fit(iris), iris, kind="biplot")
    with pytest.raises(ValueError, match=r"kind='tri' must be one of \['bars', 'biplot'\]"):
        LoadingsDisplay.from_estimator(PCA(1).fit(iris), iris, kind="tri")


@pytest.mark.slow
def test_loadings_of_constant_features_are_zero(rng):
    X = np.column_stack([rng.standard_normal((30, 2)), np.full(30, 7.0)])
    display = LoadingsDisplay.from_estimator(PCA(2).fit(X), X, standardized=True)
    np.testing.assert_array_equal(display.loadings[2], 0)


# ReconstructionDisplay and TraversalDisplay


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("first", lambda order: [0, 1, 2]),
        ("best", lambda order: order[:3]),
        ("worst", lambda order: order[:-4:-1]),
        ("extremes", lambda order: [*order[:2], order[-1]]),
    ],
)
def test_reconstructions_by_their_errors(select, expected, digits):
    X, _ = digits
    pca = PCA(5).fit(X)
    display = ReconstructionDisplay.from_estimator(pca, X, select=select, n_samples=3, image_shape=(8, 8))
    reconstructed = pca.inverse_transform(pca.transform(X))
    errors = np.linalg.norm(X - reconstructed, axis=1) ** 2
    assert display.shown_.tolist() == list(expected(np.argsort(errors)))
    np.testing.assert_allclose(display.errors_, errors)
    picture = np.ma.filled(display.image_.get_array(), np.nan)
    for place, i in enumerate(display.shown_):  # images of 8 x 8, with gaps of 1
        columns = slice(9 * place, 9 * place + 8)
        np.testing.assert_array_equal(picture[:8, columns], X[i].reshape(8, 8))
        np.testing.assert_array_equal(picture[9:17, columns], reconstructed[i].reshape(8, 8))
    assert np.isnan(picture[8]).all()


def test_reconstructions_of_tables_are_profiles(iris):
    pca = PCA(1).fit(iris)
    display = ReconstructionDisplay.from_estimator(pca, iris, select="first", n_samples=7)
    reconstructed = pca.inverse_transform(pca.transform(iris))
    for (original, copy), x, x_reconstructed in zip(display.lines_, iris.to_numpy(), reconstructed, strict=False):
        np.testing.assert_array_equal(original.get_ydata(), x)
        np.testing.assert_array_equal(copy.get_ydata(), x_reconstructed)
    assert [label.get_text() for label in display.axes_[5].get_xticklabels()] == list(iris.columns)
    assert len({panel.get_ylim() for panel in display.axes_}) == 1


def test_standardized_profiles(iris):
    pca = PCA(1).fit(iris)
    display = ReconstructionDisplay.from_estimator(pca, iris, standardized=True)
    np.testing.assert_allclose(display.X, StandardScaler().fit_transform(iris))
    assert display.ax_.get_ylabel() == "value (standard deviations)"


def test_colour_images(rng):
    X = rng.uniform(size=(20, 3 * 4 * 5))
    display = ReconstructionDisplay.from_estimator(PCA(2).fit(X), X, select="first", n_samples=2, image_shape=(3, 4, 5))
    picture = display.image_.get_array()
    assert picture.shape == (2 * 4 + 1, 2 * 5 + 1, 3)
    np.testing.assert_allclose(picture[:4, :5], X[0].reshape(3, 4, 5).transpose(1, 2, 0))


def test_the_image_shape_of_a_network_is_known(digits):
    X, _ = digits
    model = AutoencoderTransformer(2, backbone="conv", image_shape=(1, 8, 8), hidden_sizes=(2, 2), max_epochs=1)
    assert ReconstructionDisplay.from_estimator(model.fit(X[:64]), X).image_shape == (1, 8, 8)


@pytest.mark.parametrize("image_shape", [(8, 9), (2, 4, 8), (64,), (-8, -8), (1, 1, 8, 8), (8.0, 8.0), 64, "ab"])
def test_wrong_image_shapes_are_refused(image_shape, digits):
    X, _ = digits
    with pytest.raises(ValueError, match=r"image_shape=.* must be \(height, width\) or .* n_features=64"):
        ReconstructionDisplay.from_estimator(PCA(2).fit(X), X, image_shape=image_shape)


def test_wrong_parameters_of_reconstructions_are_refused(iris):
    pca = PCA(2).fit(iris)
    with pytest.raises(ValueError, match="select='random' must be one of"):
        ReconstructionDisplay.from_estimator(pca, iris, select="random")
    with pytest.raises(ValueError, match=r"n_samples=0 must be an int in the range \[1, 15\]"):
        ReconstructionDisplay.from_estimator(pca, iris, n_samples=0)


def test_missing_values_are_left_out_of_errors(rng):
    X = rng.standard_normal((50, 4))
    X[3, 2] = np.nan
    display = ReconstructionDisplay.from_estimator(PCAReducer(2).fit(X), X)
    assert np.isfinite(display.errors_).all()
    display.figure_.canvas.draw()


def test_a_traversal_moves_one_dimension_over_normal_quantiles(digits):
    X, _ = digits
    pca = PCA(4).fit(X)
    display = TraversalDisplay.from_estimator(pca, X, dimensions=[3, 1], n_steps=5)
    Z = pca.transform(X)
    expected = norm.ppf(np.linspace(0.025, 0.975, 5), loc=Z.mean(axis=0)[:, None], scale=Z.std(axis=0)[:, None])
    np.testing.assert_allclose(display.values, expected[[3, 1]], atol=1e-12)
    z = Z.mean(axis=0)
    z[3] = expected[3, 4]
    np.testing.assert_allclose(display.X_decoded[0, 4], pca.inverse_transform(z[None])[0], atol=1e-12)
    np.testing.assert_array_equal(display.lines_[0][4].get_ydata(), display.X_decoded[0, 4])


def test_two_dimensions_of_images_are_a_grid(digits):
    X, _ = digits
    vae = VAETransformer(2, max_epochs=1, random_state=0).fit(X)
    display = TraversalDisplay.from_estimator(vae, n_steps=3, image_shape=(8, 8))
    low, high = norm.ppf([0.025, 0.975])
    picture = np.ma.filled(display.image_.get_array(), np.nan)
    right_and_low, left_and_high = vae.inverse_transform([[high, low], [low, high]]).reshape(2, 8, 8)
    np.testing.assert_allclose(picture[-8:, -8:], right_and_low)
    np.testing.assert_allclose(picture[:8, :8], left_and_high)
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["-2", "0", "2"]
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["2", "0", "-2"]


def test_fifty_dimensions_of_images(digits):
    X, _ = digits
    display = TraversalDisplay.from_estimator(PCA(50).fit(X), X, dimensions=range(50), image_shape=(8, 8))
    assert display.image_.get_array().shape == (50 * 9 - 1, 9 * 9 - 1)


def test_profiles_of_many_dimensions_are_refused(rng):
    X = rng.standard_normal((60, 40))
    with pytest.raises(ValueError, match="of TraversalDisplay must be None or a list of 1 to 15 different integers"):
        TraversalDisplay.from_estimator(PCA(30).fit(X), X, dimensions=range(30))


def test_a_traversal_without_samples_needs_a_prior(iris, digits):
    with pytest.raises(TypeError, match=r"X=None of TraversalDisplay needs .* kl_per_dimension_, got PCA"):
        TraversalDisplay.from_estimator(PCA(2).fit(iris))
    vae = VAETransformer(2, prior="mixture", max_epochs=1, random_state=0).fit(iris)
    with pytest.raises(ValueError, match="needs prior='standard_normal', got prior='mixture'"):
        TraversalDisplay.from_estimator(vae)
    with pytest.raises(ValueError, match="standardized=True needs X"):
        TraversalDisplay.from_estimator(vae, standardized=True)


# LossCurveDisplay


@pytest.mark.slow
@pytest.mark.parametrize(("kl_warmup", "n_epochs"), [(0.0, 0), (0.5, 10), (0.3, 6), (1.0, 20)])
def test_losses_and_their_warm_up(kl_warmup, n_epochs, iris):
    vae = VAETransformer(2, max_epochs=20, kl_warmup=kl_warmup, beta=2.0, random_state=0).fit(iris)
    display = LossCurveDisplay.from_estimator(make_pipeline(StandardScaler().fit(iris), vae))
    for name in ("train_loss", "train_reconstruction", "train_kl"):
        np.testing.assert_array_equal(display.lines_[name].get_ydata(), [epoch[name] for epoch in vae.history_])
    assert display.n_warmup == n_epochs
    assert len(display.warmup_) == (2 if n_epochs else 0)


def test_losses_of_early_stopping_are_compared(iris):
    vae = VAETransformer(2, max_epochs=4, early_stopping=True, random_state=0).fit(iris)
    display = LossCurveDisplay.from_estimator(vae)
    np.testing.assert_array_equal(display.lines_["valid_kl"].get_ydata(), [epoch["valid_kl"] for epoch in vae.history_])
    assert display.lines_["valid_loss"].get_linestyle() == "--"


def test_partial_fit_has_no_warm_up(iris):
    vae = VAETransformer(2, random_state=0).partial_fit(iris).partial_fit(iris)
    assert LossCurveDisplay.from_estimator(vae).n_warmup == 0


def test_the_losses_of_an_autoencoder_are_those_of_training_and_of_samples_left_out(autoencoder):
    display = LossCurveDisplay.from_estimator(autoencoder)
    assert list(display.lines_) == ["train_loss", "valid_loss"]
    np.testing.assert_array_equal(display.lines_["train_loss"].get_ydata(), autoencoder.loss_curve_)


def test_pca_has_no_losses(iris):
    with pytest.raises(TypeError, match=r"LossCurveDisplay needs .* history_, got PCAReducer"):
        LossCurveDisplay.from_estimator(PCAReducer(2).fit(iris))


# ScoreDisplay


def test_scores_and_the_threshold_of_a_detector(iris):
    X = iris.to_numpy()
    detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    display = ScoreDisplay.from_estimator(detector, {"training": X[:100], "new": X[100:]})
    for name, group in (("training", X[:100]), ("new", X[100:])):
        heights, edges, _ = display.steps_[name].get_data()
        np.testing.assert_allclose(heights, np.histogram(detector.score_samples(group), edges, density=True)[0])
    assert set(display.line_.get_xdata()) == {detector.offset_}


@pytest.mark.parametrize("estimator", [PCA(2), PCAReducer(2), make_pipeline(StandardScaler(), PCA(2))])
def test_a_density_has_no_threshold(estimator, iris):
    display = ScoreDisplay.from_estimator(estimator.fit(iris), iris)
    assert display.line_ is None
    assert list(display.scores) == ["samples"]


def test_the_threshold_that_a_classifier_has_found(iris):
    classifier = GenerativeClassifier(PCAReducer(2), reject_fraction=0.1).fit(iris, np.repeat([0, 1, 2], 50))
    assert ScoreDisplay.from_estimator(classifier, iris).threshold == classifier.reject_threshold_


def test_the_threshold_of_scikit_learn_s_detectors(iris):
    pipeline = make_pipeline(StandardScaler(), IsolationForest(n_estimators=10, random_state=0)).fit(iris)
    assert ScoreDisplay.from_estimator(pipeline, iris).threshold == pipeline[-1].offset_


def test_scores_far_below_are_counted(rng):
    scores = {"training": rng.standard_normal(1000), "far": np.array([-1e6, -np.inf, np.nan, 0.0])}
    display = ScoreDisplay(scores).plot()
    assert [text.get_text().strip() for text in display.ax_.get_legend().get_texts()] == [
        "training",
        "far (3 of 4 not shown)",
    ]
    assert display.steps_["far"].get_data().edges[0] > -100


@pytest.mark.parametrize("scores", [[1.0], [1.0, 1.0], [-np.inf, 3.0]])
def test_few_scores_are_shown(scores):
    heights, edges, _ = ScoreDisplay({"one": np.array(scores)}).plot().steps_["one"].get_data()
    assert heights @ np.diff(edges) == pytest.approx(1)


@pytest.mark.parametrize("scores", [{}, {"none": np.array([-np.inf])}])
def test_no_scores_are_refused(scores):
    with pytest.raises(ValueError, match="needs at least one finite score"):
        ScoreDisplay(scores).plot()


def test_what_scores_nothing_is_refused(iris):
    with pytest.raises(TypeError, match="ScoreDisplay needs an estimator with score_samples, got StandardScaler"):
        ScoreDisplay.from_estimator(StandardScaler().fit(iris), iris)


def test_the_threshold_is_a_number(iris):
    display = ScoreDisplay.from_estimator(PCA(2).fit(iris), iris, threshold=-7.5)
    assert set(display.line_.get_xdata()) == {-7.5}
    with pytest.raises(TypeError, match="threshold must be an instance of"):
        ScoreDisplay.from_estimator(PCA(2).fit(iris), iris, threshold="low")


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame, list])
def test_some_of_the_samples_are_scored(container, rng):
    X = rng.standard_normal((50, 3))
    pca = PCA(2).fit(X)
    display = ScoreDisplay.from_estimator(pca, {"all": container(X[:7]), "some": container(X)}, max_samples=20)
    np.testing.assert_array_equal(display.scores["all"], pca.score_samples(X[:7]))
    np.testing.assert_allclose(display.scores["some"], pca.score_samples(X[np.linspace(0, 49, 10).round().astype(int)]))
    assert len(ScoreDisplay.from_estimator(pca, container(X), max_samples=None).scores["samples"]) == 50
    with pytest.raises(ValueError, match="max_samples == 1, must be >= 2"):
        ScoreDisplay.from_estimator(pca, {"one": X, "two": X}, max_samples=1)


# RateDistortionDisplay


def test_rate_and_distortion_of_a_search(iris):
    scoring = {"rate": rate_scorer, "distortion": distortion_scorer, "likelihood": log_likelihood_scorer}
    pipeline = make_pipeline(StandardScaler(), PCAReducer())
    search = GridSearchCV(pipeline, {"pcareducer__nz": [1, 2, 3]}, scoring=scoring, refit=False, cv=2).fit(iris)
    results = search.cv_results_
    display = RateDistortionDisplay.from_cv_results(results, score="likelihood")
    folds = [clone(pipeline).set_params(pcareducer__nz=nz) for nz in (1, 2, 3)]
    halves = list(KFold(2).split(iris))
    expected = [
        np.mean([rate_distortion(model.fit(iris.iloc[a]), iris.iloc[b]) for a, b in halves], axis=0) for model in folds
    ]
    np.testing.assert_allclose(as_table(display.scatter_), expected, rtol=1e-10)
    # The exact rate and distortion of PCA add up to minus the log-likelihood.
    np.testing.assert_allclose(display.scatter_.get_array(), -np.sum(expected, axis=1), rtol=1e-10)
    assert [text.get_text() for text in display.texts_] == ["nz=1", "nz=2", "nz=3"]
    with pytest.raises(ValueError, match=r"must have the scorer 'recall', got those of \['distortion', 'likelihood',"):
        RateDistortionDisplay.from_cv_results(results, score="recall")


def test_labels_name_nz_and_beta():
    params = [{"vae__nz": 2, "vae__beta": 0.5, "vae__lr": 1e-3}]
    results = {"params": params, "mean_test_rate": [-1.0], "mean_test_distortion": [-2.0]}
    assert RateDistortionDisplay.from_cv_results(results).texts_[0].get_text() == "nz=2, beta=0.5"


# Canvas


def test_a_mosaic_keeps_every_pixel(rng):
    from sklatent.plotting._canvas import mosaic

    images = rng.standard_normal((3, 4, 5, 6))
    tiles = mosaic(images)
    for i, j in np.ndindex(3, 4):
        np.testing.assert_array_equal(tiles[6 * i :, 7 * j :][:5, :6], images[i, j])
    assert np.isfinite(tiles).sum() == images.size


@pytest.mark.slow
def test_a_backbone_of_the_user_s_own(iris):
    def linear(input_shape, nz, n_code):
        return nn.Linear(*input_shape, n_code), nn.Linear(nz, *input_shape)

    model = AutoencoderTransformer(2, backbone=linear, random_state=0).fit(iris)
    loadings = LoadingsDisplay.from_estimator(model, iris).loadings
    weight = model.module_.decoder.weight.detach().double().numpy() * float(model.module_.standardizer.scale)
    # The weights are float32, and the scale that is applied to the output too.
    np.testing.assert_allclose(loadings, weight * model.transform(iris).std(axis=0, ddof=1), rtol=1e-5)


def test_wine_has_three_components_above_noise():
    X = load_wine().data
    pipeline = make_pipeline(StandardScaler(), PCA()).fit(X)
    assert ScreeDisplay.from_estimator(pipeline, X, random_state=0).active.sum() == 3


@pytest.mark.slow
def test_the_snippets_of_the_guide_run():
    page = Path(__file__).parents[1] / "docs" / "guide" / "pictures.rst"
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted > 20
    assert not found.failed


@pytest.mark.parametrize("value", [0.0, 0.3, -1e12, 1e17, 1e-300])
def test_bins_of_values_that_are_equal_up_to_rounding(value):
    from sklatent.plotting._canvas import bin_edges

    edges = bin_edges([value, np.nextafter(value, 1)], 60)
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= value <= edges[-1]


@pytest.mark.slow
@pytest.mark.parametrize("display", [LoadingsDisplay, ReconstructionDisplay])
def test_features_without_an_observed_value_among_the_samples(display, iris):
    pca = PCAReducer(2).fit(iris)
    shown = display.from_estimator(pca, iris.assign(**{"petal width (cm)": np.nan}), standardized=True)
    if display is LoadingsDisplay:
        np.testing.assert_array_equal(shown.loadings[3], 0)
