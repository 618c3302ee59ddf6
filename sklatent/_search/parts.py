"""A search in parts: the fits that one worker learns together, and then fits and scores one by one."""

__all__ = ["Abandoned", "Call", "Part", "PartResult", "Shared", "divide_calls"]

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sklearn import config_context, get_config

from sklatent._search.plan import Candidate, Plan, Task

# A function, its positional arguments and its keywords, as joblib's `delayed` makes them.
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Abandoned(Exception):
    """Ends a part of a search that has ended itself, by Ctrl-C or by an error in another part."""


@dataclass
class Shared:
    """What all parts of a search need. Each worker is sent it once.

    Attributes
    ----------
    estimator : estimator
        Of the search.
    X, y : array-like
        All samples and their targets.
    splits : list of tuple
        Training and test indices of each fold; empty if they are not known.
    limits : dict
        For the plan of each part.
    fit_params : dict
        Parameters of the fits, for all samples.
    arguments : list
        Arguments that calls share.
    config : dict
        scikit-learn's configuration.
    is_over : bool
        Whether the search has ended, for parts in threads of its process. Copies in other processes are not told.
    """

    estimator: Any
    X: Any
    y: Any
    splits: Sequence[tuple[Any, Any]]
    limits: dict[str, Any]
    fit_params: dict[str, Any] = field(default_factory=dict)
    arguments: list[Any] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=get_config)
    is_over: bool = False


class PartResult(NamedTuple):
    """What a part gives back: numbers and text, and nothing that was learned."""

    outcomes: dict[int, Any]
    """Result of each call, by its number in the search."""
    ways: dict[int, tuple[str, float]]
    """Route of each candidate, by its number in the search, and its part of the time spent on learning."""
    stacks: list[tuple[int, int, float]]
    """Number of networks, number of epochs and seconds of each stack."""


class _Place(NamedTuple):
    """Stands for an argument that calls share."""

    number: int


class _PlaceOfCandidate(NamedTuple):
    """Stands for the parameters of a candidate."""

    position: int


@dataclass
class Part:
    """Some calls of a search, and the fits within them that are to be learned together.

    Attributes
    ----------
    calls : dict of int to tuple
        The calls by their number in the search, with places for arguments that are shared.
    candidates : dict of int to dict
        Parameters of the candidates of these calls, by their number in the search.
    tasks : list of Task
        What to learn together: positions in `candidates`, and folds. Empty where nothing is planned.
    """

    calls: dict[int, Call]
    candidates: dict[int, dict[str, Any]]
    tasks: list[Task]

    def run(self, shared: Shared, is_wanted: Callable[[], bool] = lambda: True) -> PartResult:
        """Learn together, then fit and score one by one. Raise Abandoned once nobody waits for the result."""

        def check() -> None:
            if shared.is_over or not is_wanted():
                raise Abandoned("The search has ended.")

        log = _StackLog(check)
        own = list(self.candidates.values())
        plan = Plan(shared.estimator, own, shared.fit_params, progress=log, **shared.limits)
        candidates = plan.candidates if self.tasks else own
        try:
            with config_context(**shared.config):
                plan.learn(shared.X, shared.y, shared.splits, self.tasks)
            outcomes = {}
            for number, call in self.calls.items():
                check()
                outcomes[number] = _result(call, shared.arguments, candidates)
        finally:
            plan.close()
        ways = zip(plan.routes(), plan.seconds, strict=True)
        return PartResult(outcomes, dict(zip(self.candidates, ways, strict=True)), log.stacks)


def divide_calls(calls: Sequence[Call], plan: Plan, shared: Shared, n_parts: int) -> list[Part]:
    """Parts of a search: those that a plan divides into so many, and one for each call that is not planned.

    The calls of a candidate are one for each fold, in their order, as scikit-learn's search makes them. The indices of
    the folds, and arguments that all calls have in common, are moved to what is shared.
    """
    shared.arguments = [*_common_arguments(calls), *(indices for split in shared.splits for indices in split)]
    owners = [_candidate_of(call) for call in calls]
    n_before: Counter[int] = Counter()
    numbers: dict[Task, int] = {}
    for number, owner in enumerate(owners):
        if owner is not None:
            numbers[owner.number, n_before[owner.number]] = number
            n_before[owner.number] += 1
    planned = plan.divide(len(shared.splits), n_parts)
    rest = set(range(len(calls))).difference(numbers[task] for tasks in planned for task in tasks)

    def part(chosen: list[int], tasks: list[Task]) -> Part:
        candidates = {owner.number: dict(owner) for k in chosen if (owner := owners[k]) is not None}
        positions = {number: position for position, number in enumerate(candidates)}
        return Part(
            {number: _with_places(calls[number], shared.arguments, positions) for number in chosen},
            candidates,
            [(positions[number], fold) for number, fold in tasks],
        )

    parts = [part([numbers[task] for task in tasks], tasks) for tasks in planned]
    return parts + [part([number], []) for number in sorted(rest)]


class _StackLog:
    """The progress of a part, of which its search is told at the end.

    Parameters
    ----------
    check : callable
        Called before each epoch; may raise an exception.

    Attributes
    ----------
    stacks : list of tuple
        Number of networks, number of epochs and seconds of each stack.
    """

    def __init__(self, check: Callable[[], None]):
        self.begin_epoch = check
        self.stacks: list[tuple[int, int, float]] = []

    @contextmanager
    def stack(self, n_models: int, n_epochs: int) -> Iterator[None]:
        """Note the training of a stack."""
        start = time.perf_counter()
        yield
        self.stacks.append((n_models, n_epochs, time.perf_counter() - start))

    def end_epoch(self) -> bool:
        """Whether to stop the training: never."""
        return False


def _candidate_of(call: Call) -> Candidate | None:
    _, args, keywords = call
    return next((value for value in (*args, *keywords.values()) if isinstance(value, Candidate)), None)


def _common_arguments(calls: Sequence[Call]) -> list[Any]:
    """Arguments that are the same object in all calls."""
    common: dict[int, Any] = {}
    for number, (_, args, keywords) in enumerate(calls):
        own = {id(value): value for value in (*args, *keywords.values())}
        common = {key: value for key, value in common.items() if key in own} if number else own
    return list(common.values())


def _with_places(call: Call, arguments: Sequence[Any], positions: dict[int, int]) -> Call:
    """A call with places for what is shared, and for the parameters of its candidate."""
    numbers = {id(value): number for number, value in enumerate(arguments)}

    def place(value: Any) -> Any:
        if isinstance(value, Candidate):
            return _PlaceOfCandidate(positions[value.number])
        return _Place(numbers[id(value)]) if id(value) in numbers else value

    return _mapped(call, place)


def _result(call: Call, arguments: Sequence[Any], candidates: Sequence[dict[str, Any]]) -> Any:
    """What a call returns, with what stands in its places."""

    def found(value: Any) -> Any:
        if isinstance(value, _PlaceOfCandidate):
            return candidates[value.position]
        return arguments[value.number] if isinstance(value, _Place) else value

    function, args, keywords = _mapped(call, found)
    return function(*args, **keywords)


def _mapped(call: Call, change: Callable[[Any], Any]) -> Call:
    function, args, keywords = call
    return function, tuple(map(change, args)), {name: change(value) for name, value in keywords.items()}
