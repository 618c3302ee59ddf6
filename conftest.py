"""For the examples in docstrings too, which lie outside of `tests`: pictures without a screen, closed when shown."""

import os
import sys

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")  # before matplotlib


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
