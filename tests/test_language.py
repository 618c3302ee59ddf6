"""The public text has scikit-learn's terms: README, documentation pages, and the docstrings of all public names."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import sklatent
from sklatent import datasets, export, metrics, model_selection, plotting, report

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted([*DOCS.glob("*.rst"), *DOCS.glob("guide/*.rst"), *DOCS.glob("api/*.rst")])]
MODULES = (sklatent, datasets, export, metrics, model_selection, plotting, report)

# Words that are not used, and what to use instead. Names and options, such as `n_draws`, `--row` and `:header-rows:`,
# are not words. A latent code is a vector: its dimension is not a number of codes.
WORDS = {
    r"(?<![\w-])rows?\b": '"sample", or "line" of a printed table',
    r"(?<![\w-])draws?\b": '"importance sample", "Monte Carlo sample" or "random number"',
    r"\b(?!latent\b)\w+\W*\s+codes\b": '"latent codes"; for their number, "latent dimension"',
    r"\bnumber of (\w+ )?codes?\b": '"latent dimension"',
    r"\b(numbers?|values?) in (a|an|the|each|every) (latent )?code\b": '"latent dimension"',
    r"\bcodes? of \W*\w+\W* numbers\b": '"latent code of dimension `nz`"',
    r"\b(?!standard\b)\w+\W*\s+deviations?\b": '"standard deviation"',
    r"\b(?!multilayer\b)\w+\W*\s+perceptrons?\b": '"multilayer perceptron (MLP)"',
    r"\bnats an? \w+": '"nats per sample"',
}
OPENINGS = r"Of (the|what|a)\b|As of\b"


def public_objects():
    """The public modules, the names in their `__all__`, and the public methods of these that are defined here."""
    found = {}
    for module in MODULES:
        found[module.__name__] = module
        for name in module.__all__:
            thing = getattr(module, name)
            found[name] = thing
            for method_name, method in inspect.getmembers_static(thing) if inspect.isclass(thing) else ():
                method = inspect.unwrap(method.fget if isinstance(method, property) else method)
                if not method_name.startswith("_") and getattr(method, "__module__", "").startswith("sklatent"):
                    found[f"{name}.{method_name}"] = method
    return {name: thing for name, thing in found.items() if thing.__doc__ and not isinstance(thing, list)}


def docstring(thing):
    """Path, line and text of a docstring. Code in its examples is blanked, except for comments."""
    lines, first_line = inspect.getsourcelines(thing)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    expression = (tree if inspect.ismodule(thing) else tree.body[0]).body[0]
    text = re.sub(r"^ *(>>>|\.\.\.)[^#\n]*", "", expression.value.value, flags=re.MULTILINE)
    return Path(inspect.getsourcefile(thing)), max(first_line, 1) + expression.lineno - 1, text


def page(path):
    """Text of a page. Code in its fenced blocks is blanked, except for comments."""

    def comments(block):
        return re.sub(r"^[^#\n]*", "", block[0], flags=re.MULTILINE)

    return re.sub(r"^```.*?^```", comments, path.read_text(), flags=re.MULTILINE | re.DOTALL)


def complaints(path, first_line, text):
    """A line for each word that is not used, with its place and the word to use instead."""

    def complain(match, remedy):
        line = first_line + text.count("\n", 0, match.end())
        return f"{path.relative_to(ROOT)}:{line}: {' '.join(match[0].split())!r}: use {remedy}"

    for pattern, remedy in WORDS.items():
        yield from (complain(match, remedy) for match in re.finditer(pattern, text, re.IGNORECASE))
    chapter = re.search(r"\bthe\s+chapter\b", text, re.IGNORECASE)
    if chapter and "Chaudhury (2024)" not in text[: chapter.start()]:
        yield complain(chapter, '"Chaudhury (2024), chapter 14" before')
    # The line after the name of a parameter, an attribute or a result, which may have a type.
    for match in re.finditer(rf"^( *)[\w*, ]+( : .*)?\n\1    ({OPENINGS})", text, re.MULTILINE):
        yield complain(match, "a text that begins with what it is")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_use_standard_terms(path):
    found = list(complaints(path, 1, page(path)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", public_objects())
def test_docstrings_use_standard_terms(name):
    found = list(complaints(*docstring(public_objects()[name])))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Scores of each row.", "row"),
        ("Averages over the draws.", "draws"),
        ("The codes are compact.", "The codes"),
        ("Dimension of the\n    codes.", "the codes"),
        ("A variance for each of 8 codes.", "8 codes"),
        ("The number of latent codes.", "number of latent codes"),
        ("How many numbers in a code?", "numbers in a code"),
        ("A code of `nz` numbers.", "code of `nz` numbers"),
        ("A variance for each\n    deviation.", "each deviation"),
        ("A perceptron.", "A perceptron"),
        ("Nats a row.", "row"),
        ("As in the chapter.", "the chapter"),
        ("random_state : int\n    Of the weights.", "Of the"),
        ("tol : float\n    As of now.", "As of"),
    ],
)
def test_words_that_are_not_used_are_found(text, word):
    found = list(complaints(ROOT / "page", 1, text))
    assert any(word in line for line in found)
    assert all(line.startswith(f"page:{1 + text.count(chr(10), 0, text.index(word.split()[-1]))}: ") for line in found)


@pytest.mark.parametrize(
    "text",
    [
        "The latent\n    codes, of `n_draws` importance samples, with standard\n    deviation 1.",
        "A multilayer perceptron: see `--row` and :header-rows:.",
        "Chaudhury (2024), chapter 14: the recipe of the chapter.",
        "random_state : int\n    Controls the order of the samples.",
    ],
)
def test_standard_terms_pass(text):
    assert not list(complaints(ROOT / "page", 1, text))
