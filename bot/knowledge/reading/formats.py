"""File readers: Markdown, HTML, plain text, PDF, DOCX and Q&A in CSV.

Files may be broken or hostile. They are parsed in the process that runs jobs, never in the one that answers.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import charset_normalizer
import yaml
from markdown_it import MarkdownIt

from bot.knowledge.reading.documents import Block, Document
from bot.knowledge.reading.html_reader import read_html

log = logging.getLogger("myna.knowledge")

MAX_BYTES = 20 * 2**20
MAX_UNPACKED_BYTES = 100 * 2**20
# mammoth needs about 160 times as much memory.
MAX_DOCX_TEXT_BYTES = 8 * 2**20
MAX_PDF_PAGES = 2000
MAX_CHARS, MAX_FRONT_MATTER_CHARS = 4_000_000, 16_000

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*\r?\n", re.DOTALL)
_QUESTION_COLUMNS = ("question", "q", "frage", "问题", "title", "prompt")
_ANSWER_COLUMNS = ("answer", "a", "antwort", "答案", "text", "response")


class Unreadable(Exception):
    """Raised for a file that can't become an article; the message gives the reason and a remedy."""


def is_readable_name(name: str) -> bool:
    """Return True if the file name has a supported ending."""
    return PurePath(name).suffix.lower() in _READERS


def endings() -> tuple[str, ...]:
    """Return the supported endings of file names."""
    return tuple(_READERS)


def read_document(name: str, content: bytes) -> Document:
    """Parse a file into a document; the ending of `name` gives the format. Raises `Unreadable`."""
    if len(content) > MAX_BYTES:
        raise Unreadable(f"it has {len(content) / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20} MB")
    suffix = PurePath(name).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise Unreadable(f"{suffix or 'a name without an ending'} is not supported; supported: {' '.join(_READERS)}")
    title = re.sub(r"[-_]+", " ", PurePath(name).stem).strip() or name
    try:
        document = reader(content, title)
    except Unreadable:
        raise
    except Exception as error:  # no content of one file may keep the others from being read
        log.warning("%s can't be read", name, exc_info=True)
        raise Unreadable(f"it is damaged or in an unknown variant of its format ({type(error).__name__})") from error
    if not document.blocks:
        raise Unreadable(
            "it contains no text" + (" (a scan?); run text recognition (OCR) on it first" if suffix == ".pdf" else "")
        )
    return document


