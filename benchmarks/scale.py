"""Beyond one machine: what the parts of a cluster take, counted and timed on this one.

    python benchmarks/scale.py --part NAME [--size GB] [--trials N]

Each part prints what it does while it does it, and ends with the line that belongs on the benchmarks page.
"""

import argparse
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
from torchrun import torchrun, torchrun_kill, torchrun_model

PARTS = {}


def part(function):
    """Register a part under the name of its function: it is called with the arguments of the command line."""
    PARTS[function.__name__.replace("_", "-")] = function
    return function


def timed(function):
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def say(text, start=time.perf_counter()):  # noqa: B008
    """Print a line with the seconds since the beginning."""
    print(f"[{time.perf_counter() - start:7.1f} s] {text}", flush=True)


def main():
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS), action="append", required=True)
    parser.add_argument("--size", type=float, help="gigabytes of data, where a part has a choice")
    parser.add_argument("--trials", type=int, help="repetitions, where a part has a choice")
    arguments = parser.parse_args()
    for name in arguments.part:
        say(f"{name}: {PARTS[name].__doc__.splitlines()[0]}")
        PARTS[name](arguments)


# Data-parallel training

for function in (torchrun, torchrun_kill, torchrun_model):
    part(function)


# PCA on dask arrays, and Parquet


def workers(n=2, memory="1.5GB", **kwargs):
    """A client of a cluster on this machine, of processes with one thread each."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=n, threads_per_worker=1, memory_limit=memory, dashboard_address=":0", **kwargs)
    return Client(cluster)


def close(client):
    """End a cluster and its client."""
    cluster = client.cluster
    client.close()
    cluster.close()


def generated(gigabytes, n_features, dtype="float64", block=32e6):
    """A dask array of about so many gigabytes, of which each block is generated where it is used."""
    import dask.array as da

    n_block = max(1, int(block / n_features / np.dtype(dtype).itemsize))
    n_blocks = max(1, round(gigabytes * 1e9 / block))
    seeds = da.arange(n_blocks, chunks=1)
    return seeds.map_blocks(
        partial(generate, n_samples=n_block, n_features=n_features, dtype=dtype),
        chunks=((n_block,) * n_blocks, (n_features,)),
        new_axis=1,
        dtype=dtype,
        meta=np.empty((0, 0), dtype=dtype),
    )


def generate(seed, n_samples, n_features, dtype):
    """A block of samples whose standard deviations fall with the index of the feature, about a mean of 5."""
    rng = np.random.default_rng(int(seed[0]))
    rows = rng.standard_normal((n_samples, n_features), dtype=np.float32).astype(dtype)
    return rows * np.linspace(3, 1, n_features, dtype=dtype) + np.dtype(dtype).type(5)


class Peak:
    """Largest resident memory of this process, less what it has when this is made, in GB."""

    def __init__(self):
        self.before, self.most, self.ended = self.now(), 0.0, threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    @staticmethod
    def now():
        """Resident memory, in GB."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9

    def watch(self):
        """Look every 20 ms."""
        while not self.ended.wait(0.02):
            self.most = max(self.most, self.now())

    def end(self):
        """The peak."""
        self.ended.set()
        return max(self.most, self.now()) - self.before


def states(client):
    """For each worker its process, and the bytes that it has written to disk so far for want of memory."""

    def state(dask_worker):
        metrics = getattr(dask_worker.data, "cumulative_metrics", {})  # of a worker with a limit
        return os.getpid(), int(metrics.get(("disk-write", "bytes"), 0))

    return client.run(state)


