"""A fit that is stopped at any moment goes on to the bits that it would have had."""

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklatent import AutoencoderTransformer, VAETransformer
from sklatent._nn.checkpoint import fingerprint, load, save

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


@pytest.mark.slow
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


def dropout(input_shape, nz, n_code):
    (n_features,) = input_shape
    return nn.Sequential(nn.Linear(n_features, 8), nn.Dropout(0.5), nn.Linear(8, n_code)), nn.Linear(nz, n_features)


@pytest.mark.slow
def test_dropout_goes_on_where_it_stopped(network, X, tmp_path):
    params = {"backbone": dropout, "max_epochs": 6, "random_state": 0}
    path = tmp_path / "fit.npz"
    with pytest.raises(KeyboardInterrupt):
        network(2, checkpoint=path, callbacks=[StopAt(3)], **params).fit(X)
    assert_same_fit(network(2, checkpoint=path, **params).fit(X), network(2, **params).fit(X), X)


def test_without_a_random_state_the_seeds_are_those_of_the_file(X, tmp_path):
    path = tmp_path / "fit.npz"
    params = {"max_epochs": 6, "kl_warmup": 0.5, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        VAETransformer(callbacks=[StopAt(3)], **params).fit(X)
    first = VAETransformer(**params).fit(X)
    assert_same_fit(VAETransformer(**params).fit(X), first, X)


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path):
    """The benchmark does it fifty times."""
    path, results = str(tmp_path / "fit.npz"), [str(tmp_path / f"{i}.npz") for i in range(2)]
    rng = np.random.default_rng()
    command = [sys.executable, "-c", FIT]
    kills = 0
    while True:
        with subprocess.Popen([*command, path, results[0]], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            if kills < 2:
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


PARAMS = {"max_epochs": 3, "hidden_sizes": (), "early_stopping": True, "kl_warmup": 0, "random_state": 0}


@pytest.fixture
def written(X, tmp_path):
    """The file of a fit, and that fit."""
    path = tmp_path / "fit.npz"
    return path, VAETransformer(2, checkpoint=path, **PARAMS).fit(X)


def assert_refused(model, X, path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint='.*fit.npz' must be a file that sklatent wrote: ."):
        model.fit(X)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_damaged_file_is_refused_by_name_or_read_as_it_was(written, rng):
    path, _ = written
    good, whole = path.read_bytes(), dict(flat(load(path)))
    cuts = [good[:n] for n in [0, 1, 4, *rng.integers(0, len(good), 60), len(good) - 1]]
    flips = [bytearray(good) for _ in range(200)]
    for flipped in flips:
        flipped[rng.integers(len(good))] ^= 1 << rng.integers(8)
    n_refused = 0
    for damaged in cuts + flips:
        path.write_bytes(damaged)
        try:
            found = dict(flat(load(path)))
        except ValueError as error:
            assert str(error).startswith(f"checkpoint={str(path)!r} must be a file that sklatent wrote: ")  # noqa: PT017
            n_refused += 1
        else:  # a date, say
            assert found.keys() == whole.keys()
            assert all(np.array_equal(found[name], whole[name]) for name in whole)
    assert n_refused > 0.8 * len(cuts + flips)


def flat(state, prefix=""):
    for name, value in state.items():
        yield from flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]


@pytest.mark.slow
def test_a_state_without_one_of_its_parts_is_refused(written, X):
    path, model = written
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "json"}
        leaves = json.loads(str(file["json"]))
    assert {name.split("/")[0] for name in [*arrays, *leaves]} >= {"header", "module", "optimizer", "step", "best"}
    for name in [*arrays, *leaves]:
        if name.startswith("header/") and "seeds" not in name:  # what tells this fit from another
            continue
        rest = {key: value for key, value in leaves.items() if key != name}
        np.savez(path, json=json.dumps(rest), **{key: value for key, value in arrays.items() if key != name})
        assert_refused(model, X, path)
    for name, array in arrays.items():
        np.savez(path, json=json.dumps(leaves), **{**arrays, name: array[..., None]})
        assert_refused(model, X, path)
    for name, array in list(arrays.items())[::4]:
        np.savez(path, json=json.dumps(leaves), **{**arrays, name: array.astype(np.int16)})
        assert_refused(model, X, path)
    for name, value in [("step", "two"), ("history", {}), ("history", ["text"]), ("early_stopping/misses_", None)]:
        np.savez(path, json=json.dumps({**leaves, name: value}), **arrays)
        assert_refused(model, X, path)


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize(
    "text", ["{}", "[]", "1", "{", '{"header": 1}', '{"header/seeds": 1}', '{"header/seeds/x": 1}']
)
def test_other_arrays_are_no_checkpoint(X, tmp_path, text, random_state):
    model = VAETransformer(2, checkpoint=tmp_path / "fit.npz", random_state=random_state)
    np.savez(tmp_path / "fit.npz", json=text, a=np.arange(3))
    assert_refused(model, X, tmp_path / "fit.npz")


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("kind", ["npz", "npy", "pickle", "torch", "text", "empty"])
def test_other_files_are_no_checkpoint(X, tmp_path, kind, random_state):
    path = tmp_path / "fit.npz"
    with path.open("wb") as file:
        {
            "npz": lambda: np.savez(file, X=X),
            "npy": lambda: np.save(file, X),
            "pickle": lambda: pickle.dump({"header": {}}, file),
            "torch": lambda: torch.save({"header": {}}, file),
            "text": lambda: file.write(b"shopping list"),
            "empty": lambda: None,
        }[kind]()
    assert_refused(VAETransformer(2, checkpoint=path, random_state=random_state), X, path)


