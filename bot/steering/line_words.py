"""Words of the answers to steering lines, in English and Simplified Chinese."""

from __future__ import annotations

import re

from bot.errors import MynaError
from bot.words.catalogue import Catalogue, language_of_locale

_EN = {
    "help": "Commands for Myna:\n{usage}",
    "not_done": "{why}",
    "trains": "Job `{job}` is queued: {line}. `/myna status` shows its progress, `/myna stop {job}` ends it.",
    "stopped": "Job `{job}` ({kind}) {state}.",
    "will_stop": "Job `{job}` ({kind}) will be ended for good: it can't be resumed.",
    "ends_soon": "ends with its next step",
    "nothing_runs": "No job waits or runs.",
    "which_job": "Several jobs wait or run. Name the job to stop: {jobs}",
    "answers": "- Answers: `{version}` (release {number})",
    "previous": "- Before: `{version}`",
    "canary": "- Canary: `{version}` on {share} of the conversations: {verdict}, {because}",
    "attention": "- Look at this: {finding}",
    "no_version": "No version yet. `/myna train` makes one.",
    "passed": "passed the gate",
    "did_not_pass": "did not pass the gate",
    "not_evaluated": "not evaluated",
    "judged_beside_another": "passed the gate beside another champion than `{champion}`, which answers now",
    "refused_by_gate": "`{version}`: {verdict}.",
    "evaluate_it": "`/myna evaluate {version}` judges it.",
    "override_gate": "`because ...` at the end of the line overrides that, and is recorded.",
    "answers_already": "`{version}` answers already.",
    "retired": "`{version}` was retired: {why}.",
    "tainted": "`{version}` was trained on words of somebody who has been erased, and may not be used any more.",
    "nothing_before": (
        "There is nothing to roll back to: the base model answers, and no version before it may come back."
    ),
    "no_canary": "There is no canary to stop.",
    "no_evaluation": "There is no evaluation yet. `/myna evaluate VERSION` begins one.",
    "compared": "`{version}` {verdict}.",
    "no_figures": "This evaluation can't be read: it has no figures.",
    "will_promote": "`{version}` ({verdict}) will answer everybody from the next reply on, in place of `{before}`.",
    "will_promote_base": "The base model will answer everybody from the next reply on, in place of `{before}`.",
    "will_try": (
        "`{version}` ({verdict}) will answer {share} of the conversations from the next reply on, `{before}` the "
        "others. It is rolled back automatically if it does harm."
    ),
    "will_roll_back": "`{version}` will answer everybody from the next reply on, in place of `{before}`.",
    "ends_canary": "The canary of `{version}` ends.",
    "recorded_reason": "Recorded as the reason: {why}",
    "how_to_confirm": "Confirm within five minutes: `/myna {line}`",
    "not_confirmed": (
        "This can't be confirmed, and nothing was changed just now: the change was made already, the release has "
        "changed, or the code is older than five minutes or somebody else's. `/myna status` shows the current state."
    ),
    "promoted": "`{version}` answers everybody from the next reply on.",
    "tried": (
        "`{version}` answers {share} of the conversations from the next reply on. `/myna status` shows the outcome."
    ),
    "rolled_back": "Rolled back: `{version}` answers everybody from the next reply on.",
    "canary_stopped": "The canary has ended: `{version}` answers everybody.",
    "job_queued": "waits for its turn",
    "job_running": "runs",
    "job_paused": "is paused",
    "job_done": "is done",
    "job_failed": "failed",
    "job_refused": "was refused",
    "job_cancelled": "was cancelled",
    "step": "step {step}/{steps}",
    "tokens": "{number} tokens/s",
    "loss": "loss {number}",
    "left": "{time} left",
    "kind_train": "training",
    "kind_evaluate": "evaluation",
    "kind_sync": "reading articles",
    "phase_dataset": "making the dataset",
    "phase_loading the model": "loading the model",
    "phase_preparing rows": "preparing the rows",
    "phase_everyday answers of the base": "everyday answers of the base model",
    "phase_read": "reading articles",
    "phase_load": "loading the embedder",
    "phase_publish": "publishing the index",
    "phase_answers": "learning from answers",
    "phase_pairs": "learning from corrections",
    "phase_thumbs": "learning from votes",
    "phase_checks": "checking the weights",
    "phase_trial": "trial {number} of {count}",
    "phase_evaluation": "judging: {suite}",
    "suite_held_out": "held-out rows",
    "suite_general": "general questions",
    "suite_safety": "safety",
    "suite_golden": "golden questions",
    "not_logged_in": (
        "This browser is not logged in to the admin page, so nothing was done, and the line is not part of this chat. "
        "Log in at /admin and send it again."
    ),
    "made": "It made `{version}`, which {verdict}.",
    "next_promote": "Next: `/myna compare`, `/myna promote {version}`.",
    "picture_loss": "Loss over the steps of the job",
    "picture_evaluation": "The evaluation of {version}, with intervals",
}
_ZH = {
    "help": "用于操控 Myna 的命令：\n{usage}",
    "not_done": "未能执行：{why}",
    "trains": "任务 `{job}` 已排队：{line}。`/myna status` 查看进度，`/myna stop {job}` 结束任务。",
    "stopped": "任务 `{job}`（{kind}）：{state}。",
    "will_stop": "任务 `{job}`（{kind}）将被结束，之后无法恢复。",
    "ends_soon": "将在下一步结束",
    "nothing_runs": "没有等待或运行中的任务。",
    "which_job": "有多个任务，请指明：{jobs}",
    "answers": "- 当前回答：`{version}`（第 {number} 次发布）",
    "previous": "- 上一个：`{version}`",
    "canary": "- 灰度：`{version}` 回答 {share} 的对话：{verdict}，{because}",
    "attention": "- 请注意：{finding}",
    "no_version": "还没有任何版本。`/myna train` 可训练一个。",
    "passed": "已通过验收",
    "did_not_pass": "未通过验收",
    "not_evaluated": "未评估",
    "judged_beside_another": "通过验收时的对手不是当前回答的 `{champion}`",
    "refused_by_gate": "`{version}`：{verdict}。",
    "evaluate_it": "`/myna evaluate {version}` 可评估它。",
    "override_gate": "在命令末尾写 `because ...` 并说明理由可越过验收，理由会被记录。",
    "answers_already": "`{version}` 已在回答。",
    "retired": "`{version}` 已停用：{why}。",
    "tainted": "`{version}` 学习过已删除者的内容，不能再使用。",
    "nothing_before": "当前由基础模型回答，之前没有可以恢复的版本，无法回退。",
    "no_canary": "没有可停止的灰度。",
    "no_evaluation": "还没有评估。`/myna evaluate VERSION` 可开始评估。",
    "compared": "`{version}` {verdict}。",
    "no_figures": "此评估没有数据，无法显示。",
    "will_promote": "从下一条回复起，`{version}`（{verdict}）将取代 `{before}` 回答所有人。",
    "will_promote_base": "从下一条回复起，基础模型将取代 `{before}` 回答所有人。",
    "will_try": (
        "从下一条回复起，`{version}`（{verdict}）将回答 {share} 的对话，其余由 `{before}` 回答；如有损害会自动撤回。"
    ),
    "will_roll_back": "从下一条回复起，将回退到 `{version}`，取代 `{before}` 回答所有人。",
    "ends_canary": "`{version}` 的灰度将结束。",
    "recorded_reason": "将记录的理由：{why}",
    "how_to_confirm": "请在五分钟内确认：`/myna {line}`",
    "not_confirmed": (
        "无法确认：可能已经执行、期间版本已变化、已超过五分钟，或由他人发起。此次未做任何更改；"
        "`/myna status` 查看现状。"
    ),
    "promoted": "从下一条回复起，由 `{version}` 回答所有人。",
    "tried": "从下一条回复起，`{version}` 回答 {share} 的对话。`/myna status` 查看情况。",
    "rolled_back": "已回退：从下一条回复起，由 `{version}` 回答所有人。",
    "canary_stopped": "灰度已结束：由 `{version}` 回答所有人。",
    "job_queued": "排队中",
    "job_running": "运行中",
    "job_paused": "已暂停",
    "job_done": "已完成",
    "job_failed": "失败",
    "job_refused": "被拒绝",
    "job_cancelled": "已取消",
    "step": "第 {step}/{steps} 步",
    "tokens": "{number} 词元/秒",
    "loss": "损失 {number}",
    "left": "还剩 {time}",
    "kind_train": "训练",
    "kind_evaluate": "评估",
    "kind_sync": "读取文章",
    "phase_dataset": "生成数据集",
    "phase_loading the model": "加载模型",
    "phase_preparing rows": "准备数据",
    "phase_everyday answers of the base": "基础模型的日常回答",
    "phase_read": "读取文章",
    "phase_load": "加载向量模型",
    "phase_publish": "发布索引",
    "phase_answers": "学习回答",
    "phase_pairs": "学习更正",
    "phase_thumbs": "学习评价",
    "phase_checks": "检查权重",
    "phase_trial": "第 {number} 次试验，共 {count} 次",
    "phase_evaluation": "评估：{suite}",
    "suite_held_out": "留出的数据",
    "suite_general": "通用问题",
    "suite_safety": "安全",
    "suite_golden": "标准问题",
    "not_logged_in": "此浏览器未登录管理页面，因此未执行任何操作，也不会成为对话内容。请在 /admin 登录后重试。",
    "made": "得到 `{version}`，{verdict}。",
    "next_promote": "下一步：`/myna compare`、`/myna promote {version}`。",
    "picture_loss": "任务各步的损失曲线",
    "picture_evaluation": "{version} 的评估图（含区间）",
}
WORDS = Catalogue(en=_EN, zh=_ZH)


