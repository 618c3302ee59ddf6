"""Type checkers find the mistakes of users, and no others: mypy and pyright, in strict mode."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "typing"
ROOT = Path(__file__).parents[1]
MISTAKES = {
    number for number, line in enumerate((FOLDER / "mistakes.py").read_text().splitlines(), 1) if "# mistake" in line
}


def mypy(*paths):
    pytest.importorskip("mypy")
    config = ROOT / "pyproject.toml"
    return [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--config-file={config}", *paths]


def pyright(*paths):
    if shutil.which("pyright", path=Path(sys.executable).parent) is None:
        pytest.skip("pyright is not installed; it also needs Node.js")
    return [sys.executable, "-m", "pyright", f"--pythonpath={sys.executable}", *paths]


def complaints(checker, name):
    """The lines of a script in which a type checker finds errors."""
    path = FOLDER / name
    output = subprocess.run(checker(str(path)), cwd=ROOT, capture_output=True, text=True).stdout
    assert "error" in output or "Success" in output or "0 errors" in output, output
    return {int(line) for line in re.findall(rf"{name}:(\d+)(?::\d+)?:? (?:- )?error", output)}


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_type_checkers_find_the_mistakes(checker):
    assert len(MISTAKES) == 8
    assert complaints(checker, "mistakes.py") == MISTAKES


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_type_checkers_find_nothing_in_a_correct_script(checker):
    assert complaints(checker, "correct.py") == set()
