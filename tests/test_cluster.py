"""Fits on a cluster of processes: workers that are lost, and workers without the package."""

import os
import signal
import textwrap
import threading
import time

import numpy as np
import pytest

from sklatent import PCAReducer

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.slow,
    # What other packages warn of when processes start and end.
    pytest.mark.filterwarnings("ignore"),
]
# A worker on which no module of the package can be imported.
BLOCKER = textwrap.dedent(
    """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "sklatent":
                raise ModuleNotFoundError("No module named 'sklatent'", name="sklatent")

    sys.meta_path.insert(0, Blocker())
    """
)


@pytest.fixture
def cluster(request):
    """A client of two worker processes with one thread each."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    with (
        distributed.LocalCluster(**options | getattr(request, "param", {})) as cluster,
        distributed.Client(cluster, timeout=60) as client,
    ):
        yield client


def generated(seed):
    time.sleep(0.05)
    return np.random.default_rng(int(seed[0])).standard_normal((200, 30)) * np.arange(30, 0, -1) + 1e3


def blocks(n_blocks):
    chunks = ((200,) * n_blocks, (30,))
    return da.arange(n_blocks, chunks=1).map_blocks(generated, chunks=chunks, new_axis=1, dtype=float)


def in_memory(n_blocks):
    return np.concatenate([generated([k]) for k in range(n_blocks)])


def test_a_cluster_learns_what_memory_learns_while_a_worker_is_killed(cluster):
    X, pids = blocks(24), list(cluster.run(os.getpid).values())
    expected = PCAReducer(3).fit(in_memory(24))
    timer = threading.Timer(0.3, os.kill, (pids[0], signal.SIGKILL))
    timer.start()
    model = PCAReducer(3).fit(X)
    timer.join()
    np.testing.assert_allclose(model.components_, expected.components_, atol=1e-10)
    np.testing.assert_allclose(model.explained_variance_, expected.explained_variance_, rtol=1e-10)
    cluster.wait_for_workers(2, timeout=60)
    assert set(cluster.run(os.getpid).values()) != set(pids)
    np.testing.assert_allclose(model.score_samples(X).compute(), expected.score_samples(in_memory(24)), rtol=1e-10)


@pytest.mark.parametrize("cluster", [{"n_workers": 1, "preload": [BLOCKER]}], indirect=True)
def test_workers_without_the_package_are_an_error_at_once(cluster):
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match=r"Workers need sklatent .* 1 of 1 lack it"):
        PCAReducer(3).fit(blocks(2))
    with pytest.raises(RuntimeError, match="Workers need sklatent"):
        PCAReducer(3).fit(in_memory(2)).transform(blocks(2))
    assert time.perf_counter() - start < 60
