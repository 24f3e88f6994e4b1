"""Detection of people's names: where they are given, and repeated.

The patterns are sentences in which people give a name ("my name is"), in English and Chinese. The common Chinese family
names are the only list of names, so a name that is only mentioned is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

_PART = r"[A-ZÀ-ÖØ-Þ](?:[a-zß-öø-ÿ]+|\.)(?:['-][A-ZÀ-Þ]?[a-zß-ÿ]+)*(?:[A-Z][a-z]+)?|O'[A-Z][a-z]+"
_FULL = rf"(?:{_PART})(?: (?:(?:van|von|de|der|den|da|di|la|le|bin|al) ){{0,2}}(?:{_PART})){{0,3}}"
_TWO = rf"(?:{_PART})(?: (?:(?:van|von|de|der|den|da|di|la|le|bin|al) ){{0,2}}(?:{_PART})){{1,3}}"
_GIVEN = re.compile(
    rf"(?:(?i:\bmy (?:full |first |last |legal |real )?(?:name's|name is|name:|surname is|names? are)"
    rf"|\b(?:the )?name (?:on|for|of) (?:the|my|this|our) [a-z]+(?: [a-z]+)? (?:is|was|should be|reads)"
    rf"|\b(?:under|in|by) the name(?: of)?|\bname ?[:=]|\bregistered (?:to|under)|\bbooked (?:under|for)|\bcall me"
    rf"|\b(?:cardholder|passenger|recipient|contact(?: person)?|account holder|guest|customer|signed)(?: name)?"
    rf"(?: is|:)"
    rf"|\b(?:mein name ist|ich hei(?:ß|ss)e)) (?:(?i:mrs?|ms|dr|prof)\.? )?(?P<said>{_FULL}))"
    rf"|(?i:\b(?:i am|i'm|this is)) (?:(?i:mrs?|ms|dr|prof)\.? )?(?P<two>{_TWO})"
    rf"|(?i:\b(?:i am|i'm|this is|it's)) (?P<one>{_PART})"
    rf"(?=(?:,| here\b| speaking\b| again\b|\. My\b| and (?:i|my)\b| from\b))"
    rf"|(?i:(?:regards|sincerely|thanks|thank you|cheers|best|yours|best wishes|greetings|thx)[,.!]?[^\S\n]*+\n\s*+)"
    rf"(?:(?i:mrs?|ms|dr|prof)\.? )?(?P<signed>{_FULL})\s*$"
    rf"|(?:^|\n)\s?[-~] ?(?P<dashed>{_FULL})\s*$"
)
_ANY_CASE = r"[A-Za-zÀ-ÖØ-öø-ÿ][A-Za-zÀ-ÖØ-öø-ÿ'-]+"
# Only a name can follow these words, so names written without capitals are found here, too.
_GIVEN_IN_ANY_CASE = re.compile(
    r"(?i:\bmy (?:full |first |last |legal |real )?(?:name's|name is|name:|surname is)|(?:^|\n|[,;(] ?)name ?[:=]"
    r"|\b(?:mein name ist|ich hei(?:ß|ss)e|je m'appelle|mi nombre es|me llamo|mi chiamo)"
    r"|\bcardholder(?: name)?(?: is|:)) "
    rf"(?P<said>{_ANY_CASE}(?: {_ANY_CASE}){{0,2}})"
)
_SIGNED_IN_ANY_CASE = re.compile(
    r"(?i:(?:regards|sincerely|cheers|best wishes|greetings)[,.!]?[^\S\n]*+\n\s*+)"
    rf"(?P<said>{_ANY_CASE}(?: {_ANY_CASE}){{0,2}})\s*$"
)
# Capitalised words that may follow "I am" and are no names.
_NO_NAMES = frozenset(
    re.findall(
        r"\S+",
        """
        a account admin afraid agent all also amazon america american an and android anonymous apple april at august bad
        basic berlin black british business calling card china chinese christmas currently customer dear december easter
        english europe european february france free french friday from german germany glad gold good google great guest
        happy having he hello here hey hi home how i in india indian interested iphone is it january july june just
        london looking los manager march mastercard may member monday my myna new no nobody not november october office
        ok okay on only order our paris paypal platinum please plus premium prime pro really refund road samsung san
        saturday september service she silver slack so someone sorry spain spanish st still street sunday support sure
        team thank thanks that the there they this thursday trying tuesday uk unable us usa user very visa visitor
        waiting we wednesday what when where why windows writing yes york you your
        """,
    )
)
_NOT_IN_NAMES = frozenset(
    re.findall(
        r"\S+",
        """
        account address as at because born but by can cannot can't could date dob email et for has have i'd i'm i've if
        just knows listed misspelled my not number on or order our out phone please pls same since so spelled spelt
        still tel that then to too und was what which who whose will with would wrong wrongly y
        """,
    )
)
_ALSO_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        april art august bill dawn faith grace hope joy june long mark may rich rose summer will young
        """,
    )
)

