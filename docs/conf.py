"""Sphinx: `sphinx-build docs docs/_build`."""

import sklatent

project = "sklatent"
author = "the sklatent developers"
release = sklatent.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
numpydoc_show_class_members = False
sphinx_gallery_conf = {"examples_dirs": "examples", "gallery_dirs": "auto_examples"}
html_theme = "alabaster"
