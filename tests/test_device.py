"""Training and inference on a device: `pytest --device cuda`; on the CPU by default. In float32, which all have."""

import pickle

import numpy as np
import pytest
import torch

from sklatent._nn.data import Draws, MappedRows, Rows
from sklatent._nn.devices import has_float64


@pytest.fixture
def X(digits):
    return digits[0][:300].astype(np.float32)


@pytest.mark.slow
def test_a_fit_on_the_device_is_as_good_as_on_the_cpu(network, X, device):
    """Not the same: another device draws other noise."""
    here, there = (network(2, device=name, max_epochs=40, random_state=0).fit(X) for name in ("cpu", device))
    expected = torch.device(device).type if has_float64(device) else "cpu"
    assert {tensor.device.type for tensor in there.module_.state_dict().values()} == {expected}
    assert there.score(X) == pytest.approx(here.score(X), abs=4)
    assert there.transform(X).shape == (300, 2)


@pytest.mark.slow
def test_the_device_computes_what_the_cpu_does(network, X, device):
    """The same weights, moved: float64 to rounding, float32 to its own."""
    model = network(2, device=device, max_epochs=5, random_state=0).fit(X)
    moved = pickle.loads(pickle.dumps(model))
    assert {tensor.device.type for tensor in moved.module_.state_dict().values()} == {"cpu"}
    exact = X.astype(np.float64)
    np.testing.assert_allclose(model.transform(exact), moved.transform(exact), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.score_samples(exact), moved.score_samples(exact), rtol=1e-7)
    # An accelerator adds up in another order, and may round the products of float32 to fewer digits.
    np.testing.assert_allclose(model.transform(X), moved.transform(X), rtol=1e-3, atol=1e-3)


def test_training_on_the_device_goes_on_elsewhere(network, X, device):
    """With the moments of the optimizer, and on another device with random numbers from its seeds."""
    model = pickle.loads(pickle.dumps(network(2, device=device, random_state=0).partial_fit(X)))
    assert model.set_params(device="cpu").partial_fit(X).n_iter_ == 2
    state = model.__getstate__()["_training_state"]
    assert all(moments["step"] == state["step"] for moments in state["optimizer"].values())


@pytest.mark.slow
def test_a_fit_on_the_device_goes_on_from_a_checkpoint(network, X, device, tmp_path):
    params = {"device": device, "max_epochs": 4, "checkpoint": tmp_path / "fit.npz", "random_state": 0}
    first, again = network(**params).fit(X), network(**params).fit(X)
    np.testing.assert_array_equal(first.transform(X), again.transform(X))
    first.set_params(checkpoint=None).partial_fit(X)


def test_rows_and_draws_lie_on_the_device(X, device):
    generator = torch.Generator(device).manual_seed(0)
    weights = np.ones(len(X))
    for rows in (Rows(X, device, weights), MappedRows(X, device, weights=weights)):
        found = {part.device.type for block in rows.blocks(generator) for part in block.samples}
        assert found == {torch.device(device).type}
    assert {part.device.type for part in Draws((2, 3), generator, 5).take(3)} == {torch.device(device).type}
