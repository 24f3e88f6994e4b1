"""Slack texts in English and Simplified Chinese, with Block Kit buttons.

Forms of Block Kit: docs.slack.dev/reference/block-kit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bot.words.catalogue import Catalogue, language_of_locale
from storage.values import storable

VOTE = "myna_vote"
SAY_MORE = "myna_say_more"
FEEDBACK_FORM = "myna_feedback"
CONFIRM = "myna_confirm"
DISMISS = "myna_dismiss"
MAX_FALLBACK = 3_000
MAX_INPUT = 3_000
MAX_ELEMENTS = 10
MAX_MARKDOWN = 11_000

SlackBlock = dict[str, Any]

_EN = {
    "thinking": "is thinking ...",
    "good": "Good answer",
    "bad": "Bad answer",
    "good_label": "Mark this answer as good",
    "bad_label": "Mark this answer as bad",
    "say_more": "Say what was wrong",
    "form_title": "What was wrong?",
    "form_submit": "Send",
    "form_cancel": "Not now",
    "form_reason": "What was wrong with this answer?",
    "form_better": "What would have been a better answer?",
    "form_empty": "Please write something in one of the two fields.",
    "feedback_intro": "About my last answer here:",
    "no_reply": "There is no answer of mine here yet.",
    "no_conversation": "There is no conversation with me here yet. Mention me to begin one.",
    "forgot": "Done: I start over and no longer use the earlier messages.",
    "forgot_which": "Done: I start over in the thread that began with “{title}”.",
    "left": "I leave this thread. Mention me to bring me back.",
    "left_direct": "I can't leave a direct conversation: just don't write to me.",
    "only_in_thread": "Say this in the thread that I should leave: mention me there with “leave”.",
    "unknown": "I don't know “{command}”.",
    "files": (
        "I can't read files yet, I only see their names ({names}). If you tell me what matters in them, I can help."
    ),
    "gone": "This answer no longer exists.",
    "wait": "Too many votes at once. Please try this one again in {seconds} s; the others are kept.",
    "learns": "Myna may learn from what you write to it.",
    "learns_not": "Myna does not learn from what you write, nor from its answers to you.",
    "learns_here": "It may learn from the conversation that began with “{title}”.",
    "learns_not_here": "It does not learn from the conversation that began with “{title}”.",
    "but_not_you": "Your own words stay out of it until you say `{command} privacy on`.",
    "not_yours_to_allow": "Only the person who began this conversation may allow that. You can always forbid it.",
    "privacy_how": (
        "`{command} privacy off` or `on` applies to everything you write, `{command} privacy here off` or `here on` to "
        "this conversation."
    ),
    "help": (
        "Mention me in a channel, and I answer in the thread and follow it. Write to me directly, and I answer there. "
        "My commands:\n"
        "• `{command} help` - this text\n"
        "• `{command} new` - start over: I no longer use the earlier messages\n"
        "• `{command} feedback` - say what was wrong with my last answer\n"
        "• `{command} privacy` - see whether I may learn from what you write; add `off`, `on`, `here off` or `here on` "
        "to change it\n"
        "• a mention with `leave` in a thread - I stop answering there until I am mentioned again\n"
        "`help`, `new`, `feedback` and `privacy` work with a mention, too.\n"
        "For people who steer the training: `{command} status`, `versions`, `compare`, `train`, `stop`, `evaluate`, "
        "`promote`, `canary`, `rollback`."
    ),
    "not_linked": (
        "Your Slack account is not linked to a Myna account, so you can't steer Myna. Ask somebody who runs Myna to "
        "link it: `myna account link NAME {identity}`."
    ),
    "confirm": "Do it",
    "dismiss": "Leave it",
    "dismissed": "Nothing was changed.",
    "did_not_work": "That did not work just now; `/myna status` shows which version answers.",
    "left_behind": "Myna was stopped or is restarting; `/myna status` shows the progress.",
    "rolled_back_for_harm": (
        "The canary of `{version}` did harm and was rolled back automatically: {because}. The champion answers "
        "everybody again. `/myna status` shows more."
    ),
    "prompts_title": "What can I do for you?",
}
_ZH = {
    "thinking": "正在思考……",
    "good": "回答得好",
    "bad": "回答得不好",
    "good_label": "将此回答标记为好",
    "bad_label": "将此回答标记为不好",
    "say_more": "告诉我们哪里不对",
    "form_title": "哪里不对？",
    "form_submit": "发送",
    "form_cancel": "以后再说",
    "form_reason": "这个回答哪里不对？",
    "form_better": "更好的回答应该是什么？",
    "form_empty": "请至少填写其中一项。",
    "feedback_intro": "关于我在这里的上一个回答：",
    "no_reply": "这里还没有我的回答。",
    "no_conversation": "这里还没有和我的对话。提到我即可开始。",
    "forgot": "好的：我们重新开始，我不再参考之前的内容。",
    "forgot_which": "好的：在以“{title}”开头的话题里，我们重新开始。",
    "left": "我已离开此话题。提到我，我就会回来。",
    "left_direct": "我无法离开私聊：不给我发消息即可。",
    "only_in_thread": "请在要我离开的话题里说：在那里提到我并写“离开”。",
    "unknown": "我不认识“{command}”。",
    "files": "我还不能读取文件，只能看到文件名（{names}）。如果您告诉我其中的要点，我可以帮忙。",
    "gone": "这个回答已经不存在了。",
    "wait": "投票太频繁了，请在 {seconds} 秒后重试；之前的投票已保留。",
    "learns": "Myna 可以从您写的内容中学习。",
    "learns_not": "Myna 不会从您写的内容以及给您的回答中学习。",
    "learns_here": "它可以从以“{title}”开头的对话中学习。",
    "learns_not_here": "它不会从以“{title}”开头的对话中学习。",
    "but_not_you": "在您使用 `{command} privacy on` 之前，您自己的内容仍不会被使用。",
    "not_yours_to_allow": "只有发起此对话的人才能允许；您随时可以禁止。",
    "privacy_how": (
        "`{command} privacy off` 或 `on` 对您写的所有内容生效，"
        "`{command} privacy here off` 或 `here on` 只对此对话生效。"
    ),
    "help": (
        "在频道里提到我，我会在话题中回答并继续跟进；直接给我发消息，我也会回答。此外还有：\n"
        "• `{command} help` - 显示此说明\n"
        "• `{command} new` - 重新开始：我不再参考之前的内容\n"
        "• `{command} feedback` - 告诉我们上一个回答哪里不对\n"
        "• `{command} privacy` - 我是否可以从您写的内容中学习；后面加 `off`、`on`、`here off` 或 `here on` 可以更改\n"
        "• 在话题里提到我并写 `leave` - 我不再回答，直到再次提到我\n"
        "`help`、`new`、`feedback`、`privacy` 也可以在提到我时使用。\n"
        "训练管理者：`{command} status`、`versions`、`compare`、`train`、`stop`、`evaluate`、`promote`、`canary`、"
        "`rollback`。"
    ),
    "not_linked": (
        "您的 Slack 账号尚未关联 Myna 账号，因此无法操控。请 Myna 的管理者执行：`myna account link NAME {identity}`。"
    ),
    "confirm": "确认执行",
    "dismiss": "取消",
    "dismissed": "未做任何更改。",
    "did_not_work": "刚才未能执行；`/myna status` 可查看当前由谁回答。",
    "left_behind": "Myna 已停止或正在重启；`/myna status` 查看进度。",
    "rolled_back_for_harm": (
        "`{version}` 的灰度造成损害，已自动撤回：{because}。现由之前的版本回答所有人，`/myna status` 查看详情。"
    ),
    "prompts_title": "有什么可以帮您？",
}
WORDS = Catalogue(en=_EN, zh=_ZH)
_PROMPTS = {
    "en": ("What can you help me with?", "I have a question about my order.", "How do I reach a person?"),
    "zh": ("你能帮我做什么？", "我想咨询我的订单。", "怎样联系人工客服？"),
}


def say(what: str, locale: str | None, **values: str) -> str:
    """Return the text named `what` in the person's language."""
    return WORDS.say(what, language_of_locale(locale), **values)


