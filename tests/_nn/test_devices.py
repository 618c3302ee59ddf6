"""Which device a name stands for, the rule of "auto", devices without float64, and too little memory for a chunk."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._nn import devices
from sklatent._nn.devices import free_memory, pays, resolve_device
from sklatent._nn.distributed import process_group
from sklatent._nn.inference import halving_out_of_memory
from sklatent.model_selection import FusedGridSearchCV


@pytest.fixture
def machine(monkeypatch):
    """What PyTorch tells of the accelerators of a machine; no more of them is there."""

    def having(kind=None, count=1, has_fp64=True):
        monkeypatch.setattr("torch.accelerator.is_available", lambda: kind is not None)
        monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr("torch.accelerator.device_count", lambda: count)
        properties = SimpleNamespace(has_fp64=has_fp64)
        monkeypatch.setattr("torch.xpu.get_device_properties", lambda device: properties)
        for function in (resolve_device, pays):  # which `pytest --device` replaces
            monkeypatch.setattr(f"sklatent._nn.base.{function.__name__}", function)

    return having


@pytest.fixture
def X(rng):
    return (rng.standard_normal((120, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((120, 6))) + 5


class Chosen(Exception):
    """A device on which a training was about to begin."""


@pytest.fixture
def chosen(monkeypatch):
    """Where a model trains: the fit ends where samples would be moved there."""

    def split(X, n_left_out, seed, device, *args):
        raise Chosen(device)

    def find(model, X, method="fit"):
        monkeypatch.setattr("sklatent._nn.base.split", split)
        with pytest.raises(Chosen) as error:
            getattr(model, method)(X)
        monkeypatch.undo()
        return str(error.value)

    return find


class TestNames:
    @pytest.mark.parametrize(
        ("kind", "has_fp64", "expected"),
        [
            (None, True, "cpu"),
            ("cuda", True, "cuda"),
            ("xpu", True, "xpu"),
            ("xpu", False, "cpu"),
            ("mps", False, "cpu"),
            ("mtia", True, "cpu"),
        ],
    )
    def test_auto_is_an_accelerator_that_does_all(self, machine, kind, has_fp64, expected):
        machine(kind, has_fp64=has_fp64)
        assert resolve_device("auto") == expected

    @pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
    def test_a_device_that_is_there(self, machine, name):
        machine("cuda", count=2)
        assert resolve_device(name) == name

    @pytest.mark.parametrize("name", ["cuda:2", "mps", "meta", "tpu", "my computer", "", "CUDA", "cuda:-1"])
    def test_what_is_not_there_is_named_beside_what_is(self, machine, name):
        machine("cuda", count=2)
        message = f"device='{name}' must be 'auto' or a device that .* machine: 'cpu', 'cuda', 'cuda:0', 'cuda:1'\\."
        with pytest.raises(ValueError, match=message):
            resolve_device(name)

    def test_a_machine_without_an_accelerator(self, machine):
        machine(None, count=0)
        assert resolve_device("cpu") == "cpu"
        with pytest.raises(ValueError, match=r"device='cuda' must be .* machine: 'cpu'\."):
            resolve_device("cuda")

    def test_a_fit_says_so_before_it_begins(self, network, machine, X):
        machine("mps")
        model = network(device="cuda")
        with pytest.raises(ValueError, match=r"device='cuda' must be .* machine: 'cpu', 'mps', 'mps:0'\."):
            model.fit(X)
        assert vars(model) == vars(network(device="cuda"))

    def test_processes_together_need_sums(self, monkeypatch):
        monkeypatch.setattr("sklatent._nn.distributed.is_parallel", lambda: True)
        with pytest.raises(ValueError, match="device='mps' is not supported for a data-parallel training"):
            process_group("mps").__enter__()

    def test_pca_needs_float64(self, machine, X):
        machine("mps")
        with pytest.raises(ValueError, match="device='mps' is not supported by PCAReducer, which adds up in float64"):
            PCAReducer(2, device="mps").fit(X)
        PCAReducer(2).fit(X)

    def test_free_memory_of_the_cpu(self):
        assert 0 < free_memory("cpu") < 2**50


class TestAuto:
    """The device in a fit, where PyTorch tells of a CUDA device."""

    def test_the_rule_weighs_products_against_launches(self):
        # MNIST at 32 x 32, 1024-512-2, batches of 100, 20 epochs: 3 s of steps beside 35 s of products.
        n_weights = 1024 * 512 + 512 * 4 + 2 * 512 + 512 * 1024
        assert pays(3 * n_weights * 55_000 * 20, n_steps=550 * 20)
        # Digits, 64-256-128-2, 50 epochs: fewer products than a step costs. A narrow network is no better for longer.
        n_weights = 2 * (64 * 256 + 256 * 128)
        assert not pays(3 * n_weights * 1797 * 50, n_steps=29 * 50)
        assert not pays(3 * n_weights * 1797 * 50_000, n_steps=29 * 50_000)
        # Products alone do not pay below the first use, nor copies of what is hardly used.
        assert not pays(1e11)
        assert pays(1e12)
        assert not pays(1e12, n_bytes=10**12)

    @pytest.mark.parametrize(("hidden_sizes", "expected"), [((8,), "cpu"), ((4096, 4096), "cuda")])
    def test_wide_layers_pay(self, machine, chosen, X, hidden_sizes, expected):
        machine("cuda")
        model = AutoencoderTransformer(hidden_sizes=hidden_sizes, max_epochs=1000, random_state=0)
        assert chosen(model, X) == expected

    @pytest.mark.parametrize(("max_epochs", "expected"), [(1, "cpu"), (1000, "cuda")])
    def test_a_long_training_pays(self, machine, chosen, X, max_epochs, expected):
        machine("cuda")
        model = VAETransformer(hidden_sizes=(2048, 2048), max_epochs=max_epochs, random_state=0)
        assert chosen(model, X) == expected

    @pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0"])
    def test_a_name_is_taken_at_its_word(self, network, machine, chosen, X, device):
        machine("cuda")
        assert chosen(network(device=device), X) == device

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_a_network_that_goes_on_stays_where_it_is(self, network, machine, chosen, X, method, monkeypatch):
        model = network(hidden_sizes=(8,), max_epochs=1, warm_start=True, random_state=0).fit(X)
        machine("cuda")
        monkeypatch.setattr("sklatent._nn.base.pays", lambda *args: True)
        assert chosen(model, X, method) == "cpu"

    def test_pca_of_few_samples_stays(self, machine, X, monkeypatch):
        machine("cuda")
        assert PCAReducer(2)._loader(X) is None
        monkeypatch.setattr(devices, "pays", lambda *args, **kwargs: True)
        assert PCAReducer(2)._loader(X) is not None
        assert PCAReducer(2)._loader(torch.from_numpy(X)) is None


@pytest.fixture
def without_float64(monkeypatch):
    """The CPU as a device whose network has no float64, as on Apple's."""
    for module in ("devices", "base"):
        monkeypatch.setattr(f"sklatent._nn.{module}.has_float64", lambda device: False)


