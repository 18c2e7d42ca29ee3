"""Rules, targets and layouts: every CPU compiles, every kernel is claimed or reported."""

import os
import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from tvm.target import codegen

import schedules
from helpers.targets import X86
from schedules import host, layout, loops
from schedules.choice import only
from schedules.domains import domains
from schedules.knobs import has_far_l3, misfit, outer_knobs, product_knobs
from schedules.target import Simd, caches, require_precision, simd, threads
from tvm_cavs.compiler.kernels.cpu import direct_product, outer, pack, product, sums
from tvm_cavs.compiler.lowering import specs
from tvm_cavs.compiler.lowering.specs import Piece

TARGETS = {
    "plain": {**X86, "mcpu": "x86-64"},
    "haswell": {**X86, "mcpu": "haswell", "num-cores": 2},
    "avx512": {**X86, "mcpu": "skylake-avx512", "num-cores": 4},
    "zen5": {**X86, "mcpu": "znver5", "num-cores": 2},
    "amx": {**X86, "mcpu": "sapphirerapids", "num-cores": 2},
    "arm": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1", "num-cores": 2},
}
WIDTHS = (1, 5, 8, 40, 150, 256, 300, 450, 750, 1280)


def kernels(target: tvm.target.Target) -> dict[str, tvm.tirx.PrimFunc]:
    """One small kernel of every sort, in every variant that this target has."""
    pieces = (Piece(7, 0, 12, 3, 0), Piece(5, 1, 5))
    long = (Piece(70, 0, 80, 3, 0), Piece(5, 1, 5))
    functions = {}
    for variant in layout.product_variants(target, 12, 21):
        name = f"product{variant.suffix}"
        functions[name] = product.product(specs.Product(pieces, 21, 21), variant.tile, name)
    for variant in layout.outer_variants(target, 12, 21):
        name = f"outer{variant.suffix}"
        spec = specs.Outer(pieces, (Piece(21, 2, 21),), 21, sums=0)
        functions[name] = outer.outer(spec, variant.tile, name)
    if simd(target).amx:
        for variant in layout.product_variants(target, 75, 21, "bf16"):
            spec = specs.Product(long, 21, 21, precision="bf16")
            name = f"bf16_product{variant.suffix}"
            functions[name] = product.product(spec, variant.tile, name)
    for variant in layout.product_variants(target, 75, 2):
        name = f"narrow_product{variant.suffix}"
        functions[name] = product.product(specs.Product(long, 2, 2), variant.tile, name)
    for variant in layout.outer_variants(target, 75, 2):
        name = f"narrow_outer{variant.suffix}"
        spec = specs.Outer(long, (Piece(2, 2, 2),), 2, sums=0)
        functions[name] = outer.outer(spec, variant.tile, name)
    for transposed in (False, True):
        for variant in layout.direct_variants(target, 12, 21, transposed):
            name = f"direct{'_transposed' * transposed}{variant.suffix}"
            where = specs.DirectWeights(30, 2, 3, transposed)
            spec = specs.Product(pieces, 21, 21)
            functions[name] = direct_product.direct_product(spec, where, variant.tile, name)
    usual = product_knobs(target, 12, 21, "float32")
    asking = only(replace(usual, even=True, ahead=4, next_panel=True))
    cut = layout.product_variants(target, 12, 21, chosen=asking)[0].tile
    functions["asking"] = product.product(specs.Product(pieces, 21, 21), cut, "asking")
    cut = layout.product_variants(target, 12, 21)[0].tile
    spec = specs.Pack(((12, 21),), (specs.Placement(0, 0, 0, (0, 12), (0, 21)),), 12, 21)
    functions["pack"] = pack.pack(spec, cut, "pack")
    functions["column_sum"] = sums.column_sum(specs.ColumnSum(pieces), cut.lanes, "column_sum")
    functions["segment_sum"] = sums.segment_sum(specs.SegmentSum(7, 9), cut.lanes, "segment_sum")
    return functions


