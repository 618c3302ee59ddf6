"""What is released: the source distribution has all that its tests need."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import sklatent

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
# Tests without networks, which take a few seconds; all others are collected, so that what they import is there.
QUICK = "_ppca or test_constraints or test_language or test_layers"


def run(*command, cwd):
    environment = os.environ | {"PYTHONPATH": str(cwd)}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("release")
    unwanted = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "_build")
    shutil.copytree(ROOT, folder / "checkout", ignore=unwanted)
    run("-c", BUILD, str(folder), cwd=folder / "checkout")
    with tarfile.open(folder / f"sklatent-{sklatent.__version__}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"sklatent-{sklatent.__version__}"


@pytest.mark.slow
def test_source_distribution_has_all_that_is_tested(unpacked):
    kept = [
        path.relative_to(ROOT) for folder in ("sklatent", "tests", "benchmarks") for path in (ROOT / folder).rglob("*")
    ]
    missing = [path for path in kept if "__pycache__" not in path.parts and not (unpacked / path).exists()]
    assert not missing


@pytest.mark.slow
def test_tests_run_from_the_source_distribution(unpacked):
    where = run("-c", "import sklatent; print(sklatent.__file__)", cwd=unpacked)
    assert Path(where.strip()) == unpacked / "sklatent" / "__init__.py"
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", QUICK, cwd=unpacked)
    assert re.search(r"\d+ passed, .*\d{4} deselected", said), said


@pytest.mark.slow
def test_source_distribution_says_who_made_it_and_for_whom(unpacked):
    facts = (unpacked / "PKG-INFO").read_text()
    for fact in (
        "Author: The sklatent developers",
        "Keywords: ",
        "License-Expression: BSD-3-Clause",
        "Typing :: Typed",
    ):
        assert fact in facts
