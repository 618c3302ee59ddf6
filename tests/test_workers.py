"""Searches on joblib's workers: threads, processes, and a dask cluster whose workers are lost."""

import os
import signal
import threading
import time
from functools import partial
from itertools import product

import numpy as np
import pytest
from joblib import parallel_config
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklatent
from sklatent import GenerativeClassifier, PCAReducer, VAETransformer
from sklatent._memo import is_open
from sklatent._search.plan import Plan
from sklatent.model_selection import FusedGridSearchCV

GRID = {"nz": [2, 4], "beta": [0.5, 2.0]}
# Stacks that differ in size add up in another order; see the notes of FusedGridSearchCV.
ATOL = 1e-6
# Seconds after which something waits for ever.
PATIENCE = 500


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:200] / 16, y[:200]


@pytest.fixture(autouse=True)
def time_limit():
    """What backends do that are wrong is to wait."""

    def give_up(*_):
        raise TimeoutError(f"Nothing came within {PATIENCE} seconds.")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def vae(**params):
    return VAETransformer(**{"hidden_sizes": (16,), "max_epochs": 2, "random_state": 0} | params)


def classified():
    return make_pipeline(StandardScaler(), vae(), LogisticRegression())


def searched(data, estimator, grid=GRID, **params):
    search = FusedGridSearchCV(estimator, grid, **{"cv": 3, "refit": False, "error_score": "raise"} | params)
    return search.fit(*data)


def assert_same(search, reference):
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], reference.cv_results_["mean_test_score"], rtol=ATOL, atol=ATOL
    )
    assert search.cv_results_["route"].tolist() == reference.cv_results_["route"].tolist()
    assert search.cv_results_["params"] == reference.cv_results_["params"]


# How a plan is divided.


def divided(estimator, grid, n_splits, n_parts):
    """The parts of a search: lists of parameters and folds."""
    candidates = list(ParameterGrid(grid))
    plan = Plan(estimator, candidates)
    try:
        return [[(candidates[number], fold) for number, fold in part] for part in plan.divide(n_splits, n_parts)]
    finally:
        plan.close()


@pytest.mark.parametrize("n_parts", [1, 2, 3, 5, 11, 12, 13, 100])
def test_parts_hold_each_fit_once_and_are_of_even_size(n_parts):
    parts = divided(vae(), GRID, 3, n_parts)
    fits = [fit for part in parts for fit in part]
    assert len(fits) == 12
    assert all(fit in fits for fit in product(ParameterGrid(GRID), range(3)))
    assert len(parts) <= n_parts
    assert max(map(len, parts)) == -(-12 // n_parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_are_cut_between_folds():
    """So that a worker needs the samples of few folds, and decomposes few."""
    for estimator, grid in [(vae(), GRID), (PCAReducer(), {"nz": [1, 2, 3]})]:
        assert [{fold for _, fold in part} for part in divided(estimator, grid, 4, 4)] == [{0}, {1}, {2}, {3}]


def test_a_part_holds_networks_of_one_architecture():
    grid = {"nz": [1, 2, 3], "hidden_sizes": [(8,), (4,), (4, 4)]}
    parts = divided(vae(), grid, 2, 2)
    assert len(parts) == 3
    assert all(len({params["hidden_sizes"] for params, _ in part}) == 1 for part in parts)
    assert len(divided(vae(), grid, 2, 9)) == 9


def test_the_same_network_is_learned_by_one_worker():
    grid = {"vaetransformer__nz": [2, 3], "logisticregression__C": [0.1, 1.0, 10.0]}
    parts = divided(classified(), grid, 2, 3)
    owners = [{(params["vaetransformer__nz"], fold) for params, fold in part} for part in parts]
    assert sum(map(len, owners)) == 4
    assert len(parts) > 1


def test_what_is_not_planned_is_in_no_part():
    assert divided(LogisticRegression(), {"C": [0.1, 1.0]}, 3, 2) == []
    grid = [{"nz": [1, 2]}, {"callbacks": [None], "hidden_sizes": [(3,)]}, {"no_such_parameter": [1]}]
    assert [len(part) for part in divided(vae(), grid, 1, 1)] == [2, 1]


# Workers on this machine.


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [2, 5])
@pytest.mark.parametrize(
    ("estimator", "grid"),
    [
        (vae(), GRID),
        (vae(), {"nz": [2, 3], "hidden_sizes": [(8,), (16,)], "lr": [1e-3, 1e-2]}),
        (classified(), {"vaetransformer__nz": [2, 3], "logisticregression__C": [0.1, 1.0]}),
        (GenerativeClassifier(vae()), {"estimator__beta": [0.5, 2.0]}),
        (PCAReducer(), {"nz": [1, 2, 8], "whiten": [False, True]}),
        (make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}),
    ],
    ids=["network", "architectures", "pipeline", "classes", "components", "no latent model"],
)
def test_threads_give_what_one_gives(estimator, grid, n_jobs, data):
    with parallel_config(backend="threading"):
        search = searched(data, estimator, grid, n_jobs=n_jobs, return_train_score=True)
    reference = searched(data, estimator, grid, return_train_score=True)
    if n_jobs == 5:  # a network may be alone in its part, and is then fitted by itself
        search.cv_results_["route"] = reference.cv_results_["route"]
    assert_same(search, reference)
    np.testing.assert_allclose(
        search.cv_results_["mean_train_score"], reference.cv_results_["mean_train_score"], rtol=ATOL, atol=ATOL
    )
    assert not is_open()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_processes_give_what_one_gives(backend, data):
    grid = {"vaetransformer__nz": [2, 3], "logisticregression__C": [0.1, 1.0]}
    with parallel_config(backend=backend, n_jobs=2):
        search = searched(data, classified(), grid)
    assert_same(search, searched(data, classified(), grid))


