"""Docstrings of all that is public have the sections that the pages need, by numpydoc's own validation."""

import inspect
import re

import pytest
from test_language import public_objects

validate = pytest.importorskip("numpydoc.validate").validate

# A parameter without a description, a result without one, no "See Also", no example.
CHECKS = {"PR07", "RT03", "SA01", "EX01"}
DOCUMENTED = {name: thing for name, thing in public_objects().items() if not inspect.ismodule(thing)}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstring_has_its_sections(name):
    thing = DOCUMENTED[name]
    found = validate(f"{thing.__module__}.{thing.__qualname__}")["errors"]
    assert not [message for code, message in found if code in CHECKS]


@pytest.mark.parametrize("name", [name for name, thing in DOCUMENTED.items() if inspect.isclass(thing)])
def test_parameters_of_a_class_are_described(name):
    """By name: the boxes of estimators in notebooks show for each parameter what a parser finds under its name."""
    text = inspect.getdoc(DOCUMENTED[name])
    for parameter in inspect.signature(DOCUMENTED[name]).parameters:
        assert re.search(rf"^([\w, ]+, )?{parameter}(, [\w, ]+)?( : .+)?\n    \S", text, re.MULTILINE), parameter