_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高梁郑罗宋谢唐韩曹许邓萧冯曾程蔡彭潘袁于董余苏叶吕魏蒋田杜丁沈姜范江傅钟卢汪戴崔任"
    "陆廖姚方金邱夏谭韦贾邹石熊孟秦阎薛侯雷白龙段郝孔邵史毛常万顾赖武康贺严尹钱施牛洪龚"
)
_NAME_ZH = rf"(?:欧阳|司马|上官|诸葛|夏侯|[{_SURNAMES}])[\u4e00-\u9fff]{{1,2}}?"
_ENDS_ZH = r"(?=$|[\s,.!?;:，。！？；：、()（）]|的|[，,]|吧|啊|手机|电话|身份证|先生|女士)"
_GIVEN_ZH = re.compile(
    rf"(?:我叫|我的名字(?:是|叫)|我名叫|名字(?:是|叫|为):?\s?|(?:收件人|收货人)(?:是|为|改成|换成)?:?\s?"
    rf"|(?:姓名|联系人|持卡人|乘客|预订人|入住人|署名)(?:是|为)?:?\s?|本人|我是|这里是)"
    rf"(?P<said>{_NAME_ZH}){_ENDS_ZH}"
)
_HONORIFIC_ZH = re.compile(rf"我姓(?P<said>[{_SURNAMES}]){_ENDS_ZH}")
MIN_PART = 3


@lru_cache(2048)
def names_given(text: str) -> tuple[str, ...]:
    """Return the full names that people give in a text."""
    return tuple(text[start:end] for start, end in _given(text))


def find_names(text: str, known: Iterable[str] = ()) -> Iterator[tuple[int, int, str]]:
    """Yield `(start, end, key)` of the names given here and of the known names; a part of a name has the name's key."""
    given = list(_given(text))
    for start, end in given:
        yield start, end, _key(text[start:end])
    for name in dict.fromkeys([*known, *(text[start:end] for start, end in given)]):
        for spelling in _spellings(name):
            for match in re.finditer(spelling, text):
                yield match.start(), match.end(), _key(name)


def _given(text: str) -> Iterator[tuple[int, int]]:
    for match in _GIVEN.finditer(text):
        group = next(name for name, value in match.groupdict().items() if value)
        start, words = match.start(group), match[group].split(" ")
        kept = 0
        while kept < len(words) and words[kept].lower().rstrip(".") not in _NO_NAMES:
            kept += 1
        name = " ".join(words[:kept])
        enough = 2 if group == "two" else 1
        if kept >= enough and len(name) > 1:
            yield start, start + len(name.rstrip("."))
    for pattern in (_GIVEN_IN_ANY_CASE, _SIGNED_IN_ANY_CASE):
        for match in pattern.finditer(text):
            length = _length_of_name(match["said"])
            if length:
                yield match.start("said"), match.start("said") + length
    for pattern in (_GIVEN_ZH, _HONORIFIC_ZH):
        for match in pattern.finditer(text):
            yield match.start("said"), match.end("said")


def _length_of_name(said: str) -> int:
    """Return the length of the name at the start of `said`: it ends before a word like "and" in "maria and i"."""
    kept: list[str] = []
    for word in said.split(" "):
        if word.lower() in _NO_NAMES | _NOT_IN_NAMES:
            break
        kept.append(word)
    return len(" ".join(kept))


def _spellings(name: str) -> Iterator[str]:
    """Yield patterns of the whole name, and of the parts that people use to address somebody."""
    name = name.strip()
    if len(name) < 2:
        return
    if re.search(r"[\u4e00-\u9fff]", name):
        yield re.escape(name)
        return
    words = name.split()
    if len(words) == 1 and (len(name) < MIN_PART or name.lower() in _NO_NAMES | _ALSO_WORDS or not name[0].isupper()):
        return
    yield rf"(?<!\w){re.escape(name)}(?!\w)"
    if len(words) > 1:
        for word in words:
            if len(word) >= MIN_PART and word[0].isupper() and word.lower() not in _NO_NAMES | _ALSO_WORDS:
                yield rf"(?<![\w@.]){re.escape(word)}(?![\w@])"


def _key(name: str) -> str:
    return " ".join(name.lower().split())
