"""A module imports only from the layers above it, and `import sklatent` loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sklatent

PACKAGE = Path(sklatent.__file__).parent
LAYERS = [
    [
        "linalg",
        "spectrum",
        "missing",
        "nested",
        "likelihoods",
        "posteriors",
        "priors",
        "derivatives",
        "objectives",
        "batches",
        "randomness",
    ],
    ["networks"],
    ["training", "checkpoint", "stacking", "stacked_training"],
    ["base", "pca", "neural", "autoencoder", "vae", "fusion"],
    ["classification", "outliers", "metrics", "datasets", "replay", "model_selection"],
]
# Within a layer only these may import one another.
SIBLINGS = {
    "spectrum": {"linalg"},
    "missing": {"linalg", "spectrum"},
    "nested": {"linalg", "spectrum"},
    "batches": {"linalg"},
    "priors": {"posteriors"},
    "objectives": {"derivatives"},
    "stacked_training": {"training", "stacking"},
    "pca": {"base"},
    "neural": {"base"},
    "autoencoder": {"neural"},
    "vae": {"neural"},
    "fusion": {"pca"},
    "replay": {"classification", "outliers"},
    "model_selection": {"replay"},
}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_module_has_a_layer():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(LEVEL) | {"__init__"}


@pytest.mark.parametrize("module", LEVEL)
def test_imports_point_upwards(module):
    for name in imports(module):
        package, _, imported = name.partition(".")
        if package == "sklatent":
            assert LEVEL[imported] < LEVEL[module] or imported in SIBLINGS.get(module, ())


@pytest.mark.parametrize("module", LAYERS[0])
def test_mathematics_knows_no_estimator(module):
    assert not {name.partition(".")[0] for name in imports(module)} & {"sklearn", "skorch"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import sklatent", {"torch", "sklearn", "skorch", "numpy"}),
        ("from sklatent import PCAReducer; PCAReducer().fit([[0.0, 1.0], [1.0, 3.0]])", {"torch", "skorch"}),
        ("from sklatent.model_selection import FusedGridSearchCV", {"torch", "skorch"}),
    ],
)
def test_import_loads_no_more_than_it_needs(statement, absent):
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not absent & set(loaded)


def test_dir_lists_the_public_names():
    assert set(sklatent.__all__) <= set(dir(sklatent))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sklatent.nothing
