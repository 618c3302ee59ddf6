"""What test_distributed.py runs in several processes: torchrun distributed_cases.py FOLDER FUNCTION..."""

import os
import pickle
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from torch import distributed, nn

from sklatent import AutoencoderTransformer, VAETransformer
from sklatent._nn.distributed import process_group
from sklatent._sources import stored
from sklatent.model_selection import FusedGridSearchCV

# In these cases batch norm lets rounding errors grow, also in one process whose batches are reversed.
NORMED = {"conv", "own backbone", "batch norm of two"}
RANK, SIZE = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
COMMON = {"max_epochs": 3, "batch_size": 32, "random_state": 0}
CONV = {"backbone": "conv", "image_shape": (1, 4, 4), "hidden_sizes": (3, 5)}


def samples(n_samples=101):
    rng = np.random.default_rng(0)
    X = np.tanh(rng.normal(size=(n_samples, 3)) @ rng.normal(size=(3, 16))) + 0.1 * rng.normal(size=(n_samples, 16))
    return X.astype(np.float32)


def sample_weights(n_samples=101):
    return np.random.default_rng(1).integers(0, 4, n_samples).astype(float)


def incomplete(X):
    return np.where(np.random.default_rng(2).random(X.shape) < 0.1, np.nan, X)


class Encoder(nn.Module):
    """Batch norm over features without an average that forgets, and a layer that is not used."""

    def __init__(self, n_features, n_code):
        super().__init__()
        norm = nn.BatchNorm1d(8, momentum=None)
        self.layers = nn.Sequential(nn.Linear(n_features, 8, bias=False), norm, nn.SiLU(), nn.Linear(8, n_code))
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.layers(x)


def own_backbone(input_shape, nz, n_code):
    (n_features,) = input_shape
    return Encoder(n_features, n_code), nn.Sequential(nn.Linear(nz, 8), nn.SiLU(), nn.Linear(8, n_features))


def with_dropout(input_shape, nz, n_code):
    (n_features,) = input_shape
    return nn.Sequential(nn.Linear(n_features, n_code), nn.Dropout(0.5)), nn.Linear(nz, n_features)


class InOneProcess(Callback):
    """Something that happens in one process at the end of an epoch."""

    def __init__(self, rank, epoch, action):
        self.rank = rank
        self.epoch = epoch
        self.action = action

    def on_epoch_end(self, net, **kwargs):
        if (self.rank, self.epoch) == (RANK, len(net.history)):
            self.action()


def interrupted(X, folder):
    """A fit that goes on from the checkpoint of one that has failed."""
    params = {**COMMON, "checkpoint": folder / f"{SIZE}.npz"}
    with suppress(OSError):
        VAETransformer(2, callbacks=[InOneProcess(RANK, 2, refuse)], **params).fit(X)
    return VAETransformer(2, **params).fit(X)


def refuse():
    raise OSError("no space left on this device")


# Fits that do not depend on the number of processes

EQUAL = {
    "autoencoder": lambda X, folder: AutoencoderTransformer(2, **COMMON).fit(X),
    "vae": lambda X, folder: VAETransformer(2, **COMMON).fit(X),
    "conv": lambda X, folder: VAETransformer(2, **CONV, **COMMON).fit(X),
    "own backbone": lambda X, folder: AutoencoderTransformer(2, backbone=own_backbone, **COMMON).fit(X),
    "weights": lambda X, folder: VAETransformer(2, **COMMON).fit(X, sample_weight=sample_weights()),
    "missing values": lambda X, folder: VAETransformer(2, **COMMON).fit(incomplete(X)),
    "importance samples": lambda X, folder: VAETransformer(2, n_train_draws=3, noise=0.1, **COMMON).fit(X),
    "one sample left": lambda X, folder: VAETransformer(2, **{**COMMON, "batch_size": 2, "max_epochs": 1}).fit(X),
    "one sample at a time": lambda X, folder: VAETransformer(2, **{**COMMON, "batch_size": 1}).fit(X[:31]),
    "batch norm of two": lambda X, folder: VAETransformer(2, **CONV, **{**COMMON, "batch_size": 2}).fit(X[:31]),
    "clipped": lambda X, folder: VAETransformer(2, **COMMON).fit(X * np.where(np.arange(101) % 50, 1, 100)[:, None]),
    "early stopping": lambda X, folder: VAETransformer(
        2, early_stopping=True, n_iter_no_change=2, **{**COMMON, "lr": 0.05, "max_epochs": 60}
    ).fit(X),
    "partial_fit": lambda X, folder: VAETransformer(2, **COMMON).partial_fit(X).partial_fit(X[:50]).partial_fit(X),
    "warm start": lambda X, folder: VAETransformer(2, warm_start=True, **COMMON).fit(X).fit(X[:80]),
    "file": lambda X, folder: VAETransformer(2, **COMMON).fit(np.load(folder / "X.npy", mmap_mode="r")),
    "file and weights": lambda X, folder: VAETransformer(2, **COMMON).fit(
        np.load(folder / "X.npy", mmap_mode="r"), sample_weight=sample_weights()
    ),
    "checkpoint": interrupted,
    "search": lambda X, folder: (
        GridSearchCV(VAETransformer(2, **COMMON), {"beta": [0.5, 1.0]}, cv=2).fit(X).best_estimator_
    ),
    "fused search": lambda X, folder: (
        FusedGridSearchCV(VAETransformer(2, **COMMON), {"beta": [0.5, 1.0]}, cv=2).fit(X).best_estimator_
    ),
}


# Those that more than two processes make harder.
NARROW = ("vae", "one sample left", "one sample at a time", "batch norm of two", "file and weights", "early stopping")