def suggested_prompts(locale: str | None) -> tuple[str, list[dict[str, str]]]:
    """Return `(title, prompts)` for an empty conversation."""
    prompts = _PROMPTS[language_of_locale(locale)]
    return say("prompts_title", locale), [{"title": prompt, "message": prompt} for prompt in prompts]


def feedback_block(reply_id: str, locale: str | None) -> SlackBlock:
    """Return the block with thumbs up and down below a reply."""

    def button(value: str, words: str) -> dict[str, Any]:
        return {
            "text": {"type": "plain_text", "text": say(words, locale)},
            "accessibility_label": say(f"{words}_label", locale),
            "value": f"{value}:{reply_id}",
        }

    buttons = {
        "type": "feedback_buttons",
        "action_id": VOTE,
        "positive_button": button("up", "good"),
        "negative_button": button("down", "bad"),
    }
    return {"type": "context_actions", "elements": [buttons]}


def sources_block(sources: Sequence[tuple[int, str, str | None]]) -> SlackBlock:
    """Return the block that lists sources: number, title, and URL (None if there is no public page) of each."""
    texts = [
        f"[{number}] " + (f"<{_escape(url)}|{_escape(title)}>" if url else _escape(title))
        for number, title, url in sources[:MAX_ELEMENTS]
    ]
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text} for text in texts]}


