from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_backend

from sklatent import PCAReducer, VAETransformer
from sklatent._memo import Memo, Outcome, fingerprint, is_open, model_key, recall


@pytest.fixture
def X(rng):
    return rng.standard_normal((30, 4))


@pytest.fixture
def memo():
    memo = Memo()
    yield memo
    memo.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X.copy(),
        lambda X: np.asfortranarray(X),
        lambda X: np.column_stack([X, X])[:, : X.shape[1]],
        lambda X: np.repeat(X, 2, axis=0)[::2],
    ],
    ids=["copy", "columns first", "view of columns", "view of samples"],
)
def test_equal_samples_are_found_whatever_their_layout(change, memo, X):
    memo.add("key", X, "value")
    assert memo.find("key", change(X)) == "value"
    assert memo.samples(change(X)) is X


@pytest.mark.parametrize("number", range(0, 30, 7))
def test_samples_that_differ_in_one_bit_are_others(number, memo, X):
    memo.add("key", X, "value")
    other = X.copy()
    other[number, 2] = np.nextafter(other[number, 2], np.inf)
    assert memo.find("key", other) is None
    assert memo.find("key", X[:-1]) is None
    assert memo.find("key", X.astype(np.float32)) is None
    assert memo.find("other key", X) is None


def test_nan_equals_itself(memo, X):
    X[3, 1] = np.nan
    memo.add("key", X, "value")
    assert memo.find("key", X.copy()) == "value"


@pytest.mark.parametrize(
    "container", [list, lambda X: [tuple(row) for row in X], np.empty], ids=["list", "tuples", "0"]
)
def test_other_containers_are_told_apart_by_a_digest(container, memo, X):
    samples = container(X) if container is not np.empty else np.empty((0, 4))
    memo.add("key", samples, "value")
    assert memo.find("key", samples) == "value"
    assert memo.find("key", X) is None


def test_no_two_fits_find_the_same_object(memo, X):
    value = {"weights": np.zeros(3)}
    memo.add("key", X, value, n_times=2)
    first = memo.find("key", X)
    first["weights"] += 1
    second = memo.find("key", X)
    assert second["weights"].tolist() == [0, 0, 0]
    assert memo.find("key", X) is None


def test_any_number_of_times(memo, X):
    memo.add("key", X, "value")
    assert [memo.find("key", X) for _ in range(3)] == ["value"] * 3


def test_threads_find_as_often_as_allowed(memo, X):
    memo.add("key", X, "value", n_times=20)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: memo.find("key", X), range(100)))
    assert found.count("value") == 20


def test_threads_find_as_often_as_allowed_by_recall(memo, X):
    model = PCAReducer(2)
    entry = memo.add(model_key(model), X, Outcome(model, "learned"), n_times=3)
    assert not entry.is_found
    with parallel_backend("threading"):
        found = Parallel(n_jobs=2)(delayed(recall)(PCAReducer(2), X) for _ in range(6))
    assert sorted(found, key=str) == [None] * 3 + ["learned"] * 3
    assert entry.is_found


def test_nothing_is_found_once_it_is_closed(memo, X):
    model = PCAReducer(2)
    memo.add(model_key(model), X, Outcome(model, "learned"))
    assert is_open()
    assert recall(model, X) == "learned"
    memo.close()
    assert recall(model, X) is None
    assert not is_open()


def test_a_failure_is_raised(memo, X):
    model = PCAReducer(2)
    memo.add(model_key(model), X, Outcome(model, FloatingPointError("The loss became inf")))
    with pytest.raises(FloatingPointError, match="The loss became inf"):
        recall(model, X)


def test_an_instance_of_random_state_moves_on(memo, X):
    """As by learning, so that a second fit of the model learns something else."""
    before, after = (VAETransformer(2, random_state=np.random.RandomState(0)) for _ in range(2))
    key = model_key(after)
    after.random_state.standard_normal(7)
    memo.add(key, X, Outcome(after, "learned"))
    assert recall(before, X) == "learned"
    assert before.random_state.standard_normal() == after.random_state.standard_normal()
    assert recall(before, X) is None


def test_fingerprint_of_what_cannot_be_pickled():
    function = lambda X: X  # noqa: E731
    assert fingerprint(function) == fingerprint(function) != fingerprint(lambda X: X)
    assert fingerprint(PCAReducer(device=function)) == fingerprint(PCAReducer(device=function))
    assert fingerprint([function]) != fingerprint([function])
    assert fingerprint(1) != fingerprint(1.0) != fingerprint(True)
