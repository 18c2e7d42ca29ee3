"""Records in files: whole or not at all, merged, and left out with words where they do not fit."""

import json
import os
from dataclasses import replace
from threading import Thread

import pytest

pytest.importorskip("tvm")

import tvm

import schedules
from helpers.targets import X86
from schedules import records
from schedules.choice import Bucket
from schedules.knobs import OuterKnobs, ProductKnobs, RegionKnobs, direct_knobs, product_knobs
from schedules.records import (
    Record,
    from_json,
    merged,
    product_key,
    pruned,
    read_records,
    target_key,
    to_json,
    usable_records,
    write_records,
)

TARGET = schedules.make_target({**X86, "mcpu": "znver3", "model": "l1=32K l2=512K"}, 1)
HERE = target_key(TARGET)
KNOBS = ProductKnobs(2, 6, 126)
OTHER = {"float32": "bf16", "bf16": "float32"}


def record(**given):
    return Record(
        **{
            "kernel": "product 512x1280 float32",
            "target": HERE,
            "bucket": Bucket(64),
            "knobs": KNOBS,
            "seconds": 1e-4,
            "ratio": 0.9,
            "date": "2026-11-28T10:00:00",
            **given,
        }
    )


SEVERAL = [
    record(),
    record(kernel="outer 5x9 float32", knobs=OuterKnobs(1, 2, 64, split=2)),
    record(kernel="direct 5x9 transposed", knobs=direct_knobs(TARGET, 9, True)),
    record(kernel="region_0123456789ab", knobs=RegionKnobs(8), bucket=Bucket(1)),
    record(bucket=Bucket(2), seconds=None, failed="wrong: 3 of 5 results differ"),
]


def test_records_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "records.json"
    write_records(path, SEVERAL)
    found, notes = read_records(path)
    assert notes == [] and sorted(map(repr, found)) == sorted(map(repr, SEVERAL))
    assert all(from_json(to_json(each)) == each for each in SEVERAL)
    write_records(path, reversed(SEVERAL))
    assert read_records(path)[0] == found, "the order of a file is its own"
    assert read_records(tmp_path / "absent.json") == ([], [])


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "records.json"
    write_records(path, SEVERAL)
    before = path.read_text()

    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="no space"):
        write_records(path, SEVERAL[:1])
    assert path.read_text() == before and os.listdir(tmp_path) == ["records.json"]


