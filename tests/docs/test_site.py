"""The built pages: an anchor and a text for every public method, links that lead somewhere, and nothing from a network.

`sphinx-build -W -n docs docs/_build/html` builds them.
"""

import functools
import inspect
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from test_language import MODULES

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("[!_]*/**/*.html"))
PAGES += sorted(path.name for path in SITE.glob("*.html"))
# Elements of which a browser loads what an attribute names.
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}

pytestmark = pytest.mark.skipif(not (SITE / "objects.inv").exists(), reason="the pages have not been built")


class Page(HTMLParser):
    """Anchors, links and loaded files of a page, and the text under each anchor of a definition."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded, self.texts = set(), [], [], {}
        self._terms, self._open = [], []
        self.feed((SITE / path).read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.update(filter(None, (found.get("id"), found.get("name"))))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if found.get(LOADED.get(tag)) and found.get("rel") not in ("canonical", "search", "index", "next", "prev"):
            self.loaded.append(found[LOADED[tag]])
        if tag == "dt" and "id" in found:
            self._terms = [found["id"]]
        if tag == "dd":
            self._open.append(self._terms)
            self._terms = []

    def handle_endtag(self, tag):
        if tag == "dd":
            self._open.pop()

    def handle_data(self, data):
        for term in self._open[-1] if self._open else ():
            self.texts[term] = self.texts.get(term, "") + data.strip()


page = functools.cache(Page)


@functools.cache
def inventory():
    """From the names in objects.inv to their pages and anchors."""
    *_, body = (SITE / "objects.inv").read_bytes().split(b"\n", 4)
    entries = (line.split(maxsplit=4) for line in zlib.decompress(body).decode().splitlines())
    return {name: place.replace("$", name) for name, role, _, place, _ in entries if role.startswith("py:")}


def public_names():
    """Every class, function and method that is public, those of base classes of other packages too."""
    for module in MODULES:
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing):
                continue
            yield f"{module.__name__}.{name}"
            members = inspect.getmembers(thing, callable) if inspect.isclass(thing) else []
            yield from (f"{module.__name__}.{name}.{member}" for member, _ in members if not member.startswith("_"))


@pytest.mark.parametrize("name", list(public_names()))
def test_public_name_has_an_anchor_and_a_text(name):
    path, _, anchor = inventory()[name].partition("#")
    assert anchor in page(path).anchors
    assert len(page(path).texts[anchor]) > 20


def is_broken(path, link):
    """Whether a link of a page leads nowhere within the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (SITE / path).parent / unquote(parts.path) if parts.path else SITE / path
    if not target.exists():
        return True
    fragment = unquote(parts.fragment)
    is_page = target.suffix == ".html" and fragment and not fragment.startswith(":~:")
    return is_page and fragment not in page(target.resolve().relative_to(SITE.resolve()).as_posix()).anchors


@pytest.mark.parametrize("path", PAGES)
def test_internal_links_lead_somewhere(path):
    found = page(path)
    assert not [link for link in {*found.links, *found.loaded} if link != "#" and is_broken(path, link)]


@pytest.mark.parametrize("path", PAGES)
def test_page_loads_nothing_from_a_network(path):
    assert not [link for link in page(path).loaded if urlsplit(link).netloc]


@pytest.mark.parametrize("project", ["scikit-learn.org", "numpy.org", "docs.pytorch.org", "skorch.", "matplotlib.org"])
def test_names_of_other_projects_are_links(project):
    """Which docs/inventories has the addresses of."""
    assert any(link.startswith(f"https://{project}") for path in PAGES for link in page(path).links)
