"""Which file of records holds: the one that is named, the user's own, those that are shipped."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from helpers.paths import ROOT
from helpers.targets import X86
from schedules.choice import UNTUNED, Bucket, Chosen, only
from schedules.knobs import direct_knobs, outer_knobs, product_knobs, region_knobs
from schedules.records import (
    Record,
    direct_key,
    outer_key,
    product_key,
    read_records,
    target_key,
    write_records,
)
from schedules.target import make_target
from tvm_cavs.compiler import tuned
from tvm_cavs.compiler.forms import pack_form
from tvm_cavs.compiler.lowering.region import Region
from tvm_cavs.compiler.lowering.specs import (
    ColumnSum,
    DirectWeights,
    Outer,
    Pack,
    Piece,
    Placement,
    Product,
)
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.compiler.machine import Machine
from tvm_cavs.compiler.tuned import FILE, Source, Tuned, records_of
from tvm_cavs.compiler.workload import Workload, defaults

TARGET = make_target({**X86, "mcpu": "skylake-avx512", "num-cores": 1})
DEFAULT = product_knobs(TARGET, 300, 600, "float32")
KEY = product_key(300, 600, "float32")


def record(height: int, ratio: float, date: str = "2026-01-01", **more: object) -> Record:
    knobs = replace(DEFAULT, height=height, block=height * 8)
    given = {"kernel": KEY, "target": target_key(TARGET), "bucket": Bucket(64), "date": date}
    return Record(knobs=knobs, seconds=1e-3, ratio=ratio, **given | more)  # type: ignore


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped records, with two files."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("b", "a"):
        write_records(folder / f"{name}.json", [])
    monkeypatch.setattr(tuned, "SHIPPED", folder)
    return folder


def test_the_most_important_file_comes_last(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = [Source(shipped / "a.json", foreign=True), Source(shipped / "b.json", foreign=True)]
    cache, named = tmp_path / "cache", tmp_path / "named.json"
    assert records_of(None, False) == records_of(cache, False) == []
    assert records_of(None, None) == theirs
    assert records_of(cache, None) == [*theirs, Source(cache / FILE)]
    for given in (named, str(named)):
        assert records_of(cache, given) == records_of(None, given) == [*theirs, Source(named)]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert records_of(cache, "~/named.json")[-1] == Source(named)


def test_shipped_records_lie_beside_the_package_and_are_whole() -> None:
    sources = records_of(None, None)
    assert {source.path.parent for source in sources} == {ROOT / "autotune" / "records"}
    assert all(source.foreign for source in sources)
    for source in sources:
        found, notes = read_records(source.path)
        assert found and not notes


def chosen(*sources: Source) -> dict[Bucket, int]:
    """The height of a product's tile, by row counts."""
    found = Tuned(TARGET, sources).choose(KEY, lambda vectors=None: DEFAULT)
    return {bucket: knobs.height for bucket, knobs in found.by_rows}


def test_of_two_measurements_of_one_candidate_the_later_file_counts(tmp_path: Path) -> None:
    """If they are of one time; else the later measurement."""
    one, two = Source(tmp_path / "1.json", foreign=True), Source(tmp_path / "2.json")
    usual = DEFAULT.height
    other = usual - 1
    write_records(one.path, [record(other, 0.5)])
    write_records(two.path, [record(other, 1.5)])
    assert chosen(one, two) == {} and chosen(two, one) == {Bucket(64): other}
    write_records(one.path, [record(other, 0.5, date="2026-01-02")])
    assert chosen(one, two) == chosen(two, one) == {Bucket(64): other}
    write_records(two.path, [record(other - 1, 0.25)])
    assert chosen(one, two) == {Bucket(64): other - 1}


def test_what_measurements_have_chosen_is_known_by_kernel(tmp_path: Path) -> None:
    """Not where nothing was measured, everything failed or the default is as fast."""
    source = Source(tmp_path / "records.json")
    failed = record(4, 0.5, kernel=product_key(300, 601, "float32"), failed="wrong")
    slower = record(4, 1.5, kernel=product_key(300, 602, "float32"))
    write_records(source.path, [record(4, 0.5), failed, slower])
    found = Tuned(TARGET, [source])
    assert found.used == {}
    keys = [KEY, failed.kernel, slower.kernel, product_key(300, 603, "float32")]
    chosen = [found.choose(key, lambda vectors=None: DEFAULT) for key in keys]
    assert found.used == {KEY: chosen[0]} and chosen[1:] == [UNTUNED] * 3


def test_weights_in_other_panels_are_packed_by_another_kernel() -> None:
    """Its name is that of the default where the panels are, whatever else is tuned."""
    spec = Pack(((300, 600),), (Placement(0, 0, 0, (0, 300), (0, 600)),), 300, 600)
    usual = pack_form(Machine(TARGET, 16, 1, "float32"), spec)
    names = {}
    for vectors in range(1, 5):
        knobs = replace(product_knobs(TARGET, 300, 600, "float32", vectors), ahead=4)
        machine = Machine(TARGET, 16, 1, "float32", lambda key, default, knobs=knobs: only(knobs))
        names[vectors] = pack_form(machine, spec).symbol
    assert len(set(names.values())) == 4 and names[DEFAULT.vectors] == usual.symbol


