"""Whose words may be learnt from: what people said, and what holds for those who said nothing.

Knows: the rule, and how people's choices are read and changed. Does not know: datasets, buttons, commands.
"""

from __future__ import annotations

from typing import Literal

Policy = Literal["opt-out", "opt-in"]


def may_learn(policy: Policy, person: bool | None, conversation: bool | None) -> bool:
    """Whether a person's words, and replies to them, may be learnt from. None: they have not said.

    A no of either always wins. Without one, `opt-out` needs no yes, and `opt-in` needs one of either.
    """
    if person is False or conversation is False:
        return False
    return policy == "opt-out" or person is True or conversation is True
