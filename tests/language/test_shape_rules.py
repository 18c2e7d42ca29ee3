"""Every shape rule on all combinations of small types: which fit, and what comes out, is as it was.

The golden file has a line for each op, so a rule that takes or gives something else is named.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tvm_cavs.errors import ShapeError
from tvm_cavs.language import init
from tvm_cavs.language.ops import OPS
from tvm_cavs.language.value import Type

SHAPES = ((), (1,), (3,), (4,), (1, 3), (3, 1), (3, 4), (2, 3, 4))
TYPES = [Type(s, d, per) for s in SHAPES for d in ("float32", "int32") for per in ("vertex", "net")]
ATTRS: dict[str, list[dict[str, Any]]] = {
    "concat": [{"axis": axis} for axis in (-1, 0, 1, 2)],
    "slice": [
        {"axis": axis, "start": start, "stop": stop}
        for axis in (-1, 0, 1, 2)
        for start, stop in ((0, 1), (0, 3), (1, 3), (2, 4), (-1, 2), (2, 2), (3, 1), (0, 5))
    ],
    "reshape": [
        {"shape": s} for s in ((), (1,), (3,), (3, 4), (4, 3), (24,), (0,), (-1, 3), (1, 3))
    ],
    "sum": [{"keep": True}, {"keep": False}],
    "max": [{"keep": True}, {"keep": False}],
    "one_hot": [{"depth": depth} for depth in (-1, 0, 1, 7)],
    "full": [{"value": 1.0, "shape": s} for s in ((), (3,), (2, 3))],
    "total_rows": [{"rows": 5}],
    "dropout": [{"rate": 0.5, "site": 0}],
}
# How many operands; what is said by a read's own attributes has none.
OPERANDS = {
    **dict.fromkeys("add sub mul div over maximum minimum greater equal matmul outer".split(), 2),
    **dict.fromkeys("embedding pick".split(), 2),
    **dict.fromkeys("neg sigmoid tanh relu exp log sqrt abs transpose slice reshape".split(), 1),
    **dict.fromkeys("sum max softmax log_softmax argmax one_hot dropout total".split(), 1),
    **dict.fromkeys("scatter push save gradient".split(), 1),
    "full": 0,
}
NAMED = re.compile(r"(?:float32|int32)\[[\dx]+\](?: per net)?")
OF_READS = "param absent pull present gather gather_sum saved child_present own_state child_state"


def operands(op: str) -> Iterator[Sequence[Type]]:
    if op == "where":
        few = [t for t in TYPES if len(t.shape) < 2 and t.shape != (4,)]
        yield from itertools.product(few, repeat=3)
    elif op == "concat":
        yield from itertools.chain(
            itertools.product(TYPES, repeat=1), itertools.product(TYPES, repeat=2)
        )
        yield from itertools.product(
            [t for t in TYPES if t.shape in ((3,), (4,), (3, 4))], repeat=3
        )
    elif op == "total_rows":
        index = Type((), "int32")
        yield from ((index, t) for t in TYPES if len(t.shape) == 1)
    else:
        yield from itertools.product(TYPES, repeat=OPERANDS[op])


def answer(op: str, types: Sequence[Type], attrs: dict[str, Any]) -> str:
    try:
        return str(OPS[op].infer(types, attrs))
    except ShapeError:
        return "refused"


def test_rules_of_all_ops(golden: Any) -> None:
    rows = []
    for op in OPS:
        if op in OF_READS.split():
            continue
        answers = [
            f"{[str(t) for t in types]} {attrs}: {answer(op, types, attrs)}"
            for types in operands(op)
            for attrs in ATTRS.get(op, [{}])
        ]
        fit = sum(not a.endswith("refused") for a in answers)
        digest = hashlib.sha256("\n".join(answers).encode()).hexdigest()[:8]
        rows.append(f"{op}: {fit} of {len(answers)} fit, {digest}")
    golden("shape_rules", "\n".join(rows))


def test_a_refusal_names_operands_that_were_given_each_once() -> None:
    n_named = 0
    for op in OPERANDS:
        for types in operands(op):
            for attrs in ATTRS.get(op, [{}]):
                try:
                    OPS[op].infer(types, attrs)
                except ShapeError as error:
                    named = Counter(NAMED.findall(str(error)))
                    n_named += named.total()
                    assert named <= Counter(map(str, types)), (op, types)
    assert n_named > 10_000


V, W, INDEX = Type((3,)), Type((3, 4), per="net"), Type((), "int32")
SCALAR, INTS = Type(()), Type((3,), "int32")


@pytest.mark.parametrize(
    ("op", "types", "attrs", "said"),
    [
        ("add", [V, INTS], {}, f"expected float32 operands, given {V} and {INTS}"),
        ("add", [V, Type((4,))], {}, "float32[3] and float32[4] do not broadcast"),
        ("equal", [V, INTS], {}, f"cannot compare {V} with {INTS}: the dtypes differ"),
        ("matmul", [Type((4,)), W], {}, f"left float32[4] and right {W} disagree: 4 != 3"),
        (
            "matmul",
            [V, Type((4,))],
            {},
            f"x @ W takes a vertex's vector and a parameter matrix, given {V} and float32[4]; "
            "a product of two vertex vectors is reduce_sum(a * b)",
        ),
        ("outer", [V, W], {}, f"outer takes two vectors, given {V} and {W}"),
        (
            "concat",
            [V, SCALAR],
            {"axis": 0},
            f"cannot concatenate scalars: {V}, {SCALAR}; reshape them to (1,)",
        ),
        ("concat", [V, W], {"axis": 0}, f"cannot concatenate {V}, {W} along axis 0"),
        (
            "slice",
            [V],
            {"axis": 0, "start": 1, "stop": 4},
            f"slice [1:4] of {V} along axis 0 is empty or out of range",
        ),
        ("reshape", [V], {"shape": [4]}, f"cannot reshape {V} to (4,): the sizes differ"),
        (
            "reshape",
            [V],
            {"shape": (-1, -3)},
            f"cannot reshape {V} to (-1, -3): extents are positive",
        ),
        ("sum", [SCALAR], {"keep": True}, f"nothing to reduce in the scalar {SCALAR}"),
        ("softmax", [SCALAR], {}, f"expected a vector, given the scalar {SCALAR}"),
        ("embedding", [INDEX, V], {}, f"embedding takes rows from a parameter matrix, given {V}"),
        ("embedding", [V, W], {}, f"the index of embedding is one int32, given {V}"),
        ("pick", [INTS, INDEX], {}, f"pick takes one element of a float32 vector, given {INTS}"),
        ("pick", [V, INTS], {}, f"the index of pick is one int32, given {INTS}"),
        ("one_hot", [V], {"depth": 3}, f"the index of one_hot is one int32, given {V}"),
        ("one_hot", [INDEX], {"depth": 0}, "one_hot has at least one element, given depth 0"),
        ("argmax", [W], {}, f"argmax takes a vector, given {W}"),
    ],
)
def test_a_refusal_says_what_was_expected(
    op: str, types: list[Type], attrs: dict[str, Any], said: str
) -> None:
    with pytest.raises(ShapeError) as error:
        OPS[op].infer(types, attrs)
    assert str(error.value) == said


@pytest.mark.parametrize("op", OF_READS.split())
def test_a_read_is_of_the_type_that_it_says(op: str) -> None:
    for t in TYPES:
        assert OPS[op].infer([], {"type": t}) is t


def test_first_values_of_all_initialisers(golden: Any) -> None:
    """The same seed begins with the same network, whichever version made it."""
    made = [init.Zeros(), init.Constant(-0.25), init.Normal(), init.Normal(2.0), init.Uniform()]
    made += [init.Uniform(3.0), init.Xavier(), init.Xavier(n_blocks=2), init.Orthogonal()]
    made += [init.Orthogonal(0.5, 2), init.Array(np.arange(24.0).reshape(4, 6))]
    rows = []
    for initializer in made:
        values = initializer(np.random.default_rng(7), (4, 6))
        shown = " ".join(f"{x:.4f}" for x in values.ravel()[[0, 5, 11, 23]])
        named = type(initializer).__name__ if isinstance(initializer, init.Array) else initializer
        rows.append(f"{named}: {values.dtype} {shown}, sum {values.sum():.3f}")
    golden("initialisers", "\n".join(rows))
