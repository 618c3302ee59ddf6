import numpy as np
import pytest

from sklatent._ppca.chunks import slices


@pytest.mark.parametrize(
    ("n_samples", "arguments", "lengths"),
    [
        (10, {"size": 4}, [4, 4, 2]),
        (10, {"size": 12, "n_values": 3}, [4, 4, 2]),
        (10, {"size": 14, "n_values": 3}, [4, 4, 2]),
        (8, {"size": 4}, [4, 4]),
        (3, {"size": 5, "n_values": 7}, [1, 1, 1]),
        (3, {"size": 5, "n_values": 0}, [3]),
        (5, {"size": 100, "max_samples": 2}, [2, 2, 1]),
        (0, {"size": 5}, []),
    ],
)
def test_slices_cover_all_samples_in_order(n_samples, arguments, lengths):
    parts = [np.arange(n_samples)[cut] for cut in slices(n_samples, **arguments)]
    assert [len(part) for part in parts] == lengths
    np.testing.assert_array_equal(np.concatenate([[], *parts]), np.arange(n_samples))
