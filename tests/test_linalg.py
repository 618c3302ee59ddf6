import numpy as np
import pytest

from sklatent.linalg import Moments


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_merge_to_those_of_all_rows(dtype, rng):
    X = (rng.standard_normal((100, 4)) + 10).astype(dtype)
    parts = [Moments.from_chunk(rows) for rows in np.split(X, [1, 7, 60])]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    rows = X.astype(np.float64)
    assert merged.n_samples == 100
    # What a rough mean leaves is summed in the precision of X: in float32 an error of eps deviations.
    tolerance = {"rtol": 1e-13} if dtype == np.float64 else {"rtol": 0, "atol": 4 * np.finfo(dtype).eps}
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), **tolerance)
    np.testing.assert_allclose(
        merged.scatter, np.cov(rows, rowvar=False, bias=True) * 100, rtol=1e-5 if dtype == np.float32 else 1e-12
    )


def test_moments_of_float32_take_values_whose_squares_overflow(rng):
    X = (rng.standard_normal((20, 3)) * 1e30).astype(np.float32)
    np.testing.assert_allclose(
        Moments.from_chunk(X).scatter, np.cov(X.astype(np.float64), rowvar=False, bias=True) * 20, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_integer_weights_are_those_of_repeated_rows(dtype, rng):
    X, weights = (rng.standard_normal((50, 4)) + 10).astype(dtype), rng.integers(0, 4, 50)
    found = Moments.from_chunk(X[:20], weights[:20].astype(float)).merge(
        Moments.from_chunk(X[20:], weights[20:].astype(float))
    )
    expected = Moments.from_chunk(X.repeat(weights, axis=0).astype(np.float64))
    assert found.weight == expected.weight
    assert found.n_samples == np.count_nonzero(weights)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found.mean, expected.mean, rtol=rtol)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=rtol, atol=50 * rtol)
