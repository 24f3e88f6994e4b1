"""Grammar of steering lines, and the words of their answers about jobs."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.cli.job_kinds import all_tasks
from bot.errors import InvalidInput
from bot.steering.line_answers import bar, job_report
from bot.steering.line_grammar import Line, begins_with_verb, is_line, is_steering, parse
from bot.steering.line_words import kind_words, phase_words
from storage.learning_values import Job

LINES = {
    "train": Line("train"),
    "/myna train 200": Line("train", rows=200),
    "TRAIN 200": Line("train", rows=200),
    "train --rows 200 --search 3 --name night": Line("train", rows=200, search=3, name="night"),
    "train —rows 200 –search=3": Line("train", rows=200, search=3),
    "训练 200": Line("train", rows=200),
    "status": Line("status"),
    "状态": Line("status"),
    "stop": Line("stop"),
    "stop 0193abcd": Line("stop", "0193abcd"),
    "stop 0193abcd confirm a1b2c3": Line("stop", "0193abcd", code="a1b2c3"),
    "stop confirm a1b2c3": Line("stop", code="a1b2c3"),
    "evaluate bot-v3": Line("evaluate", "bot-v3"),
    "compare": Line("compare"),
    "compare 3": Line("compare", "3"),
    "promote bot-v3": Line("promote", "bot-v3"),
    "promote bot-v3 because the demo is at noon": Line("promote", "bot-v3", because="the demo is at noon"),
    "promote bot-v3 --because it is better confirm a1b2c3": Line(
        "promote", "bot-v3", because="it is better", code="a1b2c3"
    ),
    "promote bot-v3 confirm A1B2C3": Line("promote", "bot-v3", code="a1b2c3"),
    "promote bot-v3 because nobody was there to confirm": Line(
        "promote", "bot-v3", because="nobody was there to confirm"
    ),
    "promote base": Line("promote", "base"),
    "发布 bot-v3 因为 更好": Line("promote", "bot-v3", because="更好"),
    "canary bot-v3": Line("canary", "bot-v3", share=0.1),
    "canary bot-v3 2.5%": Line("canary", "bot-v3", share=0.025),
    "canary bot-v3 0.25": Line("canary", "bot-v3", share=0.25),
    "canary stop": Line("canary", "stop"),
    "canary STOP because slow": Line("canary", "stop", because="slow"),
    "rollback": Line("rollback"),
    "rollback because people complain": Line("rollback", because="people complain"),
    "versions": Line("versions"),
}


@pytest.mark.parametrize("text", LINES)
def test_a_line_is_parsed(text: str) -> None:
    assert parse(text) == LINES[text]


@pytest.mark.parametrize("text", LINES)
def test_the_canonical_form_parses_to_the_same_line(text: str) -> None:
    line = parse(text)
    again = parse(f"{line} confirm {line.code}" if line.code else str(line))
    assert again == line


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("dance", "is not known"),
        ("", "is not known"),
        ("train many", "train \\[ROWS\\]"),
        ("train 200 --rows 300", "train \\[ROWS\\]"),
        ("train --rows", "train \\[ROWS\\]"),
        ("status of my order", "Write it like this: status"),
        ("evaluate", "evaluate VERSION"),
        ("promote", "promote VERSION"),
        ("promote a b", "promote VERSION"),
        ("promote bot-v3 confirm", "promote VERSION"),
        ("stop 0193abcd because I say so", "stop \\[JOB\\]"),
        ("promote bot-v3 because", "The reason"),
        ("promote bot-v3 because " + "x" * 501, "at|to 500"),
        ("canary bot-v3 lots", "canary VERSION"),
        ("rollback bot-v3", "rollback \\[because"),
        ("stop <script>", "stop \\[JOB\\]"),
    ],
)
def test_a_bad_line_is_refused_with_its_usage(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        parse(text)


@given(
    st.text(max_size=80)
    | st.text(alphabet=string.ascii_lowercase + " -%.0123456789\u3000", max_size=40).map("canary ".__add__)
)
def test_any_text_is_a_line_or_invalid_input(text: str) -> None:
    assert isinstance(is_line(text), bool)


@pytest.mark.parametrize("text", ["/myna", "/myna status", "/myna dance"])
def test_text_that_starts_with_myna_is_a_command(text: str) -> None:
    assert is_steering(text)


@pytest.mark.parametrize("text", ["", "status", "/mynastatus", "say /myna status", "/status"])
def test_other_text_is_for_the_model(text: str) -> None:
    assert not is_steering(text)


@pytest.mark.parametrize(
    "text", ["train 200", "stop", "stop 0193abcd", "promote bot-v3-a1", "canary stop", "compare v3"]
)
def test_a_complete_line_after_a_mention_is_a_command(text: str) -> None:
    assert is_line(text)


@pytest.mark.parametrize(
    "text", ["train me", "stop it", "compare prices", "status of my order", "promote sales", "evaluate this", ""]
)
def test_words_that_only_look_like_a_line_are_not(text: str) -> None:
    assert not is_line(text)
    assert begins_with_verb(text) == bool(text)


def test_a_bar_has_a_constant_length() -> None:
    assert bar(0.0) == "░" * 20
    assert bar(0.5) == "█" * 10 + "░" * 10
    assert bar(7.0) == "█" * 20


def job(**fields: object) -> Job:
    known = {
        "id": "0193abcd" * 4,
        "kind": "train",
        "state": "running",
        "wanted": "run",
        "priority": 0,
        "device": "default",
        "settings": {},
        "progress": None,
        "result": None,
        "error": None,
        "created_by": "shell:root",
        "attempts": 1,
        "created_at": 1,
        "started_at": None,
        "ended_at": None,
    }
    return Job(**(known | fields))  # type: ignore[arg-type]


def test_a_running_job_shows_its_progress() -> None:
    progress = {"phase": "answers", "step": 5, "steps": 20, "tokens_per_second": 212.3, "loss": 1.5, "seconds_left": 75}
    text = job_report(job(progress=progress), None)
    assert text == (
        "`0193abcd0193` training runs · learning from answers · `█████░░░░░░░░░░░░░░░` step 5/20 · 212 tokens/s · "
        "loss 1.500 · 1:15 left"
    )
    chinese = job_report(job(progress=progress), "zh-CN")
    assert chinese.startswith("`0193abcd0193` 训练 运行中 · 学习回答 · ")
    assert "第 5/20 步" in chinese


@pytest.mark.parametrize(
    ("phase", "english", "chinese"),
    [
        ("dataset", "making the dataset", "生成数据集"),
        ("everyday answers of the base", "everyday answers of the base model", "基础模型的日常回答"),
        ("evaluation: held_out", "judging: held-out rows", "评估：留出的数据"),
        ("evaluation: my own", "judging: my own", "评估：my own"),
        ("trial 2 of 4", "trial 2 of 4", "第 2 次试验，共 4 次"),
        ("something new", "something new", "something new"),
    ],
)
def test_phases_are_named_in_both_languages(phase: str, english: str, chinese: str) -> None:
    assert (phase_words(phase, "en"), phase_words(phase, "zh-CN")) == (english, chinese)


def test_every_kind_of_job_has_a_name() -> None:
    assert [kind for kind in all_tasks() if kind_words(kind, "zh-CN") == kind] == []


def test_every_reported_phase_has_a_name() -> None:
    folder = Path(__file__).parents[2] / "bot"
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")]
    said = {phase for text in texts for phase in re.findall(r'phase="([^"]+)"', text)}
    assert {"dataset", "checks"} <= said
    stages = {"answers", "pairs", "thumbs"}
    assert [phase for phase in sorted(said | stages) if phase_words(phase, "zh-CN") == phase] == []


def test_an_ended_job_shows_the_verdict() -> None:
    result = {"version": "bot-v3", "passed": True, "reasons": ["Loss fell: kept"]}
    good = job_report(job(state="done", result=result), None)
    assert "It made `bot-v3`, which passed the gate." in good
    judged = job_report(job(kind="evaluate", state="done", result=result), None)
    assert judged.splitlines()[:2] == ["`0193abcd0193` evaluation is done", "`bot-v3` passed the gate."]
    assert "/myna promote bot-v3" in good
    bad = job_report(job(state="done", result=result | {"passed": False, "reasons": ["a: kept", "b: REFUSED"]}), None)
    assert "- b: REFUSED" in bad
    assert "a: kept" not in bad
    assert "promote" not in bad
    refused = job_report(job(state="refused", error="Too little to learn from."), None)
    assert refused.endswith("was refused\nToo little to learn from.")