# Phases as the jobs of `bot.learning` and `bot.knowledge` report them.
_TRIAL = re.compile(r"trial (?P<number>\d+) of (?P<count>\d+)")
_EVALUATION = "evaluation: "

_HINTS_EN = {
    "build_dataset": "A training makes one: `/myna train`.",
    "create_key": "Whoever runs the server can make one.",
    "give_rows": "Whoever runs the server can start an evaluation with a file.",
    "list_articles": "The admin page shows them under “Articles”.",
    "list_corrections": "The admin page lists them under “Answers”.",
    "list_curated": "The admin page lists them under “Answers”.",
    "list_datasets": "The admin page lists them under “Datasets”.",
    "list_gaps": "The admin page lists them under “Answers”.",
    "list_golden": "Whoever runs the server can list them.",
    "list_jobs": "`/myna status` shows them.",
    "sync_articles": "The admin page has a button for that under “Articles”.",
    "train_intents": "The admin page takes a file of them under “Intents”.",
}
_HINTS_ZH = {
    "build_dataset": "训练时会自动创建：`/myna train`。",
    "create_key": "服务器管理员可以创建密钥。",
    "give_rows": "服务器管理员可以用文件启动评估。",
    "list_articles": "管理页面的“文章”中可查看全部。",
    "list_corrections": "管理页面的“答案”中可查看全部。",
    "list_curated": "管理页面的“答案”中可查看全部。",
    "list_datasets": "管理页面的“数据集”中可查看全部。",
    "list_gaps": "管理页面的“答案”中可查看全部。",
    "list_golden": "服务器管理员可以查看全部。",
    "list_jobs": "`/myna status` 可查看全部。",
    "sync_articles": "可在管理页面的“文章”中重新读取。",
    "train_intents": "可在管理页面的“意图”中上传文件训练。",
}
HINTS = Catalogue(en=_HINTS_EN, zh=_HINTS_ZH)


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
    return say(what, locale) if what in WORDS else otherwise


def say(what: str, locale: str | None, **values: object) -> str:
    """Return a sentence in the language of a locale: Chinese for zh-..., else English."""
    return WORDS.say(what, language_of_locale(locale), **values)


def told(error: MynaError, locale: str | None) -> str:
    """Return the error's message, followed by its hint in the words of steering lines."""
    return f"{error.message} {HINTS.say(error.hint, language_of_locale(locale))}" if error.hint else error.message
