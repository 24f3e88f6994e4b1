"""Detection of national ids, passports and driving licences in a text.

`stdnum` checks the checksums; where shape and checksum are weak, a word such as "passport" must stand before.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator

from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar, pan
from stdnum.iso7064 import mod_11_2
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.us import ssn

_START, _END = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"


def _is_resident_of_china(number: str) -> bool:
    """Check a Chinese resident id (GB 11643): six digits of a place, a birth date, three digits, a check character."""
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return bool(mod_11_2.is_valid(number.upper()))


# Shape, check, and the words that must stand before the id where shape and check alone are too weak.
_IDS: tuple[tuple[re.Pattern[str], Callable[[str], bool], re.Pattern[str] | None], ...] = tuple(
    (re.compile(_START + shape + _END), check, re.compile(words, re.IGNORECASE) if words else None)
    for shape, check, words in (
        (r"\d{17}[\dXx]", _is_resident_of_china, ""),
        (r"\d{3}-\d{2}-\d{4}", ssn.is_valid, ""),
        (r"\d{3} ?\d{2} ?\d{4}", lambda value: ssn.is_valid(value.replace(" ", "")), r"ssn|social security"),
        (r"(?![DFIQUV])[A-Z](?![DFIQUVO])[A-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]", lambda _: True, ""),
        (r"\d{3}[ -]?\d{3}[ -]?\d{4}", nhs.is_valid, r"nhs"),
        (r"\d{2} ?\d{3} ?\d{3} ?\d{3}", idnr.is_valid, r"steuer|tax|idnr|identifikationsnummer|\bid\b"),
        (r"\d{8}-?[A-Z]", dni.is_valid, ""),
        (r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid, ""),
        (r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}", nir.is_valid, ""),
        (r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", codicefiscale.is_valid, ""),
        (r"\d{3}\.\d{3}\.\d{3}-\d{2}", cpf.is_valid, ""),
        (r"\d{11}", cpf.is_valid, r"cpf"),
        (r"\d{4}[ -]?\d{4}[ -]?\d{4}", aadhaar.is_valid, r"aadhaar|aadhar|uidai"),
        (r"[A-Z]{5}\d{4}[A-Z]", pan.is_valid, r"\bpan\b"),
        (r"\d{11}", pesel.is_valid, r"pesel"),
        (r"\d{9}", bsn.is_valid, r"bsn|burgerservice"),
        (r"\d{3}[ -]?\d{3}[ -]?\d{3}", sin.is_valid, r"\bsin\b|social insurance"),
        (
            r"(?=[A-Z0-9]{0,6}\d{2})[A-Z0-9]{7,9}",
            lambda value: len(re.sub(r"\D", "", value)) >= 4,
            r"passport|护照|reisepass",
        ),
        (r"[A-Z0-9]{6,18}", lambda text: any(map(str.isdigit, text)), r"driv(?:er|ing)(?:'?s)? licen[cs]e|驾驶证|驾照"),
    )
)


def find_ids(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield `(start, end, key)` of each id; the key is the same for all ways of writing an id."""
    for shape, is_valid, words in _IDS:
        for match in shape.finditer(text):
            if words and not words.search(text, max(0, match.start() - 60), match.start()):
                continue
            if is_valid(match[0]):
                yield match.start(), match.end(), re.sub(r"\W", "", match[0]).upper()
