"""Tokens -> int32 indices and back; index 0 is every token that was not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError

UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Vocab:
    """Distinct tokens in index order, "<unk>" first. `Vocab(list)` restores one from a checkpoint.

    Raises:
        DataError: the first token is not "<unk>", a token stands twice or is no text.

    Examples:
        >>> import tvm_cavs as cavs
        >>> vocab = cavs.data.Vocab.build(["to", "be", "or", "not", "to", "be"])
        >>> print(vocab.tokens)
        ('<unk>', 'be', 'to', 'not', 'or')
        >>> print(vocab.index(["to", "sleep"]), vocab.words([1, 0]))
        [2 0] ['be', '<unk>']
    """

    tokens: tuple[str, ...]
    place: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", _texts(self.tokens))
        place = {token: index for index, token in enumerate(self.tokens)}
        if self.tokens[:1] != (UNKNOWN,):
            raise DataError(f"a vocabulary begins with {UNKNOWN!r}, got {self.tokens[:1]}.")
        if len(place) != len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if place[t] != i)
            raise DataError(f"the token {twice!r} stands twice in the vocabulary.")
        object.__setattr__(self, "place", place)

    @staticmethod
    def build(tokens: Iterable[str], min_count: int = 1) -> Vocab:
        """The tokens that occur min_count times or more, the most frequent first, ties by text.

        Raises:
            DataError: a token that is no text, or min_count below 1.
        """
        if type(min_count) is not int or min_count < 1:
            raise DataError(f"min_count must be an integer of 1 or more, got {min_count!r}.")
        counts = Counter(_texts(tokens))
        counts.pop(UNKNOWN, None)
        kept = [token for token, count in counts.items() if count >= min_count]
        return Vocab((UNKNOWN, *sorted(kept, key=lambda token: (-counts[token], token))))

    def index(self, tokens: Iterable[str]) -> np.ndarray:
        """int32[n]: the index of every token, 0 where it is unknown.

        Raises:
            DataError: one text instead of a list of them, or a token that is no text.
        """
        place = self.place
        return np.array([place.get(token, 0) for token in _texts(tokens)], np.int32)

    def words(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """The tokens of these indices.

        Raises:
            DataError: an index that the vocabulary does not have, such as the -1 of a vertex
                without a token.
        """
        try:
            given = np.asarray(indices)
        except (ValueError, OverflowError) as error:
            raise DataError(f"words takes a list of indices, got {indices!r:.60}.") from error
        if given.ndim != 1 or given.size and given.dtype.kind not in "iu":
            raise DataError(f"words takes a list of indices (integers), got {indices!r:.60}.")
        wrong = given[(given < 0) | (given >= len(self))]
        if wrong.size:
            raise DataError(
                f"index {wrong[0]} is not in the vocabulary; expected 0..{len(self) - 1}. An input "
                "holds -1 where a vertex has no token: take the rows where it is present."
            )
        return [self.tokens[i] for i in given.tolist()]

    def to_list(self) -> list[str]:
        """What a checkpoint stores; `Vocab(list)` is the way back."""
        return list(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        more = ", ..." if len(self) > 6 else ""
        return f"Vocab({len(self)} tokens: {', '.join(self.tokens[:6])}{more})"


def _texts(tokens: Iterable[str]) -> tuple[str, ...]:
    """The tokens as a tuple of texts.

    Raises:
        DataError: otherwise; one text is no list of tokens, though Python can iterate over it.
    """
    if (
        isinstance(tokens, str)
        or not isinstance(tokens, Iterable)
        or not getattr(tokens, "ndim", 1)
    ):
        raise DataError(f"expected a list of tokens, got {tokens!r:.60}.")
    texts = tuple(tokens)
    if not set(map(type, texts)) <= {str}:
        wrong = next((token for token in texts if not isinstance(token, str)), None)
        if wrong is not None or None in texts:
            raise DataError(f"a token is text, got {wrong!r:.60} ({type(wrong).__name__}).")
    return texts
