"""What models are trained on, and what staff decide about replies: `myna dataset ...` and `myna review ...`.

Knows: how both are listed. Does not know: how examples are chosen, or who may decide.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapters.cli.terminal import Commands, add, print_value, progress_bar, say, shell_actor, with_database
from bot.settings import Settings

if TYPE_CHECKING:
    from storage.learning_values import Dataset, Example
    from storage.scope import Scope

SHORT_ID = 12
BAR = 40
SHOWN_CHARS = 160


def add_to(commands: Commands) -> None:
    """Add `dataset ...` and `review ...`."""
    dataset = commands.add_parser("dataset", help="make and look at what models are trained on").add_subparsers(
        required=True, metavar="ACTION"
    )
    build = add(dataset, "build", "make a dataset of what is stored now", _build, reports=True)
    build.add_argument("--rows", type=int, metavar="N", help="at most N examples to train on, the newest")
    build.add_argument("--sample", action="store_true", help="with --rows: a stable sample instead of the newest")
    build.add_argument(
        "--per-person", type=int, default=20, metavar="N", help="at most N of one person; 0 for no limit"
    )
    build.add_argument(
        "--drop-unfounded", action="store_true", help="leave out answers with numbers or names not said before"
    )
    add(dataset, "list", "list all datasets", _list, reports=True)
    show = add(dataset, "show", "show what stands in a dataset", _show, reports=True)
    show.add_argument("which", nargs="?", default="", help="the beginning of its id or hash; default: the newest")
    show.add_argument("--examples", type=int, default=0, metavar="N", help="print the first N examples, too")
    show.add_argument("--rejected", action="store_true", help="print all that was left out and why")
    diff = add(dataset, "diff", "show what came in and what went between two datasets", _diff, reports=True)
    diff.add_argument("old", help="the beginning of the id or hash of the older one")
    diff.add_argument("new", help="the same of the newer one")
    _add_review_to(commands)


def _add_review_to(commands: Commands) -> None:
    review = commands.add_parser("review", help="decide what is learnt from replies").add_subparsers(
        required=True, metavar="ACTION"
    )
    waiting = add(review, "list", "list replies that wait for a decision", _waiting, reports=True)
    waiting.add_argument("--limit", type=int, default=20, metavar="N", help="at most N")
    decisions = (
        ("approve", "the reply is as it should be"),
        ("correct", "this would have been better"),
        ("exclude", "nothing is to be learnt from this reply"),
    )
    for name, about in decisions:
        parser = add(review, name, about, _decide, reports=True)
        parser.set_defaults(decision=name)
        parser.add_argument("reply", help="the reply's id, as `myna review list` shows it")
        if name == "correct":
            parser.add_argument("text", nargs="?", default="", help="default: the newest answer somebody proposed")


def _build(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.errors import InvalidInput
    from bot.knowledge.setup import open_grounding
    from bot.learning.data.candidates import policy_from
    from bot.learning.data.dataset import build_dataset

    if (arguments.rows is not None and arguments.rows < 1) or arguments.per_person < 0:
        raise InvalidInput("--rows must be at least 1, and --per-person at least 0.")
    policy = policy_from(
        settings,
        rows=arguments.rows,
        newest=not arguments.sample,
        max_per_person=arguments.per_person,
        drop_unfounded=arguments.drop_unfounded,
    )
    with progress_bar("Reading conversations") as bar:

        async def build(scope: Scope) -> Dataset:
            async with open_grounding(settings, scope) as grounding:
                return await build_dataset(scope, policy, shell_actor(), bar.reach, grounding)

        made = with_database(settings, build)
    if arguments.json:
        print_value(dataclasses.asdict(made))
    else:
        print_value(_summary(made))
    return 0


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import datasets

    found = with_database(settings, lambda scope: scope.read(datasets.list_all))
    if arguments.json:
        print_value([dataclasses.asdict(one) for one in found])
    elif not found:
        print_value("No dataset yet. `myna dataset build` makes one.")
    for one in () if arguments.json else found:
        print_value(_line(one))
    return 0


def _line(one: Dataset) -> str:
    kinds = ", ".join(f"{count:,} {kind}s" for kind, count in one.counts.get("kinds", {}).items())
    return f"{one.id[:SHORT_ID]}  {one.sha256[:SHORT_ID]}  {kinds or 'empty'}  by {one.created_by}"


def _show(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.data.dataset import find_dataset, read_examples, read_rejected

    async def read(scope: Scope) -> tuple[Any, list[Any], list[Any]]:
        found = await find_dataset(scope, arguments.which)
        examples = await read_examples(scope, found.id) if arguments.examples else []
        rejected = await read_rejected(scope, found.id) if arguments.rejected else []
        return found, examples[: arguments.examples], rejected

    found, examples, rejected = with_database(settings, read)
    if arguments.json:
        value = dataclasses.asdict(found)
        value |= {"example_rows": [_as_row(one) for one in examples]} if arguments.examples else {}
        value |= {"rejected_rows": [dataclasses.asdict(one) for one in rejected]} if arguments.rejected else {}
        print_value(value)
        return 0
    print_value(_summary(found))
    for one in examples:
        print_value(_example_text(one))
    for one in rejected:
        print_value(f"left out: {one.kind} from {one.source}, message {one.message_id}: {one.because}")
    return 0


def _summary(one: Dataset) -> str:
    counts = one.counts
    lines = [f"dataset {one.id}", f"sha256  {one.sha256}", f"{counts['examples']:,} examples"]
    for side, kinds in counts["splits"].items():
        lines.append(f"  {side}: " + (", ".join(f"{count:,} {kind}s" for kind, count in kinds.items()) or "none"))
    lines.append(
        "  sources: " + (", ".join(f"{count:,} {name}" for name, count in counts["sources"].items()) or "none")
    )
    lines.append(f"  {counts['conversations']:,} conversations, {counts['people']:,} people")
    lines.append(f"  thumbs: {counts['good']:,} up, {counts['bad']:,} down")
    if counts.get("with_articles"):
        lines.append(f"  {counts['with_articles']:,} stand on articles")
    lines.append(f"  {counts['unfounded']:,} answers with numbers or names that were not said before")
    lines += ["", "characters of the answers", *_histogram(counts["answer_chars"])]
    lines += ["", f"left out: {sum(counts['rejected'].values()):,}"]
    lines += [
        f"  {count:>7,}  {because}" for because, count in sorted(counts["rejected"].items(), key=lambda one: -one[1])
    ]
    return "\n".join(lines)


def _histogram(counted: Mapping[str, int]) -> list[str]:
    most = max(counted.values(), default=0) or 1
    names = [name if name == "longer" else f"up to {name}" for name in counted]
    return [
        f"  {name:>11} {'#' * -(-BAR * count // most)} {count:,}"
        for name, count in zip(names, counted.values(), strict=True)
    ]


def _as_row(one: Example) -> dict[str, Any]:
    return dataclasses.asdict(one) | {"sha256": one.sha256, "messages": [dict(each) for each in one.messages]}


def _example_text(one: Example) -> str:
    mark = {True: ", good", False: ", bad", None: ""}[one.good]
    lines = [f"\n{one.kind} from {one.source}{mark} ({one.split}, {one.sha256[:SHORT_ID]})"]
    lines += [f"  {each['role']}: {_short(each['content'])}" for each in one.messages]
    lines += [f"  article: {_short(each.title + ': ' + each.text)}" for each in one.passages]
    lines.append(f"  -> {_short(one.chosen)}")
    return "\n".join([*lines, f"  not: {_short(one.rejected)}"] if one.rejected else lines)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN_CHARS else words[: SHOWN_CHARS - 1] + "…"


def _diff(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.data.dataset import differences, find_dataset

    async def compare(scope: Scope) -> tuple[Any, Any, list[Any], list[Any]]:
        old = await find_dataset(scope, arguments.old)
        new = await find_dataset(scope, arguments.new)
        return old, new, *await differences(scope, old, new)

    old, new, came, went = with_database(settings, compare)
    if arguments.json:
        rows = {"came": [_as_row(one) for one in came], "went": [_as_row(one) for one in went]}
        print_value({"old": old.id, "new": new.id, **rows})
        return 0
    for name, found in (("came in", came), ("went", went)):
        print_value(f"{len(found):,} {name}")
        for one in found[:5]:
            print_value(_example_text(one))
    return 0


def _waiting(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.data.review_queue import Reviews

    found = with_database(settings, lambda scope: Reviews(scope).queue(shell_actor(), most=max(1, arguments.limit)))
    if arguments.json:
        print_value([dataclasses.asdict(one) for one in found])
    elif not found:
        print_value("No reply waits for a decision.")
    for one in () if arguments.json else found:
        ups = sum(vote.value > 0 for vote in one.votes)
        print_value(f"{one.reply_id}  {one.channel}  {ups} up, {len(one.votes) - ups} down")
        print_value(f"  asked: {_short(one.question)}\n  reply: {_short(one.text)}")
        for vote in one.votes:
            if vote.reason:
                print_value(f"  reason: {_short(vote.reason)}")
        if one.proposed:
            print_value(f"  proposed: {_short(one.proposed)}")
    return 0


def _decide(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.data.review_queue import Reviews

    async def decide(scope: Scope) -> str | None:
        reviews = Reviews(scope)
        if arguments.decision == "correct":
            return await reviews.correct(shell_actor(), arguments.reply, arguments.text)
        await (reviews.approve if arguments.decision == "approve" else reviews.exclude)(shell_actor(), arguments.reply)
        return None

    better = with_database(settings, decide)
    if arguments.json:
        print_value({"reply": arguments.reply, "decision": arguments.decision, "better": better})
    else:
        say(f"Noted: {arguments.decision}.")
    return 0