@pytest.mark.parametrize("name", TARGETS)
def test_every_kernel_is_claimed_and_compiles(name):
    target = schedules.make_target(TARGETS[name])
    mod, unclaimed = schedules.schedule(tvm.IRModule(kernels(target)), target)
    assert unclaimed == ()
    assert all(loops.SCHEDULED in func.attrs for func in mod.functions.values())
    library = tvm.compile(mod, target=target, tir_pipeline=schedules.pipeline())
    assembly = library.mod.inspect_source("asm")
    registers = {"plain": "xmm", "haswell": "ymm", "avx512": "zmm", "zen5": "zmm", "arm": ".4s"}
    registers["amx"] = "tdpbf16ps"
    assert registers[name] in assembly
    assert ("zmm" in assembly) == (name in ("avx512", "zen5", "amx"))
    assert ("pldl2keep" if name == "arm" else "prefetcht1") in assembly  # the next panel, into L2
    if runs_here(target):
        check_product(library["product"], layout.product_variants(target, 12, 21)[0].tile)


def runs_here(target: tvm.target.Target) -> bool:
    """Whether this machine has the target's instructions."""
    host = schedules.host_target()
    arm = "mtriple" in target.attrs
    wanted = {"znver5": "avx512f", "skylake-avx512": "avx512f", "haswell": "avx2"}
    wanted["sapphirerapids"] = "amx-bf16"
    feature = wanted.get(str(target.attrs["mcpu"]), "sse2")
    return not arm and codegen.llvm_cpu_has_features(feature, host)


def check_product(kernel, tile):
    """Nine rows of the small product against NumPy."""
    rng = np.random.default_rng(0)
    first, second = rng.random((20, 12), "float32"), rng.random((20, 5), "float32")
    index = rng.integers(0, 20, 9, dtype="int32")
    weights = rng.random((12, 21), "float32")
    whole = np.zeros((layout.panels(21, tile) * tile.columns, 12), "float32")
    whole[:21] = weights.T
    packed = np.ascontiguousarray(whole.reshape(-1, tile.columns, 12).transpose(0, 2, 1))
    out = tvm.runtime.tensor(np.full((9, 21), np.nan, "float32"))
    kernel(9, 0, 0, 2, 0, *map(tvm.runtime.tensor, (first, second, index, packed)), out)
    want = np.concatenate([first[index, 3:10], second[2:11]], 1) @ weights
    np.testing.assert_allclose(out.numpy(), want, rtol=1e-5)


def test_a_kernel_without_a_rule_is_reported():
    target = schedules.make_target("host", 1)
    func = product.product(
        specs.Product((Piece(4, 0, 4),), 8, 8),
        layout.product_variants(target, 4, 8)[0].tile,
        "stranger",
    )
    func = func.with_attr(loops.KERNEL, "stranger")
    mod, unclaimed = schedules.schedule(tvm.IRModule({"stranger": func}), target)
    assert unclaimed == ("stranger",)
    assert str(mod["stranger"]) == str(func)


def test_the_first_rule_that_answers_schedules_and_may_answer_a_schedule(monkeypatch):
    def declines(_func, _target):
        return None

    def answers(func, _target):
        return tvm.s_tir.Schedule(func)

    target = schedules.make_target("host", 1)
    func = kernels(target)["pack"]
    monkeypatch.setitem(schedules.RULES, "llvm", (declines, answers, declines))
    done = schedules.schedule_function(func, target)
    assert isinstance(done, tvm.tirx.PrimFunc)
    assert done.attrs[loops.SCHEDULED] == "answers"
    tvm.ir.assert_structural_equal(done.body, func.body)
    monkeypatch.setitem(schedules.RULES, "llvm", (declines,))
    assert schedules.schedule_function(func, target) is None


@pytest.mark.parametrize("some", [("ours",), ("other",), ("ours", "other")])
def test_functions_that_are_no_kernels_are_lowered_beside_them(some, monkeypatch):
    """By TVM's own passes, which take five times as long over a kernel."""
    usual, seen = tvm.s_tir.pipeline.default_s_tir_pipeline, []

    def noted():
        default, *others = usual()

        def lower(mod):
            seen.append([name.name_hint for name in mod.functions])
            return default(mod)

        return lower, *others

    monkeypatch.setattr(tvm.s_tir.pipeline, "default_s_tir_pipeline", noted)
    target = schedules.make_target("host", 1)
    func = kernels(target)["pack"]
    other = func.without_attr(loops.KERNEL)
    assert (loops.kernel_of(func), loops.kernel_of(other)) == ("pack", None)
    assert schedules.schedule_function(other, target) is None
    given = {"ours": schedules.schedule_function(func, target), "other": other}
    made = {name: given[name].with_attr("global_symbol", name) for name in some}
    library = tvm.compile(tvm.IRModule(made), target=target, tir_pipeline=schedules.pipeline())
    assert seen == [["other"]] * ("other" in some)
    weights = np.arange(12 * 21, dtype="float32").reshape(12, 21)
    shape = layout.weights_shape(12, 21, layout.product_variants(target, 12, 21)[0].tile)
    for name in some:
        packed = tvm.runtime.tensor(np.full(shape, np.nan, "float32"))
        library[name](tvm.runtime.tensor(weights), packed)
        got = packed.numpy().transpose(1, 0, 2).reshape(12, -1)
        np.testing.assert_array_equal(got[:, :21], weights)


