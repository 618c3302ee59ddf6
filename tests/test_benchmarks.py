"""The figures of an accelerator are printed by one command, each part of which works on the CPU too."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def gpu(*options):
    command = [sys.executable, "gpu.py", *options]
    return subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_every_part_works_where_all_is_small():
    pytest.importorskip("scipy", minversion="1.14", reason="array_api_dispatch asks for SciPy 1.14")
    before = sorted(BENCHMARKS.rglob("*.md"))
    run = gpu("--device", "cpu", "--quick")
    assert run.returncode == 0, run.stderr
    for figure in ("samples per second", "over its floor", "fused search", "as stacks", "206.80 nats", "error"):
        assert figure in run.stdout
    assert sorted(BENCHMARKS.rglob("*.md")) == before


@pytest.mark.slow
def test_a_machine_without_an_accelerator_is_told_so():
    run = gpu("--device", "cpu")
    assert run.returncode == 1
    assert run.stderr.strip() == (
        "PyTorch finds no accelerator on this machine. Pass --device cpu --quick to see that all parts work."
    )
