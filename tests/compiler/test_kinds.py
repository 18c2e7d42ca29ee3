"""Kinds: learned once, copied whole, and known by who has rows where."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from tvm_cavs.compiler import widening
from tvm_cavs.compiler.kinds import Kinds
from tvm_cavs.compiler.lowering.lower import lower
from tvm_cavs.errors import TraceError
from tvm_cavs.runtime import Space

WORD, LABEL = 0b0100, 0b1000  # beside two children
LEAF, INNER, RIGHT = WORD | LABEL, LABEL | 0b0011, 0b0010
SPACES = [Space("edges"), *(Space("slot", k) for k in (0, 1)), Space("pull", "word")]
SPACES += [Space("pull", "label"), Space("all")]


def kinds_of(loss: Any = None) -> Kinds:
    net = cavs.Network(cavs.nn.CELLS["tree_lstm"](10, 3, 4, 5))
    return Kinds(net.programs(loss), ("word", "label"))


def said(kinds: Kinds) -> tuple[Any, ...]:
    """All that is known of some kinds."""
    members = [kinds.members(space).tolist() for space in SPACES]
    return kinds.describe(), dict(kinds.number), kinds.rank.tolist(), members, len(kinds.stages)


def test_a_mask_is_learned_once() -> None:
    kinds = kinds_of()
    assert not kinds.learn([])
    assert kinds.learn([LEAF, LEAF]) and not kinds.learn([LEAF])
    assert kinds.learn([LEAF, INNER]) and not kinds.learn([INNER, LEAF])
    assert [kinds.of_mask(mask) for mask in (LEAF, INNER)] == [0, 1]
    assert len(kinds.kinds) == len(kinds.stages) == len(kinds.rank) == 2


def test_who_has_rows_in_a_space_changes_with_what_is_learned() -> None:
    kinds = kinds_of()
    expected = {
        LEAF: (False, False, False, True, True, True),
        INNER: (True, True, True, False, True, True),
        RIGHT: (True, False, True, False, False, True),
    }
    for n, mask in enumerate(expected, 1):
        assert kinds.learn([mask])
        rows = list(expected.values())[:n]
        for space, column in zip(SPACES, zip(*rows, strict=True), strict=True):
            found = kinds.members(space)
            assert found.dtype == bool and found.tolist() == list(column), space


def test_saved_values_have_rows_where_they_are_saved() -> None:
    """By the forward or the adjoint program of a kind."""
    kinds = kinds_of(cavs.loss.SoftmaxCrossEntropy())
    kinds.learn([LEAF, INNER, WORD])
    names = {
        c["name"]: [False] * 3
        for pair in kinds.stages
        for side in pair
        if side is not None
        for part in side
        for _, c in part.select("save")
    }
    for i, pair in enumerate(kinds.stages):
        for part in (part for side in pair if side is not None for part in side):
            for _, c in part.select("save"):
                names[c["name"]][i] = True
    assert len(names) > 3 and len({tuple(each) for each in names.values()}) > 1
    for name, column in names.items():
        assert kinds.members(Space("save", name)).tolist() == column


@pytest.mark.parametrize("loss", [None, cavs.loss.SoftmaxCrossEntropy()])
def test_a_copy_grows_on_its_own(loss: Any) -> None:
    kinds = kinds_of(loss)
    kinds.learn([LEAF])
    before = said(kinds)
    other = kinds.copy()
    assert said(other) == before
    assert other.learn([INNER, RIGHT]) and said(other) != before
    assert said(kinds) == before
    assert kinds.learn([INNER, RIGHT]) and said(kinds) == said(other)


def test_groups_run_for_the_kinds_whose_stage_they_are() -> None:
    """A vertex with a label and one without have the same recurrent stage."""
    kinds = kinds_of(cavs.loss.SoftmaxCrossEntropy())
    kinds.learn([INNER, LEAF, 0b0011, RIGHT])
    shared = [g.member.tolist() for g in kinds.forward if g.stage == "recurrent"]
    assert sorted(shared) == [[False, False, False, True], [True, False, True, False]]
    lines = kinds.describe().splitlines()
    assert lines[:4] == [f"kind {i}: {kind}" for i, kind in enumerate(kinds.kinds)]
    assert "forward recurrent, kinds [0, 2]" in lines and "backward recurrent, kinds [3]" in lines


@pytest.mark.parametrize(
    ("loss", "rank"), [(None, [0, 2, 1, 3]), (cavs.loss.SoftmaxCrossEntropy(), [0, 1, 2, 3])]
)
def test_kinds_with_equal_recurrent_stages_are_neighbours_in_a_level(
    loss: Any, rank: list[int]
) -> None:
    """In training those of both passes: who has a label has another adjoint."""
    kinds = kinds_of(loss)
    kinds.learn([INNER, LEAF, 0b0011, RIGHT])
    assert kinds.rank.tolist() == rank


@pytest.mark.parametrize("error", [TraceError, KeyboardInterrupt])
def test_what_is_refused_or_interrupted_is_learned_the_next_time(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds, other = (kinds_of(cavs.loss.SoftmaxCrossEntropy()) for _ in range(2))
    for each in (kinds, other):
        each.learn([LEAF])
    before, calls = said(kinds), list[Any]()

    def fails_at(n: int) -> Callable[..., Any]:
        def lowered(*given: Any) -> Any:
            calls.append(given)
            if len(calls) == n:
                raise error("here")
            return lower(*given)

        return lowered

    for n in (1, 2, 4):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr("tvm_cavs.compiler.kinds.lower", fails_at(n))
            with pytest.raises(error, match="here"):
                kinds.learn([INNER, RIGHT])
        assert said(kinds) == before
    assert kinds.learn([INNER, RIGHT]) and other.learn([INNER, RIGHT])
    assert said(kinds) == said(other)


def test_kinds_and_stages_are_told_with_their_numbers() -> None:
    kinds = kinds_of()
    kinds.learn([LEAF, INNER, RIGHT])
    lines = kinds.describe().splitlines()
    assert len(kinds.kinds) == 3
    assert lines[:3] == [f"kind {i}: {kind}" for i, kind in enumerate(kinds.kinds)]
    for title, groups in (("forward", kinds.forward), ("backward", kinds.backward)):
        for group in groups:
            numbers = ", ".join(str(i) for i in range(3) if group.member[i])
            assert f"{title} {group.stage}, kinds [{numbers}]" in lines


def test_wide_kinds_say_why_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "MAX_KINDS", 2)
    kinds = kinds_of()
    kinds.learn([LEAF, LABEL, WORD])
    assert kinds.widening.maybe and kinds.maybe == kinds.widening.bits
    first, *others = kinds.describe().splitlines()
    assert first == kinds.widening.reason(len(kinds.kinds))
    assert others[0] == f"kind 0: {kinds.kinds[0]}"
    numbers = [kinds.of_mask(mask) for mask in (LEAF, LABEL, WORD)]
    wide = [kinds.widening.kind(mask) for mask in (LEAF, LABEL, WORD)]
    assert [kinds.kinds[n] for n in numbers] == wide
    assert np.array_equal(np.sort(kinds.rank), np.arange(len(kinds.kinds)))
