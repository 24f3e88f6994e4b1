"""Where people read what a reply cites."""

from __future__ import annotations

import pytest

from adapters.article_links import ArticleLinks

OWN, HERE = "https://elsewhere.example/returns", "/articles/id/re%2Fturns%20%C3%BC"


@pytest.mark.parametrize(
    ("public_url", "reached_at", "url", "audience", "expected"),
    [
        ("", "http://127.0.0.1:8080", None, "public", "http://127.0.0.1:8080" + HERE),
        ("https://chat.example/", "http://10.0.0.1", None, "public", "https://chat.example" + HERE),
        ("https://chat.example", "", None, "staff", None),
        ("", "", None, "public", None),
        ("", "", OWN, "staff", OWN),
    ],
)
def test_the_link(public_url: str, reached_at: str, url: str | None, audience: str, expected: str | None) -> None:
    source = {"type": "source", "number": 1, "article": "id", "name": "re/turns ü", "url": url, "audience": audience}
    assert ArticleLinks(public_url, "customers").link(source, reached_at) == expected
