"""Rows too wide for a stack, and buffers too large for indices of 32 bits."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

import tvm_ffi
from tvm import tirx

import tvm_cavs as cavs
from helpers.gradient_check import dense
from helpers.llvm import recorded_llvm, stack_bytes
from tvm_cavs.arrays import aligned
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.lowering import region
from tvm_cavs.compiler.lowering.lower import lower
from tvm_cavs.compiler.lowering.region import Array, Constant, Line, Load, Region, Store
from tvm_cavs.compiler.lowering.specs import ColumnSum, Outer, Piece, Product, SegmentSum
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.language import Builder, Program, Type, functions
from tvm_cavs.runtime import PARTS, Role

pytestmark = pytest.mark.compiles
N_WORDS, N_ROWS = 4, 5
FAR, WIDTH = 2_999, 1_000_000  # 3,000 rows of a million float32: 12 GB, 3e9 elements


class Wide(cavs.VertexFunction):
    """As many classes as a state has elements; every vertex has one child or, the first, none."""

    arity = 1

    def __init__(self, width: int) -> None:
        self.state = {"h": width}
        self.E = cavs.Parameter((N_WORDS, width))
        self.scale, self.shift = cavs.Parameter((width,)), cavs.Parameter((width,))

    def forward(self, v: cavs.Vertex) -> None:
        h = cavs.embedding(v.pull("word"), self.E) + 0.5 * v.gather(0).h
        v.scatter(h=h)
        v.push("logits", cavs.layer_norm(h, self.scale, self.shift))


def trained(width: int, executor: str, **options: Any) -> list[np.ndarray]:
    """The loss, and all gradients."""
    net, rng = cavs.Network(Wide(width)), np.random.default_rng(0)
    for p in net.parameters().values():
        p.set_data(rng.normal(0, 1, p.shape))
    net.hybridize(executor, **options)
    inputs = {"word": [0, 1, 2, 1], "label": [0, width - 1, None, 1]}
    with cavs.record():
        loss = cavs.loss.SoftmaxCrossEntropy()(net(cavs.Graph.from_sequence(4, inputs)))
    loss.backward()
    gradients = [dense(p.grad, p.shape) for p in net.parameters().values()]
    return [np.array(float(loss)), *map(np.array, gradients)]


def test_wide_rows_are_right_and_leave_the_stack() -> None:
    """96 KB a result. (A softmax over a million classes ended the process.)"""
    width = 24_000
    with recorded_llvm() as texts:
        got = trained(width, "tvm", threads=2, cache=False)
    for a, b in zip(got, trained(width, "reference", dtype="float64"), strict=True):
        assert float(np.abs(a - b).max() / np.abs(b).max()) < 1e-5
    stack = {name: size for text in texts for name, size in stack_bytes(text).items()}
    assert len(stack) > 10 and max(stack.values()) <= region.STACK_BYTES


def rows_of_ops(width: int) -> Program:
    """Every op whose result is a row of its own, some of integers."""
    b = Builder("rows")
    x = b.call("pull", name="x", type=Type((width,)))
    k = b.call("pull", name="k", type=Type((width,), "int32"))
    both = functions.concat(functions.softmax(x), functions.log_softmax(x))
    scale = functions.reduce_max(both) - functions.reduce_mean(both)
    b.call("push", both * scale, name="both")
    b.call("push", functions.concat(k, k), name="twice")
    b.call("push", functions.argmax(x), name="largest")
    return b.finish()


def computed(width: int, n_threads: int, cache: Path) -> list[np.ndarray]:
    """What a region makes of random rows."""
    low = lower(rows_of_ops(width), 1)
    (step,) = low.steps
    compiler = Compiler("host", n_threads, cache=cache)
    forms = compiler.forms(step.kernel)
    compiler.compile(forms)
    rng, made = np.random.default_rng(0), []
    for b in step.buffers:
        rows = n_threads if b.space == PARTS else N_ROWS
        made.append(aligned((rows, b.ld), b.dtype))
        if b.role in (Role.INPUT, Role.INDEX):
            made[-1][...] = rng.normal(0, 9, (rows, b.ld))
    function = compiler.function(forms[-1].symbol)
    function(N_ROWS, *[0] * len(step.starts), *map(tvm_ffi.from_dlpack, made))
    pairs = list(zip(step.buffers, made, strict=True))
    rooms = [array for b, array in pairs if b.space == PARTS]
    assert all(room.any(axis=1).all() for room in rooms), "each part has a row of its own"
    return [array for b, array in pairs if b.role is Role.PUSHED]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_rooms_change_no_bit(n_threads: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_stack = computed(21, n_threads, cache)
    assert not any(region.too_wide(s.kernel.spec.lines) for s in lower(rows_of_ops(21), 1).steps)
    monkeypatch.setattr(region, "STACK_BYTES", region.OTHER_BYTES)
    (step,) = lower(rows_of_ops(21), 1).steps
    assert {b.dtype for b in step.buffers if b.space == PARTS} == {"float32", "int32"}
    for a, b in zip(on_stack, computed(21, n_threads, cache), strict=True):
        assert a.any()
        np.testing.assert_array_equal(a, b)


def test_rooms_of_two_dtypes_are_two_though_equally_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "STACK_BYTES", region.OTHER_BYTES)
    b = Builder("one of each")
    x = b.call("pull", name="x", type=Type((8,)))
    b.call("push", functions.reduce_max(x), name="most")
    b.call("push", functions.argmax(x), name="where")
    (step,) = lower(b.finish(), 1).steps
    rooms = {buffer.id: buffer for buffer in step.buffers if buffer.space == PARTS}
    assert sorted((room.dtype, room.ld) for room in rooms.values()) == [
        ("float32", 16),
        ("int32", 16),
    ]


def test_the_widest_results_leave_the_stack() -> None:
    def line(width: int, *args: Any) -> Line:
        return Line("concat", args, ((width,),) * len(args), (width,))

    most = (region.STACK_BYTES - region.OTHER_BYTES) // region.ELEMENT_BYTES
    lines = [line(n, Constant(1.0)) for n in (10, most, most - 10, 1)]
    assert region.too_wide(lines[:1]) == [] and region.too_wide(lines[1:2]) == []
    assert region.too_wide([lines[0], lines[2]]) == []
    assert region.too_wide(lines) == [1, 2]
    assert region.places_in_room(lines, [0, 3]) == ([0, 16], 32)


def test_stack_bytes_reads_llvm() -> None:
    text = """
