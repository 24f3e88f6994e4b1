"""The figures of `python -m tests.tools.house`, on a small checkout whose figures are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.house import House

FILES = {
    "README.md": "# One\n\ntwo three\n",
    "tests/unit/test_architecture.py": "MAY_IMPORT: dict[str, tuple[str, ...]] = {'bot': (), 'storage': ()}\n",
    "bot/errors.py": '"""Errors."""\nfrom adapters.web import page\n',
    "bot/learning/train/job.py": '"""Train."""\nfrom bot.jobs.worker import Worker\n'
    "from bot.learning.judge import gate\nfrom bot.knowledge import search\n"
    "from storage import jobs\nclass Training: ...\n",
    "bot/learning/judge/gate.py": '"""Whether it passed."""\nfrom bot.learning.train import losses\n'
    "Role = str\nLIMIT = 3\n",
    "bot/learning/train/losses.py": '"""Losses."""\nclass Role: ...\n',
    "bot/jobs/worker.py": '"""The worker."""\nfrom bot import errors\nclass Worker:\n    """Works."""\n',
    "bot/knowledge/search.py": '"""Search."""\nclass Training: ...\nx = 1  # fmt: skip\n',
    "adapters/web/page.py": '"""What a page is."""\nfrom bot import errors\nfrom bot.jobs import worker\n',
    "storage/jobs.py": '"""Whatever: no question."""\n',
    "storage/search.py": '"""Search."""\n# fmt: off\n',
}


@pytest.fixture
def house(tmp_path: Path) -> House:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(tmp_path)


def test_lines_and_words_of_the_readme(house: House) -> None:
    assert house.readme() == (3, 4)


def test_import_cycles_among_folders_are_found(house: House) -> None:
    assert house.folder_cycles() == [
        "adapters <-> bot",
        "adapters.web <-> bot.errors <-> bot.jobs",
        "bot.learning.judge <-> bot.learning.train",
    ]


def test_import_rules(house: House) -> None:
    assert house.import_rules() == 2


def test_docstrings_that_open_with_a_question_word(house: House) -> None:
    assert house.question_docstrings() == (2, 10)


def test_comments_that_keep_the_formatter_off(house: House) -> None:
    assert house.format_skips() == 2


def test_doubled_names_are_classes_and_aliases(house: House) -> None:
    assert house.doubled_classes() == {
        "Role": ["bot.learning.judge.gate", "bot.learning.train.losses"],
        "Training": ["bot.knowledge.search", "bot.learning.train.job"],
    }


def test_module_names_in_more_than_one_folder(house: House) -> None:
    assert house.doubled_modules() == {"search": ["bot.knowledge", "storage"]}


def test_files_of_a_training_are_its_starts_and_their_imports(house: House) -> None:
    assert house.files_of_a_training() == ["bot.jobs.worker", "bot.learning.judge.gate", "bot.learning.train.job"]
