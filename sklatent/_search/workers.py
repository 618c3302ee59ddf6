"""A search on joblib's workers, in parts that share nothing but the data."""

__all__ = ["Workers"]

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Optional

from joblib import effective_n_jobs, parallel_config
from joblib.parallel import ParallelBackendBase, get_active_backend
from sklearn.utils.parallel import Parallel, delayed

from sklatent._search.cluster import client_of, n_threads_of_host, run_on_cluster
from sklatent._search.parts import Call, Part, PartResult, Shared, divide_calls
from sklatent._search.plan import Plan
from sklatent._search.progress import Progress


class Workers(ParallelBackendBase):
    """A backend of joblib that gathers the calls of a search, and runs them in parts on the backend beneath.

    scikit-learn's search hands each fit to joblib by itself. Fits that learn together must go to the same worker, so
    that nothing which is learned has to travel. So the calls are gathered until the search asks for the first result.

    Parameters
    ----------
    backend : ParallelBackendBase
        The backend beneath.
    n_jobs : int
        Number of parts into which fits that learn together are divided.

    Attributes
    ----------
    run : callable
        Set by the search: from the list of all calls to their results.
    """

    run: Callable[[list[Call]], list[Any]]

    def __init__(self, backend: ParallelBackendBase, n_jobs: int):
        super().__init__()
        self.backend = backend
        self.n_jobs = n_jobs
        self.client = client_of(backend)
        self._offer = parallel_config(backend=self)

    @classmethod
    @contextmanager
    def offered(cls, n_jobs: int | None) -> Iterator[None]:
        """Offer workers, within the block, to the next `Parallel` and to its `taken`, if there is more than one job."""
        backend, default = get_active_backend()
        n_effective = effective_n_jobs(n_jobs)
        if n_effective == 1 and client_of(backend) is None:
            yield
            return
        wanted = default if n_jobs is None else n_jobs
        workers = cls(backend, wanted if wanted is not None and wanted > 1 else n_effective)
        try:
            yield
        finally:
            workers._offer.unregister()

    @classmethod
    def taken(cls) -> Optional["Workers"]:
        """The workers that are offered, which nothing else gets from now on."""
        backend, _ = get_active_backend()
        if not isinstance(backend, cls):
            return None
        backend._offer.unregister()
        return backend

    def search(
        self, calls: Sequence[Call], plan: Plan, shared: Shared, progress: Progress, pre_dispatch: Any
    ) -> list[Any]:
        """The results of all calls. The plan and the progress are told what comes with them."""
        outcomes: dict[int, Any] = {}
        parts = divide_calls(calls, plan, shared, self.n_jobs)
        try:
            with closing(self._run_parts(parts, shared, pre_dispatch)) as results:
                for result in results:
                    outcomes |= result.outcomes
                    for number, (route, seconds) in result.ways.items():
                        plan.take_over(number, route, seconds)
                    progress.tell(result.stacks)
        finally:
            shared.is_over = True
        progress.close()
        return [outcomes[number] for number in range(len(calls))]

    def _run_parts(self, parts: Sequence[Part], shared: Shared, pre_dispatch: Any) -> Generator[PartResult, None, None]:
        """The results of the parts, as they end."""
        if self.client is not None:
            shared.limits["n_beside"] = n_threads_of_host(self.client) - 1
            yield from run_on_cluster(self.client, parts, shared, self.backend.submit_kwargs)
            return
        shared.limits["n_beside"] = self.n_jobs - 1
        unordered = "generator_unordered" if self.backend.supports_return_generator else "list"
        parallel = Parallel(n_jobs=self.n_jobs, pre_dispatch=pre_dispatch, return_as=unordered)
        yield from parallel(delayed(part.run)(shared) for part in parts)

    # What joblib asks of a backend. For a single job it would ask nothing.

    def effective_n_jobs(self, n_jobs: Any) -> int:
        return max(self.n_jobs, 2)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **keywords: Any) -> int:
        parallel.pre_dispatch = "all"
        return super().configure(n_jobs, parallel, **keywords)

    def start_call(self) -> None:
        self._calls: list[Call] = []
        self._results: list[Any] | None = None

    def submit(self, func: Any, callback: Any = None) -> slice:
        numbers = slice(len(self._calls), len(self._calls) + len(func.items))
        self._calls += func.items
        callback(None)  # joblib counts it as done, and asks for its result
        return numbers

    def retrieve_result(self, out: slice, timeout: Any = None) -> list[Any]:
        if self._results is None:
            self._results = self.run(self._calls)
        return self._results[out]
