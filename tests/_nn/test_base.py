"""Training that goes on, rows that memory does not hold, and callbacks: what both networks share."""

import copy
import gc
import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler
from torch import nn
from torch.nn.utils import parameters_to_vector

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._nn import data, summaries
from sklatent._nn.likelihoods import Standardizer
from sklatent._nn.schedules import SCHEDULES
from sklatent._nn.training import clip_gradient
from sklatent._sources import stored


@pytest.fixture
def X(rng):
    return rng.standard_normal((120, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((120, 6)) - 4


@pytest.fixture
def small_blocks(monkeypatch):
    """Memory maps of any size count as large, and a block has a few rows."""
    monkeypatch.setattr(stored, "MAPPED_SIZE", 0)
    monkeypatch.setattr(stored, "BLOCK_SIZE", 50 * 6 * 8)


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


@pytest.mark.slow
def test_partial_fit_keeps_the_state_of_the_optimizer(network, X):
    """Epoch by epoch it is the fit at a constant rate, which Adam's moments and the generators are a part of."""
    constant = {"lr_schedule": "constant", "random_state": 0, "hidden_sizes": ()}  # trains on all samples of `fit` too
    constant |= {"kl_warmup": 0} if network is VAETransformer else {}
    whole = network(max_epochs=4, **constant).fit(X)
    model = network(**constant)
    for epoch in range(4):
        assert model.partial_fit(X) is model
        assert model.n_iter_ == epoch + 1
    assert model.loss_curve_ == whole.loss_curve_
    np.testing.assert_array_equal(model.transform(X), whole.transform(X))
    np.testing.assert_array_equal(model.score_samples(X), whole.score_samples(X))


@pytest.mark.slow
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


@pytest.mark.slow
def test_warm_start_begins_where_the_last_fit_ended(network, X):
    model = network(max_epochs=20, warm_start=True, random_state=0)
    first = copy.deepcopy(model.set_params(lr=0.01).fit(X).module_)
    model.set_params(lr=1e-30, max_epochs=1).fit(X)
    for name, parameter in first.named_parameters():
        if not name.startswith("likelihood"):  # the autoencoder sets its variance after training
            assert torch.equal(model.module_.get_parameter(name), parameter), name
    assert model.n_iter_ == 1
    cold = network(max_epochs=1, lr=1e-30, init="random", random_state=0).fit(X)
    assert model.score(X) > cold.score(X) + 1


def test_warm_start_of_another_shape_is_refused(network, X):
    model = network(2, max_epochs=1, warm_start=True, random_state=0).fit(X)
    codes = model.transform(X)
    for change in ({"nz": 3}, {"hidden_sizes": (7,)}):
        with pytest.raises(ValueError, match="Cannot reuse the previous weights: an architecture parameter"):
            clone(model).set_params(nz=2).fit(X).set_params(**change).fit(X)
    with pytest.raises(ValueError, match=r"Cannot reuse the previous weights: .* number of features changed"):
        model.fit(X[:, :5])
    np.testing.assert_array_equal(model.transform(X), codes)
    assert model.n_features_in_ == 6


@pytest.mark.slow
def test_a_memory_map_trains_as_well_as_the_array(network, X, tmp_path, small_blocks):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    params = {"max_epochs": 100, "random_state": 0}
    model, whole = network(**params).fit(mapped), network(**params).fit(X)
    assert stored.is_sliceable(mapped)
    np.testing.assert_allclose(model.module_.standardizer.loc, whole.module_.standardizer.loc, rtol=1e-12)
    assert model.score(X) == pytest.approx(whole.score(X), abs=0.1)  # nats: the samples come in another order


def test_a_small_memory_map_gives_the_bits_of_the_array(network, X, tmp_path):
    """So that joblib's workers, which are handed maps, fit as the parent does."""
    np.save(tmp_path / "X.npy", X)
    fits = [network(max_epochs=2, random_state=0).fit(rows) for rows in (X, np.load(tmp_path / "X.npy", mmap_mode="r"))]
    assert torch.equal(*map(weights, fits))


class Steps(Callback):
    """Learning rate, KL weight and mode of each step."""

    def on_train_begin(self, net, **kwargs):
        self.seen = []
        loss = net.module_.loss

        def recorded(terms, kl_weight, weight):
            self.kl_weight = kl_weight
            return loss(terms, kl_weight, weight)

        net.module_.loss = recorded

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            self.seen.append((net.optimizer_.param_groups[0]["lr"], self.kl_weight, net.module_.training))


@pytest.mark.parametrize("n_samples", [127, 128, 129, 130, 257])
@pytest.mark.parametrize("kl_warmup", [0.5, 1.0])
def test_schedules_end_with_the_last_step(n_samples, kl_warmup, rng):
    """In closed form, also where a lone last sample joins its neighbour and there is a step less."""
    X = rng.standard_normal((n_samples, 3))
    steps = Steps()
    model = VAETransformer(1, batch_size=64, max_epochs=5, kl_warmup=kl_warmup, hidden_sizes=(4,), callbacks=[steps])
    model.fit(X)
    n_steps = 5 * len(list(data.Batches(data.Rows(X), 64)))
    assert len(steps.seen) == n_steps
    lr, weight, _ = steps.seen[-1]
    assert lr == pytest.approx(5e-3 * SCHEDULES["cosine"](n_steps - 1, n_steps), rel=1e-12)
    n_warmup = np.ceil(kl_warmup * n_steps)
    assert weight == pytest.approx(min((n_steps - 1) / n_warmup, 1.0), rel=1e-12)


def test_blocks_smaller_than_a_batch_make_the_steps_of_memory(X, small_blocks):
    """Every step has a learning rate: there is none beyond the schedule."""
    steps = Steps()
    VAETransformer(1, batch_size=80, max_epochs=6, callbacks=[steps]).fit(Sliced(X))
    assert len(X) == 120  # of which a tenth are left out
    assert len(steps.seen) == 6 * len(data.batch_sizes(108, 80))
    assert all(lr > 0 for lr, _, _ in steps.seen)


def test_batches_of_one_sample_train_in_training_mode(network, X):
    """So that noise and warm-up are what they are at any batch size."""
    steps = Steps()
    network(1, batch_size=1, max_epochs=1, callbacks=[steps], hidden_sizes=(4,)).fit(X[:40])
    assert {training for *_, training in steps.seen} == {True}
    clean, noisy = (
        network(1, batch_size=1, max_epochs=2, noise=noise, hidden_sizes=(4,), random_state=0).fit(X[:40])
        for noise in (0.0, 0.5)
    )
    assert not torch.equal(weights(clean), weights(noisy))


@pytest.mark.filterwarnings("ignore:.* ended its training")  # of two epochs on one sample, which has no variance
@pytest.mark.parametrize("n_samples", [1, 5])
def test_batch_norm_uses_its_running_statistics_for_one_sample(network, rng, n_samples):
    """Which are 0 and 1 when training begins, and stay so."""
    X = rng.standard_normal((n_samples, 16))
    model = network(1, backbone="conv", hidden_sizes=(4,), batch_size=1, max_epochs=2, random_state=0).fit(X)
    norms = [layer for layer in model.module_.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
        assert torch.equal(norm.running_var, torch.ones_like(norm.running_var))


@pytest.mark.slow
@pytest.mark.parametrize("failure", [np.full((40, 6), 1e30), KeyboardInterrupt], ids=["infinite loss", "Ctrl-C"])
def test_partial_fit_that_raises_is_as_if_it_had_not_been_called(network, X, failure, monkeypatch):
    """Adam's moments too: a state that is loaded is copied."""
    model, undisturbed = (network(hidden_sizes=(16,), random_state=0).partial_fit(X) for _ in range(2))
    if failure is KeyboardInterrupt:
        with monkeypatch.context() as patch:
            patch.setattr("sklatent._nn.training.LatentNet.record", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                model.partial_fit(X)
    else:
        with pytest.raises((FloatingPointError, ValueError)):
            model.partial_fit(failure)
    for _ in range(2):
        model.partial_fit(X)
        undisturbed.partial_fit(X)
    assert torch.equal(weights(model), weights(undisturbed))
    np.testing.assert_array_equal(model.score_samples(X), undisturbed.score_samples(X))


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_copy_of_a_model_does_not_train_its_original(network, X):
    model = network(hidden_sizes=(16,), random_state=0).partial_fit(X)
    before, history = weights(model).clone(), list(model.loss_curve_)
    copy.deepcopy(model).partial_fit(X)
    copy.copy(model).partial_fit(X)
    pickle.loads(pickle.dumps(model)).partial_fit(X)
    assert torch.equal(weights(model), before)
    assert model.loss_curve_ == history == [epoch["train_loss"] for epoch in model.history_]
    other = network(hidden_sizes=(16,), random_state=0).partial_fit(X)
    assert torch.equal(weights(model.partial_fit(X)), weights(other.partial_fit(X)))


def dropout(input_shape, nz, n_code):
    (n_features,) = input_shape
    encoder = nn.Sequential(nn.Linear(n_features, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, n_code))
    return encoder, nn.Linear(nz, n_features)


class TestDropout:
    """Layers of one's own may draw: they know PyTorch's global generator only."""

    def test_fits_are_the_same_and_leave_the_global_generator(self, network, X):
        fits = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            fits.append(network(1, backbone=dropout, max_epochs=3, early_stopping=True, random_state=0).fit(X))
            assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(*map(weights, fits))
        other = network(1, backbone=dropout, max_epochs=3, early_stopping=True, random_state=1).fit(X)
        assert not torch.equal(weights(other), weights(fits[0]))

    def test_dropout_is_used(self, network, X):
        """Without it the network is another."""

        def plain(*shape):
            encoder, decoder = dropout(*shape)
            return nn.Sequential(encoder[0], encoder[1], encoder[3]), decoder

        fits = [network(1, backbone=backbone, max_epochs=3, random_state=0).fit(X) for backbone in (dropout, plain)]
        assert not torch.equal(*map(weights, fits))

    @pytest.mark.slow
    def test_threads_do_not_disturb_one_another(self, network, X):
        fit = lambda seed: weights(network(1, backbone=dropout, max_epochs=3, random_state=seed).fit(X))  # noqa: E731
        apart = [fit(seed) for seed in range(4)]
        together = joblib.Parallel(n_jobs=4, prefer="threads")(joblib.delayed(fit)(seed) for seed in range(4))
        for one, other in zip(apart, together, strict=True):
            assert torch.equal(one, other)

    def test_partial_fit_goes_on_with_the_draws(self, network, X, monkeypatch):
        monkeypatch.setattr(network, "_n_left_out", lambda self, n_samples: 0)  # as partial_fit, which trains on all
        constant = {"lr_schedule": "constant", "random_state": 0, "backbone": dropout}
        constant |= {"kl_warmup": 0} if network is VAETransformer else {}
        whole = network(1, max_epochs=3, **constant).fit(X)
        model = network(1, **constant)
        for _ in range(3):
            model.partial_fit(X)
        assert model.loss_curve_ == whole.loss_curve_


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", [False, True])
def test_anything_sliceable_is_read_in_blocks(network, X, small_blocks, early_stopping, monkeypatch):
    monkeypatch.setattr("sklatent._nn.summaries.MAX_SAMPLES", 30)
    rows = Sliced((X * 10).astype(np.int64))
    model = network(max_epochs=40, early_stopping=early_stopping, random_state=0).fit(rows)
    assert rows.most == 50
    assert model.n_features_in_ == 6
    assert model.score(rows.X) > PCAReducer(1).fit(rows.X).score(rows.X)
    if early_stopping:
        assert {"valid_loss"} <= set(model.history_[-1])


def test_sliceable_rows_are_validated(network, X, small_blocks):
    X[70, 2] = np.inf
    with pytest.raises(ValueError, match="Input X contains infinity"):
        network(max_epochs=1).fit(Sliced(X))
    X[:, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains no observed value in column 2"):
        network(max_epochs=1).fit(Sliced(X))
    with pytest.raises(ValueError, match="Found array with 0 sample"):
        network(max_epochs=1).fit(Sliced(X[:0]))
    with pytest.raises(ValueError, match="X must lie in"):
        network(max_epochs=1, likelihood="bernoulli").fit(Sliced(np.abs(np.nan_to_num(X))))


@pytest.mark.slow
def test_weight_decay_shrinks_the_weights_and_not_the_biases(network, X):
    plain, decayed = (
        network(init="random", max_epochs=20, lr=0.01, weight_decay=decay, random_state=0).fit(X).module_
        for decay in (0.0, 50.0)
    )
    for net in ("encoder", "decoder"):
        before, after = getattr(plain, net)[0], getattr(decayed, net)[0]  # whose bias training hardly moves
        assert after.weight.norm() < 0.1 * before.weight.norm()
        assert after.bias.norm() > 0.5 * before.bias.norm()


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
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_bf16_trains_nearly_as_float32_does(network, X):
    scores = [
        network(precision=precision, max_epochs=40, random_state=0).fit(X).score(X) for precision in ("float32", "bf16")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.1)  # nats: products have 8 bits, and steps their noise
    assert scores[0] != scores[1]


def test_early_stopping_of_skorch_ends_the_training(network, X):
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=1e9, threshold_mode="abs")
    model = network(max_epochs=50, callbacks=[stop], random_state=0).fit(X)
    assert model.n_iter_ == 3
    model.transform(X)


@pytest.mark.parametrize("callback", [EarlyStopping(), Checkpoint(dirname="unused"), ("stop", EarlyStopping())])
def test_a_callback_without_its_validation_loss_is_refused(network, X, callback):
    with pytest.raises(ValueError, match=r"must not monitor 'valid_loss(_best)?' with early_stopping=False.*Pass"):
        network(max_epochs=2, callbacks=[callback], hidden_sizes=()).fit(X)


def test_callbacks_of_skorch_work_as_written(network, X, tmp_path):
    """At the defaults that skorch gives them: their losses are in the history, and which was the best."""
    callbacks = [EarlyStopping(patience=2), LRScheduler(), Checkpoint(dirname=tmp_path)]
    model = network(max_epochs=60, early_stopping=True, n_iter_no_change=50, lr=0.02, callbacks=callbacks)
    model.set_params(random_state=0).fit(X)
    losses = [epoch["valid_loss"] for epoch in model.history_]
    assert len(losses) == int(np.argmin(losses)) + 3 or len(losses) == 60
    assert [epoch["valid_loss_best"] for epoch in model.history_] == [
        loss == min(losses[: k + 1]) for k, loss in enumerate(losses)
    ]
    assert (tmp_path / "params.pt").exists()


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
    network(max_epochs=2, callbacks=[count]).fit(X)
    assert count.epochs == 2


class TestCallbacksOfScikitLearn:
    """From scikit-learn 1.9 on."""

    @pytest.fixture(autouse=True)
    def callback(self):
        return pytest.importorskip("sklearn.callback")

    @staticmethod
    def recorder(stop_after=10**9):
        class Recorder:
            tasks = []  # noqa: RUF012
            paths = []  # noqa: RUF012
            scores = []  # noqa: RUF012
            torn_down = 0
            max_propagation_depth = None

            def setup(self, estimator, context):
                """Nothing to do."""

            def teardown(self, estimator, context):
                type(self).torn_down += 1

            def on_fit_task_begin(self, estimator, context):
                self.tasks.append(context.task_name)
                self.paths.append(path_from(context))

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

    @pytest.mark.slow
    def test_search_fold_and_epoch_are_nested(self, network, X):
        recorder = self.recorder()
        search = GridSearchCV(network(max_epochs=2, random_state=0), {"nz": [1, 2]}, cv=2).set_callbacks(recorder)
        search.fit(X)
        epochs = [path for path in recorder.paths if path.startswith("epoch")]
        assert epochs == 2 * 2 * 2 * ["epoch < fit < search < fit"] + 2 * ["epoch < fit < fit"]  # and of the refit


def path_from(context):
    """The names of a task and of those that it is a part of."""
    return context.task_name if context.parent is None else f"{context.task_name} < {path_from(context.parent)}"


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


@pytest.mark.slow
def test_read_only_rows_are_shared_without_a_warning(X):
    X.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = data.as_tensor(X)
    assert tensor.data_ptr() == X.__array_interface__["data"][0]
    copy = X.copy()
    del X
    gc.collect()
    np.testing.assert_array_equal(tensor, copy)


class Disturb(Callback):
    """Spoil the weights before the last epoch."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            with torch.no_grad():
                for parameter in net.module_.decoder.parameters():
                    parameter.mul_(10)


def test_a_training_that_ends_worse_than_it_began_warns(network, X):
    with pytest.warns(ConvergenceWarning, match=r"ended its training with a mean squared error of .*, more than"):
        network(lr=1e-6, max_epochs=3, callbacks=[Disturb()], random_state=0).fit(X)


@pytest.mark.parametrize(
    "params",
    [{"likelihood": "bernoulli"}, {"likelihood": "continuous_bernoulli"}, {"output_activation": "sigmoid"}],
    ids=str,
)
def test_what_cannot_be_scaled_does_not_warn(network, rng, params):
    """Such as images whose borders hold the traces of an interpolation."""
    X = rng.random((120, 6)) * [1, 1, 1, 1, 1e-5, 1e-5]
    network(max_epochs=1, **params).fit(X)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_tail_weight_of_samples_in_closed_form(rng, scale):
    """One direction: sqrt(3) of a normal density, 1 of two points, sqrt(n / 2) of a lone pair."""
    n = 100_000
    event = np.zeros((n, 1))
    event[[0, 1], 0] = 1, -1
    for X, expected in [
        (rng.standard_normal((n, 1)), np.sqrt(3)),
        (np.sign(rng.standard_normal((n, 1))), 1),
        (event, np.sqrt(n / 2)),
    ]:
        variances = torch.from_numpy(X.var(axis=0) * scale**2)
        standardizer = Standardizer(torch.from_numpy(X.mean(axis=0) * scale), float(variances.mean().sqrt()), variances)
        # Four standard errors of the root of the fourth moment of 100,000 normal samples.
        assert summaries.tail_weight(scale * X, standardizer) == pytest.approx(expected, rel=0.02)


def test_learning_rate_follows_heavy_tails_alone(network, rng):
    """Normal samples and images train as ever; a rare event of 100 standard deviations is met with smaller steps."""
    X = rng.standard_normal((500, 10))
    steps = Steps()
    for rare, expected in [(0, 5e-3), (100, 5e-3 / 2 ** round(np.log2(rare_tail(X) / np.sqrt(3))))]:
        X[0, 0] = rare or X[0, 0]
        network(1, max_epochs=1, lr_schedule="constant", callbacks=[steps]).fit(X)
        assert steps.seen[-1][0] == pytest.approx(expected)


def rare_tail(X):
    X = X.copy()
    X[0, 0] = 100
    squares = ((X - X.mean(axis=0)) ** 2).sum(axis=1)
    return np.sqrt((squares**2).mean()) / squares.mean()


def test_gradients_are_clipped_for_each_network_of_a_stack_as_for_one(rng):
    module = nn.ModuleDict({"decoder": nn.Linear(1, 1), "encoder": nn.Linear(3, 2)})
    gradients = {
        name: torch.from_numpy(rng.standard_normal((4, *p.shape))).float() for name, p in module.named_parameters()
    }
    for k in range(4):
        for name, parameter in module.named_parameters():
            parameter.grad = gradients[name][k].clone()
        expected = nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        assert expected > 0.5
        single = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
        for name, parameter in module.named_parameters():
            parameter.grad = gradients[name][k].clone()
        clip_gradient(module.parameters(), 0.5, 0)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, single[name])
    stacked = Named({name: nn.Parameter(torch.zeros_like(gradient)) for name, gradient in gradients.items()})
    for name, parameter in stacked.named_parameters():
        parameter.grad = gradients[name].clone()
    clip_gradient(stacked.parameters(), 0.5, 1)
    for name, parameter in stacked.named_parameters():
        torch.testing.assert_close(parameter.grad[3], single[name])


class Named(nn.Module):
    """Parameters with dotted names, as a stack has them."""

    def __init__(self, parameters):
        super().__init__()
        self._parameters.update(parameters)


@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
def test_each_parameter_is_in_one_group(prior, X):
    """Matrices of the networks decay."""
    model = VAETransformer(2, prior=prior, weight_decay=0.1, lr=0.01)
    net = model._net(model._prepare(X), []).initialize()
    names = [name for group in net.module_.parameter_groups() for name in group.names]
    assert sorted(names) == sorted(name for name, _ in net.module_.named_parameters())
    settings = {
        parameter: (group["lr"], group["weight_decay"])
        for group in net.optimizer_.param_groups
        for parameter in group["params"]
    }
    for name, parameter in net.module_.named_parameters():
        is_matrix = parameter.ndim > 1 and not name.startswith("prior.")
        assert settings[parameter] == (0.01, 0.1 if is_matrix else 0.0)