def test_rules_leave_the_given_function_alone():
    target = schedules.make_target(TARGETS["zen5"])
    func = kernels(target)["product"]
    before = str(func)
    done = schedules.schedule_function(func, target)
    assert str(func) == before
    assert "T.vectorized" in str(done) and "T.unroll" in str(done)
    assert "T.vectorized" not in before


@pytest.mark.parametrize("given", [{}, {"num-cores": 4}], ids=["unsaid", "said"])
def test_threads_that_are_asked_for_take_the_place_of_those_of_the_target(given):
    target = {**X86, "mcpu": "znver5", **given}
    for made in (target, schedules.make_target(target)):
        assert threads(schedules.make_target(made, n_threads=2)) == 2
        assert threads(schedules.make_target(made)) == given.get("num-cores", 1)


def test_threads_are_only_used_where_there_are_some():
    one = schedules.make_target({**X86, "mcpu": "znver5"})
    two = schedules.make_target({**X86, "mcpu": "znver5"}, n_threads=2)
    assert (threads(one), threads(two)) == (1, 2)
    for k, n_columns in ((512, 1280), (300, 450), (8, 40)):
        for variants in (layout.product_variants, layout.outer_variants):
            assert [v.tile.tasks for v in variants(one, k, n_columns)] == [1]
    serial, parallel = layout.product_variants(two, 300, 450)
    assert (serial.tile.tasks, parallel.tile.tasks) == (1, 2)
    assert layout.choose((serial, parallel), parallel.min_rows - 1) is serial
    assert layout.choose((serial, parallel), parallel.min_rows) is parallel
    assert layout.choose((serial, parallel), 10**6) is parallel
    (wide,) = layout.product_variants(two, 512, 1280)  # one row already takes 40 us
    assert wide.tile.parts == (1, 2)