%closure = type { i64, ptr }
define i32 @f(ptr %a) {
  %x = alloca [5 x float], align 16, !dbg !641
  %y = alloca [2 x [3 x <16 x float>]], align 64
  %z = alloca i8, i64 100, align 8
  ret i32 0
}
define internal void @g() {
  ret void
}
"""
    assert stack_bytes(text) == {"f": 20 + 384 + 100, "g": 0}
    with pytest.raises(AssertionError, match="run time"):
        stack_bytes(text.replace("i64 100", "i64 %n"))


def region_of(width: int) -> Region:
    """b = 2 a."""
    arrays = Array("a", "float32", width, True), Array("b", "float32", width, True)
    lines = (Line("mul", (Load(0), Constant(2.0)), ((width,), ()), (width,), stores=(Store(1),)),)
    return Region(arrays, lines)


def specifications() -> list[Kernel]:
    """One of every kind that the rows of a batch go through."""
    pieces = (Piece(40, 0, 48, 3), Piece(8, 1, 8, 0, 0))
    right = (Piece(24, 2, 24),)
    return [
        Kernel("region", region_of(40)),
        Kernel("product", Product(pieces, 24, 32, 2)),
        Kernel("product", Product((Piece(128, 0, 128),), 4, 4)),
        Kernel("outer", Outer(pieces, right, 24, sums=0)),
        Kernel("outer", Outer((Piece(128, 0, 128),), (Piece(4, 1, 4),), 4)),
        Kernel("column_sum", ColumnSum(pieces)),
    ]


def test_elements_are_found_by_indices_of_64_bits() -> None:
    """Else what lies past element 2^31 of a buffer is another's."""
    from tvm_cavs.compiler.host import MAKERS
    from tvm_cavs.compiler.kernels.update import squares

    compiler = Compiler("host", 2, cache=False)
    made = [form.make() for kernel in specifications() for form in compiler.forms(kernel)]
    made += [compiler.segment_form(SegmentSum(8, 8)).make(), squares(16, 1, "squares")]
    made += [make(name) for name, make in MAKERS.items()]
    indices: list[Any] = []

    def visit(node: Any) -> None:
        if type(node).__name__ in ("TensorLoad", "BufferStore"):
            indices.extend(node.indices)

    for function in made:
        tvm_ffi.structural_walk(function.body, [(object, visit)])
    assert len(indices) > 1_000
    found = [i for i in indices if not isinstance(i, tirx.IntImm)]
    assert {str(i.ty).partition("x")[0] for i in found} == {"int64"}


def far_rows(n_elements: int) -> np.ndarray:
    """float32[n_elements] that take no memory before they are touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        return np.frombuffer(mmap.mmap(-1, 4 * n_elements, flags=flags), "float32")
    except OSError as error:
        pytest.skip(f"no address space: {error}")


def test_rows_past_element_2_to_the_31(cache: Path) -> None:
    compiler = Compiler("host", 1, cache=cache)
    (form,) = compiler.forms(Kernel("region", region_of(WIDTH)))
    compiler.compile([form])
    a = far_rows((FAR + 1) * WIDTH).reshape(-1, WIDTH)
    b = aligned((1, WIDTH))
    a[FAR] = np.arange(WIDTH)
    kernel, given = compiler.function(form.symbol), tvm_ffi.from_dlpack
    kernel(1, FAR, 0, given(a), given(b))
    np.testing.assert_array_equal(b[0], 2 * a[FAR])
    kernel(1, 0, FAR, given(b), given(a))
    np.testing.assert_array_equal(a[FAR], 2 * b[0])
