"""Detection of postal addresses: streets with a house number, post codes.

The patterns follow English, German and Chinese spelling, without a list of places. A post code is found only after a
word such as "zip".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_START, _END = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"

_STREETS = (
    "Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Way|Close|Terrace|Place|Pl|Square|Sq"
    "|Crescent|Parkway|Pkwy|Highway|Hwy|Gardens|Grove|Row|Mews|Walk|Hill|Trail|Circle"
)
_UNIT = r"(?:Apt|Apartment|Unit|Flat|Suite|Ste|Floor|Room)\.? ?#?[A-Za-z0-9]{1,5}"
_UK_CODE = r"[A-Z]{1,2}\d[A-Z0-9]? ?\d[A-Z]{2}"
_TOWN = rf"(?:, (?!(?:{_STREETS})\b)[A-Z][A-Za-z.'-]+(?: [A-Z][a-z.'-]+){{0,2}})"
_ADDRESS = re.compile(
    rf"{_START}(?:{_UNIT},? )?(?:\d{{1,5}}-)?\d{{1,5}}[A-Za-z]?,? (?:[NSEW]\.? )?"
    rf"(?:[A-Z0-9][A-Za-z0-9.'-]* ){{1,4}}(?:{_STREETS})\b\.?(?: [NSEW]{{1,2}}\b)?"
    rf"(?:,? (?:{_UNIT}|#\d{{1,5}}))?{_TOWN}{{0,2}}(?:,? [A-Z]{{2}})?"
    rf"(?:,? (?:\d{{5}}(?:-\d{{4}})?|{_UK_CODE}))?{_END}"
    r"|(?<![A-Za-zÄÖÜäöüß])(?:[A-ZÄÖÜ][a-zäöüß]+[- ])?"
    r"(?:[A-ZÄÖÜ][a-zäöüß]*(?:straße|strasse|str\.|weg|platz|allee|gasse|damm|ufer)"
    r"|Straße|Allee|Platz) ?\d{1,4} ?[a-z]?(?![A-Za-z0-9])(?:,? ?\d{5} [A-ZÄÖÜ][a-zäöüß]+)?"
    r"|\bP\.?O\.? Box \d{1,7}"
)
_ADDRESS_AFTER_WORDS = re.compile(
    rf"(?:live at|living at|lives at|address is|address:|address to|located at"
    r"|(?:ship|deliver|send|move|moved|mail) (?:it |them |this )?to)"
    rf" (?P<address>\d{{1,5}}[a-z]?,? (?:[a-z0-9.'-]+ ){{1,3}}?(?:{_STREETS})\b\.?)",
    re.IGNORECASE,
)
_POST_CODE = re.compile(
    rf"(?:post ?code|postal code|zip(?: code)?|邮编|邮政编码)\W{{0,3}}(?:is |now |are |是|为)?\W{{0,2}}"
    rf"(?P<address>{_UK_CODE}|\d{{5}}(?:-\d{{4}})?|\d{{6}}){_END}",
    re.IGNORECASE,
)
_HAN = r"[\u4e00-\u9fff]"
_HOUSE_ZH = re.compile(
    r"(?:路|街|大道|巷|胡同|弄|村|道|里|园|苑|小区|花园)(?:步行街|[东西南北中]段)?\d{1,5}(?:号院?|弄|栋|幢|座|号楼)"
    r"(?:[A-Za-z0-9一二三四五六七八九十]{1,4}(?:号楼|栋|幢|座|单元|层|楼|室|号|房)){0,6}(?:\d{3,4}室?)?"
)
_PLACE_ZH = re.compile(rf"{_HAN}{{1,36}}$")
MAX_PLACE_ZH = 36
_BEFORE_ADDRESS_ZH = re.compile(
    r".*(?:地址|住址|住在|[寄送][到往去]|发[到往]|搬到|改[到成为]|换[成到]|位于|家在|公司在|人在|是|[:，,])了?[是为在]?:?"
)


def find_addresses(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield `(start, end, key)` of each address; the key ignores case, commas and spaces."""
    for match in _ADDRESS.finditer(text):
        address = match[0].rstrip(".")
        yield match.start(), match.start() + len(address), _normal(address)
    for pattern in (_ADDRESS_AFTER_WORDS, _POST_CODE):
        for match in pattern.finditer(text):
            address = match["address"].rstrip(".")
            yield match.start("address"), match.start("address") + len(address), _normal(address)
    for match in _HOUSE_ZH.finditer(text):
        place = _PLACE_ZH.search(text[max(0, match.start() - MAX_PLACE_ZH) : match.start()])
        if place is None:
            continue
        lead = _BEFORE_ADDRESS_ZH.match(place[0])
        start = match.start() - len(place[0]) + (lead.end() if lead else 0)
        yield start, match.end(), text[start : match.end()]


def _normal(text: str) -> str:
    return re.sub(r"[\s,.]+", " ", text).strip().lower()
