"""Detection of phone numbers, by the numbering plans of `phonenumbers`.

Numbers with a country code are found for the whole world, numbers without a country code for the chosen regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import phonenumbers
from phonenumbers import NumberParseException, PhoneMetadata

_CANDIDATE = re.compile(
    r"(?<![A-Za-z0-9_#/.-])(?:\+ ?|\(\+)?\(?\d(?:[ \t]?[-()./]?[ \t]?\d|[ \t]?\([ \t]?\d|\)[ \t]?-?\d){5,19}"
    r"(?![A-Za-z0-9_])"
)
_EXTENSION = re.compile(r"\s?(?:,\s?)?(?:ext(?:ension)?\.?|x|转|分机)\s?\d{1,6}(?!\d)", re.IGNORECASE)
_WORDS_BEFORE = re.compile(
    r"(?:phone|mobile|cell|tel\b|telephone|landline|call|ring|text|sms|whats\s?app|wechat|fax|reach|contact|handy|dial|hotline"
    r"|my number|new number|电话|手机|联系|号码|来电|致电|拨打|微信|座机|打给我)[^\d]{0,28}$",
    re.IGNORECASE,
)
_OTHER_NUMBER_BEFORE = re.compile(
    r"(?:order|booking|reservation|reference|ref|confirmation|tracking|invoice|ticket|case|parcel|sku|model|serial|part|product"
    r"|item|article|account|customer|isbn|ean|barcode|imei|version|订单|单号|运单|编号|货号|型号|发票|条形码|序列号|会员)"
    r"(?:\s?(?:numbers?|no\.?|nr\.?|id|code|号|码))?\s?(?:is|was|are|:|#|=|是|为|号|码)?\s?:?#?\s?$",
    re.IGNORECASE,
)
MIN_DIGITS, MAX_DIGITS = 7, 15


def find_phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield `(start, end, key)` of each number; the key is its E.164 form, the same for all ways of writing it."""
    for match in _CANDIDATE.finditer(text):
        start = match.start()
        while start < match.end():
            found = _longest_from(text, start, match.end(), tuple(regions))
            if found is None:
                # The digits up to the first space may be a number of another kind: go on behind it.
                gap = text.find(" ", start, match.end())
                start = match.end() if gap < 0 else gap + 1
                continue
            end, key = found
            extension = _EXTENSION.match(text, end)
            yield start, extension.end() if extension else end, key
            start = end + 1


def _longest_from(text: str, start: int, end: int, regions: tuple[str, ...]) -> tuple[int, str] | None:
    before = text[max(0, start - 48) : start]
    if _OTHER_NUMBER_BEFORE.search(before):
        return None
    after_words = _WORDS_BEFORE.search(before) is not None
    while True:
        piece = text[start:end].rstrip(" \t-./(")
        if sum(map(str.isdigit, piece)) < MIN_DIGITS:
            return None
        if key := _as_phone(piece, after_words, regions):
            return start + len(piece), key
        gap = text.rfind(" ", start, end)
        if gap < 0:
            return None
        end = gap


@lru_cache(4096)
def _as_phone(piece: str, after_words: bool, regions: tuple[str, ...]) -> str | None:
    digits = re.sub(r"\D", "", piece)
    if not MIN_DIGITS <= len(digits) <= MAX_DIGITS + 2 or piece.count("(") != piece.count(")") or len(set(digits)) < 3:
        return None
    if "+" in piece or digits.startswith("00"):
        return _parsed("+" + digits.removeprefix("00") if "+" not in piece else piece, None, is_certain=True)
    for region in regions:
        certain = _is_written_as_in(region, piece, digits)
        if (certain or after_words) and (key := _parsed(piece, region, is_certain=after_words)):
            return key
    return None


def _is_written_as_in(region: str, piece: str, digits: str) -> bool:
    """Return True if grouping or prefix mark a phone number of the region, even without a word such as "call"."""
    if region in ("US", "CA"):
        return re.fullmatch(r"(?:1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}", piece) is not None
    if region == "CN" and re.fullmatch(r"1[3-9]\d{9}", digits):
        return re.fullmatch(r"\d{11}|\d{3}[ -]\d{4}[ -]\d{4}", piece) is not None
    metadata = PhoneMetadata.metadata_for_region(region)
    prefix = metadata.national_prefix if metadata else None
    return bool(prefix) and digits.startswith(str(prefix)) and len(digits) >= 9


def _parsed(piece: str, region: str | None, *, is_certain: bool) -> str | None:
    try:
        number = phonenumbers.parse(piece, region)
    except NumberParseException:
        return None
    # Numbers reserved for films and examples are possible, but not valid.
    fits = phonenumbers.is_possible_number(number) if is_certain else phonenumbers.is_valid_number(number)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) if fits else None
