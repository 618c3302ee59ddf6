"""Formulas as MathML, which browsers show by themselves, without scripts and without a network; docutils translates."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _write(writer, node, before="", after=""):
    try:
        writer.body += [before, tex2mathml(node.astext(), as_block=bool(before)), after]
    except MathError as error:
        logger.warning("formula: %s", error, location=node)
    raise nodes.SkipNode


def _write_block(writer, node):
    _write(writer, node, '<div class="formula">', "</div>")


def setup(app):
    """Register the renderer, which `html_math_renderer = "mathml"` chooses."""
    app.add_html_math_renderer("mathml", (_write, None), (_write_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
