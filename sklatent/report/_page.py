"""The page: its text, style, scripts and data in one HTML file that asks the network for nothing."""

__all__ = ["render"]

import json
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

# Definitions, and last the script that puts them together.
SCRIPTS = ("decoder.js", "figures.js", "map.js", "samples.js", "decoded.js", "sections.js", "page.js")


def render(content: dict[str, Any]) -> str:
    """The HTML file.

    Names and labels from the data reach the page as JSON, in which no "<" can end the script that holds it, and the
    scripts show them as text. Beyond that the browser is told to run the scripts of the page by their hashes, nothing
    else, and to load nothing.
    """
    scripts = [_asset(name) for name in SCRIPTS]
    style = _asset("page.css")
    return Template(_asset("page.html")).substitute(
        title=escape(content["title"]),
        policy=f"default-src 'none'; style-src {_hashes([style])}; script-src {_hashes(scripts)}",
        style=style,
        content=json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _asset(name: str) -> str:
    return (files("sklatent.report") / "_assets" / name).read_text(encoding="utf-8")


def _hashes(texts: list[str]) -> str:
    return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts)
