import numpy as np
import pytest
import torch

from sklatent._nn.data import Batches, Draws, MappedRows, Rows, batch_sizes


def samples_of(batches):
    return torch.cat([x for x, _ in batches])


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (23, 10, [10, 13]),
        (25, 10, [10, 10, 5]),
        (3, 100, [3]),
        (1, 4, [1]),
        (3, 1, [1, 2]),
    ],
)
def test_sizes_merge_a_last_batch_of_less_than_half_the_size(n, batch_size, sizes):
    batches = Batches(Rows(np.arange(n * 2.0).reshape(n, 2)), batch_size)
    assert batch_sizes(n, batch_size) == sizes
    assert [len(x) for x, _ in batches] == sizes


def test_every_row_comes_once_in_a_new_order_at_each_pass():
    X = np.arange(20.0).reshape(10, 2)
    batches = Batches(Rows(X), 3, torch.Generator().manual_seed(0))
    first, second = samples_of(batches), samples_of(batches)
    assert not torch.equal(first, second)
    for rows in (first, second):
        np.testing.assert_array_equal(np.sort(rows, axis=0), X)


def test_without_a_generator_the_order_is_kept():
    X = np.arange(20.0).reshape(10, 2)
    np.testing.assert_array_equal(samples_of(Batches(Rows(X), 3)), X)


def test_order_comes_from_its_own_generator():
    state = torch.get_rng_state()
    orders = [
        samples_of(Batches(Rows(np.arange(10.0)[:, None]), 4, torch.Generator().manual_seed(3))) for _ in range(2)
    ]
    assert torch.equal(*orders)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_share_the_memory_of_the_array(dtype):
    X = np.zeros((3, 2), dtype=dtype)
    rows = Rows(X)
    X[0, 0] = 1
    assert rows.X[0, 0] == 1
    assert rows.X.numpy().dtype == dtype


def test_rows_copy_what_pytorch_cannot_hold():
    X = np.arange(6.0).reshape(3, 2)
    X.flags.writeable = False
    for array in (X, X[::-1], X[:, ::-1]):
        np.testing.assert_array_equal(Rows(array).X, array)


@pytest.mark.parametrize("batch_size", [2, 7, 20, 50, 64])
@pytest.mark.parametrize("n_samples", [40, 41, 43])
def test_batches_of_blocks_are_those_of_memory(n_samples, batch_size):
    """As many, and as large, wherever the blocks end; every sample once."""
    X = np.arange(2.0 * n_samples).reshape(n_samples, 2)
    mapped = MappedRows(X)
    mapped.n_rows = 5
    for generator in (None, torch.Generator().manual_seed(0)):
        found = list(Batches(mapped, batch_size, generator))
        assert [len(x) for x, _ in found] == batch_sizes(n_samples, batch_size)
        np.testing.assert_array_equal(np.sort(samples_of(found), axis=0), X)
    np.testing.assert_array_equal(samples_of(Batches(mapped, batch_size)), X)


def test_noise_of_each_kind_has_its_width_and_comes_of_one_sequence():
    draws = Draws((2, 3), torch.Generator().manual_seed(0), 10)
    parts = [draws.take(4), draws.take(6)]
    assert [tuple(part.latent.shape) for part in parts] == [(4, 2), (6, 2)]
    together = torch.cat([torch.cat(part, dim=1) for part in parts])
    assert torch.equal(together, torch.randn(10, 5, generator=torch.Generator().manual_seed(0)))
