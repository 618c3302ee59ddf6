"""Several processes, which torchrun starts, train the network of one process."""

import os
import pickle
import subprocess
import sys
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import distributed_cases as cases
import numpy as np
import pytest
import torch

from sklatent import VAETransformer
from sklatent._nn.data import Batches, Draws, MappedRows, Rows
from sklatent._nn.distributed import ALONE, DataParallel, is_parallel
from sklatent._sources import stored

SCRIPT = Path(cases.__file__)


def run(folder, n_processes, timeout=300):
    """What functions of the script give in each process, by their names, and what torchrun says.

    All in one start, since each process imports everything; the last function for two processes kills one of them.
    """
    names = ["successes", "failing"] if n_processes == 2 else ["successes"]
    killed = ["killed"] if n_processes == 2 else []
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", SCRIPT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, folder, *names, *killed],
        env=environment,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    (folder / "torchrun").touch()
    found = {
        name: [pickle.loads((folder / f"{name}.{rank}").read_bytes()) for rank in range(n_processes)] for name in names
    }
    assert bool(done.returncode) == bool(killed)
    return found | {"said": done.stderr}


# What a process takes


def process(rank, size):
    """A process as `Batches` sees it."""
    found = SimpleNamespace(rank=rank, size=size, device="cpu")
    found.share = partial(DataParallel.share, found)
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_processes_share_each_batch_of_one_process(batch_size, size, is_mapped, is_shuffled, monkeypatch):
    monkeypatch.setattr(stored, "BLOCK_SIZE", 7 * 16)  # seven samples
    X = np.arange(82.0).reshape(41, 2)
    weights = np.arange(41.0)
    keep = weights % 5 != 0
    rows = MappedRows(X, keep=keep, weights=weights) if is_mapped else Rows(X[keep], weights=weights[keep])

    def batches(**kwargs):
        return Batches(rows, batch_size, torch.Generator().manual_seed(0) if is_shuffled else None, **kwargs)

    found = [batches(processes=process(rank, size)) for rank in range(size)]
    epochs = [list(part) for part in found]
    for k, whole in enumerate(batches()):
        parts = [(epoch[k], part.shares[k]) for epoch, part in zip(epochs, found, strict=True)]
        assert sum(share.fraction for _, share in parts) == pytest.approx(1)
        for (x, weight), share in parts:
            assert share.size == len(whole.x)
            assert torch.equal(x, whole.x[share.places])
            assert torch.equal(weight, whole.weight[share.places] * (share.fraction > 0))
        taken = [x for (x, _), share in parts if share.fraction]
        assert torch.equal(torch.cat(taken), whole.x)
        assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_each_process_reads_its_samples_only():
    class File:
        """Counts the samples that are read of it."""

        shape, dtype = (1000, 3), np.dtype(np.float64)
        n_read = 0

        def __getitem__(self, cut):
            return Block(np.arange(3000.0).reshape(1000, 3)[cut])

    class Block(np.ndarray):
        def __new__(cls, rows):
            return np.asarray(rows).view(cls)

        def __getitem__(self, chosen):
            rows = np.asarray(self)[chosen]
            File.n_read += len(rows)
            return rows

    batches = Batches(MappedRows(File()), 50, torch.Generator().manual_seed(0), process(1, 4))
    n_taken = sum(len(x) for x, _ in batches)
    assert File.n_read == n_taken
    assert 240 <= n_taken <= 260


def test_noise_of_a_share_is_that_of_its_samples():
    whole, part = (Draws((2, 3), torch.Generator().manual_seed(0), 10) for _ in range(2))
    for n_samples in (4, 6):
        for ours, theirs in zip(part.take(n_samples, slice(1, 3)), whole.take(n_samples), strict=True):
            assert torch.equal(ours, theirs[1:3])


def test_one_process_has_no_group(monkeypatch):
    assert not is_parallel()
    monkeypatch.setenv("WORLD_SIZE", "2")  # for example, of a batch system
    assert not is_parallel()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert is_parallel()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_parallel()


# What they learn