def test_weights_of_samples_reach_the_fits(data):
    weights = np.linspace(0.0, 2.0, len(data[0]))
    searches = []
    for n_jobs in (None, 2):
        search = FusedGridSearchCV(PCAReducer(), {"nz": [1, 2]}, cv=4, refit=False, n_jobs=n_jobs)  # two folds a part
        with parallel_config(backend="threading"):
            searches.append(search.fit(*data, sample_weight=weights))
    assert_same(*searches)
    assert set(searches[0].cv_results_["route"]) == {"shared_svd"}


def test_a_failure_gets_the_error_score(data):
    grid = {"nz": [2, 3], "beta": [1.0, 1e39]}
    with parallel_config(backend="threading"), pytest.warns(FitFailedWarning, match="6 fits failed out of a total"):
        search = searched(data, vae(), grid, n_jobs=2, error_score=-5.0)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"] == -5.0, [False, False, True, True])


def test_a_failure_is_raised(data):
    with parallel_config(backend="threading"), pytest.raises(FloatingPointError, match="The loss became"):
        searched(data, vae(), {"nz": [2, 3], "beta": [1.0, 1e39]}, n_jobs=2)


@pytest.mark.slow
def test_stacks_are_told_of_as_they_end(data, capsys):
    with parallel_config(backend="threading"):
        searched(data, vae(), n_jobs=2, verbose=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[fused]")]
    expected = "[fused] 6 networks trained as one by a worker, 2 epochs"
    assert [line.partition(" in ")[0] for line in lines] == [expected] * 2


@pytest.mark.slow
def test_bars_of_a_search_on_workers_are_complete(data, capsys):
    pytest.importorskip("rich")
    bar = pytest.importorskip("sklearn.callback").ProgressBar(max_propagation_depth=0)
    search = FusedGridSearchCV(vae(), GRID, cv=3, refit=False, n_jobs=2).set_callbacks(bar)
    with parallel_config(backend="threading"):
        search.fit(*data)
    lines = [line for line in capsys.readouterr().out.splitlines() if "%" in line]
    names = [line.partition(" - ")[2].split()[0] for line in lines]
    assert names == ["fit", "train-together", "search"]
    assert all("100%" in line for line in lines)


@pytest.mark.slow
def test_learning_counts_as_fit_time(data):
    with parallel_config(backend="threading"):
        search = searched(data, vae(max_epochs=20), n_jobs=2)
    assert (search.cv_results_["mean_fit_time"] > searched(data, vae(max_epochs=1)).cv_results_["mean_fit_time"]).all()


class SeesBackend(BaseEstimator):
    """Tells in which backend it was fitted."""

    def __init__(self, C=1):
        self.C = C

    def fit(self, X, y=None):
        self.backend_ = type(get_active_backend()[0]).__name__
        return self

    def score(self, X, y=None):
        return float(self.backend_ in ("ThreadingBackend", "SequentialBackend"))


@pytest.mark.parametrize("cv", [3, iter([(np.arange(9), np.arange(9, 18)), (np.arange(9, 18), np.arange(9))])])
def test_nothing_but_the_search_sees_its_workers(cv, data):
    with parallel_config(backend="threading", n_jobs=2):
        search = searched(data, SeesBackend(), {"C": [1, 2]}, cv=cv, refit=True)
        assert search.cv_results_["mean_test_score"].tolist() == [1.0, 1.0]
        assert search.best_estimator_.backend_ == "ThreadingBackend"
        with pytest.raises(ValueError, match="error_score"):
            searched(data, SeesBackend(), {"C": [1, 2]}, error_score="wrong")
        assert type(get_active_backend()[0]).__name__ == "ThreadingBackend"


@pytest.fixture
def ctrl_c():
    """What Ctrl-C does: Python leaves it out in a process that was started in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(seconds):
    timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    return timer


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_ctrl_c_ends_all_parts(backend, data):
    n_threads = threading.active_count()
    interrupt(1 if backend == "threading" else 3)  # processes have to begin
    start = time.monotonic()
    with parallel_config(backend=backend), pytest.raises(KeyboardInterrupt):
        searched(data, vae(max_epochs=100_000), n_jobs=2)
    assert time.monotonic() - start < 15
    wait_until(lambda: not is_open())
    if backend == "threading":
        wait_until(lambda: threading.active_count() <= n_threads)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# A dask cluster.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers of one thread, in processes whose temporary folder is another one."""
    distributed = pytest.importorskip("distributed")
    folder = str(tmp_path_factory.mktemp("worker"))
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(**options, env={"TMPDIR": folder}, local_directory=folder) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(cluster) as client, parallel_config(backend="dask"):
        client.wait_for_workers(2)
        yield client


def n_running(cluster):
    """Number of parts that the workers are running."""
    tasks = list(cluster.scheduler.tasks.values())
    return sum(task.state == "processing" and str(task.key).startswith("fused-search") for task in tasks)


def act_while_running(cluster, action):
    """Do something in another thread, as soon as all workers are at a part."""

    def wait_and_act():
        wait_until(lambda: n_running(cluster) > 0, PATIENCE)
        time.sleep(0.25)
        action()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "grid"),
    [
        (classified(), {"vaetransformer__nz": [2, 3], "logisticregression__C": [0.1, 1.0]}),
        (LogisticRegression(), {"C": [0.1, 1.0]}),
    ],
    ids=["pipeline", "no latent model"],
)
def test_dask_gives_what_one_gives(estimator, grid, client, data):
    assert_same(searched(data, estimator, grid), searched_here(data, estimator, grid))


