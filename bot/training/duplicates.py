"""Which texts are the same, or nearly: exact by a hash of their words, near by MinHash and then by counting.

Knows: shingles of words, or of characters where words have no spaces between them. Does not know: examples.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]

PERMUTATIONS = 64
SHINGLE = 3
_WORDS = re.compile(r"\w+")
_HAN = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
Shingles = npt.NDArray[np.uint32]


def normal_hash(*texts: str) -> str:
    """The same for texts that differ in case, width, spaces and punctuation only."""
    words = (" ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) for text in texts)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def shingles_of(text: str) -> Shingles:
    """The hashes of all runs of three words of a text, or of characters where it is mostly Chinese or Japanese."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _WORDS.findall(plain)
    if len(_HAN.findall(plain)) * 3 > len(plain):
        words = list("".join(words))
    runs = {" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}
    return np.array(sorted({zlib.crc32(run.encode()) for run in runs}), dtype=np.uint32)


class NearDuplicates:
    """Remembers texts, and says whether a new one is nearly one of them: Jaccard similarity of their shingles."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
        self._permutations: Any = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32").permutations
        self._known: list[tuple[Shingles, Shingles]] = []

    def find(self, text: str, notes: str = "") -> bool:
        """Whether something nearly the same is remembered, with nearly the same notes."""
        shingles = shingles_of(text)
        return self._is_known(shingles, shingles_of(notes), self._signature(shingles))

    def add(self, text: str, notes: str = "") -> bool:
        """Remember a text with its notes unless something nearly the same is. False if it is.

        Notes are compared apart: long ones that many texts have would make these alike.
        """
        shingles, beside = shingles_of(text), shingles_of(notes)
        signature = self._signature(shingles)
        if self._is_known(shingles, beside, signature):
            return False
        self._index.insert(len(self._known), signature, check_duplication=False)
        self._known.append((shingles, beside))
        return True

    def _signature(self, shingles: Shingles) -> Any:
        made = MinHash(
            num_perm=PERMUTATIONS, permutations=self._permutations, hashfunc=int, scheme="affine32"
        )  # fmt: skip
        made.update_batch(shingles)
        return made

    def _is_known(self, shingles: Shingles, beside: Shingles, signature: Any) -> bool:
        found = (self._known[number] for number in self._index.query(signature))
        return any(
            self._similarity(shingles, one) >= self._threshold and self._similarity(beside, notes) >= self._threshold
            for one, notes in found
        )

    @staticmethod
    def _similarity(one: Shingles, other: Shingles) -> float:
        shared = len(np.intersect1d(one, other, assume_unique=True))
        return shared / (len(one) + len(other) - shared)
