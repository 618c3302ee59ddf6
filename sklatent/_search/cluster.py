"""The parts of a search as tasks of a dask cluster."""

__all__ = ["client_of", "n_threads_of_host", "run_on_cluster"]

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from joblib import parallel_config

from sklatent._search.parts import Part, PartResult, Shared
from sklatent._sources.dask_arrays import check_workers

# How often the data are sent, where a worker is lost at this moment, or all that hold them are lost later.
N_TRIES = 10


def client_of(backend: Any) -> Any:
    """The client of a dask cluster to which a backend of joblib sends its tasks; None for other backends."""
    distributed = sys.modules.get("distributed")
    client = getattr(backend, "client", None)
    return client if distributed is not None and isinstance(client, distributed.Client) else None


def n_threads_of_host(client: Any) -> int:
    """Number of tasks that may run on one machine of a cluster at the same time: the largest of all machines."""
    threads: Counter[str] = Counter()
    for address, n_threads in client.nthreads().items():
        threads[address.rpartition(":")[0]] += n_threads
    return max(threads.values(), default=1)


def run_on_cluster(
    client: Any, parts: Sequence[Part], shared: Shared, submit_kwargs: dict[str, Any]
) -> Iterator[PartResult]:
    """Run the parts of a search as tasks of a dask cluster, and give their results as they end.

    joblib's own backend waits for ever for a task that ends without a result of its own, and what it sends to a worker
    is lost with that worker. Here the data are sent to all workers once, and dask runs a task again whose worker was
    lost. Where all workers were lost that held the data, they are sent anew, and what has no result yet is run again.

    Parameters
    ----------
    client : distributed.Client
    parts : sequence of Part
    shared : Shared
    submit_kwargs : dict
        Keywords of `Client.submit` that the user has given to the backend: resources, priority and others.

    Yields
    ------
    result : PartResult

    Raises
    ------
    RuntimeError
        If a worker does not have this version of the package, or if the data were lost too often.
    """
    as_completed: Any = sys.modules["distributed"].as_completed  # where a client is, it is loaded

    check_workers(client)
    waiting = list(parts)
    for _ in range(N_TRIES):
        try:
            data = client.scatter(shared, broadcast=True, hash=False)
        # Of the connection to a worker that is lost in this moment, of the scheduler which knows it no more, or while
        # there is none.
        except (OSError, KeyError):
            time.sleep(1.0)
            continue
        run = f"fused-search-{uuid4().hex}"
        futures = {
            client.submit(_run, part, data, key=f"{run}-{number}", pure=False, **submit_kwargs): part
            for number, part in enumerate(waiting)
        }
        try:
            for future in as_completed(futures):
                if future.status in ("finished", "error"):
                    yield future.result()
                    waiting.remove(futures[future])
        finally:
            client.cancel(list(futures))
        if not waiting:
            return
    raise RuntimeError(f"The search was given up, since the cluster has lost its data {N_TRIES} times.")


def _run(part: Part, shared: Shared) -> PartResult:
    """Run a part on a worker, for as long as its task is wanted."""
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]
    with parallel_config(backend="threading"):  # the tasks fill the cluster
        return part.run(shared, lambda: task.state != "cancelled")