@pytest.mark.parametrize("name", TARGETS)
def test_tiles_fit_the_registers_and_waste_few_lanes(name):
    target = schedules.make_target(TARGETS[name])
    unit = simd(target)
    for n_columns in WIDTHS:
        variants = layout.product_variants(target, 100, n_columns)
        tile = variants[0].tile
        assert tile.heights[0] * tile.vectors + tile.vectors + 1 <= unit.registers
        assert tile.heights == tuple(sorted(set(tile.heights), reverse=True))
        assert tile.heights[-1] == 1
        assert all(v.tile.columns == tile.columns for v in variants)
        least = -(-n_columns // unit.lanes) * unit.lanes
        assert layout.panels(n_columns, tile) * tile.columns <= 1.11 * least + unit.lanes


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_tiles_of_direct_products_fit_the_registers_and_split_columns_only(name, transposed):
    target = schedules.make_target(TARGETS[name])
    unit = simd(target)
    for n_columns in WIDTHS:
        for v in layout.direct_variants(target, 100, n_columns, transposed):
            assert v.tile.narrow == transposed
            assert v.tile.heights[0] * v.tile.vectors + v.tile.vectors + 1 <= unit.registers
            assert v.tile.heights == tuple(sorted(set(v.tile.heights), reverse=True))
            assert v.tile.heights[-1] == 1
            assert v.tile.parts[0] == 1
            assert v.tile.tasks <= layout.direct_panels(n_columns, v.tile)


@pytest.mark.parametrize("name", TARGETS)
def test_what_has_few_columns_and_enough_rows_is_narrow(name):
    """Its tiles fit the registers, and its panels cover the rows of a weight gradient evenly."""
    target = schedules.make_target(TARGETS[name])
    unit = simd(target)
    half, most = unit.lanes // 2, min(2 * unit.lanes, unit.registers - 4)
    for k, n_columns in ((4 * unit.lanes, half), (4 * unit.lanes, 1), (300, 1), (1280, half)):
        for v in layout.product_variants(target, k, n_columns):
            assert v.tile.narrow
            assert v.tile.heights[0] * (n_columns + 1) + 1 <= unit.registers
            assert v.tile.heights[-1] == 1
            n_vectors = -(-k // unit.lanes)
            shape = (1, n_columns, n_vectors * unit.lanes)
            assert layout.weights_shape(k, n_columns, v.tile) == shape
    widest = min(7 * unit.lanes // 2, 2 * most)
    for n_columns in range(1, widest + 1):
        at_once = -(-n_columns // -(-n_columns // most))
        for v in layout.outer_variants(target, 300, n_columns):
            assert v.tile.narrow and v.tile.group == most
            assert v.tile.vectors * (at_once + 1) + 1 <= unit.registers
            assert v.tile.vectors * at_once <= max(16, at_once)
            n_panels, n_vectors = layout.panels(300, v.tile), -(-300 // unit.lanes)
            assert n_panels * v.tile.vectors - n_vectors < n_panels
    few, rounded = (4 * unit.lanes - 1, 1, "float32"), [(300, 1, "bf16")] * unit.bf16
    for variants, n in ((layout.product_variants, most), (layout.outer_variants, widest)):
        others = few, (300, n + 1, "float32"), *rounded
        assert not any(v.tile.narrow for x in others for v in variants(target, *x))


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_a_product_is_narrow_where_panels_would_leave_lanes_idle(name, far):
    """More than half a vector: a row at a time, if weights stay in the nearest cache.

    Of many rows whatever the columns, but for CPUs whose third cache is far.
    """
    target = schedules.make_target({**TARGETS[name], "model": f"l1=32K l2={2048 if far else 512}K"})
    assert has_far_l3(caches(target)) == far
    unit = simd(target)
    most = min(2 * unit.lanes, unit.registers - 4)
    for n_columns in range(unit.lanes // 2 + 1, most + 1):
        busy = n_columns / (unit.lanes * -(-n_columns // unit.lanes))
        room = 32 * 1024 // (4 * n_columns)  # rows of so many columns
        for k, narrow in (
            (4 * unit.lanes, busy <= 0.7),
            (8 * unit.lanes - 1, busy <= 0.7),
            (8 * unit.lanes, busy <= 0.7 or not far),
            (room, busy <= 0.7 or not far),
            (room + 1, False),
        ):
            (first, *_) = layout.product_variants(target, k, n_columns)
            assert first.tile.narrow == narrow, (k, n_columns)
            assert not first.tile.narrow or first.tile.heights == (1,)


@pytest.mark.parametrize(
    ("attributes", "unit"),
    [
        ("plain", Simd("128-bit", 4, 15)),
        ("haswell", Simd("AVX2", 8, 16)),
        ("avx512", Simd("AVX-512", 16, 32)),
        ("amx", Simd("AVX-512 with AMX", 16, 32, bf16=True, amx=True)),
        ("arm", Simd("NEON", 4, 32)),
    ],
)
def test_vector_units(attributes, unit):
    assert simd(schedules.make_target(TARGETS[attributes])) == unit


def test_the_host_is_detected_and_described():
    target = schedules.make_target("host", 3)
    assert target.attrs["mcpu"] == tvm.target.codegen.llvm_get_system_cpu()
    line = schedules.describe(target)
    assert str(target.attrs["mcpu"]) in line
    assert "3 thread(s)" in line
    assert str(host.host_caches()) in line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"mcpu": "znver4", "num-cores": 3, "model": "l1=32K l2=1024K"},
            "znver4, AVX-512 (16 float32 lanes, 32 registers), caches l1=32K l2=1024K, 3 thread(s)",
        ),
        ({}, "generic CPU, 128-bit (4 float32 lanes, 15 registers), 1 thread(s)"),
        (
            {"mcpu": "sapphirerapids", "mattr": ["-amx-tile", "+avx512fp16"]},
            "sapphirerapids -amx-tile +avx512fp16, AVX-512 (16 float32 lanes, 32 registers), "
            "AMX is not to be had here, 1 thread(s)",
        ),
    ],
)
def test_a_target_is_described_in_one_line(given, line):
    target = schedules.make_target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", **given})
    assert schedules.describe(target) == line


# These give this machine's processor another model, and none of another architecture.
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="imitates x86 processors")


def as_if(monkeypatch, model, **features):
    """The target of this machine, were it called `model` and had these features."""
    monkeypatch.setattr(host.codegen, "llvm_get_system_cpu", lambda: model)
    monkeypatch.setattr(host, "host_features", lambda: features)
    return schedules.make_target("host", 1)


@on_x86
def test_what_a_virtual_machine_hides_is_found(monkeypatch):
    """A Sapphire Rapids that LLVM calls rocketlake has its bfloat16 all the same."""
    hidden = {"avx512f": True, "avx512bf16": True, "amx-tile": True, "pku": False}
    target = as_if(monkeypatch, "rocketlake", **hidden)
    assert list(target.attrs["mattr"]) == ["+amx-tile", "+avx512bf16"]
    assert simd(target).bf16
    assert "rocketlake +amx-tile +avx512bf16, AVX-512" in schedules.describe(target)


def test_a_version_of_avx_is_no_instruction(monkeypatch):
    """LLVM lists AVX10 beside all that is in it; Linux does not, and exported models ask Linux."""
    named = {"avx10.1": True, "avx10.2": True, "avx512bf16": True}
    target = as_if(monkeypatch, "rocketlake", **named)
    assert list(target.attrs["mattr"]) == ["+avx512bf16"]
    granite = schedules.make_target({**X86, "mcpu": "graniterapids"})
    sapphire = schedules.make_target({**X86, "mcpu": "sapphirerapids"})
    assert host.instructions(granite) - host.instructions(sapphire) == {"amx-fp16"}


@pytest.mark.parametrize("turn", [1, -1])
def test_differences_from_a_model_come_in_one_order(turn, monkeypatch):
    """Of which set they are: the text of a target is in the key of its kernels."""
    monkeypatch.setattr(host, "instructions", lambda _: ["avx", "avx2", "fma"][::turn])
    names = ["avx2", "avx", "sse4.1", "avx512f", "fma", "pku"][::turn]
    features = {name: name in ("sse4.1", "avx512f", "fma", "pku") for name in names}
    assert host.differences("znver3", features) == ["+avx512f", "+sse4.1", "-avx", "-avx2"]


@on_x86
def test_what_a_virtual_machine_takes_away_is_not_used(monkeypatch):
    target = as_if(monkeypatch, "skylake-avx512", avx512f=False, avx2=True, fma=True)
    assert simd(target) == Simd("AVX2", 8, 16)


@on_x86
@pytest.mark.parametrize("allowed", [True, False])
def test_amx_is_what_the_system_allows(allowed, monkeypatch):
    """The CPU has it; the system may refuse it to a process. Then it counts as not there."""
    model = schedules.make_target({**X86, "mcpu": "sapphirerapids"})
    has = dict.fromkeys(host.instructions(model), True)
    monkeypatch.setattr(host.tvm_ffi, "get_global_func", lambda _: lambda: has)
    monkeypatch.setattr(host, "amx_allowed", lambda: allowed)
    monkeypatch.setattr(host.codegen, "llvm_get_system_cpu", lambda: "sapphirerapids")
    others = {name for name in has if not name.startswith("amx")}
    assert {name for name, is_there in host.host_features().items() if is_there} == (
        set(has) if allowed else others
    )
    target = schedules.make_target("host", 1)
    assert simd(target).amx == allowed and simd(target).bf16
    assert ("AMX is not to be had here" in schedules.describe(target)) == (not allowed)


@pytest.mark.parametrize(
    ("system", "machine", "answer", "allowed"),
    [
        ("Linux", "x86_64", 0, True),
        ("Linux", "x86_64", -1, False),
        ("Linux", "aarch64", 0, False),
        ("Darwin", "x86_64", 0, False),
    ],
)
def test_linux_on_x86_is_asked_for_amx(system, machine, answer, allowed, monkeypatch):
    """Elsewhere nothing is asked: the number of the call would be another one's."""
    asked = []
    libc = SimpleNamespace(syscall=lambda *given: asked.append(given) or answer)
    monkeypatch.setattr(host.ctypes, "CDLL", lambda *_, **__: libc)
    monkeypatch.setattr(host.platform, "system", lambda: system)
    monkeypatch.setattr(host.platform, "machine", lambda: machine)
    assert host.amx_allowed.__wrapped__() is allowed
    here = (system, machine) == ("Linux", "x86_64")
    assert asked == [(158, 0x1023, 18)] * here  # arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA


def test_knobs_of_amx_are_for_amx_alone():
    """Its panels are one or two registers wide; a record of it fits no other CPU."""
    amx, other = (schedules.make_target(TARGETS[name]) for name in ("amx", "zen5"))
    for knobs in (product_knobs(amx, 300, 450, "bf16"), outer_knobs(amx, 300, 450, "bf16")):
        choices = domains(knobs, amx)
        assert choices["vectors"] == (2,) and len(choices["block"]) == 4
        assert misfit(knobs, amx, "bf16") is None
        said = f"a tile of {knobs.height} rows x {knobs.vectors} vectors does not fit 32 registers"
        assert misfit(knobs, other, "bf16") == said
        assert "does not fit 32 registers" in misfit(knobs, amx, "float32")
        for wrong in ({"vectors": 3}, {"vectors": 0}, {"height": 6, "block": 96}):
            assert "is none of AVX-512 with AMX" in misfit(replace(knobs, **wrong), amx, "bf16")
    grouped = replace(outer_knobs(amx, 300, 450, "bf16"), group=1)
    assert misfit(grouped, amx, "bf16") == "group is 1"
    assert product_knobs(amx, 300, 16, "bf16").vectors == 1
    assert product_knobs(amx, 300, 450, "float32") == product_knobs(other, 300, 450, "float32")


@on_x86
def test_a_machine_that_is_what_its_model_says_adds_nothing(monkeypatch):
    implied = host.instructions(schedules.make_target({**X86, "mcpu": "znver4"}))
    target = as_if(monkeypatch, "znver4", **dict.fromkeys(implied, True))
    assert not target.attrs.get("mattr")


def test_caches_are_read_as_linux_lists_them(tmp_path):
    listed = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K")]
    for number, values in enumerate([*listed, ("3", "Unified", "1M"), ("4", "Unified", "1M")]):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "index9").mkdir()  # says nothing
    found = host.of_linux(tmp_path)
    assert found == host.Caches(48 << 10, 2 << 20, 1 << 20)
    assert host.parse_caches(str(found)) == found
    assert host.of_linux(tmp_path / "absent") == host.Caches()
    assert host.parse_caches("a machine l2=big l1=4096") == host.Caches(l1=4096)


def test_caches_of_this_machine_are_those_that_linux_lists_for_its_first_core():
    listed = Path("/sys/devices/system/cpu/cpu0/cache")
    if not any(listed.glob("index*/size")):
        pytest.skip("this system lists none")
    assert host.host_caches() == host.of_linux(listed) != host.Caches()


@pytest.mark.parametrize("missing", [None, 1])
def test_caches_are_read_as_darwin_names_them(missing, monkeypatch):
    """Of which one that it does not have is 0; the others stay what they are."""
    sizes = [128 << 10, 16 << 20, 8 << 20]

    def by_name(name, value, length, new, new_length):
        assert (length._obj.value, new, new_length.value) == (8, None, 0), "nothing is set"
        number = host.DARWIN.index(name.decode())
        value._obj.value = sizes[number]
        return -1 if number == missing else 0

    monkeypatch.setattr(host.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(host.ctypes, "CDLL", lambda _: SimpleNamespace(sysctlbyname=by_name))
    want = [0 if number == missing else size for number, size in enumerate(sizes)]
    assert host.host_caches() == host.Caches(*want)


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    """Not another one; and all of them where the system has no such thing."""
    given = {0: {1, 3, 5}}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: given.get(pid, {0}), raising=False)
    assert host.usable_cores() == threads(schedules.make_target("host")) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, n in ((7, 7), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert host.usable_cores() == n


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "cuda", "arch": "sm_90"}, "no schedule rules for a target of kind 'cuda'"),
        ("no-such-kind", "^'no-such-kind' is not a TVM target: .*no-such-kind.*Use \"host\""),
        ({"kind": "llvm", "mcpuu": "haswell"}, "'mcpuu': 'haswell'} is not a TVM target: .*mcpuu"),
        ({**X86, "mcpu": "haswel"}, "knows no CPU 'haswel' for x86_64.*; near: haswell"),
        ({**X86, "mcpu": "qqqqqq"}, "CPU 'qqqqqq' for x86_64-linux-gnu; near: none. Use"),
        ({"kind": "llvm", "mcpu": "qqqqqq"}, "knows no CPU 'qqqqqq' for .*; near: none. Use"),
        ({**TARGETS["arm"], "mcpu": "haswell"}, "no CPU 'haswell' for aarch64-linux-gnu; near: "),
        ({"kind": "llvm", "mtriple": "x"}, "mtriple is 'x', and LLVM knows no architecture 'x'"),
        (
            {"kind": "llvm", "mtriple": "x86_65-linux-gnu"},
            "mtriple is 'x86_65-linux-gnu', and LLVM knows no architecture 'x86_65'; expected",
        ),
        ({"kind": "llvm", "mtriple": "-linux"}, "is '-linux', .* knows no architecture '';"),
        ({"kind": "llvm", "mtriple": "x86_64x-linux-gnu"}, "knows no architecture 'x86_64x'"),
        ({"kind": "llvm", "mtriple": "xx86_64-linux-gnu"}, "knows no architecture 'xx86_64'"),
    ],
)
def test_bad_targets_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        schedules.make_target(given)


