"""Small-talk detection in English and Chinese."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from bot.knowledge.search.tokens import is_mostly_unspaced

# Least likeness that outweighs any article, and least likeness where no article fits.
SURELY, PERHAPS = 0.8, 0.55

PHRASES = tuple(
    line.strip()
    for line in """
    hello
    hi there, how are you?
    good morning
    good evening
    hey
    thanks
    thx
    you too
    cool
    sure
    lol
    haha
    huh?
    what's up?
    who made you?
    thank you very much
    thanks, that helps
    great, that is all I need
    perfect, thanks
    ok
    alright, I see
    yes please
    no thanks
    yes
    no
    goodbye
    bye, have a nice day
    sorry
    never mind
    who are you?
    what is your name?
    are you a robot or a human?
    what can you do for me?
    can you help me?
    I have a question
    I need help
    can I ask you something?
    are you there?
    what did I just say?
    what did I ask you before?
    what was my first question?
    what did you say before?
    please repeat your last answer
    can you say that again?
    say it in simpler words
    can you explain that more simply?
    please make that shorter
    summarise our conversation
    can you say that in German?
    translate that to French
    please answer in English
    do you remember my name?
    my name is Anna
    I don't understand your answer
    that is not what I asked
    that is wrong
    your answer is not helpful
    you are great
    you are useless
    tell me a joke
    """.splitlines()
    if line.strip()
)
# The English embedder hardly knows Chinese, so that these are compared by their characters. The pattern never
# backtracks (`++`, and no text can be read in two ways), as anybody may send any text (ReDoS).
_HAN_SMALL_TALK = re.compile(
    r"(?:(?:你好(?!的)|您好|嗨|哈喽|早上好|上午好|下午好|晚上好|在吗|有人吗|谢谢|多谢|感谢|好的|好吧|嗯|哦|是的|对(?!不起)|不是|不用了?|不客气|再见|拜拜"
    r"|辛苦了?|对不起|抱歉|没事|你是谁|你叫什么(?:名字)?|你是机器人|你是真?人|你(?:能|可以)做什么|你会什么|我有(?:个|一个)?问题|我想问(?:个|一个)?问题"
    r"|(?:请|可以)?帮帮?我|(?:请|麻烦)?(?:你)?再说一[遍次]|重复一[遍次]|(?:说|讲)?简单(?:点|一点)|短一?点|我刚才(?:说|问)了?什么|你刚才说了?什么|总结一下"
    r"|没听懂|不明白|太棒|真棒|好|你|您|了|啊|呀|吗|呢|吧|哦|哈)[\s\u3000-\u303f\uff00-\uff0f\uff1a-\uff1f,.!?~]*)++"
)


class SmallTalk:
    """Comparison of messages with small talk. `embed` returns vectors of length 1."""

    def __init__(self, embed: Callable[[Sequence[str]], npt.NDArray[np.float32]]) -> None:
        self._vectors = embed(PHRASES)

    def likeness(self, text: str, vector: npt.NDArray[np.float32]) -> float:
        """Return the likeness of a text to small talk, up to 1."""
        if is_mostly_unspaced(text):
            return 1.0 if _HAN_SMALL_TALK.fullmatch(text.strip()) else 0.0
        return float((self._vectors @ vector).max())