@part
def dask_memory(arguments):
    """Fit, scores and latent codes of 8 GB that are generated lazily, with 2 workers of 1.5 GB each."""
    import zarr

    from sklatent import PCAReducer

    client, X = workers(), generated(arguments.size or 8, 250)
    say(f"X: {X.shape[0]:,} x {X.shape[1]} in {X.npartitions} blocks, {X.nbytes / 1e9:.1f} GB")
    before, peak = states(client), Peak()
    model = PCAReducer(20).fit(X)
    say(f"fitted: {model.explained_variance_[:3]}")
    with tempfile.TemporaryDirectory() as folder:
        model.transform(X).to_zarr(f"{folder}/codes.zarr")
        codes = zarr.open_array(f"{folder}/codes.zarr", mode="r")
        say(f"latent codes in zarr: {codes.shape}")
        first = generate([0], X.chunks[0][0], X.shape[1], "float64")
        assert np.allclose(codes[: len(first)], model.transform(first))
    say(f"mean log-likelihood: {model.score(X):.6f}, of the first block alone {model.score(first):.3f}")
    after = states(client)
    restarts = sum(before[name][0] != after.get(name, (0,))[0] for name in before)
    spilled = sum(n_bytes for _, n_bytes in after.values())
    say(
        f"RESULT restarts {restarts}, bytes spilled {spilled:,}, client's memory {peak.end():.2f} GB beyond its imports"
    )
    close(client)


IN_MEMORY = """
import sys, time, numpy as np
sys.path.insert(0, {folder!r})
from scale import generate
from sklatent import PCAReducer
X = np.concatenate([generate([k], {n_block}, {d}, "float64") for k in range({n_blocks})])
PCAReducer(20).fit(X[:10000])
for _ in range(3):
    start = time.perf_counter()
    PCAReducer(20).fit(X)
    print(time.perf_counter() - start)
"""


def in_memory_seconds(X):
    """The best of three fits in a process of two threads, to the same samples in memory."""
    d, n_block = X.shape[1], X.chunks[0][0]
    code = IN_MEMORY.format(folder=str(Path(__file__).parent), n_block=n_block, d=d, n_blocks=X.npartitions)
    threads = {name: "2" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=True)
    return min(map(float, found.stdout.split()))


@part
def dask_throughput(arguments):
    """Fit of 4 GB in memory: 2 workers of one thread over one process of 2 threads. Needs a quiet machine."""
    from distributed import wait

    from sklatent import PCAReducer

    X = generated(arguments.size or 4, 784)
    alone = in_memory_seconds(X)
    say(f"one process of two threads: {alone:.2f} s")
    client = workers(memory=0)
    X = X.persist()
    wait(X)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        PCAReducer(20).fit(X)
        times.append(time.perf_counter() - start)
    say(f"two workers of one thread: {min(times):.2f} s")
    say(f"RESULT throughput of the workers over that of one process: {alone / min(times):.2f}")
    close(client)


@part
def dask_bytes(arguments):
    """Bytes that reach the client in a fit, by the number of samples and of features."""
    import dask

    from sklatent import PCAReducer
    from sklatent._sources.dask_arrays import SPLIT_EVERY

    for d in (50, 200, 800):
        for n_blocks in (4, 32, 256):
            X, counted = generated(n_blocks * 2e-3, d, block=2e6), []

            def get(graph, keys, counted=counted, **kwargs):
                results = dask.get(graph, keys, **kwargs)
                counted.append(len(pickle.dumps(results)))
                return results

            with dask.config.set(scheduler=get):
                PCAReducer(5).fit(X)
            bound = 2 * d**2 * 8 * int(np.ceil(np.log(n_blocks) / np.log(SPLIT_EVERY)))
            say(f"RESULT d {d}, n {len(X):,}: {sum(counted):,} bytes in {len(counted)} passes; bound {bound:,}")


def strike(pid, delay, ended):
    """Kill a process after some seconds, unless an event comes before."""
    if not ended.wait(delay):
        os.kill(pid, signal.SIGKILL)


@part
def dask_kill(arguments):
    """A worker killed at a random moment of a fit, 20 times: the model must be the same."""
    from sklatent import PCAReducer

    X = generated(arguments.size or 0.4, 200, block=8e6)
    client, rng = workers(memory=0), np.random.default_rng(0)
    expected = PCAReducer(5).fit(X)  # and the workers import what they need
    duration, n_same, n_hit = timed(partial(PCAReducer(5).fit, X)), 0, 0
    for trial in range(20):
        pids, ended = [pid for pid, _ in states(client).values()], threading.Event()
        delay, victim = rng.uniform(0, duration), int(rng.choice(pids))
        thread = threading.Thread(target=strike, args=(victim, delay, ended))
        thread.start()
        found = PCAReducer(5).fit(X)
        ended.set()
        thread.join()
        was_hit = set(pids) != {pid for pid, _ in states(client).values()}
        n_hit += was_hit
        n_same += np.array_equal(found.components_, expected.components_)
        say(f"trial {trial + 1}: struck after {delay:.2f} s, {'hit' if was_hit else 'missed'}")
        client.wait_for_workers(2, timeout=60)
    say(f"RESULT {n_hit} of 20 workers killed within a fit; the components are bitwise the same in {n_same} of 20")
    close(client)