SETTINGS = {
    "default": {},
    "a variance each": {"likelihood": "gaussian_diagonal"},
    "early stopping": {"early_stopping": True},
    "convolutions": {"backbone": "conv", "hidden_sizes": (2, 3), "image_shape": (1, 2, 3)},
    "corruption": {"noise": 0.3, "noise_kind": "masking"},
}


class TestWithoutFloat64:
    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
    def test_a_fit_is_the_same_to_rounding(self, network, X, settings, request):
        X = X.astype(np.float32)
        model = network(2, max_epochs=3, random_state=0, **settings)
        expected = model.fit(X).score_samples(X)
        mean = model.module_.standardizer.loc
        request.getfixturevalue("without_float64")
        model.fit(X)
        # Rounding grows through batch norm.
        np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.module_.standardizer.loc, mean, rtol=0, atol=0)
        assert np.isclose(model.history_[-1]["train_loss"], model.loss_curve_[-1])

    @pytest.mark.usefixtures("without_float64")
    def test_the_network_in_training_has_no_float64(self, network, X):
        seen, callback = [], Callback()
        callback.on_batch_end = lambda net, **kwargs: seen.append({t.dtype for t in net.module_.state_dict().values()})
        network(2, max_epochs=1, callbacks=[callback], random_state=0).fit(X.astype(np.float32))
        assert seen
        assert all(dtypes == {torch.float32} for dtypes in seen)

    def test_missing_values(self, network, X, request):
        X = X.astype(np.float32)
        X[::3, 1] = np.nan
        model = network(2, max_epochs=3, random_state=0)
        expected = model.fit(X, sample_weight=1.0 + np.arange(len(X)) % 2).score_samples(X)
        request.getfixturevalue("without_float64")
        again = model.fit(X, sample_weight=1.0 + np.arange(len(X)) % 2).score_samples(X)
        np.testing.assert_allclose(again, expected, rtol=1e-3, atol=1e-3)

    def test_partial_fit_goes_on(self, network, X, request):
        X = X.astype(np.float32)
        expected = network(2, random_state=0).partial_fit(X).partial_fit(X).score_samples(X)
        request.getfixturevalue("without_float64")
        model = network(2, random_state=0).partial_fit(X).partial_fit(X)
        np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.usefixtures("without_float64")
    def test_a_checkpoint_is_read_on_another_device(self, network, X, tmp_path, monkeypatch):
        X = X.astype(np.float32)
        model = network(2, max_epochs=2, checkpoint=tmp_path / "fit.npz", random_state=0)
        scores = model.fit(X).score_samples(X)
        np.testing.assert_array_equal(model.fit(X).score_samples(X), scores)
        monkeypatch.undo()
        np.testing.assert_allclose(model.fit(X).score_samples(X), scores, rtol=1e-5)

    def test_a_stack(self, X, request):
        X = X.astype(np.float32)
        vae = VAETransformer(max_epochs=2, hidden_sizes=(8,), random_state=0)
        search = FusedGridSearchCV(vae, {"nz": [1, 2], "beta": [0.5, 1.0]}, cv=2, refit=False)
        expected = search.fit(X).cv_results_["mean_test_score"]
        request.getfixturevalue("without_float64")
        found = search.fit(X).cv_results_
        assert set(found["route"]) == {"stacked"}
        np.testing.assert_allclose(found["mean_test_score"], expected, rtol=1e-3)

    @pytest.mark.usefixtures("without_float64")
    def test_samples_in_float64_stay_on_the_cpu(self, network, machine, chosen, X):
        machine("mps")
        model = network(2, device="mps")
        with pytest.warns(UserWarning, match=r"device='mps' has no float64.* trained on the CPU\. Pass X in float32"):
            assert chosen(model, X) == "cpu"
        machine("mps")
        assert chosen(model, X.astype(np.float32)) == "mps"


