"""Targets besides this machine: the law on narrower CPUs that it can stand in for, and the
instructions of what is compiled for others.
"""

import re

import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.law import assert_law, make_case
from helpers.random_graphs import N_CLASSES, N_WORDS
from helpers.targets import label, runnable
from tvm_cavs.compiler import Compiler
from tvm_cavs.compiler.lowering.specs import Outer, Piece, Product
from tvm_cavs.compiler.lowering.steps import Kernel

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("both_kinds_of_weights")]
NARROWER = [target for target in runnable() if target != "host"]
K, N = 64, 96
KERNELS = (
    Kernel("product", Product((Piece(K, 0, K),), N, N)),
    Kernel("outer", Outer((Piece(K, 0, K),), (Piece(N, 1, N),), N)),
)
# What multiplies and adds whole vectors, by target, and what must not be there.
INSTRUCTIONS = [
    (
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"},
        r"\bfmla\s+v\d+\.4s, v\d+\.4s, v\d+\.(4s|s\[\d\])",
        r"\bfm(add|sub)\s+s\d+",
    ),
    ({"kind": "llvm", "mcpu": "x86-64-v3"}, r"\bvfmadd\d+ps\s.*%ymm\d+, %ymm\d+", r"%zmm"),
    ({"kind": "llvm", "mcpu": "skylake-avx512"}, r"\bvfmadd\d+ps\s.*%zmm\d+", r"\bvfmadd\d+ss"),
]


@pytest.mark.parametrize("name", ["tree_lstm", "tree_rnn"])
@pytest.mark.parametrize("target", NARROWER, ids=label)
def test_the_law_holds_on_narrower_cpus(name, target, cache, sweep):
    """x86-64-v3 is AVX2 with FMA, v2 has neither: other tiles, other vectors, other packing."""
    if name != "tree_rnn" and not sweep:
        pytest.skip("more of the same: with --sweep")
    cell = cavs.nn.CELLS[name](N_WORDS, 4, 17, N_CLASSES, dropout=0.3)
    loss = cavs.loss.SoftmaxCrossEntropy()
    assert_law(make_case(cell, loss, cache, threads=2, n=3, target=target))


@pytest.mark.parametrize("number", range(len(KERNELS)), ids=[k.kind for k in KERNELS])
@pytest.mark.parametrize(
    ("target", "wanted", "unwanted"), INSTRUCTIONS, ids=[label(t) for t, *_ in INSTRUCTIONS]
)
def test_kernels_hold_the_vector_instructions_of_their_target(target, wanted, unwanted, number):
    """Nothing of this runs here: LLVM compiles for CPUs that this one is not."""
    compiler = Compiler(target, 1, cache=False, records=False)
    forms = compiler.forms(KERNELS[number])
    (executable,) = compiler.executables(forms, 1)
    text = executable.mod.inspect_source("asm")
    assert len(re.findall(wanted, text)) >= compiler.lanes, text[:2000]
    assert not re.search(unwanted, text)
