"""Which kinds there are: a function of what was seen, few, and as before where there are few."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.functions import N_CLASSES, N_WORDS
from tvm_cavs.bench.workloads import WORKLOADS
from tvm_cavs.compiler.widening import LEAST_SAVED, MAX_KINDS, MAX_SLOT_SETS, Widening
from tvm_cavs.graph import kind_of, masks
from tvm_cavs.transform import multiplications_saved

ARITY, PULLS = 2, tuple("abcdefg")
SAVED = {name: LEAST_SAVED * (k >= 3) + k for k, name in enumerate(reversed(PULLS))}


def widened(parts: Iterable[Iterable[int]], saved: dict[str, int] = SAVED) -> list[Widening]:
    """What is decided after each part of the masks, of which all before are known."""
    now, seen, found = Widening(ARITY, PULLS), dict[int, None](), []
    for part in parts:
        seen.update(dict.fromkeys(mask | now.bits for mask in part))
        now = now.seeing(seen, saved.__getitem__)
        seen = dict.fromkeys(mask | now.bits for mask in seen)
        found.append(now)
    return found


def parts_of(rng: np.random.Generator, n: int) -> list[list[int]]:
    """Random masks in random parts, of inputs that are there with different chances."""
    chances = rng.random(ARITY + len(PULLS))
    bits = rng.random((n, len(chances))) < chances
    found = (bits @ (1 << np.arange(len(chances)))).tolist()
    cuts = np.sort(rng.integers(0, n, int(rng.integers(1, 6))))
    return [list(map(int, part)) for part in np.split(np.array(found), cuts)]


@pytest.mark.parametrize("seed", range(30))
def test_the_order_of_batches_decides_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = parts_of(rng, int(rng.integers(1, 200)))
    seen = [mask for part in parts for mask in part]
    (at_once,) = widened([seen])
    in_parts = widened(part for part in parts if part)
    shuffled = widened([[seen[i]] for i in rng.permutation(len(seen))])
    assert at_once.maybe == in_parts[-1].maybe == shuffled[-1].maybe
    for mask in seen:
        kinds = {w[-1].kind(mask) for w in ([at_once], in_parts, shuffled)}
        assert len(kinds) == 1 and at_once.n_kinds(seen) <= MAX_KINDS
    for before, after in zip(shuffled, shuffled[1:], strict=False):
        assert set(before.maybe) <= set(after.maybe), "what tells no kinds apart never does again"


def test_few_kinds_are_specialised_and_one_more_is_too_many() -> None:
    some = list(range(MAX_KINDS))  # two slots and three inputs
    (now,) = widened([some])
    assert now.maybe == () and now.n_kinds(some) == MAX_KINDS
    assert [now.kind(m) for m in some] == [kind_of(m, ARITY, PULLS) for m in some]
    (now,) = widened([[*some, MAX_KINDS]])
    assert now.maybe == ("d",), "of a, b, c and d it saves least"


def test_what_saves_least_goes_first_and_what_saves_little_always() -> None:
    every = range(1 << (ARITY + len(PULLS)))
    (now,) = widened([every])
    assert now.maybe == ("d", "e", "f", "g"), "g, f and e save little; without d it fits"
    assert {now.kind(mask).maybe for mask in every} == {now.maybe}, "those are read as zeros"
    (now,) = widened([every], dict.fromkeys(PULLS, 0))
    assert now.maybe == PULLS and now.n_kinds(every) == 1 << ARITY
    (now,) = widened([every], dict.fromkeys(PULLS, LEAST_SAVED))
    assert now.maybe == ("a", "b", "c", "d") and now.n_kinds(every) == MAX_KINDS


def test_an_input_that_all_have_or_none_has_tells_no_kinds_apart_anyway() -> None:
    every = [m << 1 | 1 << 8 for m in range(1 << 6)]  # no first slot, g everywhere
    (now,) = widened([every], dict.fromkeys(PULLS, 0))
    assert now.maybe == ("a", "b", "c", "d", "e")
    assert {now.kind(m).pulls for m in every} == {("a", "b", "c", "d", "e", "g")}


def test_sets_of_slots_and_inputs_together() -> None:
    rng, arity = np.random.default_rng(0), 6
    seen = [int(m) for m in rng.integers(0, 1 << (arity + 5), 500)]
    now = Widening(arity, PULLS[:5]).seeing(seen, lambda _: 0)
    assert len(now.slot_sets) == MAX_SLOT_SETS and len(now.maybe) == 5
    kinds = {now.kind(m) for m in seen}
    assert len(kinds) <= MAX_SLOT_SETS + 2
    assert any(set(k.maybe) == {*range(arity), *PULLS[:5]} for k in kinds)


def test_the_reason_counts_the_kinds() -> None:
    now = Widening(2, PULLS, maybe=PULLS[:2])
    ending = f"kinds of vertices, so {PULLS[0]}, {PULLS[1]} read zeros where absent; "
    begin = f"with every set of inputs there would be more than {MAX_KINDS} "
    assert now.reason(1) == begin + ending + "1 kind is compiled"
    assert now.reason(2).endswith(ending + "2 kinds are compiled")


def test_savings_are_products_of_both_passes() -> None:
    """A word: its products with the gates, and the weights' gradient; a label: two of its loss."""
    cell = cavs.nn.CELLS["tree_lstm"](N_WORDS, 4, 5, N_CLASSES)
    net, loss = cavs.Network(cell), cavs.loss.SoftmaxCrossEntropy()
    train, infer = net.programs(loss), net.programs()
    gates = 4 * 5 * 5
    assert multiplications_saved(infer, "word") == gates
    assert multiplications_saved(train, "word") == 2 * gates
    assert multiplications_saved(train, "label") == 2 * 5 * N_CLASSES


KINDS_OF_WORKLOADS = {"treelstm": 2, "treefc": 2, "varlstm": 2, "lm": 2, "listops": 3, "chain": 2}


@pytest.mark.parametrize("name", KINDS_OF_WORKLOADS)
def test_kinds_of_the_workloads(name: str) -> None:
    workload = WORKLOADS[name](None)
    programs = workload.network(8, 8).programs(cavs.loss.SoftmaxCrossEntropy())
    reads = tuple(read.name for read in programs.reads)
    found, _ = masks(cavs.batch(list(workload.data.graphs)), programs.arity, reads)
    seen = np.unique(found).tolist()
    now = Widening(programs.arity, reads).seeing(seen, lambda _: 0)
    assert not now.maybe and now.n_kinds(seen) == len(seen) == KINDS_OF_WORKLOADS[name]