def test_all_is_on_the_disk_before_it_takes_the_place_of_what_was_there(tmp_path, monkeypatch):
    path, done = tmp_path / "records.json", []
    fsync, replaced = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def noted_replace(part, to):
        done.append(("replace", os.stat(part).st_size))
        replaced(part, to)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_records(path, SEVERAL)
    size = path.stat().st_size
    assert done == [("fsync", size), ("replace", size)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{\n1", "holds no records (Expecting property name enclosed in double quotes: line 2 "),
        ("\xff", "holds no records ('utf-8' codec can't decode byte 0xff in position 0"),
        ("[]", "schema 'list', expected 1"),
        ('{"schema": 99, "records": []}', "schema 99, expected 1"),
        ('{"schema": 1, "records": 3}', "has no list of records"),
    ],
)
def test_a_corrupted_file_is_said_and_holds_nothing(text, words, tmp_path):
    path = tmp_path / "records.json"
    path.write_bytes(text.encode("latin-1"))
    found, (note,) = read_records(path)
    assert found == [] and words in note and str(path) in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": "spline 3x4"}, "kernel 'spline 3x4' is of no family"),
        ({"kernel": None}, "kernel None is of no family"),
        ({"knobs": {"vectors": 2}}, "missing"),
        ({"knobs": {**vars(KNOBS), "speed": 9}}, "TypeError: ProductKnobs.__init__() got an unex"),
        ({"knobs": {**vars(KNOBS), "block": 12.5}}, "'block': 12.5, "),
        ({"knobs": None}, "TypeError"),
        ({"bucket": 48}, "bucket is 48; expected a power of two"),
        ({"bucket": True}, "bucket is True; expected a power of two"),
        ({"bucket": "64"}, "bucket is '64'; expected a power of two"),
        ({"bucket": 0}, "bucket is 0; expected a power of two"),
        ({"bucket": -2}, "bucket is -2; expected a power of two"),
        ({"seconds": "1"}, "are ('1', 0.9, 0.0); expected numbers"),
        ({"seconds": 1e9}, "are (1000000000.0, 0.9, 0.0); expected numbers"),
        ({"ratio": float("inf")}, "are (0.0001, inf, 0.0); expected numbers"),
        ({"spread": -0.1}, "are (0.0001, 0.9, -0.1); expected numbers"),
        ({"seconds": -1.0}, "are (-1.0, 0.9, 0.0); expected numbers"),
        ({"ratio": 0}, "are (0.0001, 0, 0.0); expected numbers"),
        ({"spread": float("nan")}, "are (0.0001, 0.9, nan); expected numbers"),
        ({"target": 5}, "have to be texts"),
        *(({name: None}, "have to be texts") for name in ("failed", "origin", "date", "tvm")),
        ({"seconds": None, "failed": 3}, "have to be texts"),
        ({"colour": "red"}, "unexpected"),
    ],
)
def test_one_bad_record_spoils_no_other(change, words, tmp_path):
    path = tmp_path / "records.json"
    good = to_json(record())
    path.write_text(json.dumps({"schema": 1, "records": [good | change, good, 7]}))
    found, notes = read_records(path)
    assert found == [record()]
    assert len(notes) == 2 and words in notes[0]
    for number, note in zip((0, 2), notes, strict=True):
        assert note.startswith(f"{path}: record {number} is not used: ")


def test_a_record_is_put_into_words_once_however_often_a_file_is_written(tmp_path, monkeypatch):
    """A tuning writes all of its file after every measurement."""
    made, path = [], tmp_path / "records.json"
    monkeypatch.setattr(records, "to_json", lambda r: made.append(r) or to_json(r))
    some = [replace(each) for each in SEVERAL]
    for n in range(len(some) + 1):
        write_records(path, some[:n])
    assert len(made) == len(some)
    assert sorted(read_records(path)[0], key=repr) == sorted(some, key=repr)


def test_the_later_of_two_measurements_counts():
    old, new = record(ratio=0.5), record(ratio=0.8, date="2026-11-28T11:00:00")
    other = record(bucket=Bucket(1))
    assert merged([new, other], [old]) == [new, other]
    assert merged([old], [other, new]) == [new, other]


def test_a_record_is_said_by_what_came_of_it():
    """And the default took its time by the ratio."""
    good, bad = record(seconds=1.5e-4, ratio=0.75), record(seconds=None, failed="wrong: a row")
    begin = f"product 512x1280 float32, 64-127 rows, {KNOBS}: "
    assert str(good) == f"{begin}150.0 us, 0.750 of the default"
    assert str(bad) == f"{begin}wrong: a row"
    assert good.default_seconds == pytest.approx(2e-4) and bad.default_seconds == 0


def test_a_target_has_one_key_in_every_process(monkeypatch):
    """Whatever the order in which a set of its features comes."""
    found = records.instructions(TARGET)
    for names in (sorted(found), sorted(found)[::-1]):
        monkeypatch.setattr(records, "instructions", lambda target, names=names: names)
        assert target_key(TARGET) == HERE


def test_pruned_records_are_what_choosing_needs():
    fast, slow = record(ratio=0.7), record(ratio=0.9, knobs=replace(KNOBS, ahead=8))
    wide = record(ratio=1.5, knobs=replace(KNOBS, vectors=3, height=4, block=4))
    assert pruned([slow, wide, SEVERAL[-1], fast]) == [fast, wide]