def decode(content: bytes) -> str:
    """Decode text in any common encoding. Raises `Unreadable` for binary content."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[:8192]:
        raise Unreadable("it is not text, though its name has the ending of a text file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(content).best()
    if best is None:
        raise Unreadable("its encoding is unknown; save it as UTF-8")
    return str(best)


def _read_markdown(content: bytes, title: str) -> Document:
    text = _checked_length(decode(content))
    about: Mapping[str, Any] = {}
    if match := _FRONT_MATTER.match(text):
        about = _front_matter(match.group(1))
        text = text[match.end() :]
    own_title = _first_text(about, "title")
    read = read_html(_MARKDOWN.render(text), title=own_title or title)
    url = _first_text(about, "url", "link")
    return Document(
        own_title or read.title,
        read.blocks,
        url if url.startswith(("http://", "https://")) else "",
        _first_text(about, "lang", "language")[:8],
        _first_text(about, "id")[:200],
    )


def _front_matter(text: str) -> Mapping[str, Any]:
    if len(text) > MAX_FRONT_MATTER_CHARS:
        return {}
    try:
        # BaseLoader makes every scalar a string: the numbers and merge keys of other loaders can take for ever.
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_text(about: Mapping[str, Any], *names: str) -> str:
    """Return the first text under these names. Lists are rejected: a YAML alias can expand to gigabytes."""
    found = (about.get(name) for name in names)
    return next((value.strip() for value in found if isinstance(value, str) and value.strip()), "")


def _read_html(content: bytes, title: str) -> Document:
    declared = re.search(rb"charset=[\"']?([\w-]+)", content[:2048])
    if declared:
        try:
            return read_html(_checked_length(content.decode(declared.group(1).decode("ascii"))), title=title)
        except (LookupError, UnicodeError):
            pass
    return read_html(_checked_length(decode(content)), title=title)


def _read_text(content: bytes, title: str) -> Document:
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", _checked_length(decode(content)))]
    return Document(title, tuple(Block("text", (), (paragraph,)) for paragraph in paragraphs if paragraph))


def _read_docx(content: bytes, title: str) -> Document:
    import mammoth

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if any(entry.flag_bits & 1 for entry in entries):
                raise Unreadable("it is protected by a password; save it without one")
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
                raise Unreadable(f"it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MB")
            text_bytes = sum(entry.file_size for entry in entries if entry.filename.endswith((".xml", ".rels")))
            if text_bytes > MAX_DOCX_TEXT_BYTES:
                raise Unreadable(f"its text unpacks to more than {MAX_DOCX_TEXT_BYTES // 2**20} MB; split it")
        html = mammoth.convert_to_html(
            io.BytesIO(content), convert_image=mammoth.images.img_element(lambda _: {})
        ).value
    except Unreadable:
        raise
    except Exception as error:  # a damaged archive fails in many places of mammoth
        hint = (
            "it is protected by a password, or is an old .doc"
            if content[:4] == b"\xd0\xcf\x11\xe0"
            else "it is damaged"
        )
        raise Unreadable(f"{hint}; save it as .docx again") from error
    return read_html(_checked_length(html), title=title)


def _read_pdf(content: bytes, title: str) -> Document:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise Unreadable(
            "it is protected by a password; save it without one" if locked else "it is damaged; save it as PDF again"
        ) from error
    try:
        if len(pdf) > MAX_PDF_PAGES:
            raise Unreadable(f"it has {len(pdf):,} pages; the limit is {MAX_PDF_PAGES:,}")
        pages = list(_pdf_pages(pdf))
        own_title = str(pdf.get_metadata_dict().get("Title") or "").strip()
    except pypdfium2.PdfiumError as error:
        raise Unreadable("it is damaged; save it as PDF again") from error
    finally:
        pdf.close()
    blocks: list[Block] = []
    for number, page in enumerate(pages, 1):
        blocks += (Block("text", (f"Page {number}",), (paragraph,)) for paragraph in _pdf_paragraphs(page))
    return Document(own_title or title, tuple(blocks))


def _pdf_pages(pdf: Any) -> Iterator[str]:
    num_chars = 0
    for number in range(len(pdf)):
        page = pdf[number].get_textpage().get_text_bounded()
        num_chars += len(page)
        if num_chars > MAX_CHARS:
            raise Unreadable(f"it has more than {MAX_CHARS:,} characters of text; split it")
        yield page


def _pdf_paragraphs(page: str) -> Iterator[str]:
    """Join lines to paragraphs. A paragraph ends at an empty line, or at a short line that ends a sentence."""
    lines = [" ".join(line.split()) for line in page.replace("\ufffe", "-").splitlines()]
    widest = max((len(line) for line in lines), default=0)
    held: list[str] = []
    for line in lines:
        if line:
            held.append(line)
        if held and (not line or (len(line) < widest * 0.7 and line.endswith((".", "!", "?", ":", "。")))):
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(lines: list[str]) -> str:
    return re.sub(r"(?<=\w)- (?=[a-zß-ÿ])", "", " ".join(lines))


def _read_csv(content: bytes, title: str) -> Document:
    text = _checked_length(decode(content))
    # Not `csv.Sniffer`: it is wrong about one table in eight, and some quotes make it run for ever.
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    try:
        table = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
        rows = [row for row in table if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise Unreadable(f"it is not valid CSV: {error}") from error
    if not rows:
        return Document(title, ())
    head = [cell.strip().lower() for cell in rows[0]]
    asked = next((head.index(name) for name in _QUESTION_COLUMNS if name in head), None)
    answered = next((head.index(name) for name in _ANSWER_COLUMNS if name in head), None)
    if asked is None or answered is None:
        raise Unreadable("its first line must name the columns question and answer")
    blocks = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise Unreadable(f"row {number} has {len(row)} columns, but the header has {len(head)}")
        question, answer = " ".join(row[asked].split()), row[answered].strip()
        if question and answer:
            blocks.append(Block("text", (question,), tuple(answer.splitlines())))
    return Document(title, tuple(blocks))


def _checked_length(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise Unreadable(f"it has {len(text):,} characters of text; the limit is {MAX_CHARS:,}; split it")
    return text


_READERS: Mapping[str, Callable[[bytes, str], Document]] = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".txt": _read_text,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
    ".csv": _read_csv,
}
