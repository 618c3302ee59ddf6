"""The documentation in a real browser, without a network: its search finds what the pages say."""

from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "searchindex.js").exists(), reason="the pages have not been built"),
]


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("beta", "guide/choosing.html"),
        ("beta", "api/generated/sklatent.VAETransformer.html"),
        ("parallel analysis", "api/generated/sklatent.PCAReducer.html"),
    ],
)
def test_the_search_finds_the_page(words, page, browser, until):
    browser.get((SITE / "search.html").as_uri() + f"?q={words.replace(' ', '+')}")
    until(lambda: "found" in browser.find_element("id", "search-results").text)
    links = browser.find_elements("css selector", "#search-results li a")
    assert page in {
        link.get_attribute("href").partition("/html/")[2].partition("#")[0].partition("?")[0] for link in links
    }
