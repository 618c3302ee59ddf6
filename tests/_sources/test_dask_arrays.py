import operator
import pickle
import sys

import numpy as np
import pytest

from sklatent import PCAReducer
from sklatent._sources.dask_arrays import SPLIT_EVERY, DaskBlocks

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


def first_of_each(block, weights):
    return (block[0, 0],)


@pytest.mark.parametrize("n_blocks", [1, SPLIT_EVERY, SPLIT_EVERY + 1, SPLIT_EVERY**2 + 1])
def test_totals_are_merged_in_the_order_of_the_blocks(n_blocks):
    X = da.from_array(np.arange(3.0 * n_blocks * 2).reshape(-1, 3), chunks=(2, 3))
    with dask.config.set(scheduler="synchronous"):
        found = DaskBlocks(X).total(first_of_each, operator.add, None)
    assert found == tuple(np.arange(0, 6 * n_blocks, 6))


def test_a_schedulers_idea_of_the_size_of_a_result_is_right(rng):
    """It decides by this what to move and what to write to disk."""
    seen = []

    def get(graph, keys, **kwargs):
        seen.extend(results := dask.get(graph, keys, **kwargs))
        return results

    with dask.config.set(scheduler=get):
        PCAReducer(2).fit(da.from_array(rng.standard_normal((100, 50)), chunks=(10, 50)))
    (result,) = seen
    while isinstance(result, (list, tuple)):
        (result,) = result
    assert 8 * 50**2 < sys.getsizeof(result) < 8 * 50**2 + 1000


@pytest.mark.parametrize("n_blocks", [2, 20, 200])
def test_what_reaches_the_client_does_not_grow_with_the_samples(rng, n_blocks):
    """Once d^2 numbers, and not those of each block."""
    d, counted = 50, []

    def get(graph, keys, **kwargs):
        results = dask.get(graph, keys, **kwargs)
        counted.append(len(pickle.dumps(results)))
        return results

    with dask.config.set(scheduler=get):
        PCAReducer(2).fit(da.from_array(rng.standard_normal((10 * n_blocks, d)), chunks=(10, d)))
    assert len(counted) == 1
    assert 8 * d**2 < counted[0] < 8 * d**2 + 5000


def test_each_step_takes_samples_as_a_slice_does(rng):
    X = rng.standard_normal((103, 2))
    blocks = DaskBlocks(da.from_array(X, chunks=((10, 0, 3, 40, 50), 2)))
    for step in (1, 2, 7, 200):
        np.testing.assert_array_equal(blocks.every(step), X[::step])
    assert blocks.n_samples == 103
