"""How a data set spells its tokens: what is done to each before the vocabulary is asked."""

from __future__ import annotations

from dataclasses import dataclass

TREEBANK_ESCAPES = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LCB-": "{",
    "-RCB-": "}",
    "-LSB-": "[",
    "-RSB-": "]",
}


@dataclass(frozen=True)
class Spelling:
    """Called with a token, gives it as the data set spells it.

    lower: in lower case. unescape: a treebank's `-LRB-` as "(", `\\/` as "/", and so on; first.
    """

    lower: bool = False
    unescape: bool = False

    def __call__(self, token: str) -> str:
        if self.unescape:
            token = TREEBANK_ESCAPES.get(token, token.replace("\\/", "/").replace("\\*", "*"))
        return token.lower() if self.lower else token


AS_GIVEN = Spelling()