@part
def dask_without(arguments):
    """A worker on which sklatent is not installed: the fit must end with an error that says so."""
    from sklatent import PCAReducer

    client = workers(1, preload=[textwrap.dedent(BLOCKER)])
    start = time.perf_counter()
    try:
        PCAReducer(2).fit(generated(0.01, 20))
    except Exception as error:
        say(f"RESULT {type(error).__name__} after {time.perf_counter() - start:.1f} s: {error}")
    close(client)


BLOCKER = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "sklatent":
                raise ModuleNotFoundError("No module named 'sklatent'", name="sklatent")

    sys.meta_path.insert(0, Blocker())
"""

PARQUET_FIT = """
import sys
sys.path.insert(0, {folder!r})
from scale import Peak, say
import pyarrow.parquet, skorch, torch
from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._nn.training import LatentNet
torch.set_num_threads(1)
model = {model}
peak = Peak()
model.fit({data!r})
say("RESULT {model}: %.3f GB beyond the imports" % peak.end())
"""


@part
def parquet(arguments):
    """Memory of fits to a Parquet dataset of 5 million samples of 50 features (2 GB), in row groups of a million."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_groups = max(1, round((arguments.size or 2) * 1e9 / 50 / 8 / 1e6))
    with tempfile.TemporaryDirectory() as folder:
        for k in range(n_groups):
            rows = generate([k], 1_000_000, 50, "float64")
            table = pa.table({f"x{j}": rows[:, j] for j in range(50)})
            pq.write_table(table, f"{folder}/{k}.parquet")
        del rows, table
        say(f"{n_groups} million samples written")
        for model in (
            "PCAReducer(5)",
            "VAETransformer(2, max_epochs=1, batch_size=2048, random_state=0)",
            "AutoencoderTransformer(2, max_epochs=1, batch_size=2048, random_state=0)",
        ):
            code = PARQUET_FIT.format(folder=str(Path(__file__).parent), model=model, data=folder)
            subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@part
def model(arguments):
    """Cost of PCA on paper, for 1e9 x 784 on 100 workers, and its slopes on paper and measured on one thread."""
    import dask

    from sklatent._sources.dask_arrays import SPLIT_EVERY

    n, d, n_workers, block = 1e9, 784, 100, 1e5
    n_blocks = n / block
    depth = np.ceil(np.log(n_blocks) / np.log(SPLIT_EVERY))
    say(f"paper: n {n:.0e}, d {d}, {n_workers} workers, {n_blocks:,.0f} blocks of {block * d * 8 / 1e6:.0f} MB")
    say(f"  {n * d * d:.1e} multiplications, {n * d * d / n_workers:.1e} for each worker; eigenvectors {10 * d**3:.1e}")
    say(f"  {n_blocks / (SPLIT_EVERY - 1):,.0f} merges of {SPLIT_EVERY}, depth {depth:.0f}")
    moved = n_blocks * SPLIT_EVERY / (SPLIT_EVERY - 1) * d**2 * 8
    say(f"  at most {moved / 1e9:.0f} GB between workers, {moved / 1e9 / n_workers:.2f} GB for each of them")
    say(f"  {8e-6 * d * d:.1f} MB to the client, whatever n is")
    with dask.config.set(scheduler="synchronous"):
        lengths = seconds([(n, generated(n * 400 * 8e-9, 400)) for n in (20_000, 40_000, 80_000, 160_000, 320_000)])
        widths = seconds([(d, generated(20_000 * d * 8e-9, d)) for d in (400, 600, 900, 1350, 2000)])
        cuts = seconds([(k, generated(0.256, 400, block=0.256e9 / k)) for k in (8, 16, 32, 64, 128)])
    say(f"RESULT time ~ n^{exponent(lengths):.2f}, on paper n^1")
    say(f"RESULT time ~ d^{exponent(widths):.2f}, on paper d^2 where products take the time")
    milliseconds = 1e3 * np.polyfit(*np.transpose(cuts), 1)[0]
    paper = 1e3 * (4 * 8 * 400**2 / 5e9 + 1e-3)
    say(
        f"RESULT {milliseconds:.2f} ms for each block more, on paper {paper:.2f} (four passes over d^2 at 5 GB/s, 1 ms)"
    )


