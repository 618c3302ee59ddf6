"""Sphinx: `sphinx-build -W -n docs docs/_build/html`, without a network."""

import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from inventories import intersphinx  # noqa: E402

import sklatent  # noqa: E402

project = "sklatent"
author = "the sklatent developers"
version = release = sklatent.__version__
extensions = [
    "matplotlib.sphinxext.plot_directive",
    "mathml",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "code"
nitpicky = True

autodoc_typehints = "none"  # the docstrings give types, shapes and defaults
autosummary_generate = True
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # the template of a class has a table of its methods, and the methods

# The documentation of other projects: addresses of the names that are used here, in docs/inventories/*.txt. A complete
# objects.inv that lies beside them is used instead, so no build needs a network.
intersphinx_mapping = intersphinx(
    DOCS,
    {
        "sklearn": "https://scikit-learn.org/stable/",
        "numpy": "https://numpy.org/doc/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
        "skorch": "https://skorch.readthedocs.io/en/stable/",
        "matplotlib": "https://matplotlib.org/stable/",
    },
)

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "api/backreferences",
    "doc_module": ("sklatent",),
    "reference_url": {"sklatent": None},
    "inspect_global_variables": True,
    "within_subsection_order": "FileNameSortKey",
    "image_srcset": ["2x"],
    "download_all_examples": False,
    "parallel": True,  # as many processes as `sphinx-build -j`
    "show_memory": False,
    "capture_repr": ("_repr_html_",),  # the default also shows where an object lies in memory
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
}
plot_include_source = True
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 160)]
plot_rcparams = {"figure.constrained_layout.use": True, "font.size": 10}
plot_apply_rcparams = True

html_theme = "pydata_sphinx_theme"
html_math_renderer = "mathml"
html_title = "sklatent"
html_static_path = ["_static"]
html_css_files = ["sklatent.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "install": [], "benchmarks": [], "architecture": []}
html_theme_options = {
    "logo": {"text": "sklatent"},
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "show_prev_next": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
}

# Short fits of examples train for few epochs on purpose.
warnings.filterwarnings("ignore", message="Posterior collapse")
