"""A room imports only from rooms below it, private names of scikit-learn have one home, and imports stay light."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sklatent

PACKAGE = Path(sklatent.__file__).parent
# Each module imports only from those above it in this list.
ORDER = [
    "_sklearn_compat",
    "_ppca.chunks",
    "_ppca.moments",
    "_ppca.centered",
    "_ppca.blocks",
    "_ppca.solvers",
    "_ppca.dimension",
    "_ppca.density",
    "_ppca.factors",
    "_ppca.missing_values",
    "_sources.stored",
    "_sources.parquet",
    "_sources.dask_arrays",
    "_memo",
    "_base",
    "_nn.randomness",
    "_nn.threads",
    "_nn.devices",
    "_nn.distributed",
    "_nn.likelihoods",
    "_nn.posteriors",
    "_nn.priors",
    "_nn.derivatives",
    "_nn.objectives",
    "_nn.conditionals",
    "_nn.missing",
    "_nn.modules",
    "_nn.backbones",
    "_nn.architecture",
    "_nn.data",
    "_nn.inference",
    "_nn.summaries",
    "_nn.start",
    "_nn.left_out",
    "_nn.schedules",
    "_nn.state",
    "_nn.outcomes",
    "_nn.training",
    "_nn.stack",
    "_nn.stacked_training",
    "_nn.grouping",
    "_nn.checkpoint",
    "_nn.callbacks",
    "_nn.base",
    "_pca",
    "_autoencoder",
    "_vae",
    "_jacobians",
    "_search.plan",
    "_search.progress",
    "_search.parts",
    "_search.cluster",
    "_search.workers",
    "_search.crossfit",
    "_classification",
    "_outliers",
    "_imputation",
    "plotting._canvas",
    "plotting._models",
    "plotting._colouring",
    "plotting._latent",
    "plotting._scree",
    "plotting._loadings",
    "plotting._profiles",
    "plotting._reconstruction",
    "plotting._traversal",
    "plotting._curves",
    "plotting._tradeoff",
    "export._arrays",
    "export._networks",
    "export._methods",
    "export._converters",
    "report._arrays",
    "report._layers",
    "report._networks",
    "report._decoders",
    "report._content",
    "report._page",
    "metrics",
    "datasets",
    "model_selection",
    "plotting",
    "export",
    "report",
]
ROOMS = {"_nn", "_ppca", "_search", "_sources"}
# Public, with private modules inside.
TOPICS = {"export", "plotting", "report"}
# Beside NumPy and SciPy: what computes knows no estimator.
MATHEMATICS = [name for name in ORDER if name.startswith("_ppca.")] + [
    f"_nn.{name}"
    for name in ("likelihoods", "posteriors", "priors", "derivatives", "objectives", "conditionals", "modules")
]


def path_of(module):
    path = PACKAGE / module.replace(".", "/")
    return path / "__init__.py" if module in TOPICS else path.with_suffix(".py")


def imports(module):
    """Names of the modules that a module imports, each with the name that it takes from it."""
    tree = ast.parse(path_of(module).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            # The package itself is imported for its version.
            yield from ((alias.name, None) for alias in node.names if alias.name != "sklatent")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


def offered(module):
    """The `__all__` of a module, which follows its docstring and comes before its imports."""
    statements = ast.parse(path_of(module).read_text()).body
    assert isinstance(statements[0], ast.Expr), "the docstring comes first"
    assert ast.unparse(statements[1]).startswith("__all__ ="), "__all__ comes after the docstring"
    return ast.literal_eval(statements[1].value)


def test_every_module_has_a_place():
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    assert {name for name in found if not name.endswith("__init__")} == set(ORDER) - TOPICS
    inits = {name for name in found if name.endswith("__init__")}
    assert inits == {"__init__", *(f"{room}.__init__" for room in ROOMS | TOPICS)}


def test_the_top_of_the_package_can_be_taken_in_at_a_glance():
    # Sixteen for the models, decisions and searches, then pictures, reports, files for other programs, imputation, and
    # data that are not in memory, which come in several ways.
    assert len(list(PACKAGE.glob("*.py"))) + len(ROOMS) + len(TOPICS) <= 21


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_upwards(module):
    above = ORDER[: ORDER.index(module)]
    for name, imported in imports(module):
        package, _, inner = name.partition(".")
        if package == "sklatent":
            assert inner in above or f"{inner}.{imported}" in above, f"{module} imports {name}"


@pytest.mark.slow
@pytest.mark.parametrize("module", ORDER)
def test_imports_take_what_a_module_offers(module):
    for name, imported in imports(module):
        package, _, inner = name.partition(".")
        if package == "sklatent" and f"{inner}.{imported}".lstrip(".") not in ORDER:
            assert not imported.startswith("_"), f"{module} imports {imported}, which is private to {name}"
            assert imported in offered(inner), f"{module} imports {imported}, which is not in __all__ of {name}"


@pytest.mark.parametrize("module", ORDER)
def test_what_a_module_offers_comes_first(module):
    assert isinstance(offered(module), list)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_says_what_lives_there(room):
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("module", MATHEMATICS)
def test_mathematics_knows_no_estimator(module):
    assert not {name.partition(".")[0] for name, _ in imports(module)} & {"sklearn", "skorch"}


@pytest.mark.parametrize("module", [name for name in ORDER if name != "_sklearn_compat"])
def test_private_names_of_scikit_learn_have_one_home(module):
    for name, imported in imports(module):
        if name.partition(".")[0] == "sklearn":
            parts = [*name.split("."), *([imported] if imported else [])]
            assert not any(part.startswith("_") for part in parts), f"{module} imports {name}.{imported}"


NOT_NEEDED = {
    "import sklatent": {"torch", "sklearn", "skorch", "numpy"},
    "from sklatent import PCAReducer; PCAReducer().fit([[0.0, 1.0], [1.0, 3.0]])": {"torch", "skorch", "dask"},
    "from sklatent.model_selection import FusedGridSearchCV": {"torch", "skorch"},
    "import sklatent.plotting": {"torch", "skorch", "matplotlib"},
    "import sklatent.export": {"torch", "skorch", "onnx", "skl2onnx"},
    "import sklatent.report": {"torch", "skorch", "matplotlib"},
}


@pytest.mark.slow
def test_import_loads_no_more_than_it_needs():
    """One after the other in a process: what none of them needs is there after none of them."""
    code = "import sys" + "".join(f"\n{statement}; print(*sys.modules)" for statement in NOT_NEEDED)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for (statement, absent), loaded in zip(NOT_NEEDED.items(), run.stdout.splitlines(), strict=True):
        assert not absent & set(loaded.split()), statement


def test_dir_lists_the_public_names():
    assert set(sklatent.__all__) <= set(dir(sklatent))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sklatent.nothing


def test_the_way_of_the_data_names_functions():
    """Each numbered step of the documentation is a function of the package."""
    page = (PACKAGE.parent / "docs" / "architecture.rst").read_text()
    steps = re.findall(r"^\d+\. ``([\w.]+)``", page.partition("The way of the data")[2], flags=re.MULTILINE)
    assert len(steps) > 30
    for step in steps:
        module = max((name for name in ORDER if step.startswith(f"{name}.")), key=len)
        names = step[len(module) + 1 :].split(".")
        assert callable(functools.reduce(getattr, names, importlib.import_module(f"sklatent.{module}"))), step