def seconds(cases):
    """Pairs of a size and of the time of a fit in memory, the best of three."""
    from sklatent import PCAReducer

    found = []
    for size, X in cases:
        X = X.persist()
        found.append((size, min(timed(partial(PCAReducer(5).fit, X)) for _ in range(3))))
        say(f"  size {size:,}: {found[-1][1]:.3f} s")
    return found


def exponent(found):
    """Slope of the logarithm of the time against that of the size."""
    return np.polyfit(*np.log(np.transpose(found)), 1)[0]


# Searches over workers


def digits_search(n_candidates=16, max_epochs=30, n_splits=5, **params):
    """A search of VAEs over `nz` and `beta` on the digits, of so many candidates, and its samples."""
    from sklearn.datasets import load_digits

    from sklatent import VAETransformer
    from sklatent.model_selection import FusedGridSearchCV

    vae = VAETransformer(hidden_sizes=(128,), max_epochs=max_epochs, batch_size=64, random_state=0)
    grid = {"nz": [2, 4, 8, 16], "beta": np.linspace(0.5, 4, n_candidates // 4).tolist()}
    return FusedGridSearchCV(vae, grid, cv=n_splits, refit=False, **params), load_digits().data / 16


ALONE = """
import sys, time
sys.path.insert(0, {folder!r})
from scale import digits_search
search, X = digits_search()
digits_search(max_epochs=1)[0].fit(X)
for line in sys.stdin:
    start = time.perf_counter()
    scores = search.fit(X).cv_results_["mean_test_score"]
    print(time.perf_counter() - start, *scores, flush=True)
"""


@part
def search(arguments):
    """80 VAEs of the digits: 2 workers of one thread, one process of 2 threads, in turn. Needs a quiet machine."""
    from joblib import parallel_config

    threads = {name: "2" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-W", "ignore", "-c", ALONE.format(folder=str(Path(__file__).parent))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    ratios, differences, client = [], [], workers(memory=0)
    with subprocess.Popen(command, env=os.environ | threads, **pipes) as alone, parallel_config(backend="dask"):
        candidates, X = digits_search()
        digits_search(max_epochs=1)[0].fit(X)  # what is loaded or started at the first
        for _ in range(3):
            print("fit", file=alone.stdin, flush=True)
            seconds, *expected = map(float, alone.stdout.readline().split())
            ours = timed(lambda: candidates.fit(X))
            difference = np.abs(candidates.cv_results_["mean_test_score"] / expected - 1).max()
            say(f"one process {seconds:.1f} s, two workers {ours:.1f} s, scores differ by {difference:.1e}, relative")
            ratios.append(seconds / ours)
            differences.append(difference)
        alone.stdin.close()
    say(f"RESULT workers over one process {np.median(ratios):.2f}; scores differ by {max(differences):.1e} at most")
    close(client)


@part
def search_bytes(arguments):
    """Bytes that the client and the scheduler write in a search, by the number of samples and of parts."""
    from distributed.comm.tcp import TCP
    from joblib import parallel_config

    from sklatent import PCAReducer
    from sklatent.model_selection import FusedGridSearchCV

    sent, write = [], TCP.write

    async def counted(self, *args, **kwargs):
        sent.append(await write(self, *args, **kwargs))
        return sent[-1]

    TCP.write = counted
    client = workers(memory=0)
    with parallel_config(backend="dask"):
        for n_samples in (2_000, 20_000, 200_000):
            for n_parts in (2, 8, 32):
                X = generate([0], n_samples, 50, "float64")
                sent.clear()
                FusedGridSearchCV(PCAReducer(), {"nz": range(1, 17)}, refit=False, n_jobs=n_parts).fit(X)
                rest = sum(sent) - 2 * X.nbytes
                say(f"RESULT {n_samples:,} samples, {n_parts} parts: {sum(sent) / X.nbytes:.2f} X, 2 X and {rest:,}")
    TCP.write = write
    close(client)


@part
def search_kill(arguments):
    """A worker killed at a random moment of a search, 20 times: the scores must be the same."""
    from joblib import parallel_config

    client, rng, n_hit, worst = workers(memory=0), np.random.default_rng(0), 0, 0.0
    with parallel_config(backend="dask"):
        candidates, X = digits_search(max_epochs=10, n_splits=2)
        candidates.fit(X)
        expected = candidates.cv_results_["mean_test_score"]
        seconds = timed(lambda: candidates.fit(X))
        for trial in range(20):
            pids, ended = [pid for pid, _ in states(client).values()], threading.Event()
            delay, victim = rng.uniform(0, seconds), int(rng.choice(pids))
            thread = threading.Thread(target=strike, args=(victim, delay, ended))
            thread.start()
            found = candidates.fit(X).cv_results_["mean_test_score"]
            ended.set()
            thread.join()
            client.wait_for_workers(2, timeout=60)
            was_hit = set(pids) != {pid for pid, _ in states(client).values()}
            n_hit += was_hit
            worst = max(worst, np.abs(found / expected - 1).max())
            say(f"trial {trial + 1}: struck after {delay:.2f} of {seconds:.2f} s, {'hit' if was_hit else 'missed'}")
    say(f"RESULT {n_hit} of 20 workers killed within a search; scores differ by {worst:.1e} at most")
    close(client)


@part
def search_without(arguments):
    """A worker on which sklatent is not installed: the search must end with an error that says so."""
    from joblib import parallel_config

    client = workers(1, preload=[textwrap.dedent(BLOCKER)])
    candidates, X = digits_search()
    start = time.perf_counter()
    try:
        with parallel_config(backend="dask"):
            candidates.fit(X)
    except Exception as error:
        say(f"RESULT {type(error).__name__} after {time.perf_counter() - start:.1f} s: {error}")
    close(client)


@part
def search_model(arguments):
    """Cost of a search on paper, for 1,000 candidates on 50 workers, and its slopes beside those measured here."""
    from sklearn.model_selection import ParameterGrid

    from sklatent._search.plan import Plan

    n_candidates, n_splits, n_workers, n, d, epochs = 1000, 5, 50, 1797, 64, 30
    candidates, X = digits_search(n_candidates)
    plan = Plan(candidates.estimator, list(ParameterGrid(candidates.param_grid)))
    parts = plan.divide(n_splits, n_workers)
    plan.close()
    largest, folds = max(map(len, parts)), max(len({fold for _, fold in part}) for part in parts)
    n_weights = 2 * d * 128 + 3 * 128 * 7.5  # of both networks, with the mean nz
    flops = 6 * n_weights * n * (n_splits - 1) / n_splits * epochs
    say(f"paper: {n_candidates} candidates, {n_splits} folds, {n_workers} workers, X of {n} x {d}")
    say(f"  {len(parts)} parts of at most {largest} networks and {folds} folds")
    say(f"  flops {flops:.1e} a network, {flops * largest:.1e} a worker")
    say(f"  {n_workers * X.nbytes / 1e6:.0f} MB of data to all workers, once: {np.ceil(np.log2(n_workers)):.0f} rounds")
    sizes, times = [4, 8, 16, 32, 64], []
    for size in sizes:
        candidates, _ = digits_search(size, max_epochs=5)
        times.append(min(timed(lambda candidates=candidates: candidates.fit(X)) for _ in range(2)))
        say(f"{size * n_splits} networks: {times[-1]:.2f} s")
    slope, first = np.polyfit(np.array(sizes) * n_splits, times, 1)
    power = np.polyfit(np.log(sizes), np.log(times), 1)[0]
    say(f"RESULT time ~ networks^{power:.2f}, on paper ^1 beside {first:.2f} s that any stack takes")
    seconds = epochs / 5 * (first + slope * largest)
    say(f"RESULT {slope * 1e3:.1f} ms for a network of 5 epochs, so {seconds:.0f} s for a worker")


if __name__ == "__main__":
    main()