def searched_here(data, estimator, grid=GRID, **params):
    with parallel_config(backend="loky"):
        return searched(data, estimator, grid, **params)


@pytest.mark.slow
def test_data_are_sent_to_a_worker_once(client, rng, monkeypatch):
    """Bytes that this process writes, in which the scheduler runs: both hops of the way to the first worker."""
    from distributed.comm.tcp import TCP

    X = rng.standard_normal((20_000, 50))
    sent, write = [], TCP.write

    async def count(self, *args, **kwargs):
        sent.append(await write(self, *args, **kwargs))
        return sent[-1]

    monkeypatch.setattr(TCP, "write", count)
    search = searched((X, None), PCAReducer(), {"nz": list(range(1, 9))}, n_jobs=10)
    assert set(search.cv_results_["route"]) <= {"shared_svd", "individual+shared_svd"}
    assert X.nbytes < sum(sent) < 3 * X.nbytes  # with the indices of all folds, and each of 10 parts without


@pytest.mark.slow
@pytest.mark.parametrize("n_lost", [1, 2])
def test_lost_workers_cost_time_and_nothing_else(n_lost, cluster, client, data):
    """Where all are lost, so are the data that were sent to them."""

    def kill():
        for worker in list(cluster.workers.values())[:n_lost]:
            os.kill(worker.pid, signal.SIGKILL)

    estimator = vae(max_epochs=50)
    thread = act_while_running(cluster, kill)
    search = searched(data, estimator)
    thread.join()
    assert_same(search, searched_here(data, estimator))


@pytest.mark.slow
def test_a_worker_lost_while_the_data_are_sent(client, data, monkeypatch):
    errors = [OSError("Stream is closed"), TimeoutError("No valid workers found"), KeyError("tcp://127.0.0.1:37937")]
    scatter = client.scatter

    def scatter_at_last(*args, **kwargs):
        if errors:
            raise errors.pop()
        return scatter(*args, **kwargs)

    monkeypatch.setattr(client, "scatter", scatter_at_last)
    assert_same(searched(data, vae()), searched_here(data, vae()))


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_tasks_of_a_cluster(cluster, client, data):
    thread = act_while_running(cluster, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        searched(data, vae(max_epochs=100_000))
    thread.join()
    wait_until(lambda: not any(client.run(lambda dask_worker: dask_worker.state.executing_count).values()))


def hide_the_package():
    """As if it were not installed."""
    import sys

    def is_ours(name):
        return name.partition(".")[0] == "sklatent"

    class Hides:
        def __init__(self):
            self.modules = {name: sys.modules.pop(name) for name in filter(is_ours, list(sys.modules))}

        def find_spec(self, name, path=None, target=None):
            if is_ours(name):
                raise ModuleNotFoundError("No module named 'sklatent'")

    sys.meta_path.insert(0, Hides())


def show_the_package():
    import sys

    sys.modules.update(sys.meta_path.pop(0).modules)


def show_version(version):
    import sklatent

    sklatent.__version__ = version


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "mend", "message"),
    [
        (hide_the_package, show_the_package, "No module named 'sklatent'"),
        (partial(show_version, "0.0.1"), partial(show_version, sklatent.__version__), "version 0.0.1"),
    ],
    ids=["not installed", "old"],
)
def test_a_worker_without_the_package_is_told_of_at_once(spoil, mend, message, client, data):
    one = [next(iter(client.nthreads()))]
    client.run(spoil, workers=one)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=f"Workers need sklatent .* 1 of 2 lack it, first tcp://.*{message}"):
        searched(data, vae())
    assert time.monotonic() - start < 10
    client.run(mend, workers=one)
    assert_same(searched(data, vae()), searched_here(data, vae()))
