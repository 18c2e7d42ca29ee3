"""JSON as people and services send it -> graphs, by what the manifest says of inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..data import TOKENS, Spelling, Vocab, read_graphs, read_objects
from ..graph import Graph
from .manifest import Manifest


class Reader:
    """Makes graphs of JSON: tokens get the numbers of the model's vocabulary.

    Attributes:
        kinds: "tokens", "integers" or "numbers" for every input of the model.
        vocab: None where no input is tokens. spelling: how tokens are spelled there.
    """

    def __init__(self, manifest: Manifest, vocabulary: list[str] | None) -> None:
        inputs = manifest["inputs"]
        self.kinds: Mapping[str, str] = {each["name"]: each["kind"] for each in inputs}
        tokens = TOKENS in self.kinds.values()
        self.vocab = Vocab(tuple(vocabulary)) if tokens and vocabulary else None
        self.spelling = Spelling(**manifest.get("spelling", {}))

    def lines(self, text: str, source: str = "input") -> list[Graph]:
        """The graphs of JSON lines, one a line; blank lines are left out. Inputs that the model
        does not read are ignored.

        Args:
            source: what errors call the text.

        Raises:
            DataError: a line is no graph, or an input not what the model reads; line and vertex are
                named.
        """
        numbered = enumerate(text.splitlines(), 1)
        return self.numbered(((n, line) for n, line in numbered if line.strip()), source)

    def numbered(self, texts: Iterable[tuple[int, str]], source: str = "input") -> list[Graph]:
        """As `lines`, of texts that have numbers already."""
        return list(read_graphs(source, texts, self.kinds, self.vocab, self.spelling))

    def objects(self, given: Iterable[tuple[int, Any]], source: str = "input") -> list[Graph]:
        """The same of what JSON was parsed to, numbered."""
        return list(read_objects(source, given, self.kinds, self.vocab, self.spelling))
