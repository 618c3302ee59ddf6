import numpy as np
import pytest

from sklatent._ppca.centered import CenteredRows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_merge_to_those_of_all_rows(dtype, rng):
    X = (rng.standard_normal((100, 4)) + 10).astype(dtype)
    parts = [CenteredRows(rows).moments() for rows in np.split(X, [1, 7, 60])]
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
        CenteredRows(X).moments().scatter, np.cov(X.astype(np.float64), rowvar=False, bias=True) * 20, rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_integer_weights_are_those_of_repeated_rows(dtype, rng):
    X, weights = (rng.standard_normal((50, 4)) + 10).astype(dtype), rng.integers(0, 4, 50)
    first, second = (CenteredRows(X[part], weights[part].astype(float)) for part in (slice(20), slice(20, None)))
    found = first.moments().merge(second.moments())
    expected = CenteredRows(X.repeat(weights, axis=0).astype(np.float64)).moments()
    assert found.weight == expected.weight
    assert found.n_samples == np.count_nonzero(weights)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-7 if dtype == np.float32 else 1e-12)
    # Sums of 50 products, each rounded in the precision of X.
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=rtol, atol=5 * rtol)


def test_moments_of_many_chunks_whose_rough_mean_is_far_off(rng):
    X = (rng.standard_normal((40_000, 30)) + 100).astype(np.float32)
    X[:: 40_000 // 256] += 50  # the rows that the rough mean may see
    rows = X.astype(np.float64)
    moments = CenteredRows(X).moments()
    # Sums of 40,000 differences of 50: each is right to float32's 6e-8, so the mean is to 50 times that.
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=0, atol=3e-6)
    expected = np.cov(rows, rowvar=False, bias=True) * 40_000
    np.testing.assert_allclose(moments.scatter, expected, rtol=0, atol=6e-8 * 40_000 * 50**2)


def test_moments_do_not_see_rows_without_weight(rng):
    X = rng.standard_normal((600, 4)).astype(np.float32)
    weights = np.ones(600)
    X[::3], weights[::3] = 1e20, 0.0
    found, expected = CenteredRows(X, weights).moments(), CenteredRows(X[weights > 0]).moments()
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-6)
    # Sums of 400 float32 products about another rough mean.
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-5, atol=1e-3)
