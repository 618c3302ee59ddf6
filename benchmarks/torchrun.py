"""Data-parallel training: the processes and the parts of `scale.py` that torchrun starts, beside one process."""

import argparse
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np

NETWORKS = {
    "mlp": {"hidden_sizes": (1024, 512, 256), "batch_size": 512},
    "conv": {"backbone": "conv", "batch_size": 128},
}
WIDTHS = (256, 362, 512, 724, 1024)


def launch(task, folder, n_processes=1, **settings):
    """Start a task in one process without torchrun or in several with it, each with one thread."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    (folder / "settings").write_bytes(pickle.dumps(settings))
    command = [sys.executable, *(torchrun if n_processes > 1 else []), __file__, "--task", task, "--folder", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def outcome(process, folder):
    """What the task in the first process has left."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return pickle.loads((folder / "0").read_bytes())


def run(task, n_processes, **settings):
    """What a task gives in the first of some processes."""
    with tempfile.TemporaryDirectory() as folder:
        return outcome(launch(task, Path(folder), n_processes, **settings), Path(folder))


# What the processes do


def fit(folder, n_samples, network, **params):
    """Seconds of the fit and of each of its epochs, and the weights."""
    from sklatent import VAETransformer
    from sklatent.datasets import fetch_mnist

    X = fetch_mnist()[0][:n_samples].astype(np.float32)
    defaults = {"max_epochs": 3, "random_state": 0, "likelihood": "bernoulli", "nz": 32}
    start = time.perf_counter()
    model = VAETransformer(**{**defaults, **NETWORKS.get(network, {}), **params}).fit(X)
    seconds = time.perf_counter() - start
    weights = {name: value.numpy() for name, value in model.module_.state_dict().items()}
    return {"fit": seconds, "epochs": [epoch["dur"] for epoch in model.history_], "weights": weights}


def resumed(folder, n_samples, checkpoint):
    """A fit that goes on from a checkpoint. It leaves the ids of its processes as files."""
    (folder / f"pid-{os.getpid()}").touch()
    found = fit(folder, n_samples, None, max_epochs=60, checkpoint=checkpoint, hidden_sizes=(64,), batch_size=128)
    return found["weights"]


def messages(folder, sizes):
    """Seconds of the sum of some numbers over all processes, by their number."""
    import torch

    from sklatent._nn.distributed import process_group

    found = {}
    with process_group("cpu") as processes:
        for size in sizes:
            values = torch.zeros(size)
            times = []
            for _ in range(11):
                processes.any(False)
                start = time.perf_counter()
                processes.sum(values)
                times.append(time.perf_counter() - start)
            found[size] = float(np.median(times))
    return found


# The parts


def torchrun(arguments):
    """Two processes of one thread over one, in turn, and the difference of their weights after three epochs.

    What this machine allows at most is shown by two processes that do not talk, each with half of the samples and half
    of the batch size.
    """
    for network, n_samples in (("mlp", 10_001), ("conv", 2_001)):
        runs, apart = {1: [], 2: []}, []
        for trial in range(arguments.trials or 3):
            for n_processes, found in runs.items():
                found.append(run("fit", n_processes, n_samples=n_samples, network=network))
                print(f"{network}, trial {trial}, {n_processes}: {found[-1]['epochs']}", flush=True)
            apart += halves(network, n_samples)
            print(f"{network}, trial {trial}, apart: {apart[-1]['epochs']}", flush=True)
        epoch = {k: np.median([seconds for one in found for seconds in one["epochs"][1:]]) for k, found in runs.items()}
        whole = {k: np.median([one["fit"] for one in found]) for k, found in runs.items()}
        norm, largest = difference(*(found[0]["weights"] for found in runs.values()))
        print(
            f"RESULT {network}, n {n_samples}: epochs {epoch[1] / epoch[2]:.2f} times as fast "
            f"({n_samples / epoch[2]:.0f} samples a second), fit {whole[1] / whole[2]:.2f}; weights differ by "
            f"{norm:.1e} of their norm, the most of all by {largest:.1e}",
            flush=True,
        )
        bound = np.median([seconds for one in apart for seconds in one["epochs"][1:]])
        print(f"RESULT {network}: epochs of two processes that do not talk {epoch[1] / bound:.2f}", flush=True)


