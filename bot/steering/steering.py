"""Run steering lines, the same on every channel: `train 200`, `status`, `promote bot-v3`.

A line that changes the release or ends a job must be confirmed. A line comes from a person, never from a model.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotAllowed, NotFound, RefusedByGate
from bot.jobs.control import Jobs, short_id
from bot.learning.judge import charts
from bot.learning.judge.evaluation_report import report_from_json
from bot.learning.release import canary_watch
from bot.learning.release.plan import Plan, Promote, ReleaseChange, RollBack, StartCanary, StopCanary
from bot.learning.release.releases import Releases
from bot.learning.versions import BASE, Versions, name_of
from bot.steering.line_answers import (
    fault_words,
    gate_words,
    job_report,
    percent,
    report_text,
    status_text,
    usage,
    versions_text,
)
from bot.steering.line_grammar import START, Line, is_steering, parse
from bot.steering.line_words import kind_words, say, told
from bot.steering.needs_attention import needs_attention
from storage.learning_values import OPEN_STATES, Job
from storage.scope import Scope

CONFIRM_SECONDS = 300
# A code changes every `CODE_SECONDS`, so it stays valid for 300 to 330 seconds.
CODE_SECONDS = 30
CODE_CHARS = 6
# Errors that a person can act on; all others are faults of the machine, and raised.
_TOLD = (InvalidInput, NotFound, NotAllowed, Conflict, RefusedByGate)

Locale = str | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, drawn only if the channel can show it."""

    alt: str
    draw: Callable[[], bytes]

    async def png(self) -> bytes:
        """Draw the picture in a thread, and return its bytes."""
        return await asyncio.to_thread(self.draw)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a line, as plain Markdown.

    With `confirm` nothing is done yet: `text` announces the change, and the same person makes it, once, by sending the
    line `confirm` within five minutes; `how_to_confirm` says so. `job_id` is the job that was begun. With `is_refusal`
    nothing was done, and `text` says why.
    """

    text: str
    confirm: str | None = None
    how_to_confirm: str = ""
    picture: Picture | None = None
    job_id: str | None = None
    is_refusal: bool = False

    @property
    def whole_text(self) -> str:
        """The text with the line to confirm, for channels without buttons."""
        return f"{self.text}\n\n{self.how_to_confirm}" if self.how_to_confirm else self.text


class Steering:
    """Runs the steering lines of one workspace. `secret` signs confirmations (HMAC) and never leaves this class."""

    def __init__(self, scope: Scope, releases: Releases, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._scope = scope
        self._releases = releases
        self._jobs = Jobs(scope)
        self._versions = Versions(scope)
        self._key = hashlib.sha256(f"myna.steering.{scope.workspace_id}.{secret}".encode()).digest()
        self._clock = clock

    async def run(self, actor: Actor, text: str, locale: Locale = None) -> Answer:
        """Carry out a line, or ask to confirm it. Answer a mistake or a missing role with a refusal."""
        if text.strip().removeprefix(START).strip().lower() in ("", "help"):
            return Answer(usage(locale))
        try:
            return await self._run(actor, parse(text), locale)
        except _TOLD as error:
            more = f"\n\n{usage(locale)}" if isinstance(error, InvalidInput) and is_steering(text) else ""
            fault = error.fault if isinstance(error, Conflict | RefusedByGate) else None
            why = told(error, locale) if fault is None else fault_words(fault, locale)
            return Answer(say("not_done", locale, why=why) + more, is_refusal=True)

    async def follow(self, actor: Actor, job_id: str, locale: Locale = None) -> AsyncGenerator[tuple[str, bool], None]:
        """Yield `(text, is last)` of a job now and after every change, until it neither waits nor runs."""
        async for job in self._jobs.wait(actor, job_id):
            rests = job.state not in ("queued", "running")
            yield job_report(job, locale), rests
            if rests:
                return

    async def _run(self, actor: Actor, line: Line, locale: Locale) -> Answer:
        actor.check("viewer")
        match line.verb:
            case "train":
                settings = {"rows": line.rows, "search": line.search, "name": line.name}
                return _begun(await self._jobs.train(actor, settings), str(line), locale)
            case "evaluate":
                version = await self._versions.find(line.target)
                job = await self._jobs.create(actor, "evaluate", {"version": version.name})
                return _begun(job, str(replace(line, target=version.name)), locale)
            case "status":
                return await self._status(actor, locale)
            case "stop":
                return await self._stop(actor, line, locale)
            case "compare":
                return await self._compare(line.target, locale)
            case "versions":
                return await self._list_versions(locale)
            case _:
                return await self._release(actor, line, locale)

    # --- lines that change nothing ---

    async def _status(self, actor: Actor, locale: Locale) -> Answer:
        release = await self._releases.current()
        judged = await canary_watch.look_at(self._scope, release)
        attention = await needs_attention(self._scope, release, judged)
        open_jobs = await self._jobs.list_open(actor)
        picture = await self._loss_picture(actor, open_jobs, locale)
        return Answer(status_text(release, judged, open_jobs, attention, locale), picture=picture)

    async def _loss_picture(self, actor: Actor, open_jobs: Sequence[Job], locale: Locale) -> Picture | None:
        """Chart the losses of the running job, if it has any."""
        running = next((job for job in open_jobs if job.state == "running"), None)
        found = await self._jobs.points(actor, running.id) if running else ()
        points = [point for point in found if "loss" in point.series]
        if not points:
            return None
        held_out = [(point.step, point.value) for point in points if "held_out" in point.series]
        training = [(point.step, point.value) for point in points if "held_out" not in point.series]
        return Picture(say("picture_loss", locale), lambda: charts.loss_chart(training, held_out))

    async def _compare(self, target: str, locale: Locale) -> Answer:
        """Show the newest evaluation, of one version or of all."""
        found = await self._versions.newest_evaluation(target)
        if found is None:
            return Answer(say("no_evaluation", locale))
        try:
            report = report_from_json(found.report)
        except (KeyError, TypeError):
            return Answer(say("no_figures", locale))
        alt = say("picture_evaluation", locale, version=report.names["candidate"])
        picture = Picture(alt, lambda: charts.evaluation_chart(report))
        return Answer(report_text(report, found.passed, found.reasons, locale), picture=picture)

    async def _list_versions(self, locale: Locale) -> Answer:
        return Answer(versions_text(await self._releases.standings(), await self._releases.current(), locale))

    # --- jobs ---

    async def _stop(self, actor: Actor, line: Line, locale: Locale) -> Answer:
        """End a job, once confirmed: an ended job can't be resumed."""
        if line.target:
            job = await self._jobs.find(actor, line.target)
        else:
            open_jobs = await self._jobs.list_open(actor)
            candidates = [job for job in open_jobs if job.state == "running"] or open_jobs
            if not candidates:
                return Answer(say("nothing_runs", locale))
            if len(candidates) > 1:
                return Answer(say("which_job", locale, jobs=", ".join(f"`{short_id(job)}`" for job in candidates)))
            job = candidates[0]
        actor.check("trainer")
        line = replace(line, target=short_id(job))
        if job.state in OPEN_STATES:  # else the request below is refused, with the reason
            if line.code is None:
                what = say("will_stop", locale, job=short_id(job), kind=kind_words(job.kind, locale))
                return self._asked_back(actor, line, job.id, what, locale)
            if not self._is_confirmed(actor, line, job.id):
                return Answer(say("not_confirmed", locale), is_refusal=True)
        job = await self._jobs.cancel(actor, job.id)
        state = say("ends_soon" if job.state == "running" else f"job_{job.state}", locale)
        return Answer(say("stopped", locale, job=short_id(job), kind=kind_words(job.kind, locale), state=state))

    # --- lines that change the release ---

    async def _release(self, actor: Actor, line: Line, locale: Locale) -> Answer:
        change = _change_of(line)
        actor.check(change.needs)
        if isinstance(change, StopCanary):
            changed = await self._releases.stop_canary(actor, line.because or "")
            return Answer(say("canary_stopped", locale, version=name_of(changed.champion)))
        if line.target not in ("", BASE):
            line = replace(line, target=(await self._versions.find(line.target)).name)
        if line.code is None:
            planned = await self._releases.preview(change)
            planned.check(line.because)
            return self._asked_back(actor, line, str(planned.before.number), _foretold(line, planned, locale), locale)
        release = await self._releases.current()
        if not self._is_confirmed(actor, line, str(release.number)):
            return Answer(say("not_confirmed", locale), is_refusal=True)
        return await self._change(actor, line, release.number, locale)

    async def _change(self, actor: Actor, line: Line, at: int, locale: Locale) -> Answer:
        """Make a confirmed change, only if the release is still `at`, and so at most once."""
        if line.verb == "rollback":
            changed = await self._releases.rollback(actor, line.because or "", at=at)
            return Answer(say("rolled_back", locale, version=name_of(changed.champion)))
        if line.verb == "promote":
            changed = await self._releases.promote(actor, line.target, override_reason=line.because, at=at)
            return Answer(say("promoted", locale, version=name_of(changed.champion)))
        changed = await self._releases.start_canary(actor, line.target, line.share, override_reason=line.because, at=at)
        return Answer(say("tried", locale, version=name_of(changed.challenger), share=percent(line.share)))

    # --- confirmation ---

    def _asked_back(self, actor: Actor, line: Line, about: str, what: str, locale: Locale) -> Answer:
        confirm = f"{line} confirm {self._code(actor, line, about, self._clock())}"
        return Answer(what, confirm, say("how_to_confirm", locale, line=confirm))

    def _code(self, actor: Actor, line: Line, about: str, at: float) -> str:
        """Return the code for this person, line and subject (a job or a release number) at a time.

        It is an HMAC and stored nowhere, so that every process can check it.
        """
        signed = f"{actor.name}\n{line}\n{about}\n{int(at // CODE_SECONDS)}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()[:CODE_CHARS]

    def _is_confirmed(self, actor: Actor, line: Line, about: str) -> bool:
        now = self._clock()
        ages = range(0, CONFIRM_SECONDS + 1, CODE_SECONDS)
        codes = [self._code(actor, line, about, now - age) for age in ages]
        return any(hmac.compare_digest(code, line.code or "") for code in codes)


