"""For the examples in docstrings too, which lie outside of `tests`: threads, and pictures without a screen."""

import os
import sys

import pytest
from threadpoolctl import threadpool_limits

os.environ.setdefault("MPLBACKEND", "Agg")  # before matplotlib
if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a process of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and PyTorch
    threadpool_limits(int(os.environ["OMP_NUM_THREADS"]))  # where a plugin of pytest has loaded NumPy before


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
