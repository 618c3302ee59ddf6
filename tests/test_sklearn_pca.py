"""scikit-learn's own tests of PCA, run with PCAReducer in PCA's place."""

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.decomposition.tests import test_pca as upstream
from sklearn.utils.estimator_checks import check_array_api_input_and_values
from sklearn.utils.fixes import parse_version

from sklatent import PCAReducer

if parse_version(sklearn.__version__) < parse_version("1.9"):
    pytest.skip("the list below is of the tests of scikit-learn 1.9", allow_module_level=True)

pytestmark = pytest.mark.slow

SOLVERS = {"covariance_eigh": "covariance"}
NO_COUNTERPART = {
    "test_sparse_pca_solver_error": '"randomized" takes sparse rows here; "full" is refused in test_bad_input.py',
    "test_pca_validation": "scikit-learn's PCA allows 0 components, and its messages name its parameters",
    "test_n_components_mle_error": '"mle" works with every solver',
    "test_fit_mle_too_few_samples": "the message names scikit-learn's parameter; ours is in test_bad_input.py",
    "test_pca_score": "expects that whitening lowers the score; ours stays the density of X, see test_pca.py",
    "test_pca_score3": "fits 0 components",
    "test_pca_svd_solver_auto": "reads scikit-learn's private choice of solver, which is by shape; ours is by cost",
    "test_feature_names_out": "expects the prefix of the class name PCA",
    "test_array_api_error_and_warnings_on_unsupported_params": "no parameter is unsupported",
}
PRIVATE = {  # test scikit-learn's private `_assess_dimension` and `_infer_dimension`, on spectra of no estimator
    "test_assess_dimension_bad_rank": "",
    "test_small_eigenvalues_mle": "",
    "test_assess_dimension_rank_one": "",
}
OF_INSTANCES = {  # hold instances of PCA in their parameters
    "test_pca_array_api_compliance": "the checks are below, with ours",
    "test_pca_mle_array_api_compliance": "the check is below, with ours; the rest repeats it",
}


def PCA(n_components=None, *, copy=True, svd_solver="auto", iterated_power="auto", random_state=None, **parameters):
    """PCAReducer by the parameters of scikit-learn's PCA; ARPACK, which we lack, is left to "auto"."""
    parameters.pop("power_iteration_normalizer", None)
    solver = "auto" if svd_solver == "arpack" else SOLVERS.get(svd_solver, svd_solver)
    return _Renamed(n_components, solver=solver, n_iter=iterated_power, random_state=random_state, **parameters)


class _Renamed(PCAReducer):
    """Has what the tests read of scikit-learn's parameters."""

    @property
    def n_components(self):
        return self.nz


@pytest.fixture(autouse=True)
def _in_place_of_scikit_learn(monkeypatch, request):
    monkeypatch.setattr(upstream, "PCA", PCA)
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    if request.node.originalname == "test_n_components_none" and parameters["solver"] == "arpack":
        pytest.skip("ARPACK, which finds one component less than there are, has no counterpart")


@pytest.fixture(params=[42])
def global_random_seed(request):
    return request.param


@pytest.fixture(params=[np.float32, np.float64])
def global_dtype(request):
    return request.param


UPSTREAM = {name: test for name, test in vars(upstream).items() if name.startswith("test_")}
globals().update({name: test for name, test in UPSTREAM.items() if name not in NO_COUNTERPART | PRIVATE | OF_INSTANCES})


def test_every_exception_is_there():
    assert set(NO_COUNTERPART | PRIVATE | OF_INSTANCES) <= set(UPSTREAM)


@pytest.mark.parametrize(
    "estimator",
    [
        PCAReducer(2, solver="full"),
        PCAReducer(2, solver="full", whiten=True),
        PCAReducer(0.1, solver="full", whiten=True),
        PCAReducer(2, solver="covariance"),
        PCAReducer(2, solver="covariance", whiten=True),
        PCAReducer(2, solver="randomized", random_state=0),
        PCAReducer("mle", solver="full"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("check", [check_array_api_input_and_values, upstream.check_array_api_get_precision])
def test_pca_array_api_compliance_of_pca_reducer(estimator, check):
    """The upstream test holds instances of PCA; its float32 half expects variances in float32, ours are float64."""
    check("PCAReducer", clone(estimator), "torch", device_name="cpu", dtype_name="float64")