def _change_of(line: Line) -> ReleaseChange:
    """Return the change that a line asks for. Raises `InvalidInput` for a forbidden share."""
    if line.verb == "rollback":
        return RollBack()
    if line.verb == "promote":
        return Promote(line.target)
    return StopCanary() if line.target == "stop" else StartCanary(line.target, line.share)


def _foretold(line: Line, planned: Plan, locale: Locale) -> str:
    """Announce the effect of a change."""
    before, after, words = planned.before, planned.after, []
    if line.verb == "canary" or after.champion != before.champion:  # else it only ends a canary
        what = {"canary": "will_try", "rollback": "will_roll_back", "promote": "will_promote"}[line.verb]
        if line.target == BASE:
            what = "will_promote_base"
        values = {"verdict": gate_words(planned.fault, locale), "share": percent(line.share)}
        words.append(say(what, locale, version=name_of(planned.version), before=name_of(before.champion), **values))
    if planned.ends_canary is not None:
        words.append(say("ends_canary", locale, version=planned.ends_canary.name))
    if line.because:
        words.append(say("recorded_reason", locale, why=line.because))
    return " ".join(words)


def _begun(job: Job, line: str, locale: Locale) -> Answer:
    return Answer(say("trains", locale, job=short_id(job), line=line), job_id=job.id)
