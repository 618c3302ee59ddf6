"""A fit that is stopped at any moment goes on to the bits that it would have had."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklatent import AutoencoderTransformer, VAETransformer
from sklatent.checkpoint import load, save

FIT = """
import sys
import numpy as np
import torch
from sklatent import VAETransformer
torch.set_num_threads(1)
X = np.random.default_rng(0).standard_normal((300, 6))
model = VAETransformer(2, max_epochs=25, early_stopping=True, n_iter_no_change=100, hidden_sizes=(16,), batch_size=32,
                       checkpoint=sys.argv[1], random_state=0)
print("ready", flush=True)
model.fit(X)
np.savez(sys.argv[2], *[p.detach().numpy() for p in model.module_.parameters()], model.score_samples(X))
"""


@pytest.fixture
def X(rng):
    return rng.standard_normal((120, 2)) @ rng.standard_normal((2, 6)) + 0.3 * rng.standard_normal((120, 6))


class StopAt(Callback):
    """Ctrl-C at the end of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch + 1:
            raise KeyboardInterrupt


def assert_same_fit(one, other, X):
    for left, right in zip(one.module_.state_dict().values(), other.module_.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    assert one.loss_curve_ == other.loss_curve_
    assert one.n_iter_ == other.n_iter_
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("epoch", [1, 7, 12])
def test_a_stopped_fit_goes_on_to_the_same_bits(network, X, tmp_path, epoch, early_stopping):
    params = {"max_epochs": 12, "early_stopping": early_stopping, "n_iter_no_change": 3, "random_state": 0}
    whole = network(2, **params).fit(X)
    path = tmp_path / "fit.npz"
    part = network(2, checkpoint=path, callbacks=[StopAt(epoch)], **params)
    if epoch < whole.n_iter_:
        with pytest.raises(KeyboardInterrupt):
            part.fit(X)
        assert len(load(path)["history"]) == epoch
    else:
        part.fit(X)
    assert_same_fit(network(2, checkpoint=path, **params).fit(X), whole, X)


def test_without_a_random_state_the_seeds_are_those_of_the_file(X, tmp_path):
    path = tmp_path / "fit.npz"
    params = {"max_epochs": 6, "kl_warmup": 0.5, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        VAETransformer(callbacks=[StopAt(3)], **params).fit(X)
    first = VAETransformer(**params).fit(X)
    assert_same_fit(VAETransformer(**params).fit(X), first, X)


def test_kill_9_at_random_moments(tmp_path):
    """The benchmark does it fifty times."""
    path, results = str(tmp_path / "fit.npz"), [str(tmp_path / f"{i}.npz") for i in range(2)]
    rng = np.random.default_rng()
    command = [sys.executable, "-c", FIT]
    kills = 0
    while True:
        with subprocess.Popen([*command, path, results[0]], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            if kills < 3:
                time.sleep(rng.uniform(0, 0.15))
                process.send_signal(signal.SIGKILL)
                kills += 1
        if process.returncode == 0:
            break
    subprocess.run([*command, str(tmp_path / "whole.npz"), results[1]], check=True)
    with np.load(results[0]) as one, np.load(results[1]) as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(
    ("change", "what"),
    [({"beta": 2.0}, "parameters"), ({"random_state": 1}, "first weights and seeds"), ({"lr": 1e-3}, "parameters")],
)
def test_a_checkpoint_of_other_parameters_is_refused(X, tmp_path, change, what):
    params = {"max_epochs": 3, "random_state": 0, "checkpoint": tmp_path / "fit.npz"}
    VAETransformer(**params).fit(X)
    with pytest.raises(ValueError, match=f"checkpoint='.*fit.npz' belongs to another fit: its {what}"):
        VAETransformer(**{**params, **change}).fit(X)


def test_a_warm_start_from_other_weights_is_refused(X, tmp_path):
    model = VAETransformer(max_epochs=2, random_state=0, warm_start=True, checkpoint=tmp_path / "fit.npz").fit(X)
    with pytest.raises(ValueError, match="belongs to another fit: its first weights are not"):
        model.fit(X)


def test_a_checkpoint_of_other_rows_is_refused(X, tmp_path):
    model = AutoencoderTransformer(max_epochs=2, random_state=0, checkpoint=str(tmp_path / "fit.npz")).fit(X)
    codes = model.transform(X)
    with pytest.raises(ValueError, match="belongs to another fit: its data"):
        model.fit(np.where(X[5, 3] == X, X + 1e-9, X))
    np.testing.assert_array_equal(model.transform(X), codes)


def test_what_is_not_a_checkpoint_is_refused(X, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("shopping list")
    with pytest.raises(ValueError, match=r"checkpoint='.*notes.txt' must be a file that sklatent wrote"):
        AutoencoderTransformer(max_epochs=2, checkpoint=path).fit(X)
    assert path.read_text() == "shopping list"


def test_nothing_in_the_file_is_pickled(X, tmp_path):
    path = tmp_path / "fit.npz"
    VAETransformer(max_epochs=2, early_stopping=True, kl_warmup=0, checkpoint=path).fit(X)
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_a_full_disk_raises_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    save(path, {"step": 1, "weights": {"w": torch.arange(3.0)}})

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"step": 2, "weights": {"w": torch.zeros(3)}})
    state = load(path)
    assert state["step"] == 1
    assert torch.equal(state["weights"]["w"], torch.arange(3.0))
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a device of Linux")
def test_a_fit_on_a_full_disk_raises_and_keeps_the_former_fit(X, tmp_path, monkeypatch):
    model = AutoencoderTransformer(max_epochs=2, random_state=0).fit(X)
    codes = model.transform(X)
    (tmp_path / "fit.npz.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        model.set_params(checkpoint=tmp_path / "fit.npz").fit(X)
    np.testing.assert_array_equal(model.transform(X), codes)
    assert not (tmp_path / "fit.npz").exists()