def halves(network, n_samples):
    """Two fits at the same time in processes that do not talk, each with half of the samples and of the batch size."""
    size = NETWORKS[network]["batch_size"] // 2
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        settings = {"n_samples": n_samples // 2, "network": network, "batch_size": size}
        started = [(launch("fit", Path(folder), **settings), Path(folder)) for folder in (one, other)]
        return [outcome(*process) for process in started]


def difference(ours, theirs):
    """Norm of the difference of all weights over the norm of the weights, and the largest absolute difference."""
    ours, theirs = (np.concatenate([value.ravel() for value in weights.values()]) for weights in (ours, theirs))
    return np.linalg.norm(ours - theirs) / np.linalg.norm(ours), np.abs(ours - theirs).max()


def torchrun_kill(arguments):
    """One of two processes is killed at a random moment: how long the other takes to end, and the fit resumed."""
    n_samples, rng = 3_001, np.random.default_rng(0)
    reference = run("resumed", 2, n_samples=n_samples, checkpoint=None)
    n_same, waited = 0, []
    for trial in range(arguments.trials or 20):
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            settings = {"n_samples": n_samples, "checkpoint": folder / "fit.npz"}
            process = launch("resumed", folder, 2, **settings)
            while not (folder / "fit.npz").exists():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            os.kill(int(next(folder.glob("pid-*")).name.removeprefix("pid-")), signal.SIGKILL)
            start = time.perf_counter()
            process.communicate()
            waited.append(time.perf_counter() - start)
            was_hit = process.returncode != 0
            norm, _ = difference(reference, outcome(launch("resumed", folder, 2, **settings), folder))
        n_same += was_hit and norm <= 1e-5
        print(f"trial {trial}: hit {was_hit}, ended after {waited[-1]:.1f} s, resumed: {norm:.1e}", flush=True)
    print(f"RESULT {n_same} of {len(waited)} killed and resumed to the same; ended within {max(waited):.1f} s")


def torchrun_model(arguments):
    """Cost of a step on paper, and of steps here beside what the same reasoning predicts from one process."""
    paper(n=100e6, d=784, k=64, hidden=(1024, 512, 256))
    sums = run("messages", 2, sizes=[count(784, (width, width), 32) for width in WIDTHS])
    n_samples, logs = 2_049, []
    for width in WIDTHS:
        steps = n_samples // 256
        settings = {"n_samples": n_samples, "network": None, "hidden_sizes": (width, width), "batch_size": 256}
        one, two = (np.median(run("fit", k, **settings)["epochs"][1:]) / steps for k in (1, 2))
        message = sums[count(784, (width, width), 32)]
        logs.append([width, one, two, message])
        print(f"RESULT width {width}: step {two:.3f} s, predicted {one / 2 + message:.3f} s, of it {message:.3f} sum")
    width, one, two, message = np.log(logs).T
    for name, values, expected in (("products", one, "1 to 2"), ("sum", message, "1 to 2"), ("step", two, "1 to 2")):
        print(f"RESULT time of {name} ~ width^{np.polyfit(width, values, 1)[0]:.2f}, on paper {expected}")


def paper(n, d, k, hidden, nz=32, operations=30e12, bandwidth=25e9, latency=5e-6, disk=5):
    """Print the cost of a VAE of float32 samples in files on k GPUs that do so many operations a second."""
    n_weights = count(d, hidden, nz)
    message = 2 * (k - 1) * (4 * n_weights / k / bandwidth + latency)  # a ring: each number passes each GPU twice
    print(f"paper: {n:.0e} x {d} on {k} GPUs, {n_weights / 1e6:.1f} M weights, {operations:.0e} operations a second,")
    print(f"  {bandwidth / 1e9:.0f} GB/s between GPUs: {1e3 * message:.2f} ms for the sum of {4e-6 * n_weights:.0f} MB")
    for share in (512, 2048, 8192):
        compute, noise = 6 * n_weights * share / operations, 4 * share * k * nz / 1e12
        step, steps = compute + message + noise, n / share / k
        print(
            f"  {share} samples for each: {1e3 * compute:.2f} ms of products, {1e3 * noise:.2f} ms of noise for all, "
            f"speed of {k * compute / step:.0f} GPUs, epoch of {steps:.0f} steps in {steps * step:.1f} s"
        )
    read = 4e-9 * n * d  # GB
    print(f"  of a memory map each GPU takes {read / k:.1f} of {read:.0f} GB in each epoch, {read / k / disk:.0f} s at")
    print(f"  {disk} GB/s; before and after the training it reads all of it six times, {6 * read / disk:.0f} s")


def count(n_features, hidden, nz):
    """Number of weights of an MLP VAE."""
    sizes = [n_features, *hidden]
    both = 2 * sum(a * b for a, b in pairwise(sizes)) + 3 * nz * sizes[-1]
    return both + sum(hidden) * 2 + n_features + 2 * nz


TASKS = {"fit": fit, "resumed": resumed, "messages": messages}


def main():
    """Do a task in one of the processes that a part has started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    settings = pickle.loads((arguments.folder / "settings").read_bytes())
    found = TASKS[arguments.task](arguments.folder, **settings)
    if os.environ.get("RANK", "0") == "0":
        (arguments.folder / "0").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
