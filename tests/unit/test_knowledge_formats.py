"""File readers on intact, broken and hostile files, and the SSRF guard."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from bot.knowledge.reading import formats
from bot.knowledge.reading.article_sources import check_url, fetch, files_of, read_file
from bot.knowledge.reading.documents import Block
from bot.knowledge.reading.formats import Unreadable, read_document
from bot.knowledge.reading.html_reader import read_html

MARKDOWN = """---
title: Returns & refunds
url: https://shop.example/returns
lang: en
id: returns-1
---

# Returns

You have **30 days**.

## What you need

- the parcel
  - and its box
- the [invoice](https://shop.example/i)

| Country | Price |
| --- | --- |
| Norway | 9 euros |

```
code 1
```
"""


def page(text: str) -> bytes:
    """Build a minimal PDF of one page: a font, a page, a line of text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length " + str(len(stream)).encode() + b" >>\nstream\n" + stream + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = io.BytesIO(b""), []
    out.write(b"%PDF-1.4\n")
    for number, one in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + one + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    for place in places:
        out.write(f"{place:010} 00000 n \n".encode())
    out.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def locked(content: bytes) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.encrypt("secret", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx(body: str, **more: bytes) -> bytes:
    """Build a minimal DOCX file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" '
            'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml",
            '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
            f"{body}</w:body></w:document>",
        )
        for name, content in more.items():
            archive.writestr(name, content)
    return out.getvalue()


def paragraph(text: str, style: str = "") -> str:
    chosen = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{chosen}<w:r><w:t>{text}</w:t></w:r></w:p>"


def refusal(name: str, content: bytes) -> str:
    with pytest.raises(Unreadable) as refused:
        read_document(name, content)
    return str(refused.value)


def test_markdown_keeps_its_structure_and_metadata() -> None:
    read = read_document("x.md", MARKDOWN.encode())
    assert (read.title, read.url, read.language, read.id) == (
        "Returns & refunds",
        "https://shop.example/returns",
        "en",
        "returns-1",
    )
    assert read.blocks == (
        Block("text", (), ("You have 30 days.",)),
        Block("items", ("What you need",), ("- the parcel", "  - and its box", "- the invoice")),
        Block("table", ("What you need",), ("Country | Price", "Norway | 9 euros")),
        Block("code", ("What you need",), ("code 1",)),
    )


def test_the_first_heading_is_the_title_not_a_heading() -> None:
    read = read_document("some-file.md", b"# Title\n\nText.\n\n## Part\n\nMore.")
    assert read.title == "Title"
    assert [one.headings for one in read.blocks] == [(), ("Part",)]
    assert read_document("some-file.md", b"Text alone.").title == "some file"


@pytest.mark.parametrize(
    "bad", ["---\ntitle: [\n---\nText.", "---\n- a\n---\nText.", "---\na: !!python/object:os.x\n---\nText."]
)
def test_invalid_front_matter_is_harmless(bad: str) -> None:
    assert read_document("a.md", bad.encode()).blocks[-1].lines == ("Text.",)


def test_html_is_read_without_navigation_and_scripts() -> None:
    read = read_html(
        "<html lang='de-AT'><head><title>Shop</title><script>alert(1)</script><style>p{}</style></head><body>"
        "<nav>Home</nav><header><h1>Lieferung</h1></header><p onclick='x()'>Zwei<br>Tage.<script>steal()</script></p>"
        "<details><summary>Und am Sonntag?</summary><p>Nein.</p></details><p>Ende.</p><footer>Impressum</footer>"
    )
    assert (read.title, read.language) == ("Lieferung", "de")
    assert [(one.headings, one.lines) for one in read.blocks] == [
        ((), ("Zwei Tage.",)),
        (("Und am Sonntag?",), ("Nein.",)),
        ((), ("Ende.",)),
    ]


@pytest.mark.parametrize(
    "broken", ["", "<", "<p>a<table><td>b</p>c", "<div>" * 5000 + "deep", "\0\0", "<?xml version='1.0'?>"]
)
def test_broken_html_never_raises(broken: str) -> None:
    read_html(broken, title="t")


def test_text_of_any_encoding_is_decoded() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252", "gb18030"):
        text = "退货政策：您可以在三十天内退货，退款需要五到七天。" if encoding == "gb18030" else "Rückgabe für Käufer"
        read = read_document("a.txt", text.encode(encoding))
        assert read.blocks[0].lines == (text,), encoding


def test_a_csv_of_questions_and_answers_is_read() -> None:
    read = read_document("faq.csv", b'Question;Answer\nWhere?;"Here,\nand there"\n;\n')
    assert read.blocks == (Block("text", ("Where?",), ("Here,", "and there")),)
    assert "columns question and answer" in refusal("faq.csv", b"a,b\n1,2\n")
    assert "row 3" in refusal("faq.csv", b"question,answer\na,b\nc,d,e\n")


def test_a_pdf_is_read_or_refused_with_a_reason() -> None:
    read = read_document("manual.pdf", page("Press the red button."))
    assert (read.title, read.blocks[0]) == ("manual", Block("text", ("Page 1",), ("Press the red button.",)))
    assert "damaged" in refusal("manual.pdf", b"%PDF-1.4 nothing of the kind")
    assert "password" in refusal("manual.pdf", locked(page("Secret.")))
    assert "scan" in refusal("manual.pdf", page(""))


def test_a_docx_is_read_or_refused_with_a_reason() -> None:
    read = read_document("a.docx", docx(paragraph("Shipping", "Heading1") + paragraph("Two days.")))
    assert (read.title, read.blocks) == ("Shipping", (Block("text", (), ("Two days.",)),))
    assert "damaged" in refusal("a.docx", b"no archive")
    assert "old .doc" in refusal("a.docx", b"\xd0\xcf\x11\xe0" + b"\0" * 100)


def test_a_zip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", 10_000)
    bomb = docx(paragraph("a"), **{"word/media/x.bin": b"\0" * 20_000})
    assert len(bomb) < 5_000
    assert "unpacks to more" in refusal("a.docx", bomb)


def test_an_unreadable_file_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "it is not text" in refusal("a.txt", b"\0\1\2")
    assert ".exe is not supported" in refusal("a.exe", b"MZ")
    assert "no text" in refusal("a.md", b"  \n")
    monkeypatch.setattr(formats, "MAX_BYTES", 10)
    assert "the limit is" in refusal("a.md", b"12345678901")


@pytest.mark.parametrize(
    ("value", "title"),
    [
        ("!!int ''", "some page"),
        ("!!bool maybe", "maybe"),
        ("[a, b]", "some page"),
        ("2026", "2026"),
        ("*x", "some page"),
        ("1" + ":1" * 100_000, "some page"),
    ],
)
def test_bad_front_matter_values_lose_only_themselves(value: str, title: str) -> None:
    assert read_document("some-page.md", f"---\ntitle: {value}\n---\n\nText.\n".encode()).title == title


def test_a_csv_full_of_quotes_is_read_to_its_end() -> None:
    assert "not valid CSV" in refusal("a.csv", b'question,answer\n,"a",' + b'"' * 5_000 + b"x")
    for sign in ",;\t":
        table = f'\n\nquestion{sign}answer\n"How, when; why?"{sign}"Yes, ""soon"""\n'
        (block,) = read_document("a.csv", table.encode()).blocks
        assert (block.headings, block.lines) == (("How, when; why?",), ('Yes, "soon"',))


def test_a_small_file_never_expands_to_gigabytes() -> None:
    lines = ["a0: &a0 xxxxxxxxxx"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    read = read_document("a.md", "\n".join(["---", *lines, "title: *a11", "---", "", "Text."]).encode())
    assert read.title == "a"
    assert "unpacks to more than 8 MB" in refusal("a.docx", docx("<w:p/>" * 1_500_000))


def test_a_pdf_with_too_much_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_CHARS", 5)
    assert "more than 5 characters of text" in refusal("a.pdf", page("Ten days."))


def test_a_crashing_reader_makes_the_file_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(formats, "_READERS", {".md": broken})
    assert "unknown variant of its format (ZeroDivisionError)" in refusal("a.md", b"x")


def test_folders_skip_hidden_files_and_refuse_links_out(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.md", ".hidden.md", "sub/a.md", "note.exe"):
        (folder / name).write_text("x")
    (folder / "out.md").symlink_to(tmp_path / "secret.md")
    (folder / "in.md").symlink_to(folder / "b.md")
    (folder / "up").symlink_to(tmp_path)
    assert [name for name, _ in files_of(folder)] == ["b.md", "in.md", "out.md", "sub/a.md"]
    assert read_file(folder / "in.md", within=folder) == b"x"
    with pytest.raises(Unreadable, match="a link that leads out of the folder"):
        read_file(folder / "out.md", within=folder)
    with pytest.raises(Unreadable, match="no such folder"):
        list(files_of(tmp_path / "gone"))
    with pytest.raises(Unreadable, match="no such file"):
        read_file(tmp_path / "gone.md")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://10.0.0.1/a",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:192.168.0.1]/",
        "http://0.0.0.0/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://224.0.0.1/",
        "ftp://shop.example/",
        "file:///etc/passwd",
        "http://user:word@shop.example/",
        "http:///",
        "http://[::1",
        "http://shop.example:99999/",
        # Signs that aiohttp reads as 127.0.0.1.
        "http://１２７.0.0.1/",
        "http://①27.0.0.1/",
        "http://127。0。0。1/",
    ],
)
def test_the_ssrf_guard_refuses_non_public_addresses(url: str) -> None:
    with pytest.raises(Unreadable):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://shop.example/a?b=c", "http://93.184.216.34/", "http://[2606:4700::1111]/", "http://[::ffff:8.8.8.8]/"],
)
def test_the_ssrf_guard_passes_public_addresses(url: str) -> None:
    check_url(url)


async def test_the_ssrf_guard_refuses_names_of_private_addresses() -> None:
    with pytest.raises(Unreadable, match="not public"):
        await fetch("http://localhost:1/")


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1."])
async def test_the_ssrf_guard_sees_through_other_spellings(host: str) -> None:
    with pytest.raises(Unreadable, match=r"not public|not a canonical"):
        await fetch(f"http://{host}:1/")
