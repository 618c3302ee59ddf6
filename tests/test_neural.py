"""Training that goes on, rows that memory does not hold, and callbacks: what both networks share."""

import gc
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, EarlyStopping
from torch.nn.utils import parameters_to_vector

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer, batches


@pytest.fixture
def X(rng):
    return rng.standard_normal((120, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((120, 6)) - 4


@pytest.fixture
def small_blocks(monkeypatch):
    """Memory maps of any size count as large, and a block has a few rows."""
    monkeypatch.setattr(batches, "MAPPED_SIZE", 0)
    monkeypatch.setattr(batches, "BLOCK_SIZE", 50 * 6 * 8)


class Sliced:
    """What h5py and zarr have in common, with a count of the rows held at a time."""

    def __init__(self, X):
        self.X, self.shape, self.dtype, self.most = X, X.shape, X.dtype, 0

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        rows = self.X[index]
        self.most = max(self.most, len(rows))
        return rows


def weights(model):
    return parameters_to_vector(model.module_.parameters()).detach()


def test_partial_fit_keeps_the_state_of_the_optimizer(network, X):
    """Epoch by epoch it is the fit at a constant rate, which Adam's moments and the generators are a part of."""
    constant = {"lr_schedule": "constant", "random_state": 0} | ({"kl_warmup": 0} if network is VAETransformer else {})
    whole = network(max_epochs=4, **constant).fit(X)
    model = network(**constant)
    for epoch in range(4):
        assert model.partial_fit(X) is model
        assert model.n_iter_ == epoch + 1
    assert model.loss_curve_ == whole.loss_curve_
    np.testing.assert_array_equal(model.transform(X), whole.transform(X))
    np.testing.assert_array_equal(model.score_samples(X), whole.score_samples(X))


def test_partial_fit_learns_from_a_stream(network, rng):
    """Batches of one distribution, each seen once, beat the plane."""
    t = rng.uniform(-3, 3, size=(6000, 1))
    X = np.hstack([t, np.cos(t), np.sin(t)]) + 0.05 * rng.standard_normal((6000, 3))
    model = network(1, lr=2e-3, random_state=0)
    for rows in np.split(X[:5000], 10):
        for _ in range(8):
            model.partial_fit(rows)
    assert model.score(X[5000:]) > PCAReducer(1).fit(X[:5000]).score(X[5000:]) + 0.3


def test_partial_fit_goes_on_from_a_fit(network, X):
    model = network(max_epochs=3, random_state=0).fit(X)
    before, loss = weights(model), model.loss_curve_
    model.partial_fit(X[:40])
    assert not torch.equal(weights(model), before)
    assert model.loss_curve_[:3] == loss
    assert model.n_iter_ == 4


def test_partial_fit_that_raises_changes_nothing(network, X):
    model = network(max_epochs=1, random_state=0).partial_fit(X)
    before = {name: value for name, value in vars(model).items()}
    bits = weights(model).clone()
    with pytest.raises(ValueError, match=r"X has 5 features, but .* is expecting 6 features"):
        model.partial_fit(X[:, :5])
    with pytest.raises(FloatingPointError):
        model.set_params(lr=1e30).partial_fit(X)
    assert vars(model) == before | {"lr": 1e30}
    assert torch.equal(weights(model), bits)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        model.set_params(early_stopping=True).partial_fit(X)


def test_warm_start_begins_where_the_last_fit_ended(network, X):
    model = network(max_epochs=20, warm_start=True, lr=1e-30, random_state=0)
    first = weights(model.set_params(lr=0.01).fit(X))
    again = weights(model.set_params(lr=1e-30, max_epochs=1).fit(X))
    names = [name for name, _ in model.module_.named_parameters()]
    assert any(name.startswith("encoder") for name in names)
    if network is VAETransformer:  # the autoencoder sets its variance after training
        torch.testing.assert_close(again, first, rtol=1e-6, atol=1e-6)
    assert model.n_iter_ == 1
    cold = network(max_epochs=1, lr=1e-30, random_state=0).fit(X)
    assert model.score(X) > cold.score(X) + 1


def test_warm_start_of_another_shape_is_refused(network, X):
    model = network(2, max_epochs=1, warm_start=True, random_state=0).fit(X)
    codes = model.transform(X)
    for change in ({"nz": 3}, {"hidden_sizes": (7,)}):
        with pytest.raises(ValueError, match="a parameter that shapes it has changed"):
            clone(model).set_params(nz=2).fit(X).set_params(**change).fit(X)
    with pytest.raises(ValueError, match="cannot go on"):
        model.fit(X[:, :5])
    np.testing.assert_array_equal(model.transform(X), codes)
    assert model.n_features_in_ == 6


def test_a_memory_map_trains_as_well_as_the_array(network, X, tmp_path, small_blocks):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    params = {"max_epochs": 100, "random_state": 0}
    model, whole = network(**params).fit(mapped), network(**params).fit(X)
    assert batches.is_sliceable(mapped)
    np.testing.assert_allclose(model.module_.standardizer.loc, whole.module_.standardizer.loc, rtol=1e-12)
    assert model.score(X) == pytest.approx(whole.score(X), abs=0.5)


def test_a_small_memory_map_gives_the_bits_of_the_array(network, X, tmp_path):
    """So that joblib's workers, which are handed maps, fit as the parent does."""
    np.save(tmp_path / "X.npy", X)
    fits = [network(max_epochs=2, random_state=0).fit(rows) for rows in (X, np.load(tmp_path / "X.npy", mmap_mode="r"))]
    assert torch.equal(*map(weights, fits))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_anything_sliceable_is_read_in_blocks(network, X, small_blocks, early_stopping, monkeypatch):
    monkeypatch.setattr("sklatent.neural.MAX_ROWS_AFTER_TRAINING", 30)
    rows = Sliced((X * 10).astype(np.int64))
    model = network(max_epochs=40, early_stopping=early_stopping, random_state=0).fit(rows)
    assert rows.most == 50
    assert model.n_features_in_ == 6
    assert model.score(rows.X) > PCAReducer(1).fit(rows.X).score(rows.X)
    if early_stopping:
        assert {"valid_loss"} <= set(model.history_[-1])


def test_sliceable_rows_are_validated(network, X, small_blocks):
    X[70, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        network(max_epochs=1).fit(Sliced(X))
    with pytest.raises(ValueError, match="Found array with 0 sample"):
        network(max_epochs=1).fit(Sliced(X[:0]))
    with pytest.raises(ValueError, match="X must lie in"):
        network(max_epochs=1, likelihood="bernoulli").fit(Sliced(np.abs(np.nan_to_num(X))))


def test_weight_decay_shrinks_the_weights_and_not_the_biases(network, X):
    norms = {}
    for decay in (0.0, 50.0):
        model = network(max_epochs=20, lr=0.01, weight_decay=decay, random_state=0).fit(X)
        norms[decay] = [model.module_.encoder[-1].weight.norm().item(), model.module_.standardizer.loc.norm().item()]
    assert norms[50.0][0] < 0.5 * norms[0.0][0]
    assert norms[50.0][1] == norms[0.0][1]


def test_weight_decay_is_adamw(X):
    """One step of a linear autoencoder by hand, by PyTorch's own AdamW on the weights and Adam on the rest."""
    params = {"hidden_sizes": (), "max_epochs": 1, "batch_size": 200, "lr_schedule": "constant", "random_state": 0}
    decayed, plain = (AutoencoderTransformer(lr=0.01, weight_decay=w, **params).fit(X) for w in (0.5, 0.0))
    start = AutoencoderTransformer(lr=1e-30, **params).fit(X)
    for name, value in decayed.module_.named_parameters():
        if name.startswith("likelihood"):  # set after training
            continue
        other, first = plain.module_.get_parameter(name), start.module_.get_parameter(name)
        expected = other - 0.01 * 0.5 * first if value.ndim == 2 else other
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_bf16_trains_nearly_as_float32_does(network, X):
    scores = [
        network(precision=precision, max_epochs=40, random_state=0).fit(X).score(X) for precision in ("float32", "bf16")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.5)
    assert scores[0] != scores[1]


def test_early_stopping_of_skorch_ends_the_training(network, X):
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=1e9, threshold_mode="abs")
    model = network(max_epochs=50, callbacks=[stop], random_state=0).fit(X)
    assert model.n_iter_ == 3
    model.transform(X)


class Count(Callback):
    def on_train_begin(self, net, **kwargs):
        self.epochs = 0

    def on_epoch_end(self, net, **kwargs):
        self.epochs += 1
        assert net.history[-1]["train_loss"] is not None


def test_callbacks_of_skorch_are_called(network, X):
    count = Count()
    network(max_epochs=4, callbacks=[count]).fit(X)
    assert count.epochs == 4
    network(max_epochs=4, callbacks=[count]).fit(X).transform(X)


class TestCallbacksOfScikitLearn:
    """From scikit-learn 1.9 on."""

    @pytest.fixture(autouse=True)
    def callback(self):
        return pytest.importorskip("sklearn.callback")

    @staticmethod
    def recorder(stop_after=10**9):
        class Recorder:
            tasks = []  # noqa: RUF012
            scores = []  # noqa: RUF012
            torn_down = 0
            max_propagation_depth = None

            def setup(self, estimator, context):
                """Nothing to do."""

            def teardown(self, estimator, context):
                type(self).torn_down += 1

            def on_fit_task_begin(self, estimator, context):
                self.tasks.append(context.task_name)

            def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
                if context.task_name == "epoch" and fitted_estimator is not None:
                    self.scores.append(fitted_estimator.score(X))
                    return len(self.scores) >= stop_after
                return False

        return Recorder()

    def test_epochs_are_tasks_with_a_fitted_estimator(self, network, X):
        recorder = self.recorder()
        model = network(max_epochs=3, random_state=0).set_callbacks(recorder).fit(X)
        assert recorder.tasks == ["fit", "epoch", "epoch", "epoch"]
        assert recorder.torn_down == 1
        assert len(recorder.scores) == 3
        assert np.isfinite(recorder.scores).all()
        plain = network(max_epochs=3, random_state=0).fit(X)
        assert torch.equal(weights(model), weights(plain))

    def test_a_callback_that_returns_true_stops_the_training(self, network, X):
        model = network(max_epochs=9, random_state=0).set_callbacks(self.recorder(stop_after=2)).fit(X)
        assert model.n_iter_ == 2
        model.score(X)

    def test_a_fit_that_raises_tears_them_down(self, network, X):
        recorder = self.recorder()
        model = network(max_epochs=9, lr=1e30, lr_schedule="constant", random_state=0).set_callbacks(recorder)
        with pytest.raises(FloatingPointError):
            model.fit(X)
        assert recorder.torn_down == 1
        assert not any(name.startswith("_callback") for name in vars(model))

    def test_search_fold_and_epoch_are_nested(self, network, X, callback, capsys):
        recorder = self.recorder()
        search = GridSearchCV(network(max_epochs=2, random_state=0), {"nz": [1, 2]}, cv=2).set_callbacks(recorder)
        search.fit(X)
        assert recorder.tasks.count("epoch") == 2 * (2 * 2 + 1)


def test_inference_halves_its_chunk_when_memory_is_short(network, X, monkeypatch):
    model = network(max_epochs=2, random_state=0).fit(X)
    codes, scores = model.transform(X), model.score_samples(X)
    encode = type(model)._encode

    def short_of_memory(self, rows):
        if len(rows) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(self, rows)

    monkeypatch.setattr(type(model), "_encode", short_of_memory)
    np.testing.assert_allclose(model.transform(X), codes, rtol=1e-10)
    np.testing.assert_array_equal(model.score_samples(X), scores)
    monkeypatch.setattr(type(model), "_encode", lambda self, rows: short_of_memory(self, np.zeros((99, 6))))
    with pytest.raises(torch.OutOfMemoryError):
        model.transform(X)


def test_read_only_rows_are_shared_without_a_warning(X):
    X.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = batches.as_tensor(X)
    assert tensor.data_ptr() == X.__array_interface__["data"][0]
    copy = X.copy()
    del X
    gc.collect()
    np.testing.assert_array_equal(tensor, copy)
