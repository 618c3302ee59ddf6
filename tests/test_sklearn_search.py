"""scikit-learn's own tests of its searches, run on the fused ones."""

import sys
import warnings
from functools import partial
from importlib.util import find_spec, module_from_spec
from unittest.mock import patch

import pytest
import sklearn.model_selection

from sklatent.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV

# Their warnings are scikit-learn's business.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

NOT_APPLICABLE = {
    "test_custom_run_search": "holds the keys of a search of its own against those of this one, which has one more",
    "test_array_api_search_cv_classifier": "its parameters are a generator, of which pytest warns",
}

# The module is run anew with other classes under scikit-learn's names: its parametrizations hold them from the start.
spec = find_spec("sklearn.model_selection.tests.test_search")
upstream = module_from_spec(spec)
with (
    patch.multiple(sklearn.model_selection, GridSearchCV=FusedGridSearchCV, RandomizedSearchCV=FusedRandomizedSearchCV),
    warnings.catch_warnings(),
):
    warnings.simplefilter("ignore")  # of marks that only scikit-learn's configuration of pytest knows
    spec.loader.exec_module(upstream)

sys.modules[spec.name] = upstream  # for pickle


@pytest.fixture(autouse=True)
def allow_for_what_differs(monkeypatch):
    """One more key of `cv_results_`."""
    check = upstream.check_cv_results_keys
    monkeypatch.setattr(upstream, "check_cv_results_keys", partial(check_keys, check))


def check_keys(check, cv_results, *args, **kwargs):
    assert set(cv_results["route"]) == {"individual"}
    check({key: value for key, value in cv_results.items() if key != "route"}, *args, **kwargs)


globals().update(
    {name: test for name, test in vars(upstream).items() if name.startswith("test_") and name not in NOT_APPLICABLE}
)