def _escape(text: str) -> str:
    """Escape Slack's control characters (docs.slack.dev/messaging/formatting-message-text) and the bar of links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\u00a6")


def message(text: str, blocks: list[SlackBlock]) -> dict[str, Any]:
    """Return the arguments of a post or an update: Markdown, with blocks below it."""
    if not blocks:
        return {"markdown_text": text}
    return {"blocks": [{"type": "markdown", "text": text}, *blocks], "text": text[:MAX_FALLBACK]}


def ask_for_feedback(reply_id: str, locale: str | None) -> dict[str, Any]:
    """Return the answer to the command `feedback`: a button that opens the form about the last reply."""
    intro = say("feedback_intro", locale)
    button = {
        "type": "button",
        "action_id": SAY_MORE,
        "text": {"type": "plain_text", "text": say("say_more", locale)},
        "value": f"down:{reply_id}",
    }
    section = {"type": "section", "text": {"type": "plain_text", "text": intro}}
    return {"text": intro, "blocks": [section, {"type": "actions", "elements": [button]}]}


def steering_answer(text: str, confirm: str | None = None, locale: str | None = None) -> dict[str, Any]:
    """Return an answer in Markdown; `confirm` is the line that its confirmation button sends."""
    blocks: list[SlackBlock] = [{"type": "markdown", "text": text[:MAX_MARKDOWN]}]
    if confirm is not None:
        yes = {"type": "button", "action_id": CONFIRM, "value": confirm, "text": _plain("confirm", locale)}
        no = {"type": "button", "action_id": DISMISS, "text": _plain("dismiss", locale)}
        blocks.append({"type": "actions", "elements": [{**yes, "style": "danger"}, no]})
    return {"text": text[:MAX_FALLBACK], "blocks": blocks}


def feedback_form(reply_id: str, locale: str | None) -> dict[str, Any]:
    """Return the form that opens after a thumb down."""
    return {
        "type": "modal",
        "callback_id": FEEDBACK_FORM,
        "private_metadata": json.dumps({"reply_id": reply_id, "locale": locale or ""}),
        "title": _plain("form_title", locale),
        "submit": _plain("form_submit", locale),
        "close": _plain("form_cancel", locale),
        "blocks": [_input("reason", "form_reason", locale), _input("better", "form_better", locale)],
    }


def _plain(words: str, locale: str | None) -> dict[str, str]:
    return {"type": "plain_text", "text": say(words, locale)}


def _input(name: str, words: str, locale: str | None) -> SlackBlock:
    return {
        "type": "input",
        "block_id": name,
        "optional": True,
        "label": _plain(words, locale),
        "element": {"type": "plain_text_input", "action_id": name, "multiline": True, "max_length": MAX_INPUT},
    }


def filled_form(view: Mapping[str, Any]) -> tuple[str, str | None, str, str]:
    """Return `(reply id, locale, reason, better answer)` of a submitted form. Raises `ValueError` for other forms."""
    try:
        about = json.loads(view["private_metadata"])
        values = view["state"]["values"]
        texts = [str((values.get(name) or {}).get(name, {}).get("value") or "") for name in ("reason", "better")]
        reason, better = (storable(text).strip() for text in texts)
        return storable(str(about["reply_id"])), str(about["locale"]) or None, reason, better
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a form of ours") from error
