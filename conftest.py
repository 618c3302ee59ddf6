"""For the examples in docstrings too, which lie outside of `tests`: threads, and pictures without a screen."""

import os
import sys

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")  # before matplotlib
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and PyTorch: each core has a process of its own


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
