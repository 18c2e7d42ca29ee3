"""ListOps by the published rules: expressions generated, evaluated, read from the official file.

An expression is text in prefix notation, `[MAX 3 [SM 8 9 ] 1 ]`: operators, digits and closing
brackets divided by one space. Nangia & Bowman, "ListOps: A Diagnostic Dataset for Latent Tree
Learning", NAACL SRW 2018. Trees are made from expressions in listops_trees.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from .. import arguments as checks
from ..errors import DataError
from .files import nearest, read_lines

P_OPERATOR = 0.25
MIN_ARGUMENTS, MAX_ARGUMENTS = 2, 5
MAX_DEPTH = 20
CLOSE = "]"
DIGITS = {str(digit): digit for digit in range(10)}


def median(values: list[int]) -> int:
    """The middle value; of an even number, the mean of the two in the middle, rounded down."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


def sum_mod_10(values: list[int]) -> int:
    return sum(values) % 10


OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": median,
    "[SM": sum_mod_10,
}


class Expression(NamedTuple):
    """A parsed expression: its operators and digits in post-order, so the whole is last."""

    words: list[str]
    arguments: list[list[int]]  # vertices in order; [] at a digit
    values: list[int]  # 0..9


def generate(
    n: int,
    seed: int,
    max_tokens: int | None = None,
    exclude: Collection[str] = frozenset(),
    max_depth: int = MAX_DEPTH,
    pool: int | None = None,
) -> list[str]:
    """n distinct expressions in random order, the same for the same arguments on every machine.

    The published rules: at depth below max_depth an operator with probability 1/4, else a digit;
    2 to 5 arguments; trees are drawn until `pool` distinct ones are found, so that short ones,
    drawn again and again, are rare. The published set has pool 100,000; a smaller one has more
    short trees.

    Args:
        max_tokens: longer expressions are thrown away (brackets of the binary form not counted).
        exclude: expressions that must not be drawn, such as those of a test set.
        pool: the number of distinct trees that the n are taken from, n where None.

    Raises:
        DataError: the arguments allow fewer distinct expressions than asked for, or are no integers
            in their range.

    Examples:
        >>> import tvm_cavs as cavs
        >>> texts = cavs.data.generate(100, seed=1, max_tokens=20)
        >>> print(len(set(texts)), max(len(text.split()) for text in texts) <= 20)
        100 True
    """
    pool = n if pool is None else pool
    limit = 1 if max_tokens is None else max_tokens
    for name, given, least in (
        ("n", n, 0),
        ("seed", seed, 0),
        ("max_tokens", limit, 1),
        ("max_depth", max_depth, 1),
        ("pool", pool, 0),
    ):
        checks.whole(f"listops: {name}", given, least, checks.MOST, DataError)
    if isinstance(exclude, str | bytes) or not isinstance(exclude, Collection):
        raise DataError(f"listops: exclude takes a set of expressions, got {exclude!r:.60}.")
    if pool < n or max_depth > 100:
        raise DataError(
            f"listops: cannot take n={n} from pool={pool} at max_depth={max_depth}; expected "
            "0 <= n <= pool and max_depth in 1..100."
        )
    draw = random.Random(int(seed)).random  # the only stream that Python keeps the same for ever
    found: dict[str, None] = {}
    tries = last_new = 0
    while len(found) < pool:
        text = _draw(draw, max_depth)
        tries += 1
        fits = (max_tokens is None or text.count(" ") < max_tokens) and text not in exclude
        if fits and text not in found:
            found[text], last_new = None, tries
        in_vain = tries - last_new > 200 * len(found) + 10_000
        if in_vain or tries > 200 * pool + 10_000:
            raise DataError(
                f"listops: {tries} draws gave {len(found)} distinct expressions of the {pool} "
                f"asked for with max_tokens={max_tokens}, max_depth={max_depth}. "
                "Raise them or lower n."
            )
    texts = list(found)
    for last in range(len(texts) - 1, 0, -1):
        other = int(draw() * (last + 1))
        texts[last], texts[other] = texts[other], texts[last]
    return texts[:n]