@patch.multiple(stored, MAPPED_SIZE=0, BLOCK_SIZE=700)  # so that the small file is read in blocks of some samples
def equal(folder):
    """State, history and score of each of these fits."""
    found = {}
    for name in EQUAL if SIZE < 3 else NARROW:
        start = time.perf_counter()
        model = EQUAL[name](samples(), folder)
        state = {key: value.numpy() for key, value in model.module_.state_dict().items()}
        found[name] = state, model.history_, float(model.score(samples()))
        print(RANK, name, f"{time.perf_counter() - start:.2f} s", flush=True)
    return found


# Fits that depend on it, but give the same in each of the processes


def shared(folder):
    """The same, of fits that take random numbers of their own or depend on the number of processes."""
    X = samples()
    return {
        "no random state": VAETransformer(2, **{**COMMON, "random_state": None}).fit(X).transform(X),
        "random state of the process": VAETransformer(2, **{**COMMON, "random_state": RANK}).fit(X).transform(X),
        "dropout": VAETransformer(2, backbone=with_dropout, **COMMON).fit(X).transform(X),
        "stopped in one": VAETransformer(2, callbacks=[InOneProcess(1, 2, stop)], **{**COMMON, "max_epochs": 9})
        .fit(X)
        .n_iter_,
    }


def stop():
    from sklatent._nn.training import EarlyStop

    raise EarlyStop


def in_float64(folder):
    """Weights of convolutional networks with batch norm that are trained in float64."""
    X = samples().astype(float)
    torch.set_default_dtype(torch.float64)
    try:
        with process_group("cpu") as processes:
            for batch_size in (32, 2):
                model = VAETransformer(2, **CONV, **{**COMMON, "batch_size": batch_size})
                training = model._prepare(X, processes=processes)
                training.module.double()
                net = model._net(training, [], model._schedule(training)).train(training.train, training.valid)
                yield {key: value.numpy() for key, value in net.module_.state_dict().items()}
    finally:
        torch.set_default_dtype(torch.float32)


def norms(folder, processes=None):
    """Outputs, gradients and running statistics of batch norm in float64, of batches of some sizes."""
    if processes is None:
        with process_group("cpu") as processes:
            return norms(folder, processes)
    generator = torch.Generator().manual_seed(0)
    x, slope = torch.randn(2, 7, 3, 2, 2, dtype=torch.float64, generator=generator)
    x = 1e3 + x
    found = []
    for n_samples, momentum in [(7, 0.1), (1, 0.1), (5, None)]:
        layer = nn.BatchNorm2d(3, momentum=momentum).double()
        nn.init.normal_(layer.weight, generator=generator)
        share = processes.share(n_samples)
        part = x[:n_samples][share.places].requires_grad_()
        part.grad = None
        processes.begin(share.fraction)
        with processes.batch_norms_joined(nn.Sequential(layer)):
            y = layer(part)
        y.backward(slope[:n_samples][share.places] * (share.fraction > 0))
        found.append([share, y, part.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var])
        assert "forward" not in vars(layer)
    return found


def successes(folder):
    """All of the above."""
    return {"equal": equal(folder), "shared": shared(folder), "norms": norms(folder), "float64": [*in_float64(folder)]}


# Fits that fail


def failing(folder):
    """The messages of fits that fail in one process, with and without a process group of the user."""
    X = samples()
    rank_dependent = np.arange(len(X)) if RANK == 0 else np.arange(len(X))[::-1]
    fits = {
        "order": lambda: VAETransformer(2, **COMMON).fit(X[rank_dependent]),
        "width": lambda: VAETransformer(2, **COMMON).fit(X[:, : 16 - RANK]),
        "weights": lambda: VAETransformer(2, **COMMON).fit(X, sample_weight=1.0 + (rank_dependent > 3)),
        "parameters": lambda: VAETransformer(2, beta=1.0 + RANK, **COMMON).fit(X),
        "checkpoint": lambda: VAETransformer(2, checkpoint=None if RANK else folder / "a.npz", **COMMON).fit(X),
        "callback": lambda: VAETransformer(2, callbacks=[InOneProcess(1, 2, refuse)], **COMMON).fit(X),
        "first": lambda: VAETransformer(2, callbacks=[InOneProcess(0, 2, refuse)], **COMMON).fit(X),
        "unwritable": lambda: VAETransformer(2, checkpoint=folder / "none" / "a.npz", **COMMON).fit(X),
        "loss": lambda: AutoencoderTransformer(2, init="random", lr=1e30, **COMMON).fit(X),
        "bad values": lambda: VAETransformer(2, likelihood="bernoulli", **COMMON).fit(X * 9),
        "fine": lambda: VAETransformer(2, **COMMON).fit(X).score(X),
    }
    found = {name: message(fit) for name, fit in fits.items()}
    distributed.init_process_group("gloo")
    found |= {f"{name}, own group": message(fits[name]) for name in ("order", "callback", "fine")}
    distributed.destroy_process_group()
    return found


def message(fit):
    start = time.perf_counter()
    try:
        outcome = fit()
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome, time.perf_counter() - start


def killed(folder):
    """Train until the second process is killed in its third epoch."""

    def kill():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    return resumed(folder, callbacks=[InOneProcess(1, 3, kill)])


def resumed(folder, callbacks=None):
    """The same fit, which goes on from the checkpoint if there is one."""
    X = samples()
    params = {**COMMON, "max_epochs": 6, "early_stopping": True}
    model = VAETransformer(2, checkpoint=folder / "fit.npz", callbacks=callbacks, **params).fit(X)
    return {key: value.numpy() for key, value in model.module_.state_dict().items()}, model.history_


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path, *names = sys.argv[1:]
    for name in names:
        outcome = globals()[name](Path(path))
        Path(path, f"{name}.{RANK}").write_bytes(pickle.dumps(outcome))
