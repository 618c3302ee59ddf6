"""The report in a real browser: it opens offline, decodes as `inverse_transform` does, and runs nothing of the data."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PowerTransformer, StandardScaler
from torch import nn

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent.report import write_report

pytestmark = pytest.mark.slow

QUICK = {"max_epochs": 2, "lr": 0.01, "random_state": 0}
HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><b>name</b>"


@pytest.fixture(scope="module")
def images(digits):
    return digits[0][:300]


@pytest.fixture(scope="module")
def labels(digits):
    return digits[1][:300]


@pytest.fixture(scope="module")
def pca(images):
    return PCAReducer(2).fit(images)


def opened(browser, path):
    browser.get(path.as_uri())
    problems = browser.get_log("browser")
    assert not problems, problems
    return browser


def decoded(browser, Z):
    """What the page decodes."""
    return np.array(browser.execute_script("return arguments[0].map((z) => [...decode(z)])", Z.tolist()), dtype=float)


def decoded_image(browser):
    return browser.execute_script("return document.querySelector('#decoded canvas').toDataURL()")


def latent_code(browser):
    return np.array(browser.execute_script("return [...state.z]"))


def unfolded(until, details):
    """The rows of a table in a closed `<details>`, which is built when it opens."""
    details.find_element("tag name", "summary").click()
    return until(lambda: details.find_elements("css selector", "tbody tr"))


def vae(nz=2, **kwargs):
    return VAETransformer(nz, **QUICK | kwargs)


def counts(X):
    return np.round(16 * X)


DECODERS = {
    "PCA": PCAReducer(5),
    "whitened PCA": PCAReducer(5, whiten=True),
    "scikit-learn's PCA": PCA(3, whiten=True),
    "scaled PCA": make_pipeline(MinMaxScaler((-3, 5)), PCA(3)),
    "scaled network": make_pipeline(MinMaxScaler((-3, 5)), vae()),
    "rotated network": make_pipeline(PCA(10), vae(init="random")),
    **{name: vae(3, activation=name, init="random") for name in ("relu", "silu", "tanh", "gelu")},
    "started at PCA": vae(2),
    "linear": AutoencoderTransformer(2, hidden_sizes=(), **QUICK),
    "sigmoid": AutoencoderTransformer(2, output_activation="sigmoid", **QUICK),
    "gaussian_diagonal": vae(likelihood="gaussian_diagonal"),
    "bernoulli": vae(likelihood="bernoulli"),
    "continuous_bernoulli": vae(likelihood="continuous_bernoulli"),
    "poisson": vae(likelihood="poisson"),
    "conv": vae(2, backbone="conv"),
    "conv, sigmoid": AutoencoderTransformer(3, backbone="conv", output_activation="sigmoid", **QUICK),
    "conv, poisson": vae(2, backbone="conv", hidden_sizes=(8, 8), activation="gelu", likelihood="poisson"),
    "conv, three channels": vae(2, backbone="conv", image_shape=(3, 7, 3), hidden_sizes=(8,), likelihood="bernoulli"),
    "known layers": vae(
        backbone=lambda shape, nz, n: (nn.Linear(64, n), nn.Sequential(nn.Linear(nz, 64), nn.Sigmoid()))
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_the_page_decodes_as_the_estimator_does(name, browser, images, tmp_path):
    X = counts(images) if "poisson" in name else images[:, :63] if "three" in name else images
    estimator = DECODERS[name].fit(X)
    opened(browser, write_report(estimator, X, tmp_path / "report.html"))
    assert browser.execute_script("return !content.decoder.grid")
    codes = estimator.transform(X)
    Z = codes.mean(axis=0) + 2 * codes.std(axis=0) * np.random.default_rng(0).standard_normal((50, codes.shape[1]))
    expected = estimator.inverse_transform(Z)
    np.testing.assert_allclose(decoded(browser, Z), expected, rtol=1e-4, atol=1e-4 * X.std())


def test_features_far_from_the_origin_keep_their_digits(browser, tmp_path, rng):
    X = 1e7 + rng.standard_normal((100, 4))
    estimator = PCAReducer(2).fit(X)
    opened(browser, write_report(estimator, X, tmp_path / "report.html"))
    Z = rng.standard_normal((50, 2))
    np.testing.assert_allclose(decoded(browser, Z), estimator.inverse_transform(Z), rtol=0, atol=1e-5)


def unknown(shape, nz, n_code):
    return nn.Linear(64, n_code), nn.Sequential(nn.Linear(nz, 64), nn.Softplus())


@pytest.mark.parametrize(
    "estimator",
    [vae(backbone=unknown), vae(3, backbone=unknown), make_pipeline(PowerTransformer(standardize=False), PCA(2))],
    ids=["callable", "three latent dimensions", "power transform"],
)
@pytest.mark.parametrize("shape", [(8, 8), None], ids=["images", "table"])
# A power transform has no inverse for some latent codes. The page shows these values as missing.
@pytest.mark.filterwarnings("ignore:invalid value encountered in power", "ignore:Some values in column")
def test_other_decoders_are_precomputed_and_the_page_says_so(estimator, shape, browser, images, tmp_path):
    X = images + 0.1 * np.arange(64)[None] / 64 + 0.01 * np.random.default_rng(0).random(images.shape)
    opened(browser, write_report(estimator.fit(X), X, tmp_path / "report.html", image_shape=shape))
    note = browser.find_element("id", "precomputed")
    assert note.is_displayed()
    assert "decoded in advance" in note.text
    grid = browser.execute_script("return content.decoder.grid")
    nz = browser.execute_script("return nz")
    Z = np.tile(estimator.transform(X).mean(axis=0), (50, 1))
    steps = np.random.default_rng(0).integers(grid["side"], size=(50, 2))
    low, high = np.array(grid["low"]), np.array(grid["high"])
    Z[:, grid["dimensions"]] = low + (high - low) * steps / (grid["side"] - 1)
    assert [slider.is_enabled() for slider in browser.find_elements("css selector", "#sliders input")] == [
        k in grid["dimensions"] for k in range(nz)
    ]
    expected = estimator.inverse_transform(Z)
    levels = grid["values"]  # of pictures, which are rounded to them
    tolerance = 1e-4 if shape is None else (0.5 + 1e-6) * (levels["high"] - levels["low"]) / 254
    np.testing.assert_allclose(decoded(browser, Z), expected, rtol=1e-4, atol=tolerance)


def test_dragging_the_point_changes_the_picture(browser, pca, images, labels, tmp_path):
    from selenium.webdriver import ActionChains

    opened(browser, write_report(pca, images, tmp_path / "report.html", y=labels, image_shape=(8, 8)))
    before, z = decoded_image(browser), latent_code(browser)
    canvas = browser.find_element("id", "point")
    x, y = browser.execute_script("return map.toPixel(...map.point)")
    centre = canvas.size["width"] / 2, canvas.size["height"] / 2
    drag = ActionChains(browser).move_to_element_with_offset(canvas, round(x - centre[0]), round(y - centre[1]))
    drag.click_and_hold().move_by_offset(60, -40).release().perform()
    assert decoded_image(browser) != before
    moved = latent_code(browser) - z
    assert moved[0] > 0
    assert moved[1] > 0
    expected = browser.execute_script(f"return map.toData({round(x) + 60}, {round(y) - 40})")
    np.testing.assert_allclose(latent_code(browser), expected, atol=0.02)


def test_a_click_moves_the_point_and_a_drag_of_the_background_does_not(browser, pca, images, tmp_path):
    from selenium.webdriver import ActionChains

    opened(browser, write_report(pca, images, tmp_path / "report.html", image_shape=(8, 8)))
    canvas, z = browser.find_element("id", "point"), latent_code(browser)
    view = browser.execute_script("return map.view")
    drag = ActionChains(browser).move_to_element_with_offset(canvas, 200, 150)
    drag.click_and_hold().move_by_offset(-50, -50).release().perform()
    np.testing.assert_array_equal(latent_code(browser), z)
    assert browser.execute_script("return map.view") != view
    ActionChains(browser).move_to_element_with_offset(canvas, 200, 150).click().perform()
    assert (latent_code(browser) != z).all()


def test_arrow_keys_move_the_point(browser, pca, images, tmp_path):
    from selenium.webdriver import Keys

    opened(browser, write_report(pca, images, tmp_path / "report.html", image_shape=(8, 8)))
    before, z = decoded_image(browser), latent_code(browser)
    canvas = browser.find_element("id", "point")
    assert canvas.accessible_name
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    step = latent_code(browser) - z
    assert decoded_image(browser) != before
    assert (step > 0).all()
    canvas.send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert latent_code(browser)[0] < z[0]


def test_sliders_move_every_latent_dimension(browser, images, tmp_path):
    from selenium.webdriver import Keys

    estimator = PCAReducer(5).fit(images)
    opened(browser, write_report(estimator, images, tmp_path / "report.html", image_shape=(8, 8)))
    sliders = browser.find_elements("css selector", "#sliders input")
    assert [slider.accessible_name[:2] for slider in sliders] == ["z0", "z1", "z2", "z3", "z4"]
    before = latent_code(browser)
    sliders[3].send_keys(Keys.ARROW_RIGHT * 5)
    moved = latent_code(browser)
    assert moved[3] > before[3]
    np.testing.assert_array_equal(np.delete(moved, 3), np.delete(before, 3))
    np.testing.assert_allclose(decoded(browser, moved[None]), estimator.inverse_transform(moved[None]), atol=1e-5)


def test_the_state_is_said_to_screen_readers(browser, until, pca, images, labels, tmp_path):
    opened(browser, write_report(pca, images, tmp_path / "report.html", y=labels, image_shape=(8, 8)))
    browser.find_element("id", "point").send_keys("\ue014")  # an arrow key
    status = browser.find_element("id", "status")
    assert status.get_attribute("aria-live") == "polite"
    assert until(lambda: "Nearest: Sample" in status.get_attribute("textContent"))
    unnamed = "return [...document.querySelectorAll('canvas, select, input, button, svg')].filter((e) => !e.ariaHidden)"
    assert all(element.accessible_name for element in browser.execute_script(unnamed))


def test_tables_say_what_the_pictures_show(browser, until, pca, images, labels, tmp_path):
    opened(browser, write_report(pca, images, tmp_path / "report.html", y=labels, image_shape=(8, 8)))
    samples, values = browser.find_elements("css selector", ".stage details")
    rows = unfolded(until, samples)
    assert len(rows) == 200
    rows[7].find_element("tag name", "button").click()
    np.testing.assert_allclose(latent_code(browser), pca.transform(images[7:8])[0], rtol=1e-5)
    unfolded(until, values)
    texts = "return [...arguments[0].querySelectorAll('td:last-child')].map((cell) => cell.textContent)"
    cells = until(lambda: all(found := browser.execute_script(texts, values)) and found)
    shown = np.array([float(cell.replace("−", "-")) for cell in cells])
    np.testing.assert_allclose(shown, pca.inverse_transform(pca.transform(images[7:8]))[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8), None], ids=["images", "table"])
def test_losses_are_drawn_and_listed(shape, browser, until, images, tmp_path):
    estimator = vae().fit(images)
    opened(browser, write_report(estimator, images, tmp_path / "report.html", image_shape=shape))
    names = ["train_loss", "train_reconstruction", "valid_loss"]
    points = browser.execute_script("return [...document.querySelectorAll('.curve')].map((c) => c.points.length)")
    assert points == [2] * len(names)
    training = browser.find_element("xpath", "//section[h2='Training']")
    rows = unfolded(until, training.find_element("tag name", "details"))
    shown = [row.text.replace("−", "-").split() for row in rows]
    expected = [[epoch, *(estimator.history_[epoch - 1][name] for name in names)] for epoch in (1, 2)]
    np.testing.assert_allclose(np.array(shown, dtype=float), expected, rtol=1e-3)


def test_names_and_labels_are_shown_as_text(browser, tmp_path):
    X = load_wine().data[:, :4]
    frame = pd.DataFrame(X, columns=[HOSTILE, "<!--<script>", "a&b", "'\"\\u2028"])
    labels = np.where(X[:, 0] > 13, HOSTILE, "$&{{plain}}")
    estimator = make_pipeline(StandardScaler(), PCAReducer(2)).fit(frame)
    opened(browser, write_report(estimator, frame, tmp_path / "report.html", y=labels))
    assert browser.title != "run"
    assert not browser.find_elements("css selector", "img, b")
    text = browser.find_element("tag name", "body").text
    assert HOSTILE in text
    assert "<!--<script>" in text
    legend = [chip.text for chip in browser.find_elements("css selector", ".chip")]
    assert sorted(legend) == sorted({HOSTILE, "$&{{plain}}"})


def test_scripts_that_are_not_the_page_are_refused(browser, pca, images, tmp_path):
    """Even if something of the data became an element, it could run nothing and load nothing."""
    opened(browser, write_report(pca, images, tmp_path / "report.html"))
    image = '<img src="http://127.0.0.1:1/x.png" onerror="window.ran = 1">'
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", image)
    assert browser.execute_async_script("setTimeout(() => arguments[0](window.ran ?? 'refused'), 300)") == "refused"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("n_samples", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 8), None], ids=["images", "table"])
def test_a_few_samples_open(n_samples, shape, browser, pca, images, tmp_path):
    opened(browser, write_report(pca, images[:n_samples], tmp_path / "report.html", image_shape=shape))


@pytest.mark.parametrize("nz", [1, 3, 50])
@pytest.mark.parametrize("n_features", [64, 20])
def test_any_latent_dimension_opens(nz, n_features, browser, images, tmp_path):
    nz = min(nz, n_features)
    X = images[:, 20 : 20 + n_features] if n_features < 64 else images
    opened(browser, write_report(PCA(nz).fit(X), X, tmp_path / "report.html"))
    assert len(browser.find_elements("css selector", "#sliders input")) == nz


def test_missing_values_are_shown(browser, images, tmp_path, rng):
    X = np.where(rng.random(images.shape) < 0.1, np.nan, images)[:, :30]
    opened(browser, write_report(PCAReducer(2).fit(X), X, tmp_path / "table.html"))
    X = np.where(rng.random(images.shape) < 0.1, np.nan, images)
    opened(browser, write_report(PCAReducer(2).fit(X), X, tmp_path / "images.html", image_shape=(8, 8)))


def test_colours_by_label_score_and_feature(browser, tmp_path):
    wine = load_wine(as_frame=True)
    estimator = PCAReducer(2).fit(wine.data)
    opened(browser, write_report(estimator, wine.data, tmp_path / "report.html", y=wine.target))
    options = browser.find_elements("css selector", "#colouring option")
    assert [option.text for option in options] == ["label", "score", "none", *wine.data.columns]
    shown = set()
    for option in options:
        option.click()
        shown.add(tuple(browser.execute_script("return map.colours")))
    assert len(shown) == len(options)
    assert not browser.get_log("browser")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_follows_the_theme(theme, browser, pca, images, tmp_path):
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened(browser, write_report(pca, images, tmp_path / "report.html", image_shape=(8, 8)))
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(value) for value in background.strip("rgb()").split(",")])
    assert (brightness > 128) == (theme == "light")
    corner = browser.execute_script(
        "return [...document.querySelector('#decoded canvas').getContext('2d').getImageData(0, 0, 1, 1).data]"
    )
    assert (np.mean(corner[:3]) > 128) == (theme == "light")  # blank paper