def _draw(draw: Callable[[], float], levels_left: int) -> str:
    """One expression; the operator is drawn after its arguments, as published."""
    if levels_left == 1 or draw() > P_OPERATOR:
        return str(int(draw() * 10))
    n = MIN_ARGUMENTS + int(draw() * (MAX_ARGUMENTS - MIN_ARGUMENTS + 1))
    arguments = " ".join([_draw(draw, levels_left - 1) for _ in range(n)])
    return f"{NAMES[int(draw() * len(NAMES))]} {arguments} {CLOSE}"


NAMES = tuple(OPERATORS)


def parse(text: str) -> Expression:
    """The operators, digits and values of an expression, without recursion.

    Raises:
        DataError: an unknown token, an unbalanced bracket, an operator without arguments.
    """
    if not isinstance(text, str):
        raise DataError(f"expected the text of an expression, got {text!r:.60}.")
    words: list[str] = []
    arguments: list[list[int]] = []
    values: list[int] = []
    open_: list[tuple[str, list[int]]] = []
    whole: list[int] = []
    place = whole  # where the next finished vertex goes
    for number, token in enumerate(text.split(" "), start=1):
        if token in OPERATORS:
            open_.append((token, place))
            place = []
            continue
        if token in DIGITS:
            own, above, value = [], place, DIGITS[token]
        elif token == CLOSE and open_ and place:
            own, (token, above) = place, open_.pop()
            value = OPERATORS[token]([values[v] for v in own])
        else:
            raise DataError(_bad_token(number, token, bool(open_)))
        place = above
        place.append(len(words))
        words.append(token)
        arguments.append(own)
        values.append(value)
    if open_:
        raise DataError(f"unbalanced: {len(open_)} operators are never closed by ']'.")
    if len(whole) != 1:
        raise DataError(f"{len(whole)} expressions in a row; expected one.")
    return Expression(words, arguments, values)


def evaluate(text: str) -> int:
    """The value of an expression, 0..9.

    Raises:
        DataError: no text, an unknown token, an unbalanced bracket, an operator without arguments,
            no expression or several.

    Examples:
        >>> import tvm_cavs as cavs
        >>> cavs.data.evaluate("[MAX 3 [SM 8 9 ] 1 ]")  # 8 + 9 modulo 10 is 7
        7
    """
    return parse(text).values[-1]


def read_listops_tsv(path: str | Path) -> list[str]:
    """The expressions of a file in the official format, `value<TAB>binary bracketing` a line.

    Every value is computed again; the binary brackets `(` and `)` carry no more than the
    expression does and are dropped.

    Raises:
        DataError: a malformed line, or a value that is not the expression's; file and line named.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import tvm_cavs as cavs
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "train.tsv")
        ...     _ = path.write_text("9\\t( ( ( [MAX 3 ) 9 ) ] )")
        ...     print(cavs.data.read_listops_tsv(path))
        ['[MAX 3 9 ]']
    """
    texts = []
    for number, line in read_lines(path):
        label, tab, brackets = line.partition("\t")
        if not tab:
            raise DataError(f"{path}, line {number}: no tab; expected value<TAB>expression.")
        text = " ".join(piece for piece in brackets.split(" ") if piece not in ("(", ")", ""))
        try:
            value = evaluate(text)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        if label.strip() != str(value):
            raise DataError(
                f"{path}, line {number}: the label is {label!r}, but the value of the expression "
                f"is {value}."
            )
        texts.append(text)
    return texts


def _bad_token(number: int, token: str, is_open: bool) -> str:
    if token != CLOSE:
        return f"token {number}: unknown {token!r}; {nearest(token, (*NAMES, CLOSE, *DIGITS))}"
    if is_open:
        return f"token {number}: an operator is closed that has no arguments."
    return f"token {number}: unbalanced ']' without its operator."
