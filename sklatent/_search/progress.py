"""What a search tells while it trains stacks of networks: printed lines, and tasks of scikit-learn's callbacks."""

__all__ = ["Progress"]

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sklatent._search.plan import holds_latent
from sklatent._sklearn_compat import has_callbacks

# Between two lines while a stack is trained.
SECONDS = 5.0


class Progress:
    """Follow the stacks of a search, one after the other.

    Parameters
    ----------
    search : estimator
        Which callbacks are told about.
    context : CallbackContext or None
        That of the fit of the search, in scikit-learn 1.9 and later.
    verbose : int
        1 prints a line when a stack begins and ends, and every few seconds in between.
    """

    def __init__(self, search: Any, context: Any, verbose: int):
        self.search = search
        self.context = context if has_callbacks(search) else None
        self.verbose = verbose
        self._tasks: list[Any] = []  # from the task of all stacks to that of an epoch
        # Before the task of the candidates, as bars show it. Where only candidates bring a latent model, the first
        # stack begins it, and where nobody does there is none: then the tasks are those of scikit-learn's search.
        if holds_latent(search.estimator):
            self._begin("train-together", None)

    def close(self) -> None:
        """Report that all stacks are trained. Further ones are not reported to callbacks."""
        self._end()
        self.context = None

    @contextmanager
    def stack(self, n_models: int, n_epochs: int) -> Iterator[None]:
        """Report the training of a stack, whose epochs are reported by the two methods below."""
        self.n_epochs, self.epoch = n_epochs, 0
        self.start = self.last_line = time.perf_counter()
        self._print(f"{n_models} networks as one, {n_epochs} epochs")
        if not self._tasks:
            self._begin("train-together", None)
        self._begin("stack", n_epochs)
        yield
        self._end()
        self._print(f"{n_models} networks trained as one in {time.perf_counter() - self.start:.1f} s")

    def tell(self, stacks: Iterable[tuple[int, int, float]]) -> None:
        """Report stacks that a worker has trained: number of networks, number of epochs and seconds of each."""
        for n_models, n_epochs, seconds in stacks:
            if not self._tasks:
                self._begin("train-together", None)
            self._begin("stack", 0)
            self._end()
            self._print(f"{n_models} networks trained as one by a worker, {n_epochs} epochs in {seconds:.1f} s")

    def begin_epoch(self) -> None:
        """Report that an epoch begins."""
        self._begin("epoch", 0)

    def end_epoch(self) -> bool:
        """Report that an epoch has ended, and return whether a callback asks to stop."""
        self.epoch += 1
        now = time.perf_counter()
        if now - self.last_line > SECONDS:
            self.last_line = now
            self._print(f"epoch {self.epoch} of {self.n_epochs}, {now - self.start:.0f} s")
        return self._end()

    def _print(self, text: str) -> None:
        if self.verbose > 0:
            print(f"[fused] {text}", flush=True)

    def _begin(self, name: str, max_subtasks: int | None) -> None:
        if self.context is not None:
            parent = self._tasks[-1] if self._tasks else self.context
            task = parent.subcontext(task_name=name, max_subtasks=max_subtasks)
            self._tasks.append(task.call_on_fit_task_begin(estimator=self.search))

    def _end(self) -> bool:
        return bool(self._tasks) and bool(self._tasks.pop().call_on_fit_task_end(estimator=self.search))