def test_threads_share_the_packing_of_large_weights() -> None:
    """A kernel for each number of threads, of small weights one for all."""
    names = []
    for k in (1000, 100):
        spec = Pack(((k, 600),), (Placement(0, 0, 0, (0, k), (0, 600)),), k, 600)
        forms = [pack_form(Machine(TARGET, 16, threads, "float32"), spec) for threads in (1, 2, 3)]
        names.append([form.symbol for form in forms])
    large, small = names
    assert [name.removeprefix(large[0]) for name in large] == ["", "_2tasks", "_3tasks"]
    assert len(set(small)) == 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_kernel_is_looked_up_under_its_own_key(precision: str) -> None:
    asked: list[str] = []

    def choose(key: str, _default: object) -> Chosen:
        asked.append(key)
        return UNTUNED

    target = make_target({**X86, "mcpu": "znver4", "num-cores": 1})
    machine = Machine(target, 16, 1, precision, choose)
    machine.product(300, 600)
    machine.outer(300, 600)
    for transposed in (False, True):
        machine.direct(300, 600, transposed, True)
    machine.region("region_1", 8)
    assert asked == [
        product_key(300, 600, precision),
        outer_key(300, 600, precision),
        direct_key(300, 600, False),
        direct_key(300, 600, True),
        "region_1",
    ]
    assert machine.reads_directly(300, 600) == (precision == "float32")
    assert not machine.reads_directly(300, 2), "few columns have a layout of their own"


def test_what_sees_the_whole_batch_at_once_has_the_form_of_most_rows_alone() -> None:
    machine = Machine(make_target({**X86, "num-cores": 2}), 16, 2, "float32")
    several = (
        partial(machine.product, 8, 64),
        partial(machine.outer, 8, 64),
        partial(machine.direct, 8, 64, False),
        partial(machine.direct, 8, 64, True),
        partial(machine.region, "region_1", 8),
    )
    for variants in several:
        by_level = variants(by_level=True)
        assert len(by_level) > 1 and variants(by_level=False) == by_level[-1:]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_may_be_tuned_has_the_key_and_the_knobs_of_its_kernel(precision: str) -> None:
    """Sums of rows have no knobs, nor has a product or a weight gradient of few columns."""
    target = make_target({**X86, "mcpu": "znver4", "num-cores": 1})
    machine, rows = Machine(target, 16, 1, precision), (Piece(300, 0, 300),)
    product = Kernel("product", Product(rows, 600, 600))
    outer = Kernel("outer", Outer(rows, (Piece(600, 1, 600),), 600))
    region = Kernel("region", Region((), ()))
    found = {
        Workload(product): (
            product_key(300, 600, precision),
            product_knobs(target, 300, 600, precision),
        ),
        Workload(outer): (outer_key(300, 600, precision), outer_knobs(target, 300, 600, precision)),
        Workload(region): (region.name, region_knobs(target)),
    }
    for transposed in (False, True):
        direct = Workload(product, weights=DirectWeights(600, transposed=transposed))
        found[direct] = direct_key(300, 600, transposed), direct_knobs(target, 600, transposed)
    for workload, (key, knobs) in found.items():
        known = defaults(machine, workload)
        assert known is not None and (known[0], known[1]()) == (key, knobs)
    assert defaults(machine, Workload(Kernel("column_sum", ColumnSum(rows)))) is None
    for kind, spec in (
        ("product", Product(rows, 2, 2)),
        ("outer", Outer(rows, (Piece(2, 1, 2),), 2)),
    ):
        few = defaults(machine, Workload(Kernel(kind, spec)))
        assert (few is None) == (precision == "float32")
    more = Product(rows, 40, 40), Outer(rows, (Piece(40, 1, 40),), 40)
    known = [defaults(machine, Workload(Kernel("k", spec))) for spec in more]
    assert known[0] is not None and (known[1] is None) == (precision == "float32")


def test_what_cannot_be_used_is_told_of_a_file_of_ones_own(tmp_path: Path) -> None:
    """Shipped ones are for many targets; a file that is damaged is told in both cases."""
    path = tmp_path / "records.json"
    write_records(path, [record(2, 0.5, target="another"), record(2, 0.5, failed="it did")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Tuned(TARGET, [Source(path, foreign=True)]).notes == []
    with pytest.warns(UserWarning, match="another target"):
        (note,) = Tuned(TARGET, [Source(path)]).notes
    assert note.startswith("1 record(s) are for another target (another) and not used")
    assert chosen(Source(path, foreign=True)) == {}
    path.write_text("{")
    for foreign in (True, False):
        with pytest.warns(UserWarning, match="holds no records"):
            assert len(Tuned(TARGET, [Source(path, foreign)]).notes) == 1