def test_bad_thread_counts_are_refused():
    with pytest.raises(ValueError, match="threads is -3; it must be"):
        schedules.make_target("host", -3)


def test_gpu_rules_are_an_honest_empty_list():
    cuda = tvm.target.Target({"kind": "cuda", "arch": "sm_90"})
    assert schedules.rules_for(cuda) == ()
    with pytest.raises(ValueError, match="for targets of kind 'c'; kinds: llvm, cuda$"):
        schedules.rules_for(tvm.target.Target("c"))


@pytest.mark.parametrize(
    ("absent", "model", "lacking"),
    [
        ("", "haswell", None),
        ("avx2 fma", "haswell", "avx2, fma"),
        ("avx avx2 fma", "x86-64", None),
    ],
)
def test_a_target_that_this_cpu_cannot_run(absent, model, lacking, monkeypatch):
    from schedules import target as module

    made = schedules.make_target({**X86, "mcpu": model})
    has = {name: name not in absent.split() for name in host.instructions(made)}
    monkeypatch.setattr(module, "host_features", lambda: has)
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    if lacking is None:
        module.require_host(made)
    else:
        with pytest.raises(ValueError, match=f"^target {model} has .* lacks: {lacking}. Use "):
            module.require_host(made)


def test_a_target_of_another_architecture(monkeypatch):
    from schedules import target as module

    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    with pytest.raises(ValueError, match="^target neoverse-n1 is for aarch64, and .* is x86_64:"):
        module.require_host(schedules.make_target(TARGETS["arm"]))


