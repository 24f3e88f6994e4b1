"""Steering by a typed line, the same on every channel: `train 200`, `status`, `promote bot-v3`.

Knows: which function each line calls, and that what changes who answers, or ends a job, is asked back first. Does not
know: how an answer is shown, how somebody proved who they are. A line comes from a person and never from a model.
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
from bot.learning.release.plan import Change, Plan, Promote, RollBack, StartCanary, StopCanary
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
# A new code each; one that was given out is good for 300 to 330 seconds.
CODE_SECONDS = 30
CODE_CHARS = 6
# What a person can do something about; all else is an error of the machine, and raised.
_TOLD = (InvalidInput, NotFound, NotAllowed, Conflict, RefusedByGate)

Locale = str | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is drawn once somebody can show it."""

    alt: str
    draw: Callable[[], bytes]

    async def png(self) -> bytes:
        """Its bytes; drawn in a thread."""
        return await asyncio.to_thread(self.draw)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a line is answered with, as plain Markdown.

    `confirm` is the line that does what was asked for, once, when the same person says it within five minutes; then
    `text` tells what will happen, and `how_to_confirm` what to type. `job_id` is a job that was begun. With
    `is_refusal`, nothing was done, and `text` says why.
    """

    text: str
    confirm: str | None = None
    how_to_confirm: str = ""
    picture: Picture | None = None
    job_id: str | None = None
    is_refusal: bool = False

    @property
    def whole_text(self) -> str:
        """For channels without buttons."""
        return f"{self.text}\n\n{self.how_to_confirm}" if self.how_to_confirm else self.text


class Steering:
    """Lines that steer one workspace. With `secret`, which never leaves this class, confirmations are signed."""

    def __init__(self, scope: Scope, releases: Releases, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._scope = scope
        self._releases = releases
        self._jobs = Jobs(scope)
        self._versions = Versions(scope)
        self._key = hashlib.sha256(f"myna.steering.{scope.workspace_id}.{secret}".encode()).digest()
        self._clock = clock

    async def run(self, actor: Actor, text: str, locale: Locale = None) -> Answer:
        """Do what a line says, or ask back. What a person did wrong, or may not do, is told in the answer."""
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
        """`(text, whether that was the last)` of a job now, and again whenever it has changed, until it rests."""
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

    # --- what only looks ---

    async def _status(self, actor: Actor, locale: Locale) -> Answer:
        release = await self._releases.current()
        judged = await canary_watch.look_at(self._scope, release)
        attention = await needs_attention(self._scope, release, judged)
        open_jobs = await self._jobs.list_open(actor)
        picture = await self._loss_picture(actor, open_jobs, locale)
        return Answer(status_text(release, judged, open_jobs, attention, locale), picture=picture)

    async def _loss_picture(self, actor: Actor, open_jobs: Sequence[Job], locale: Locale) -> Picture | None:
        """The curves of the job that runs, if it has any."""
        running = next((one for one in open_jobs if one.state == "running"), None)
        found = await self._jobs.points(actor, running.id) if running else ()
        points = [one for one in found if "loss" in one.series]
        if not points:
            return None
        held_out = [(one.step, one.value) for one in points if "held_out" in one.series]
        training = [(one.step, one.value) for one in points if "held_out" not in one.series]
        return Picture(say("picture_loss", locale), lambda: charts.loss_chart(training, held_out))

    async def _compare(self, target: str, locale: Locale) -> Answer:
        """The newest evaluation, of a version or of all."""
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
        """Ask back, for a job that was ended can't be resumed; then end it."""
        if line.target:
            job = await self._jobs.find(actor, line.target)
        else:
            open_jobs = await self._jobs.list_open(actor)
            meant = [one for one in open_jobs if one.state == "running"] or open_jobs
            if not meant:
                return Answer(say("nothing_runs", locale))
            if len(meant) > 1:
                return Answer(say("which_job", locale, jobs=", ".join(f"`{short_id(one)}`" for one in meant)))
            job = meant[0]
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

    # --- what changes who answers ---

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
        """What was confirmed. It is done only if what answers is still what it was, and so once."""
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
        """What only this person gets for this line about a job, or while a release answers, for some minutes.

        Signed, not kept: whichever process is asked next can tell, too.
        """
        signed = f"{actor.name}\n{line}\n{about}\n{int(at // CODE_SECONDS)}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()[:CODE_CHARS]

    def _is_confirmed(self, actor: Actor, line: Line, about: str) -> bool:
        now = self._clock()
        ages = range(0, CONFIRM_SECONDS + 1, CODE_SECONDS)
        codes = [self._code(actor, line, about, now - age) for age in ages]
        return any(hmac.compare_digest(one, line.code or "") for one in codes)


def _change_of(line: Line) -> Change:
    """The change that a line asks for. Raises `InvalidInput` for a share that no canary may have."""
    if line.verb == "rollback":
        return RollBack()
    if line.verb == "promote":
        return Promote(line.target)
    return StopCanary() if line.target == "stop" else StartCanary(line.target, line.share)


def _foretold(line: Line, planned: Plan, locale: Locale) -> str:
    """What a change will do."""
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
