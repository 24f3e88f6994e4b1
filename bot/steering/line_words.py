"""Words of the answers to steering lines, in English and Simplified Chinese."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bot.errors import Hint, MynaError

_WORDS = {
    "help": ("Commands for Myna:\n{usage}", "用于操控 Myna 的命令：\n{usage}"),
    "not_done": ("{why}", "未能执行：{why}"),
    "trains": (
        "Job `{job}` is queued: {line}. `/myna status` shows its progress, `/myna stop {job}` ends it.",
        "任务 `{job}` 已排队：{line}。`/myna status` 查看进度，`/myna stop {job}` 结束任务。",
    ),
    "stopped": ("Job `{job}` ({kind}) {state}.", "任务 `{job}`（{kind}）：{state}。"),
    "will_stop": (
        "Job `{job}` ({kind}) will be ended for good: it can't be resumed.",
        "任务 `{job}`（{kind}）将被结束，之后无法恢复。",
    ),
    "ends_soon": ("ends with its next step", "将在下一步结束"),
    "nothing_runs": ("No job waits or runs.", "没有等待或运行中的任务。"),
    "which_job": ("Several jobs wait or run. Name the job to stop: {jobs}", "有多个任务，请指明：{jobs}"),
    "answers": ("- Answers: `{version}` (release {number})", "- 当前回答：`{version}`（第 {number} 次发布）"),
    "previous": ("- Before: `{version}`", "- 上一个：`{version}`"),
    "canary": (
        "- Canary: `{version}` on {share} of the conversations: {verdict}, {because}",
        "- 灰度：`{version}` 回答 {share} 的对话：{verdict}，{because}",
    ),
    "attention": ("- Look at this: {finding}", "- 请注意：{finding}"),
    "no_version": ("No version yet. `/myna train` makes one.", "还没有任何版本。`/myna train` 可训练一个。"),
    "passed": ("passed the gate", "已通过验收"),
    "did_not_pass": ("did not pass the gate", "未通过验收"),
    "not_evaluated": ("not evaluated", "未评估"),
    "judged_beside_another": (
        "passed the gate beside another champion than `{champion}`, which answers now",
        "通过验收时的对手不是当前回答的 `{champion}`",
    ),
    "refused_by_gate": ("`{version}`: {verdict}.", "`{version}`：{verdict}。"),
    "evaluate_it": ("`/myna evaluate {version}` judges it.", "`/myna evaluate {version}` 可评估它。"),
    "override_gate": (
        "`because ...` at the end of the line overrides that, and is recorded.",
        "在命令末尾写 `because ...` 并说明理由可越过验收，理由会被记录。",
    ),
    "answers_already": ("`{version}` answers already.", "`{version}` 已在回答。"),
    "retired": ("`{version}` was retired: {why}.", "`{version}` 已停用：{why}。"),
    "tainted": (
        "`{version}` was trained on words of somebody who has been erased, and may not be used any more.",
        "`{version}` 学习过已删除者的内容，不能再使用。",
    ),
    "nothing_before": (
        "There is nothing to roll back to: the base model answers, and no version before it may come back.",
        "当前由基础模型回答，之前没有可以恢复的版本，无法回退。",
    ),
    "no_canary": ("There is no canary to stop.", "没有可停止的灰度。"),
    "no_evaluation": (
        "There is no evaluation yet. `/myna evaluate VERSION` begins one.",
        "还没有评估。`/myna evaluate VERSION` 可开始评估。",
    ),
    "compared": ("`{version}` {verdict}.", "`{version}` {verdict}。"),
    "no_figures": ("This evaluation can't be read: it has no figures.", "此评估没有数据，无法显示。"),
    "will_promote": (
        "`{version}` ({verdict}) will answer everybody from the next reply on, in place of `{before}`.",
        "从下一条回复起，`{version}`（{verdict}）将取代 `{before}` 回答所有人。",
    ),
    "will_promote_base": (
        "The base model will answer everybody from the next reply on, in place of `{before}`.",
        "从下一条回复起，基础模型将取代 `{before}` 回答所有人。",
    ),
    "will_try": (
        "`{version}` ({verdict}) will answer {share} of the conversations from the next reply on, `{before}` the "
        "others. It is rolled back automatically if it does harm.",
        "从下一条回复起，`{version}`（{verdict}）将回答 {share} 的对话，其余由 `{before}` 回答；如有损害会自动撤回。",
    ),
    "will_roll_back": (
        "`{version}` will answer everybody from the next reply on, in place of `{before}`.",
        "从下一条回复起，将回退到 `{version}`，取代 `{before}` 回答所有人。",
    ),
    "ends_canary": ("The canary of `{version}` ends.", "`{version}` 的灰度将结束。"),
    "recorded_reason": ("Recorded as the reason: {why}", "将记录的理由：{why}"),
    "how_to_confirm": ("Confirm within five minutes: `/myna {line}`", "请在五分钟内确认：`/myna {line}`"),
    "not_confirmed": (
        "This can't be confirmed, and nothing was changed just now: the change was made already, the release has "
        "changed, or the code is older than five minutes or somebody else's. `/myna status` shows the current state.",
        "无法确认：可能已经执行、期间版本已变化、已超过五分钟，或由他人发起。此次未做任何更改；"
        "`/myna status` 查看现状。",
    ),
    "promoted": (
        "`{version}` answers everybody from the next reply on.",
        "从下一条回复起，由 `{version}` 回答所有人。",
    ),
    "tried": (
        "`{version}` answers {share} of the conversations from the next reply on. `/myna status` shows the outcome.",
        "从下一条回复起，`{version}` 回答 {share} 的对话。`/myna status` 查看情况。",
    ),
    "rolled_back": (
        "Rolled back: `{version}` answers everybody from the next reply on.",
        "已回退：从下一条回复起，由 `{version}` 回答所有人。",
    ),
    "canary_stopped": (
        "The canary has ended: `{version}` answers everybody.",
        "灰度已结束：由 `{version}` 回答所有人。",
    ),
    "job_queued": ("waits for its turn", "排队中"),
    "job_running": ("runs", "运行中"),
    "job_paused": ("is paused", "已暂停"),
    "job_done": ("is done", "已完成"),
    "job_failed": ("failed", "失败"),
    "job_refused": ("was refused", "被拒绝"),
    "job_cancelled": ("was cancelled", "已取消"),
    "step": ("step {step}/{steps}", "第 {step}/{steps} 步"),
    "tokens": ("{number} tokens/s", "{number} 词元/秒"),
    "loss": ("loss {number}", "损失 {number}"),
    "left": ("{time} left", "还剩 {time}"),
    "kind_train": ("training", "训练"),
    "kind_evaluate": ("evaluation", "评估"),
    "phase_dataset": ("making the dataset", "生成数据集"),
    "phase_loading the model": ("loading the model", "加载模型"),
    "phase_preparing rows": ("preparing the rows", "准备数据"),
    "phase_everyday answers of the base": ("everyday answers of the base model", "基础模型的日常回答"),
    "phase_read": ("reading articles", "读取文章"),
    "phase_load": ("loading the embedder", "加载向量模型"),
    "phase_publish": ("publishing the index", "发布索引"),
    "phase_answers": ("learning from answers", "学习回答"),
    "phase_pairs": ("learning from corrections", "学习更正"),
    "phase_thumbs": ("learning from votes", "学习评价"),
    "phase_checks": ("checking the weights", "检查权重"),
    "phase_trial": ("trial {number} of {count}", "第 {number} 次试验，共 {count} 次"),
    "phase_evaluation": ("judging: {suite}", "评估：{suite}"),
    "suite_held_out": ("held-out rows", "留出的数据"),
    "suite_general": ("general questions", "通用问题"),
    "suite_safety": ("safety", "安全"),
    "suite_golden": ("golden questions", "标准问题"),
    "not_logged_in": (
        "This browser is not logged in to the admin page, so nothing was done, and the line is not part of this chat. "
        "Log in at /admin and send it again.",
        "此浏览器未登录管理页面，因此未执行任何操作，也不会成为对话内容。请在 /admin 登录后重试。",
    ),
    "made": ("It made `{version}`, which {verdict}.", "得到 `{version}`，{verdict}。"),
    "next_promote": (
        "Next: `/myna compare`, `/myna promote {version}`.",
        "下一步：`/myna compare`、`/myna promote {version}`。",
    ),
    "picture_loss": ("Loss over the steps of the job", "任务各步的损失曲线"),
    "picture_evaluation": ("The evaluation of {version}, with intervals", "{version} 的评估图（含区间）"),
}


# Phases as the jobs of `bot.learning` and `bot.knowledge` report them.
_TRIAL = re.compile(r"trial (?P<number>\d+) of (?P<count>\d+)")
_EVALUATION = "evaluation: "

HINTS: Mapping[Hint, tuple[str, str]] = {
    "build_dataset": ("A training makes one: `/myna train`.", "训练时会自动创建：`/myna train`。"),
    "create_key": ("Whoever runs the server can make one.", "服务器管理员可以创建密钥。"),
    "give_rows": ("Whoever runs the server can start an evaluation with a file.", "服务器管理员可以用文件启动评估。"),
    "list_articles": ("The admin page shows them under “Articles”.", "管理页面的“文章”中可查看全部。"),
    "list_corrections": ("The admin page lists them under “Answers”.", "管理页面的“答案”中可查看全部。"),
    "list_curated": ("The admin page lists them under “Answers”.", "管理页面的“答案”中可查看全部。"),
    "list_datasets": ("The admin page lists them under “Datasets”.", "管理页面的“数据集”中可查看全部。"),
    "list_gaps": ("The admin page lists them under “Answers”.", "管理页面的“答案”中可查看全部。"),
    "list_golden": ("Whoever runs the server can list them.", "服务器管理员可以查看全部。"),
    "list_jobs": ("`/myna status` shows them.", "`/myna status` 可查看全部。"),
    "sync_articles": ("The admin page has a button for that under “Articles”.", "可在管理页面的“文章”中重新读取。"),
    "train_intents": ("The admin page takes a file of them under “Intents”.", "可在管理页面的“意图”中上传文件训练。"),
}


def is_chinese(locale: str | None) -> bool:
    return (locale or "").lower().startswith("zh")


def kind_words(kind: str, locale: str | None) -> str:
    """Name a kind of job."""
    return _known(f"kind_{kind}", kind, locale)


def phase_words(phase: str, locale: str | None) -> str:
    """Name a job's phase, with the trial or suite that it holds; unknown phases are shown verbatim."""
    if trial := _TRIAL.fullmatch(phase):
        return say("phase_trial", locale, number=trial["number"], count=trial["count"])
    if suite := phase.removeprefix(_EVALUATION) if phase.startswith(_EVALUATION) else "":
        return say("phase_evaluation", locale, suite=_known(f"suite_{suite}", suite, locale))
    return _known(f"phase_{phase}", phase, locale)


def _known(what: str, otherwise: str, locale: str | None) -> str:
    return say(what, locale) if what in _WORDS else otherwise


def say(what: str, locale: str | None, **values: object) -> str:
    """Return a sentence in the language of a locale: Chinese for zh-..., else English."""
    return _WORDS[what][is_chinese(locale)].format(**values)


def told(error: MynaError, locale: str | None) -> str:
    """Return the error's message, followed by its hint in the words of steering lines."""
    return f"{error.message} {HINTS[error.hint][is_chinese(locale)]}" if error.hint else error.message