# A module of a user's own, imported by two processes: each list holds parameters that have to be told apart.
BACKBONES = """
from dataclasses import dataclass
from functools import partial
import numpy as np, torch
from torch import nn

def net(input_shape, nz, n_code, width=4, layer=nn.Tanh):
    d = int(np.prod(input_shape))
    return nn.Sequential(nn.Linear(d, width), layer(), nn.Linear(width, n_code)), nn.Linear(nz, d)

def closure(layer):
    def backbone(input_shape, nz, n_code):
        return net(input_shape, nz, n_code, layer=layer)
    return backbone

class Net:
    def __init__(self, **settings):
        self.settings = settings
    def __call__(self, *args):
        return net(*args, **self.settings)
    def build(self, *args):
        return self(*args)

class Slots:
    __slots__ = ("width",)
    def __init__(self, width):
        self.width = width
    def __call__(self, *args):
        return net(*args, width=self.width)

@dataclass
class Data:
    layer: type
    words: frozenset = frozenset(["a", "b", "c", "d"])
    def __call__(self, *args):
        return net(*args, layer=self.layer)

def counting(a):
    return counting(a - 1) if a in {"one", "two", "three"} else None

ALIKE = [
    [net, partial(net), partial(net, width=5), partial(net, layer=nn.ReLU), partial(partial(net, width=5), width=7)],
    [closure(nn.Tanh), closure(nn.ReLU), closure(nn.Tanh())],
    [lambda *a: net(*a, layer=nn.Tanh), lambda *a: net(*a, layer=nn.ReLU), lambda *a: net(*a, width=9)],
    [Net(), Net(width=5), Net(layer=nn.ReLU), Net(width=5).build, Net(width=6).build, Net().__call__],
    [Slots(4), Slots(5)],
    [Data(nn.Tanh), Data(nn.ReLU), Data(nn.Tanh, frozenset("ab"))],
    [Net, Slots, nn.Linear, nn.Tanh(), nn.ReLU(), counting, torch.tanh, np.tanh, len, "abc".join, "abd".join],
    [partial(net, layer=torch.arange(3)), partial(net, layer=torch.arange(4)), partial(net, layer=np.arange(3))],
    [partial(net, layer=np.array(["a", None])), partial(net, layer=np.float32(1)), partial(net, layer=np.int8(2))],
]
PARAMETERS = [parameter for group in ALIKE for parameter in group]
"""


def test_notes_on_a_universal_function_are_no_part_of_it(monkeypatch):
    before = fingerprint([], {"backbone": np.tanh}, {})
    if hasattr(np.tanh, "__dict__"):  # of NumPy 2.2 and later
        monkeypatch.setattr(np.tanh, "__wrapped__", None, raising=False)
    assert fingerprint([], {"backbone": np.tanh}, {}) == before != fingerprint([], {"backbone": np.cosh}, {})


@pytest.mark.slow
def test_two_processes_agree_on_parameters(X, tmp_path, monkeypatch):
    (tmp_path / "backbones_of_ones_own.py").write_text(BACKBONES)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("backbones_of_ones_own")
    found = [fingerprint([], {"backbone": backbone}, {})["parameters"] for backbone in own.PARAMETERS]
    assert len(set(found)) == len(found)
    assert fingerprint([], {"a": np.float64(0.5), "b": np.int64(2)}, {}) == fingerprint([], {"a": 0.5, "b": 2}, {})
    stopped = [own.PARAMETERS[k] for k in (1, 3, 5, 8, 11, 14, 18)]
    for k, backbone in enumerate(stopped):
        with pytest.raises(KeyboardInterrupt):
            resumable(tmp_path / f"{k}.npz", backbone, [StopAt(1)]).fit(X)
    np.save(tmp_path / "X.npy", X)
    script = (
        "import json, sys; import numpy as np; from pathlib import Path\n"
        "from sklatent._nn.checkpoint import fingerprint\n"
        "from backbones_of_ones_own import PARAMETERS; from sklatent import VAETransformer\n"
        "X = np.load('X.npy')\n"
        "for k, j in enumerate((1, 3, 5, 8, 11, 14, 18)):\n"
        "    assert Path(f'{k}.npz').exists()\n"
        "    VAETransformer(2, max_epochs=2, backbone=PARAMETERS[j], random_state=0, checkpoint=f'{k}.npz').fit(X)\n"
        "print(json.dumps([fingerprint([], {'backbone': b}, {})['parameters'] for b in PARAMETERS]))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == found


def resumable(path, backbone, callbacks=None):
    return VAETransformer(2, max_epochs=2, backbone=backbone, random_state=0, checkpoint=path, callbacks=callbacks)


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
