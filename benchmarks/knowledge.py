"""All figures of the knowledge base, end to end.

    python -m benchmarks.knowledge DATA [--part PART]

`DATA` has folders of labelled questions and articles (kb_en, faq_zh, banking77, clinc150, hint3, dstc11_grounded). Each
part says in its own file what it prints, and which data chose what. `grounded` trains a version first, which takes
most of an hour, and so runs only when it is named.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks import confidence, fact_check, first_token, grounded, intents, knowledge_search

PARTS = {
    "search": knowledge_search.measure,
    "confidence": confidence.measure,
    "first-token": first_token.measure,
    "check": fact_check.measure,
    "intents": intents.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--part", choices=[*PARTS, "grounded"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.part == "grounded":
            grounded.run(Path(folder), arguments.data / "dstc11_grounded", grounded.LEARNT, grounded.QUESTIONS)
            return
        for name, part in PARTS.items():
            if arguments.part in (None, name):
                asyncio.run(part(arguments.data, Path(folder)))


if __name__ == "__main__":
    main()
