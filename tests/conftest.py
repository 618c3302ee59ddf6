import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before scipy: lifts the one skip among scikit-learn's checks

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer

# For type checkers, not to be run.
collect_ignore_glob = ["typing/*"]


def pytest_addoption(parser):
    parser.addoption("--device", help="where networks train whose device is 'auto': cpu, cuda, cuda:1, mps, xpu")


def pytest_configure(config):
    """Let networks train on the device that is tested, whatever their size."""
    device = config.getoption("--device")
    if device is None:
        return
    from sklatent._nn import base
    from sklatent._nn.devices import resolve_device

    try:
        resolve_device(device)
    except ValueError as error:
        raise pytest.UsageError(f"--device: {error}") from error
    base.resolve_device = lambda name: device if name == "auto" else resolve_device(name)
    base.pays = lambda *sizes: True
    config.addinivalue_line("filterwarnings", "ignore:device=.* has no float64")


def pytest_collection_modifyitems(items):
    """Mark the examples, which have no place for a marker of their own, as slow."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("slow")


@pytest.fixture
def device(request):
    """The device to test."""
    return request.config.getoption("--device") or "cpu"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digits():
    """Digits with pixels in [0, 1], and their labels."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    X.flags.writeable = False
    return X, y


@pytest.fixture(
    params=[
        PCAReducer(2),
        AutoencoderTransformer(2, max_epochs=3, random_state=0),
        VAETransformer(2, max_epochs=3, random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def model(request):
    """Each of the estimators, unfitted and quick to fit."""
    from sklearn.base import clone

    return clone(request.param)


@pytest.fixture(params=[AutoencoderTransformer, VAETransformer])
def network(request):
    """Each of the network estimators, as a class."""
    return request.param
