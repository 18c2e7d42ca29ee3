"""Sums of what may be absent keep every sign, of zeros too, in the reference and in programs."""

import itertools
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.per_vertex import PerVertex
from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.language.program import Builder
from tvm_cavs.language.value import Type, full
from tvm_cavs.language.vertex import Vertex, VertexFunction
from tvm_cavs.transform.absence import Need
from tvm_cavs.transform.simplify import simplify

NUMBERS = (0.0, -0.0, 1.5, -2.0, math.inf, math.nan)
Maybe = float | None  # None: nothing


def plus(a: Maybe, b: Maybe) -> Maybe:
    return b if a is None else a if b is None else a + b


def minus(a: Maybe, b: Maybe) -> Maybe:
    return a if b is None else -b if a is None else a - b


def times(a: Maybe, b: Maybe) -> Maybe:
    return None if a is None or b is None else a * b


def negative(a: Maybe) -> Maybe:
    return None if a is None else -a


MEANINGS: dict[str, Callable[[Maybe, Maybe], Maybe]] = {
    "add": plus,
    "sub": minus,
    "swapped": lambda a, b: minus(b, a),
    "neg": lambda a, b: negative(a),
    "mul": times,
    "sum of products": lambda a, b: plus(times(a, b), b),
    "rest": lambda a, b: minus(minus(a, b), a),
    "negative rest": lambda a, b: negative(minus(a, negative(b))),
}


class Sums(VertexFunction):
    """All of them, of two vectors that a vertex may lack."""

    n = len(NUMBERS) ** 2
    state = {"h": n}

    def forward(self, v: Vertex) -> None:
        a, b = v.pull("a", self.n), v.pull("b", self.n)
        v.scatter(h=a + b)
        made = (a + b, a - b, b - a, -a, a * b, a * b + b, (a - b) - a, -(a - -b))
        for name, value in zip(MEANINGS, made, strict=True):
            v.push(name, value)


PAIRS = np.array(list(itertools.product(NUMBERS, repeat=2)), np.float32)
HAS = list(itertools.product((True, False), repeat=2))


def graph() -> cavs.Graph:
    """A vertex for each of the inputs that there can be."""
    inputs = {
        name: [PAIRS[:, k].tolist() if has[k] else None for has in HAS]
        for k, name in enumerate("ab")
    }
    return cavs.Graph.from_children([[]] * len(HAS), inputs)


def check(outputs: Any) -> None:
    for name, meaning in MEANINGS.items():
        for has, got in zip(HAS, outputs[name], strict=True):
            want = []
            for pair in PAIRS.tolist():
                given = (x if there else None for x, there in zip(pair, has, strict=True))
                found = meaning(*given)
                want.append(0.0 if found is None else found)  # who asks for its number reads 0.0
            what = f"{name}, {has}"
            np.testing.assert_array_equal(got, want, err_msg=what)
            there = ~np.isnan(want)
            assert (np.signbit(got) == np.signbit(want))[there].all(), what


@pytest.mark.parametrize("maybe", [(), ("a",), ("b",), ("a", "b")])
def test_sums_of_what_may_be_absent(maybe: Collection[Need]) -> None:
    net = cavs.Network(Sums())
    net.hybridize("reference", dtype="float64")
    check(net(graph()))
    per_vertex = PerVertex(net.programs(), net.parameters(), True, {}, maybe)
    check(per_vertex.forward(graph(), Seeds()))


def test_zeros_of_both_signs_are_two_constants() -> None:
    b = Builder("F")
    parts = [full(b, x, (2,)) for x in (0.0, -0.0, -0.0, 1.0, 1.0)]
    joined = b.call("concat", *parts, axis=0)
    x = b.call("pull", name="x", type=Type((10,)))
    b.call("push", b.call("add", joined, x), name="y")
    found = [c["value"] for _, c in simplify(b.finish()).select("full")]
    assert sorted(map(repr, found)) == ["-0.0", "0.0", "1.0"]
