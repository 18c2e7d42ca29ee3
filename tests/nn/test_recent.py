"""What was made for the last few losses is found again; what is older goes."""

from typing import Any

import numpy as np
import pytest

from helpers.locks import fork_beside, locks_of
from tvm_cavs.nn.loss import LogisticLoss, SquaredError
from tvm_cavs.nn.recent import KEPT, Recent, key_of


def test_what_was_asked_for_longest_ago_goes() -> None:
    recent: Recent[int] = Recent()
    made: list[int | None] = []

    def ask(key: int | None) -> None:
        recent.get(key, lambda: made.append(key) or 0)  # type: ignore[func-returns-value]

    for key in (None, *range(KEPT - 1)):
        ask(key)
    ask(0)
    ask(KEPT)  # one too many: 1 has to go, None never
    assert len(recent) == KEPT
    made.clear()
    for key in (KEPT, 0, None, *range(2, KEPT - 1)):
        ask(key)
    assert made == []
    ask(1)
    assert made == [1]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_there_is_what_was_asked_for_last(seed: int) -> None:
    """Against a list of the keys, that asked for longest ago first."""
    recent: Recent[int] = Recent()
    made: list[int] = []
    order: list[int] = []
    for key in np.random.default_rng(seed).integers(0, KEPT + 4, 200).tolist():
        recent.get(key, lambda key=key: made.append(key) or key)  # type: ignore[misc]
        assert (made == [key]) == (key not in order)
        made.clear()
        order = [*(k for k in order if k != key), key][-KEPT:]


def test_what_went_is_forgotten_whole() -> None:
    """Keys may be large: they hold all that a loss holds."""
    recent: Recent[int] = Recent()
    for key in range(5 * KEPT):
        recent.get(key, lambda: 0)
    assert len(recent._asked) == len(recent) == KEPT


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_makes_what_is_new() -> None:
    """Though another thread was making something when it was forked."""
    recent: Recent[int] = Recent()
    recent.get("old", lambda: 1)
    (lock,) = locks_of(recent)

    def work() -> None:
        assert [recent.get(key, lambda: 2) for key in ("old", "new")] == [1, 2]

    fork_beside([lock], work)


def test_functions_without_a_view_count_by_their_code() -> None:
    def made(factor: float) -> tuple[object, object, object]:
        return (lambda x: 2 * x), (lambda x: factor * x), (lambda x, y=factor: x + y)

    keys = [[key_of(Holding(f)) for f in made(1.0)] for _ in range(2)]
    assert [a == b for a, b in zip(*keys, strict=True)] == [True, False, False]
    assert len({*keys[0], *keys[1]}) == 5


class Base:
    """What it holds is told by itself."""

    def __init__(self, told: str, untold: str) -> None:
        self.told, self.untold = told, untold

    def __getstate__(self) -> dict[str, object]:
        return {"told": self.told}


class Other(Base):
    """Inherits that."""


def test_what_is_held_is_what_a_class_or_its_base_says() -> None:
    """And the same of another class is something else."""
    for kind in (Base, Other):
        assert key_of(kind("a", "x")) == key_of(kind("a", "y")) != key_of(kind("b", "x"))
    assert key_of(Base("a", "x")) != key_of(Other("a", "x"))
    assert key_of(SquaredError("a", "b")) != key_of(LogisticLoss("a", "b"))


class Free:
    """Holds whatever it is given."""

    def __init__(self, held: dict[str, object]) -> None:
        vars(self).update(held)


def test_things_count_as_one_where_they_hold_the_same_under_the_same_names() -> None:
    texts = [{}, {"a": "x"}, {"b": "x"}, {"a": "x", "b": "y"}, {"a": "y", "b": "x"}]
    held: list[dict[str, object]] = [*texts, {"a": 1}, {"b": 1}, {"a": "1"}, {"a": 1.0}]
    held += [{"a": {"b": 1}}, {"a": print}, {"b": print}, {"a": len}]
    keys = [[key_of(Free(each)) for each in held] for _ in range(2)]
    for i, first in enumerate(keys[0]):
        assert [first == second for second in keys[1]] == [i == j for j in range(len(held))]


def test_what_another_thread_has_made_meanwhile_is_not_made_again() -> None:
    recent: Recent[str] = Recent()

    class Waits:
        """The other one is done when this one may go on."""

        def __enter__(self) -> None:
            recent._keep("key", "theirs")

        def __exit__(self, *_: object) -> None: ...

    lock: Any = Waits()
    recent._making = lock
    assert recent.get("key", lambda: "mine") == "theirs"


class Holding:
    """Something that holds a function."""

    def __init__(self, function: object) -> None:
        self.function = function
