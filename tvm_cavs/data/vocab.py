"""Tokens -> int32 indices and back; index 0 is every token that was not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tvm_cavs.errors import DataError

UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Vocab:
    """Distinct tokens in index order, "<unk>" first. `Vocab(list)` restores one from a checkpoint.

    Raises:
        DataError: the first token is not "<unk>", or a token stands twice.
    """

    tokens: tuple[str, ...]
    place: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        place = {token: index for index, token in enumerate(self.tokens)}
        if self.tokens[:1] != (UNKNOWN,):
            raise DataError(f"a vocabulary begins with {UNKNOWN!r}, got {self.tokens[:1]}.")
        if len(place) != len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if place[t] != i)
            raise DataError(f"the token {twice!r} stands twice in the vocabulary.")
        object.__setattr__(self, "place", place)

    @staticmethod
    def build(tokens: Iterable[str], min_count: int = 1) -> Vocab:
        """The tokens that occur min_count times or more, the most frequent first, ties by text."""
        counts = Counter(tokens)
        counts.pop(UNKNOWN, None)
        kept = [token for token, count in counts.items() if count >= min_count]
        return Vocab((UNKNOWN, *sorted(kept, key=lambda token: (-counts[token], token))))

    def index(self, tokens: Iterable[str]) -> np.ndarray:
        """int32[n]: the index of every token, 0 where it is unknown."""
        place = self.place
        return np.array([place.get(token, 0) for token in tokens], np.int32)

    def words(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """The tokens of these indices."""
        return [self.tokens[int(i)] for i in indices]

    def to_list(self) -> list[str]:
        """What a checkpoint stores; `Vocab(list)` is the way back."""
        return list(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __str__(self) -> str:
        return f"Vocab({len(self)} tokens: {', '.join(self.tokens[:6])}, ...)"
