"""Detection of personal data by patterns, checksums and context words.

It covers English and Chinese, and leaves prices, dates, versions and product codes alone. A text is always searched as
a whole: a value that lies across two chunks would be missed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stdnum import iban, luhn

from bot.privacy.redaction.national_ids import find_ids
from bot.privacy.redaction.person_names import find_names
from bot.privacy.redaction.phone_numbers import find_phones
from bot.privacy.redaction.postal_addresses import find_addresses

Kind = Literal["URL", "SECRET", "EMAIL", "IBAN", "CARD", "IP", "ID", "PHONE", "ORDER", "ADDRESS", "NAME"]
# Where two values overlap, the kind that comes first here wins.
KINDS: tuple[Kind, ...] = get_args(Kind)
STRUCTURED = frozenset(KINDS) - {"NAME", "ADDRESS"}
_HAVE_DIGITS = frozenset({"IBAN", "CARD", "IP", "ID", "PHONE"})
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class DetectedSpan:
    """Personal data at `text[start:end]`. `key` is the same for two spellings of one value."""

    kind: Kind
    start: int
    end: int
    key: str


Spans = Iterator[tuple[int, int, str]]

# Full-width ASCII, as Chinese input methods write it, and the many dashes and spaces. Offsets must stay the same, so
# each character becomes exactly one.
_PLAIN = (
    {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
    | dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f\u3000"), " ")
    | dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-")
    | {0x2019: "'"}
)

# Not `\b`: Chinese characters are `\w`, too, but may stand right beside a value.
_START, _END = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"

_SLOT = re.compile(r"\{\{[^{}\n]{1,80}\}\}|\[[A-Z]{2,7}_\d{1,6}\]")
# Dates, times and amounts, which are never a phone number or an order.
_EVERYDAY = re.compile(
    r"(?<![\d./-])(?:(?:19|20)\d\d[-./](?:0?[1-9]|1[0-2])[-./](?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[-./](?:0?[1-9]|[12]\d|3[01])[-./](?:(?:19|20)\d\d|\d\d))(?![\d]|[./-]\d)"
    r"|(?<![\d:])\d{1,2}:\d\d(?::\d\d)?(?![\d:])"
    r"|(?:[$€£¥₹]|\b(?:USD|EUR|GBP|CNY|RMB|CHF|INR))\s?\d[\d,.]{0,20}"
    r"|(?<![\d,.])\d[\d,.]{0,20}\s?(?:[€$£¥元块]|(?:USD|EUR|GBP|CNY|RMB|CHF|INR|dollars?|euros?|pounds?|yuan)\b)"
    r"|(?<!\d)\d{1,3}(?:,\d{3}){1,6}(?:\.\d+)?(?![\d])",
    re.IGNORECASE,
)

_EMAIL = re.compile(
    r"(?<![A-Za-zÀ-ɏ0-9._%+-])[A-Za-zÀ-ɏ0-9_][A-Za-zÀ-ɏ0-9._%+'-]{0,63}"
    r"(?:@|\s?[(\[]\s?at\s?[)\]]\s?)"
    r"(?:[A-Za-zÀ-ɏ0-9-]{1,63}(?:\.|\s?[(\[]\s?dot\s?[)\]]\s?)){1,6}[A-Za-z]{2,24}" + _END,
    re.IGNORECASE,
)

_URL = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s<>\"'\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]{3,2000}"
)
_USER_IN_URL = re.compile(r"://[^/?#@\s]{1,200}@")
_TOKEN_IN_URL = re.compile(
    r"[?&#;](?:[a-z_-]{0,20}(?:token|secret|passw(?:or)?d|apikey|signature|session(?:_?id)?|credential)|api[_-]?key|key|auth"
    r"|code|sig|sid|pwd|otp|jwt|ticket|hash|x-amz-[a-z-]+)=[^&#\s]{6,}"
    r"|/(?:reset|verify|confirm|invite|activate|magic|unsubscribe|login|s)[a-z_-]{0,20}/[A-Za-z0-9_-]{16,}",
    re.IGNORECASE,
)

_KEY_SHAPES = re.compile(
    _START + r"(?:"
    r"sk-[A-Za-z0-9_-]{16,}|[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}"
    r"|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{20,}|pypi-[A-Za-z0-9_-]{20,}|SG\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|myna_[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{8,2000}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{4,}"
    r")" + r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,8000}(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
    r"|(?<=Bearer )[A-Za-z0-9._~+/-]{16,}=*"
)
_WORD_THEN_SECRET = re.compile(
    r"(?:(?:pass\s?words?|passwor[dt]s?|pass\s?code|pass\s?phrase|kennwort|pwd|pw"
    r"|pin(?: code| number)?|cvv2?|cvc|security code"
    r"|verification code|one[- ]time (?:code|password)|otp|(?:api|access|secret|private|license|licence)[ _-]?key"
    r"|(?:access|api|auth|bearer)?[ _-]?token|client[ _-]?secret|secret)\b"
    r"(?: (?:for|to|of|on) (?:my|the|this|our) [a-z-]{2,20}(?: [a-z-]{2,20})?)?"
    r"\s?(?:(?:is|was|are|=|:|ist|lautet|to)(?: now| still| currently| set to)?\s?:?|(?=\d{3,8}\b))"
    r"|(?:密码|口令|验证码|校验码|密钥|安全码|支付密码)(?:就?是|为|改成了?|:|=|设成了?)?\s?:?)"
    r"\s{0,3}(?P<quote>[\"'“‘「`]?)(?P<secret>[!-~]{3,200})",
    re.IGNORECASE,
)
# "My password is incorrect" gives nothing away: a plain word is a secret only if it is none of these.
_NO_SECRETS = frozenset(
    re.findall(
        r"\S+",
        """
        a about accepted active again all allowed already also always an and any apparently asked at available back bad
        because been being blocked broken but by cancelled case-sensitive changed compromised confirmed correct
        corrupted created current deleted denied different disabled due empty enabled encrypted enough exactly expired
        expiring failing fine first for forgotten from gone good good. hacked hashed hidden how in incorrect incorrectly
        invalid it just known leaked locked long lost make masked match mine missing must my needed never new no not now
        obsolete ok okay old on one only optional our out outdated over private public quite randomly rejected required
        reset right safe same saved secret secure sent set shared short shown so something sometimes somewhere stale
        still stolen stored strong supposed temporary that the their there this to too unavailable unchanged unique
        unknown unsafe used useless valid very visible wasn't weak what when where which why working wrong your
        """,
    )
)

# A line or a message may end between two groups of digits.
_CARD = re.compile(r"(?<![A-Za-z0-9_.+-])\d(?:(?:[ .-]|\n{1,2})?\d){12,40}(?![A-Za-z0-9_])")
_CARD_LENGTHS = range(19, 12, -1)
# First digits and lengths: Visa, Mastercard, American Express, Diners, JCB, Maestro, Discover and UnionPay.
_BRANDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|(?:50|5[6-8]|6\d)\d{12,17}"
)
_IBAN = re.compile(_START + r"[A-Z]{2}\d{2}(?:(?:[ -]|\n{1,2})?[A-Z0-9]){11,60}(?![A-Za-z0-9_])", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\d.A-Za-z])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])")
_A_VERSION_BEFORE = re.compile(
    r"(?:\bv|version|firmware|build|release|update|driver|sdk|app|版本|固件|升级到)\W{0,3}$", re.IGNORECASE
)

_REFERENCE_WORDS = (
    r"order|booking|reservation|reference|ref|confirmation|tracking|invoice|ticket|case|parcel|package|shipment|delivery"
    r"|return|rma|transaction|receipt|purchase|refund|account|customer|client|member(?:ship)?|policy|contract|claim"
    r"|complaint|subscription|consignment|waybill|request|bill(?:ing)?|payment|loyalty|itinerary|pnr"
)
_REFERENCE_WORDS_ZH = (
    "订单编?号?|单号|快递单号?|运单号?|物流单号?|预订号?|预约号?|确认号|确认码|发票号?码?|工单号?|流水号|交易号|会员卡?号?|客户编?号?"
    "|保单号?|合同编?号?|退货单号?|退款单号?|编号|账号|案件号?"
)
_REFERENCE = re.compile(
    rf"(?:\b(?:{_REFERENCE_WORDS})s?(?:[ -](?:confirmation|order|tracking|reference|booking))?"
    r"(?:[ -]?(?:numbers?|num|no\b\.?|nr\b\.?|ids?|codes?|ref(?:erence)?))?"
    r"(?: (?:is|was|are|should be|reads|with|under|of|for|called))?(?: the)?(?: (?:number|code|reference))?"
    rf"|(?:{_REFERENCE_WORDS_ZH})(?:码)?(?:是|为|填的是)?)\s?[:#=(]{{0,2}}\s{{0,3}}(?:#|no\.? ?)?",
    re.IGNORECASE,
)
_REFERENCE_VALUE = re.compile(
    r"#?(?P<value>[A-Za-z0-9](?:[A-Za-z0-9]|[-_/](?=[A-Za-z0-9])){3,29})(?![A-Za-z0-9_])(?!\.\d)"
)
_NEXT_VALUE = re.compile(r"\s?(?:,|;|and|or|&|和|、|以及|还有)\s?(?:also |then )?#?", re.IGNORECASE)
_A_QUANTITY_AFTER = re.compile(
    r"\s?(?:x\b|pieces?|pcs|units?|items?|times|days?|hours?|minutes?|weeks?|months?|years?|copies|boxes|pairs?|people|persons"
    r"|guests|nights?|points?|miles|kg|g\b|ml|km|cm|mm|percent|%|件|个|台|只|箱|天|小时|分|年|月|次|人|份|斤|公里|积分)",
    re.IGNORECASE,
)
_REFERENCE_SHAPES = re.compile(
    _START + r"(?:1Z[0-9A-Z]{16}|\d{3}-\d{7}-\d{7}|(?:ORD|ORDER|INV|RMA|BKG?|PO|SO|TRK|REF|TKT|RES|CASE|SHP)"
    r"[-_#]?\d[\d-]{3,20}\d)" + _END + r"|(?<![\w&#/])#\d{5,15}(?!\w)",
    re.IGNORECASE,
)
_A_PRODUCT_BEFORE = re.compile(
    r"(?:\b(?:sku|model|part|product|item|article|serial type|version|type|size|colou?r|room|flight|train"
    r"|gate|platform|page|error)"
    r"(?:[ -]?(?:numbers?|no\.?|code|id))?|型号|货号|款号|错误代?码|航班|车次)\s?(?:is|:|#|是|为)?\s?#?$",
    re.IGNORECASE,
)


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _emails(text: str) -> Spans:
    if "@" not in text and " at" not in text and "[at" not in text and "(at" not in text:
        return
    for match in _EMAIL.finditer(text):
        key = re.sub(r"\s?[(\[]\s?at\s?[)\]]\s?", "@", match[0].lower())
        yield match.start(), match.end(), re.sub(r"\s?[(\[]\s?dot\s?[)\]]\s?", ".", key)


def _urls(text: str) -> Spans:
    for match in _URL.finditer(text):
        url = match[0].rstrip(".,;:!?)]}")
        if _USER_IN_URL.search(url) or _TOKEN_IN_URL.search(url):
            yield match.start(), match.start() + len(url), url


def _secrets(text: str) -> Spans:
    for match in _KEY_SHAPES.finditer(text):
        yield match.start(), match.end(), match[0]
    for match in _WORD_THEN_SECRET.finditer(text):
        secret = match["secret"]
        cut = re.search(r"[\"'`]", secret) if match["quote"] else None
        secret = secret[: cut.start()] if cut else secret.rstrip(".,;:!?)]}\"'")
        if _is_secret(secret, text[match.start() : match.start("secret")], text[match.start("secret") + len(secret) :]):
            yield match.start("secret"), match.start("secret") + len(secret), secret


def _is_secret(value: str, before: str, after: str) -> bool:
    if (
        len(value) < 3
        or value.lower() in _NO_SECRETS
        or _SLOT.match(value)
        or "://" in value
        or value.startswith(("{", "["))
    ):
        return False
    if any(char.isdigit() for char in value):
        return not _A_QUANTITY_AFTER.match(after)
    if not value.isalpha():
        return bool(re.search(r"[^\w'-]", value)) and len(value) >= 5
    # A plain word must end the clause, and follow a word for a password.
    is_password = re.search(r"pass|kennwort|pwd|密码|口令", before, re.IGNORECASE) is not None
    ends = re.match(r"[\"'”’」`]?\s?(?:$|[.,;!?\n)，。；]|and\b|but\b)", after) is not None
    return is_password and ends and len(value) >= 5 and not value.lower().endswith(("ing", "ed", "ly"))


def _cards(text: str) -> Spans:
    for match in _CARD.finditer(text):
        places = [place for place in range(match.start(), match.end()) if text[place].isdigit()]
        first = 0
        while first < len(places):
            length = _card_length(text, places[first:])
            if length:
                last = places[first + length - 1]
                yield places[first], last + 1, _digits(text[places[first] : last + 1])
                first += length
            else:  # the first group may be a number of another kind: go on behind the next gap
                first += 1
                while first < len(places) and places[first] == places[first - 1] + 1:
                    first += 1


def _card_length(text: str, places: Sequence[int]) -> int:
    """Return the number of leading digits that form a card number, 0 if they form none. An expiry date may follow."""
    digits = _digits("".join(text[place] for place in places[: _CARD_LENGTHS[0]]))
    for length in _CARD_LENGTHS:
        if length > len(digits) or (length < len(places) and places[length] == places[length - 1] + 1):
            continue
        number = digits[:length]
        if _BRANDS.fullmatch(number) and len(set(number)) > 1 and luhn.is_valid(number):
            return length
    return 0


def _ibans(text: str) -> Spans:
    for match in _IBAN.finditer(text):
        places = [place for place in range(match.start(), match.end()) if text[place].isalnum()]
        number = "".join(text[place] for place in places).upper()
        for length in range(min(len(number), 34), 14, -1):
            ends_well = length == len(number) or places[length] > places[length - 1] + 1
            if ends_well and iban.is_valid(number[:length], check_country=False):
                yield match.start(), places[length - 1] + 1, number[:length]
                break


def _ip_addresses(text: str) -> Spans:
    for match in _IPV4.finditer(text):
        if _A_VERSION_BEFORE.search(text, max(0, match.start() - 24), match.start()):
            continue
        if _is_personal_ip(match[0]):
            yield match.start(), match.end(), match[0]
    for match in _IPV6.finditer(text):
        if len(_digits(match[0])) >= 2 and _is_personal_ip(match[0]):
            yield match.start(), match.end(), match[0].lower()


def _is_personal_ip(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or address.startswith("255."))


_NUMBER_BEFORE = re.compile(r"num|no\b|nr|id|code|ref|#|:|号|码|编", re.IGNORECASE)
_CODE_BEFORE = re.compile(r"code|ref|pnr|confirm|book|reserv", re.IGNORECASE)


def _orders(text: str) -> Spans:
    for match in _REFERENCE_SHAPES.finditer(text):
        if not _A_PRODUCT_BEFORE.search(text, max(0, match.start() - 30), match.start()):
            yield match.start(), match.end(), match[0].lstrip("#").upper()
    followed: set[tuple[int, bool, bool]] = set()
    for match in _REFERENCE.finditer(text):
        place = match.end()
        says_number, says_code = bool(_NUMBER_BEFORE.search(match[0])), bool(_CODE_BEFORE.search(match[0]))
        # Each place is followed once: with a key word before every item, a list would cost quadratic time.
        while (place, says_number, says_code) not in followed and (value := _REFERENCE_VALUE.match(text, place)):
            followed.add((place, says_number, says_code))
            after = text[value.end() : value.end() + 12]
            if not _is_reference(value["value"], after, says_number=says_number, says_code=says_code):
                break
            yield value.start("value"), value.end("value"), value["value"].upper()
            following = _NEXT_VALUE.match(text, value.end())
            if following is None:
                break
            place = following.end()


def _is_reference(value: str, after: str, *, says_number: bool, says_code: bool) -> bool:
    digits = sum(map(str.isdigit, value))
    if _EVERYDAY.fullmatch(value) or (len(value) <= 6 and _A_QUANTITY_AFTER.match(after)):
        return False
    if value.isdigit():
        is_year = len(value) == 4 and value.startswith(("19", "20"))
        return (says_number and not is_year) or len(value) >= 5
    if (digits >= 2 and len(value) >= 5) or (digits >= 1 and len(value) >= 5 and value.upper() == value):
        return re.fullmatch(r"\d+(?:st|nd|rd|th|am|pm|kg|gb|mb|ml|cm|mm)", value, re.IGNORECASE) is None
    return value.isalpha() and value.isupper() and len(value) == 6 and says_code


class PersonalDataFinder:
    """Finds personal data. `regions` are the countries whose phone numbers are found without a country code."""

    def __init__(self, regions: Sequence[str] = ("US", "GB", "DE", "CN")) -> None:
        self._regions = tuple(regions)

    def find(self, text: str, names: Iterable[str] = ()) -> list[DetectedSpan]:
        """Return the detected spans in order, without overlaps. `names` are people's names that are known already."""
        plain = text.translate(_PLAIN)
        # A phone number or an order must not overlap a date; the kinds with a checksum or a clear shape may.
        slots = [match.span() for match in _SLOT.finditer(plain)]
        everyday = slots + [match.span() for match in _EVERYDAY.finditer(plain)]
        taken: list[DetectedSpan] = []
        has_digits = _DIGIT.search(plain) is not None
        for kind in KINDS:
            if kind in _HAVE_DIGITS and not has_digits:
                continue
            blocked = everyday if kind in ("PHONE", "ORDER") else slots
            for start, end, key in sorted(self._spans(kind, plain, names), key=lambda span: (span[0], -span[1])):
                if end > start and not _overlaps(start, end, blocked) and not _lies_on(start, end, taken):
                    taken.append(DetectedSpan(kind, start, end, key))
        return sorted(taken, key=lambda span: span.start)

    def _spans(self, kind: Kind, text: str, names: Iterable[str]) -> Spans:
        if kind == "PHONE":
            return find_phones(text, self._regions)
        if kind == "NAME":
            return find_names(text, names)
        return _FINDERS[kind](text)


_FINDERS: dict[Kind, Callable[[str], Spans]] = {
    "SECRET": _secrets,
    "URL": _urls,
    "EMAIL": _emails,
    "IBAN": _ibans,
    "CARD": _cards,
    "IP": _ip_addresses,
    "ID": find_ids,
    "ORDER": _orders,
    "ADDRESS": find_addresses,
}


def _overlaps(start: int, end: int, spans: Iterable[tuple[int, int]]) -> bool:
    return any(start < other_end and other_start < end for other_start, other_end in spans)


def _lies_on(start: int, end: int, spans: Iterable[DetectedSpan]) -> bool:
    return _overlaps(start, end, ((span.start, span.end) for span in spans))
