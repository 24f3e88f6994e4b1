"""Exact and near duplicates: word hashes, MinHash LSH, Jaccard similarity."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterator
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
    """Hash texts without regard to case, width, spaces and punctuation."""
    words = (" ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold())) for text in texts)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def shingles_of(text: str) -> Shingles:
    """Hash all runs of three words, or of three characters in a text that is largely Chinese or Japanese."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _WORDS.findall(plain)
    if len(_HAN.findall(plain)) * 3 > len(plain):
        words = list("".join(words))
    runs = {" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}
    return np.array(sorted({zlib.crc32(run.encode()) for run in runs}), dtype=np.uint32)


class NearDuplicates:
    """Set of texts that finds near duplicates, by the Jaccard similarity of their shingles."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
        self._permutations: Any = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32").permutations
        self._known: list[tuple[Shingles, str]] = []

    def find(self, text: str) -> bool:
        """Return True if the set has a near duplicate of the text, whatever its notes."""
        shingles = shingles_of(text)
        return any(True for _ in self._alike(shingles, self._signature(shingles)))

    def add(self, text: str, notes: str = "") -> bool:
        """Add a text with its notes, and return True; return False if the set has a near duplicate of both.

        Notes are compared apart from the text, because long notes that many texts share would make these similar.
        """
        shingles = shingles_of(text)
        signature = self._signature(shingles)
        if any(self._are_alike(notes, known) for known in self._alike(shingles, signature)):
            return False
        self._index.insert(len(self._known), signature, check_duplication=False)
        self._known.append((shingles, notes))
        return True

    def _signature(self, shingles: Shingles) -> Any:
        made = MinHash(num_perm=PERMUTATIONS, permutations=self._permutations, hashfunc=int, scheme="affine32")
        made.update_batch(shingles)
        return made

    def _alike(self, shingles: Shingles, signature: Any) -> Iterator[str]:
        """Yield the notes of each near duplicate."""
        for number in self._index.query(signature):
            known, notes = self._known[number]
            if _similarity(shingles, known) >= self._threshold:
                yield notes

    def _are_alike(self, one: str, other: str) -> bool:
        # Equality first: notes are often one long system prompt that all examples share, and shingles cost time.
        return one == other or _similarity(shingles_of(one), shingles_of(other)) >= self._threshold


def _similarity(one: Shingles, other: Shingles) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