def test_records_for_others_are_never_used_and_said():
    foreign = record(target=target_key(schedules.make_target({**X86, "mcpu": "znver4"})))
    tall = record(knobs=replace(KNOBS, height=12, block=120), bucket=Bucket(1))
    old = record(tvm="0.1", bucket=Bucket(2))
    found, notes = usable_records([foreign, tall, old, record()], TARGET)
    assert found == [record()]
    text = "\n".join(notes)
    for words in (
        "another target",
        foreign.target,
        "does not fit 16 registers",
        f"with TVM 0.1, and this is {tvm.__version__};",
    ):
        assert words in text


def test_what_is_not_used_is_said_by_its_reason_how_many_and_the_first():
    one, two = (target_key(schedules.make_target({**X86, "mcpu": m})) for m in ("znver4", "znver2"))
    made = [record(target=one, date=str(n)) for n in range(3)] + [record(target=two)]
    made += [record(tvm="0.1", bucket=Bucket(n)) for n in (1, 64)] + [record()] * 2
    made += [record(tvm="0.2", kernel="product 5x9 float32", bucket=Bucket(2))]
    tall = replace(KNOBS, height=12, block=120)
    made += [record(knobs=tall, bucket=Bucket(n)) for n in (4, 8, 2)]
    buckets = [f"{bucket} rows" for bucket in (Bucket(1), Bucket(2), Bucket(4))]
    expected = [
        f"4 record(s) are for another target ({one}; {two}) and not used; this one is {HERE}",
        f"2 record(s), the first of product 512x1280 float32, {buckets[0]}, are not used: measured",
        f"1 record(s), the first of product 5x9 float32, {buckets[1]}, are not used: measured with",
        f"3 record(s), the first of product 512x1280 float32, {buckets[2]}, are not used: a tile "
        "of 12 rows x 2 vectors does not fit 16 registers",
    ]
    found, notes = usable_records(made, TARGET)
    assert found == [record()] * 2 and len(notes) == 4
    for note, words in zip(notes, expected, strict=True):
        assert note.startswith(words)


def test_what_decides_about_speed_is_in_the_key():
    given = {**X86, "mcpu": "znver3", "model": "l1=32K l2=512K", "num-cores": 1}
    same = {**given, "model": "l1=32K l2=512K l3=1024K"}
    others = [
        {**given, "num-cores": 2},
        {**given, "model": "l1=32K l2=1024K"},
        {**given, "mattr": ["+avx512f"]},
        {**given, "mcpu": "x86-64"},
    ]
    assert target_key(schedules.make_target(same)) == HERE
    assert HERE not in {target_key(schedules.make_target(other)) for other in others}
    assert HERE == "x86_64 avx avx2 fma l1=32K l2=512K threads=1"
    arm = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1", "num-cores": 3}
    assert target_key(schedules.make_target(arm)) == "aarch64 dotprod fullfp16 neon  threads=3"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_knobs_of_another_precision_are_left_out(precision):
    """A kernel on AMX reads words: applied to float32 operands, its knobs once gave NaN."""
    amx = schedules.make_target({**X86, "mcpu": "sapphirerapids"})
    fits, other = (product_knobs(amx, 128, 320, p) for p in (precision, OTHER[precision]))
    made = [
        Record(product_key(128, 320, precision), target_key(amx), Bucket(1), knobs, 1e-5)
        for knobs in (fits, other)
    ]
    usable, notes = usable_records(made, amx)
    assert usable == made[:1]
    assert len(notes) == 1 and "are not used: a tile of" in notes[0]


def test_a_link_or_a_pipe_is_not_replaced_by_records(tmp_path):
    target, link, pipe = tmp_path / "it.json", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    write_records(link, [record()])
    assert link.is_symlink() and read_records(target) == ([record()], [])
    os.mkfifo(pipe)
    read: list[str] = []
    reader = Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_records(pipe, [record()])
    reader.join(10)
    assert pipe.is_fifo() and read == [target.read_text()]
    with pytest.raises(IsADirectoryError):
        write_records(tmp_path, [record()])
