"""The box of an estimator in a notebook: a link to its page, a description of everything in it, and short values."""

import html
import re

import pytest
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
    _sklearn_compat,
)
from sklatent.model_selection import FusedGridSearchCV

ADDRESS = "https://example.org/pages"
NETWORK = {"hidden_sizes": (4,), "max_epochs": 30, "random_state": 0}
ESTIMATORS = [
    PCAReducer(2),
    AutoencoderTransformer(2, **NETWORK),
    VAETransformer(2, **NETWORK),
    GenerativeClassifier(PCAReducer(2)),
    LatentOutlierDetector(PCAReducer(2)),
    FusedGridSearchCV(PCAReducer(), {"nz": [1, 2]}),
]


@pytest.fixture(autouse=True)
def _address(monkeypatch):
    monkeypatch.setattr(_sklearn_compat, "_documentation_address", lambda: ADDRESS)


@pytest.fixture(params=ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def fitted(request):
    return request.param.fit(*load_iris(return_X_y=True))


def page(estimator):
    module = type(estimator).__module__.partition("._")[0]
    return f"{ADDRESS}/api/generated/{module}.{type(estimator).__name__}.html"


def test_box_links_to_the_page(fitted):
    assert page(fitted) in fitted._repr_html_()


@pytest.mark.parametrize("is_within", [False, True], ids=["alone", "in a Pipeline"])
def test_box_describes_parameters_and_fitted_attributes(fitted, is_within):
    pytest.importorskip("sklearn.utils._repr_html.fitted_attributes")  # scikit-learn 1.9 on
    estimator = make_pipeline(StandardScaler(), fitted) if is_within else fitted
    box = estimator._repr_html_()
    for name in fitted.get_params(deep=False):
        assert f'href="{page(fitted)}#:~:text={name},' in box, name
    described = set(re.findall(rf'href="{re.escape(page(fitted))}#:~:text=(\w+),', box))
    shown = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
    missing = shown - described
    # scikit-learn's own search describes several attributes in one line, as does ours.
    assert not missing or isinstance(fitted, FusedGridSearchCV), missing


@pytest.mark.parametrize("fitted", ESTIMATORS[:-1], ids=lambda estimator: type(estimator).__name__, indirect=True)
def test_box_has_no_wall_of_text(fitted):
    """Thirty epochs of history, and a module of many layers, in a few words each; a search has scikit-learn's box."""
    cells = re.findall(r"<td>([^<]*)</td>", fitted._repr_html_())
    # scikit-learn shows the first six records of the history, and four values of each.
    assert all(len(html.unescape(cell).strip()) < 600 for cell in cells)