def difference(found, state):
    """Norm of the difference of all weights, over the norm of the weights."""
    ours, theirs = (np.concatenate([value.ravel() for value in weights.values()]) for weights in (found, state))
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The fits in this process, with a folder for those in others."""
    folder = tmp_path_factory.mktemp("equal")
    np.save(folder / "X.npy", cases.samples())
    return cases.equal(folder), folder


@pytest.fixture(scope="module")
def processes(one_process):
    """From the number of processes to the fits in each of them."""
    return cache(partial(run, one_process[1]))


@pytest.mark.slow
@pytest.mark.parametrize(("n_processes", "name"), [*product([2], cases.EQUAL), *product([3], cases.NARROW)])
def test_several_processes_train_the_network_of_one(n_processes, name, one_process, processes):
    state, history, score = one_process[0][name]
    outcomes = [found["equal"][name] for found in processes(n_processes)["successes"]]
    tolerance = 0.1 if name in cases.NORMED else 1e-3
    for found, their_history, their_score in outcomes:
        assert difference(found, state) <= (1e-3 if name in cases.NORMED else 1e-5)
        assert len(their_history) == len(history)
        for ours, theirs in zip(history, their_history, strict=True):
            assert theirs["train_loss"] == pytest.approx(ours["train_loss"], abs=tolerance)
        assert their_score == pytest.approx(score, abs=tolerance)
    first, *others = (state for state, _, _ in outcomes)
    for other in others:
        for key, value in first.items():
            np.testing.assert_array_equal(other[key], value)


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 3])
def test_batch_norm_and_pooling_differ_by_rounding_alone(n_processes, processes, tmp_path):
    """In float64, where rounding errors are small even after batch norm and Adam have let them grow."""
    for case, state in enumerate(cases.in_float64(tmp_path)):
        for found in processes(n_processes)["successes"]:
            assert difference(found["float64"][case], state) <= 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 3])
def test_batch_norm_sees_the_whole_batch(n_processes, processes, tmp_path):
    whole = cases.norms(tmp_path, ALONE)
    for step, *parts in zip(whole, *(found["norms"] for found in processes(n_processes)["successes"]), strict=True):
        for share, y, gradient, *_ in parts:
            is_taken = share.fraction > 0
            torch.testing.assert_close(y, step[1][share.places], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(gradient, step[2][share.places] * is_taken, rtol=1e-9, atol=1e-9)
        for k in (3, 4):  # gradients of weight and bias
            torch.testing.assert_close(sum(part[k] for part in parts), step[k], rtol=1e-9, atol=1e-9)
        for part in parts:
            torch.testing.assert_close(part[5:], step[5:], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_share_random_numbers_and_decisions(n_processes, processes):
    first, *others = (found["shared"] for found in processes(n_processes)["successes"])
    for name, codes in first.items():
        for other in others:
            np.testing.assert_array_equal(other[name], codes)
    assert first["stopped in one"] == 2
    X = cases.samples()
    alone = VAETransformer(2, **cases.COMMON).fit(X).transform(X)
    np.testing.assert_allclose(first["random state of the process"], alone, atol=1e-4)


@pytest.mark.slow
def test_all_processes_raise_where_one_fails(processes):
    first, second = processes(2)["failing"]
    assert first["fine"][0] == second["fine"][0] == first["fine, own group"][0]
    same = "ValueError: The 2 processes of a data-parallel training must all be given the same X, sample_weight and "
    for name, differing in [
        ("order", "data"),
        ("order, own group", "data"),
        ("width", "data"),
        ("weights", "data"),
        ("parameters", "parameters"),
        ("checkpoint", "checkpoint"),
    ]:
        assert first[name][0] == second[name][0] == f"{same}parameters. Their {differing} differ."
    no_space, other = "OSError: no space left on this device", "RuntimeError: Another process of the data-parallel "
    for name, failing, waiting in [
        ("callback", second, first),
        ("callback, own group", second, first),
        ("first", first, second),
    ]:
        assert failing[name][0] == no_space
        assert waiting[name][0].startswith(other)
    assert first["unwritable"][0].startswith("FileNotFoundError")
    assert second["unwritable"][0].startswith(other)
    for outcome in (first, second):
        assert outcome["loss"][0].startswith("FloatingPointError: The loss became")
        assert outcome["bad values"][0].startswith("ValueError: X must lie in [0, 1]")
        assert max(seconds for _, seconds in outcome.values()) < 60


@pytest.mark.slow
def test_a_killed_process_ends_the_training_which_can_be_resumed(one_process, processes, tmp_path):
    state, history = cases.resumed(tmp_path)
    _, folder = one_process
    assert "SIGKILL" in processes(2)["said"]
    assert (folder / "torchrun").stat().st_mtime - (folder / "killed").stat().st_mtime < 60
    assert (folder / "fit.npz").exists()
    found, their_history = cases.resumed(folder)  # in one process
    assert len(their_history) == len(history)
    assert difference(found, state) <= 1e-5