@pytest.mark.parametrize(
    ("names", "linux"), [(("x86_64", "amd64"), "x86_64"), (("aarch64", "arm64"), "aarch64")]
)
def test_an_architecture_has_several_names(names, linux, monkeypatch):
    """In triples, and as systems call their machine."""
    from schedules import target as module

    monkeypatch.setattr(module, "host_features", dict)
    for name in names:
        target = schedules.make_target({"kind": "llvm", "mtriple": f"{name}-linux-gnu"})
        assert module.architecture(target) == linux
        for here in names:
            monkeypatch.setattr(module.platform, "machine", lambda here=here: here)
            module.require_host(target)
        monkeypatch.setattr(module.platform, "machine", lambda: "riscv64")
        with pytest.raises(ValueError, match=f"is for {linux}, and this machine is riscv64"):
            module.require_host(target)


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        *(("512K", 512 << 10), ("3M", 3 << 20), ("2G", 2 << 30), ("4096", 4096), ("0K", 0)),
        *((wrong, 0) for wrong in ("", "K", "-1K", "1.5M", "1 K", "1KK", "1T", "\u0663K")),
    ],
)
def test_sizes_of_caches_are_read_or_unknown(size, n_bytes):
    assert host.bytes_of(size) == n_bytes


def test_this_machine_runs_its_own_target():
    from schedules.target import require_host

    require_host(schedules.host_target())


@pytest.mark.parametrize("precision", ["", "float16", "FLOAT32", None])
def test_a_precision_that_is_none_is_refused(precision):
    target = schedules.make_target({**X86, "mcpu": "znver5"})
    with pytest.raises(
        ValueError, match=f"^precision is {precision!r}; expected one of float32, bf16"
    ):
        require_precision(target, precision)
    assert require_precision(target, "float32") is require_precision(target, "bf16") is None