class TestOutOfMemory:
    @staticmethod
    def memory_for(largest, sizes):
        def double(x, y):
            sizes.append(len(x))
            if len(x) > largest:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return 2 * x + y

        return halving_out_of_memory(double)

    @pytest.mark.parametrize("largest", [1, 2, 3, 7, 50, 99, 100])
    @pytest.mark.parametrize("n_samples", [1, 2, 99, 100])
    def test_the_samples_keep_their_order(self, rng, largest, n_samples):
        x, y = rng.random((2, n_samples, 3))
        sizes = []
        np.testing.assert_array_equal(self.memory_for(largest, sizes)(x, y), 2 * x + y)
        assert sum(size for size in sizes if size <= largest) == n_samples

    def test_later_chunks_are_as_small_at_once(self):
        sizes, x = [], np.ones((80, 2))
        hook = self.memory_for(20, sizes)
        for _ in range(3):
            hook(x, x)
        assert sizes == [80, 40, *3 * 4 * [20]]

    def test_one_sample_that_is_too_large_raises(self):
        sizes, x = [], np.ones((8, 2))
        with pytest.raises(torch.OutOfMemoryError):
            self.memory_for(0, sizes)(x, x)
        assert sizes == [8, 4, 2, 1]

    def test_other_errors_are_not_tried_again(self):
        calls = []

        def fail(x):
            calls.append(x)
            raise RuntimeError("a shape")

        with pytest.raises(RuntimeError, match="a shape"):
            halving_out_of_memory(fail)(np.ones((8, 2)))
        assert len(calls) == 1
