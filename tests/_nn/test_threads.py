"""The rule for the number of threads, and that the setting of the caller comes back."""

import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklatent import AutoencoderTransformer, GenerativeClassifier, VAETransformer
from sklatent._nn import threads
from sklatent._nn.threads import limited_threads, product_size

SMALL, LARGE = 1, threads.MIN_PRODUCT_SIZE


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    assert in_new_thread(torch.get_num_threads) == 2
    torch.set_num_threads(before)


@pytest.fixture
def X(rng):
    return rng.standard_normal((60, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((60, 6))


def in_new_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


class Recorder:
    """A callback that records the number of threads at the end of each epoch."""

    def __init__(self, action=lambda: None):
        self.seen = []
        self.action = action

    def __call__(self, net, **kwargs):
        self.seen.append(torch.get_num_threads())
        self.action()


def recording(action=lambda: None):
    callback = Callback()
    callback.on_epoch_end = Recorder(action)
    return callback


@pytest.mark.parametrize(("size", "expected"), [(SMALL, 1), (LARGE - 1, 1), (LARGE, 2)])
def test_limit_depends_on_size(size, expected):
    with limited_threads(size):
        assert torch.get_num_threads() == expected


def test_other_devices_are_left_alone():
    with limited_threads(SMALL, "cuda:0"):
        assert torch.get_num_threads() == 2


def test_nested_limits():
    with limited_threads(SMALL):
        with limited_threads(LARGE):
            assert torch.get_num_threads() == 1
        with limited_threads(SMALL):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_setting_comes_back_after_an_exception(error):
    with pytest.raises(error), limited_threads(SMALL):
        raise error


def test_threads_that_begin_meanwhile_are_not_limited():
    with limited_threads(SMALL):
        assert in_new_thread(torch.get_num_threads) == 2


def test_limits_that_overlap_in_many_threads():
    barrier = threading.Barrier(4)

    def use():
        barrier.wait()
        for _ in range(20):
            with limited_threads(SMALL):
                assert torch.get_num_threads() == 1
        return torch.get_num_threads()

    found = joblib.Parallel(n_jobs=4, prefer="threads")(joblib.delayed(use)() for _ in range(4))
    assert found == [2] * 4


def test_product_size_of_an_mlp():
    module = VAETransformer(2, hidden_sizes=(30, 7), max_epochs=1).fit(np.eye(20)).module_
    assert product_size(module, 10) == 10 * 20 * 30


def test_product_size_of_convolutions():
    module = VAETransformer(2, backbone="conv", hidden_sizes=(3, 5), max_epochs=1).fit(np.eye(64)).module_
    assert product_size(module, 10) == 10 * 64 * (3 * 5 * 9)  # as if at each of the 8 x 8 pixels


@pytest.mark.slow
def test_fit_is_limited_if_it_is_small(network, X, monkeypatch):
    callback = recording()
    network(1, max_epochs=2, callbacks=[callback]).fit(X)
    monkeypatch.setattr(threads, "MIN_PRODUCT_SIZE", 0)
    network(1, max_epochs=2, callbacks=[callback]).fit(X)
    assert callback.on_epoch_end.seen == [1, 1, 2, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_setting_comes_back_after_a_fit_that_fails(network, X, error):
    def fail():
        raise error

    with pytest.raises(error):
        network(1, max_epochs=2, callbacks=[recording(fail)]).fit(X)
    assert torch.get_num_threads() == 2


def test_setting_comes_back_after_each_method(network, X):
    model = network(1, max_epochs=2, random_state=0).partial_fit(X)
    for use in (model.fit, model.transform, model.score_samples, model.score):
        use(X)
        assert torch.get_num_threads() == 2


def test_stacked_networks_are_counted_together(X, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "sklatent._nn.training.limited_threads", lambda size, device: sizes.append(size) or limited_threads(size)
    )
    models = [VAETransformer(nz, max_epochs=1, random_state=0) for nz in (1, 1, 2)]
    models[0].fit(X)
    VAETransformer._learn_many(models, [X] * 3)
    assert sizes == [sizes[0], 3 * sizes[0]]


@pytest.mark.slow
def test_bits_do_not_depend_on_the_number_of_threads(network, digits):
    X = digits[0][:300]
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        model = network(2, max_epochs=3, random_state=0).fit(X)
        found.append([model.noise_variance_, *model.loss_curve_, *map(torch.clone, model.module_.parameters())])
        if network is AutoencoderTransformer:
            found[-1].append(torch.from_numpy(model.score_samples(X[:50])))
    for one, other in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def fit_in_worker(X):
    torch.set_num_threads(2)
    callback = recording()
    VAETransformer(1, max_epochs=1, callbacks=[callback]).fit(X)
    return callback.on_epoch_end.seen, torch.get_num_threads(), in_new_thread(torch.get_num_threads)


@pytest.mark.slow
def test_processes_are_limited_and_get_their_setting_back(X):
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(fit_in_worker)(X) for _ in range(4))
    assert found == [([1], 2, 2)] * 4


def test_threads_are_limited_and_get_their_setting_back(X):
    """Threads that know PyTorch already: see `limited_threads` of one that begins while another sets its limit."""
    begun = threading.Barrier(2)

    def begin():
        torch.get_num_threads()
        begun.wait()

    def fit():
        callback = recording()
        VAETransformer(1, max_epochs=1, callbacks=[callback]).fit(X)
        return callback.on_epoch_end.seen, torch.get_num_threads()

    with ThreadPoolExecutor(2, initializer=begin) as pool:
        found = [task.result() for task in [pool.submit(fit) for _ in range(4)]]
    assert found == [([1], 2)] * 4
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 2


@pytest.mark.slow
def test_classifier_with_jobs(X):
    y = np.arange(len(X)) % 2
    GenerativeClassifier(VAETransformer(1, max_epochs=2), n_jobs=2).fit(X, y).predict(X)
    assert torch.get_num_threads() == 2
