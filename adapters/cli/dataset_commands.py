"""Datasets and reviews: `myna dataset ...` and `myna review ...`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapters.cli.terminal import Commands, add, add_group, print_value, progress_bar, say, shell_actor, with_database
from bot.settings import Settings

if TYPE_CHECKING:
    from storage.learning_values import Dataset, Example
    from storage.scope import Scope

SHORT_ID = 12
BAR = 40
SHOWN_CHARS = 160


def add_to(commands: Commands) -> None:
    """Add `dataset ...` and `review ...`."""
    dataset = add_group(commands, "dataset", "build and inspect the datasets that models are trained on")
    build = add(
        dataset, "build", "build a dataset from the stored conversations, votes and reviews", _build, reports=True
    )
    build.add_argument("--rows", type=int, metavar="N", help="use at most N training examples, the newest")
    build.add_argument(
        "--sample", action="store_true", help="with --rows: a stable random sample instead of the newest"
    )
    build.add_argument(
        "--per-person",
        type=int,
        default=20,
        metavar="N",
        help="use at most N examples of one person, 0 for no limit; default: 20",
    )
    build.add_argument(
        "--drop-unfounded",
        action="store_true",
        help="leave out answers with numbers or names that were not mentioned before",
    )
    add(dataset, "list", "list all datasets", _list, reports=True)
    show = add(dataset, "show", "show the contents of a dataset: counts, splits and sources", _show, reports=True)
    show.add_argument("which", nargs="?", default="", help="the start of the dataset's id or hash; default: the newest")
    show.add_argument("--examples", type=int, default=0, metavar="N", help="also print the first N examples")
    show.add_argument("--rejected", action="store_true", help="also print each rejected example with the reason")
    diff = add(dataset, "diff", "show the examples added and removed between two datasets", _diff, reports=True)
    diff.add_argument("old", help="the start of the older dataset's id or hash")
    diff.add_argument("new", help="the start of the newer dataset's id or hash")
    _add_review_to(commands)


def _add_review_to(commands: Commands) -> None:
    review = add_group(commands, "review", "decide about replies: learn from them, correct them, or leave them out")
    waiting = add(review, "list", "list replies that wait for a decision", _waiting, reports=True)
    waiting.add_argument("--limit", type=int, default=20, metavar="N", help="list at most N; default: 20")
    decisions = (
        ("approve", "approve a reply, so that it is learnt from"),
        ("correct", "give the answer that a reply should have been, to be learnt from"),
        ("exclude", "exclude a reply from learning"),
    )
    for name, about in decisions:
        parser = add(review, name, about, _decide, reports=True)
        parser.set_defaults(decision=name)
        parser.add_argument("reply", help="the reply's id, from `myna review list`")
        if name == "correct":
            parser.add_argument(
                "text", nargs="?", default="", help="the better answer; default: the newest one that somebody proposed"
            )


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
        print_value([dataclasses.asdict(dataset) for dataset in found])
    elif not found:
        print_value("No dataset yet. `myna dataset build` builds one.")
    for dataset in () if arguments.json else found:
        print_value(_line(dataset))
    return 0


def _line(dataset: Dataset) -> str:
    kinds = ", ".join(f"{count:,} {kind}s" for kind, count in dataset.counts.get("kinds", {}).items())
    return f"{dataset.id[:SHORT_ID]}  {dataset.sha256[:SHORT_ID]}  {kinds or 'empty'}  by {dataset.created_by}"


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
        value |= {"example_rows": [_as_row(example) for example in examples]} if arguments.examples else {}
        value |= {"rejected_rows": [dataclasses.asdict(reject) for reject in rejected]} if arguments.rejected else {}
        print_value(value)
        return 0
    print_value(_summary(found))
    for example in examples:
        print_value(_example_text(example))
    for reject in rejected:
        print_value(f"left out: {reject.kind} from {reject.source}, message {reject.message_id}: {reject.because}")
    return 0


def _summary(dataset: Dataset) -> str:
    counts = dataset.counts
    lines = [f"dataset {dataset.id}", f"sha256  {dataset.sha256}", f"{counts['examples']:,} examples"]
    for side, kinds in counts["splits"].items():
        lines.append(f"  {side}: " + (", ".join(f"{count:,} {kind}s" for kind, count in kinds.items()) or "none"))
    lines.append(
        "  sources: " + (", ".join(f"{count:,} {name}" for name, count in counts["sources"].items()) or "none")
    )
    lines.append(f"  {counts['conversations']:,} conversations, {counts['people']:,} people")
    lines.append(f"  thumbs: {counts['good']:,} up, {counts['bad']:,} down")
    if counts.get("with_articles"):
        lines.append(f"  {counts['with_articles']:,} are based on articles")
    lines.append(f"  {counts['unfounded']:,} answers with numbers or names that were not mentioned before")
    lines += ["", "length of the answers in characters", *_histogram(counts["answer_chars"])]
    lines += ["", f"left out: {sum(counts['rejected'].values()):,}"]
    lines += [
        f"  {count:>7,}  {because}"
        for because, count in sorted(counts["rejected"].items(), key=lambda entry: -entry[1])
    ]
    return "\n".join(lines)


def _histogram(counted: Mapping[str, int]) -> list[str]:
    most = max(counted.values(), default=0) or 1
    names = [name if name == "longer" else f"up to {name}" for name in counted]
    return [
        f"  {name:>11} {'#' * -(-BAR * count // most)} {count:,}"
        for name, count in zip(names, counted.values(), strict=True)
    ]


def _as_row(example: Example) -> dict[str, Any]:
    messages = [dict(message) for message in example.messages]
    return dataclasses.asdict(example) | {"sha256": example.sha256, "messages": messages}


def _example_text(example: Example) -> str:
    mark = {True: ", good", False: ", bad", None: ""}[example.good]
    lines = [f"\n{example.kind} from {example.source}{mark} ({example.split}, {example.sha256[:SHORT_ID]})"]
    lines += [f"  {message['role']}: {_short(message['content'])}" for message in example.messages]
    lines += [f"  article: {_short(passage.title + ': ' + passage.text)}" for passage in example.passages]
    lines.append(f"  -> {_short(example.chosen)}")
    return "\n".join([*lines, f"  not: {_short(example.rejected)}"] if example.rejected else lines)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN_CHARS else words[: SHOWN_CHARS - 1] + "…"


def _diff(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.data.dataset import differences, find_dataset

    async def compare(scope: Scope) -> tuple[Any, Any, list[Any], list[Any]]:
        old = await find_dataset(scope, arguments.old)
        new = await find_dataset(scope, arguments.new)
        return old, new, *await differences(scope, old, new)

    old, new, added, removed = with_database(settings, compare)
    if arguments.json:
        rows = {"came": [_as_row(example) for example in added], "went": [_as_row(example) for example in removed]}
        print_value({"old": old.id, "new": new.id, **rows})
        return 0
    for name, found in (("added", added), ("removed", removed)):
        print_value(f"{len(found):,} {name}")
        for example in found[:5]:
            print_value(_example_text(example))
    return 0


def _waiting(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.data.review_queue import Reviews

    found = with_database(settings, lambda scope: Reviews(scope).queue(shell_actor(), most=max(1, arguments.limit)))
    if arguments.json:
        print_value([dataclasses.asdict(dataset) for dataset in found])
    elif not found:
        print_value("No reply waits for a decision.")
    for review in () if arguments.json else found:
        ups = sum(vote.value > 0 for vote in review.votes)
        print_value(f"{review.reply_id}  {review.channel}  {ups} up, {len(review.votes) - ups} down")
        print_value(f"  asked: {_short(review.question)}\n  reply: {_short(review.text)}")
        for vote in review.votes:
            if vote.reason:
                print_value(f"  reason: {_short(vote.reason)}")
        if review.proposed:
            print_value(f"  proposed: {_short(review.proposed)}")
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
        say(f"Decision recorded: {arguments.decision}.")
    return 0
