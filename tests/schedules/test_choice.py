"""Which measured knobs run at how many rows, and what becomes of variants then."""

from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("tvm")

import schedules
from helpers.targets import X86
from schedules import layout
from schedules.choice import UNTUNED, Bucket, Chosen, bucket_of, choose, only
from schedules.domains import adjusted, domains
from schedules.host import Caches
from schedules.knobs import (
    ALWAYS,
    BY_SIZE,
    MOST_BLOCK,
    NEVER,
    OuterKnobs,
    StepKnobs,
    direct_knobs,
    misfit,
    outer_knobs,
    packed_bytes,
    part_bytes,
    product_knobs,
    region_knobs,
    step_knobs,
    tile_heights,
)
from schedules.records import Record
from schedules.target import simd
from schedules.tiles import product_tile

KIB = 1 << 10
ONE = {**X86, "mcpu": "znver3", "num-cores": 1}
TARGETS = [
    schedules.make_target(given)
    for given in (
        ONE,
        {**ONE, "num-cores": 2},
        {**X86, "mcpu": "znver4", "num-cores": 4},
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1", "num-cores": 2},
    )
]
TARGET, TWO = TARGETS[:2]
DEFAULT = partial(product_knobs, TARGET, 512, 1280, "float32")
USUAL = DEFAULT()


def record(rows, knobs, ratio, seconds=1e-3, spread=0.0):
    return Record("product", "here", Bucket(rows), knobs, seconds * ratio, ratio, spread)


@pytest.mark.parametrize(
    ("l2", "want"),
    [(0, 256), (256, 128), (512, 256), (1024, 256), (2048, 512), (8192, 512), (128, 64)],
)
def test_defaults_follow_from_the_second_cache(l2, want):
    assert packed_bytes(Caches(32 * KIB, l2 * KIB, 0)) == want * KIB
    target = schedules.make_target({**ONE, "model": f"l1=32K l2={l2}K"})
    assert part_bytes(target) == 2 * want * KIB


def test_rows_are_read_where_they_lie_unless_they_are_changed_on_the_way():
    """Of a deep product a window is copied; operands of bfloat16 are rounded."""
    for k, precision, packs in (
        (512, "float32", False),
        (9000, "float32", True),
        (512, "bf16", True),
    ):
        knobs = replace(USUAL, packs=False)
        assert product_tile(TARGET, k, precision, knobs).packs == packs
        assert product_tile(TARGET, k, precision, replace(knobs, packs=True)).packs


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: str(t.attrs["mcpu"]))
def test_every_default_is_in_its_own_space_and_fits(target):
    for default in (
        product_knobs(target, 300, 450, "float32"),
        outer_knobs(target, 300, 450, "float32"),
        direct_knobs(target, 450, False),
        direct_knobs(target, 450, True),
        region_knobs(target),
        step_knobs(target),
    ):
        values = domains(default, target)
        assert {name: each[0] for name, each in values.items()} == vars(default)
        assert all(len(set(each)) == len(each) for each in values.values())
        assert adjusted(default) == default and misfit(default, target, "float32") is None


def test_what_does_not_fit_is_refused():
    tall = replace(USUAL, height=simd(TARGET).registers)
    said = f"a tile of {tall.height} rows x {tall.vectors} vectors does not fit 16 registers"
    assert misfit(tall, TARGET, "float32") == said
    said = f"block is {USUAL.height + 1}: no multiple of {USUAL.height} up to {MOST_BLOCK}"
    assert misfit(replace(USUAL, block=USUAL.height + 1), TARGET, "float32") == said
    assert "no multiple of 32" in misfit(OuterKnobs(1, 1, 16), TARGET, "float32")
    assert misfit(replace(USUAL, ahead=-1), TARGET, "float32") == "ahead is -1"
    assert misfit(replace(USUAL, split=3), TARGET, "float32") == "split is 3"
    lying = replace(USUAL, packs=False)
    assert misfit(lying, TARGET, "float32") is None
    assert "as they are packed" in misfit(lying, TARGET, "bf16")
    direct = replace(direct_knobs(TARGET, 9, False), depth=0, ahead=2)
    assert misfit(direct, TARGET, "float32") == "depth is 0, ahead 2"
    region = region_knobs(TARGET)
    said = "lanes is 7 and a vector has 8"
    assert misfit(replace(region, lanes=7), TARGET, "float32") == said
    assert misfit(replace(region, ahead=2), TARGET, "float32") == "ahead is 2"
    assert misfit(replace(region, split=3), TARGET, "float32") == "split is 3"
    assert adjusted(replace(USUAL, block=USUAL.height + 1)).block == USUAL.height
    for threads, direct in ((0, 1), (2, 1), (1, -1), (1, 3)):
        assert "on 1 thread(s)" in misfit(StepKnobs(threads, direct), TARGET, "float32")


HEIGHT = tile_heights(simd(TARGET), 2)[0]  # the tallest of two vectors
DIRECT, OUTER, REGION = direct_knobs(TARGET, 9, False), OuterKnobs(1, 1, 32), region_knobs(TARGET)
LIMITS = [
    # knobs, one of them, its last values that fit, those past them, what is said of these
    (replace(USUAL, vectors=2, block=HEIGHT), "height", (1, HEIGHT), (0, HEIGHT + 1), "fit"),
    (replace(USUAL, vectors=1, height=1, block=1), "vectors", (1, 5), (0, 6), "does not fit 16"),
    (replace(USUAL, height=1), "block", (1, 4096), (0, 4097, -1), "no multiple of 1 up to 4096"),
    (replace(USUAL, height=4), "block", (4, 4096), (0, 4100, 4095), "no multiple of 4 up to 4096"),
    (USUAL, "ahead", (0, 64), (-1, 65), "ahead is"),
    (USUAL, "split", (BY_SIZE, NEVER, ALWAYS), (-1, 3), "split is"),
    (OUTER, "block", (32, 4096), (0, 33, 4128), "no multiple of 32 up to 4096"),
    (OUTER, "ahead", (0, 1), (-1, 2), "ahead is"),
    (OUTER, "group", (0, 1024), (-1, 1025), "group is"),
    (DIRECT, "depth", (1, 1024), (0, 1025), "depth is"),
    (DIRECT, "ahead", (0, 64), (-1, 65), "ahead"),
    (REGION, "lanes", (4, 8, 16), (0, 2, 12, 32), "a vector has 8"),
    (REGION, "ahead", (0, 1), (-1, 2), "ahead is"),
    (REGION, "split", (BY_SIZE, NEVER, ALWAYS), (-1, 3), "split is"),
    (StepKnobs(1), "threads", (1,), (0, 2), "on 1 thread"),
    (StepKnobs(1), "direct", (BY_SIZE, NEVER, ALWAYS), (-1, 3), "on 1 thread"),
]


@pytest.mark.parametrize(("knobs", "name", "fits", "others", "message"), LIMITS)
def test_every_knob_has_limits(knobs, name, fits, others, message):
    for value in fits:
        assert misfit(replace(knobs, **{name: value}), TARGET, "float32") is None
    for value in others:
        said = misfit(replace(knobs, **{name: value}), TARGET, "float32")
        assert message in said and f"{value}" in said


def test_threads_of_a_step_are_halved_and_the_default_comes_first():
    for n, want in (
        (1, (1,)),
        (2, (2, 1)),
        (4, (4, 1, 2)),
        (6, (6, 1, 2, 4)),
        (9, (9, 1, 2, 4, 8)),
    ):
        target = schedules.make_target({**ONE, "num-cores": n})
        found = domains(step_knobs(target), target)
        assert found == {"threads": want, "direct": (BY_SIZE, NEVER, ALWAYS)}
        assert all(misfit(StepKnobs(k), target, "float32") is None for k in want)


@pytest.mark.parametrize(("rows", "first"), [(1, 1), (2, 2), (3, 2), (63, 32), (64, 64)])
def test_buckets(rows, first):
    bucket = bucket_of(rows)
    assert bucket == Bucket(first) and rows in bucket
    assert bucket.last + 1 not in bucket and first - 1 not in bucket


def test_a_clearly_faster_candidate_is_chosen_where_it_was_measured():
    fast, slow = replace(USUAL, ahead=8), replace(USUAL, even=True)
    found = choose(DEFAULT, [record(64, fast, 0.9), record(64, slow, 0.95), record(1, slow, 1.1)])
    assert found == Chosen((), ((Bucket(64), fast),))


@pytest.mark.parametrize(("ratio", "spread"), [(0.99, 0.0), (0.9, 0.2), (1.0, 0.0), (1.2, 0.0)])
def test_noise_crowns_nobody(ratio, spread):
    assert choose(DEFAULT, [record(64, replace(USUAL, ahead=8), ratio, spread=spread)]) == UNTUNED
    assert choose(DEFAULT, []) == UNTUNED


def test_panels_are_chosen_for_all_row_counts_together():
    """What is won at 64 rows may be lost at 1; what was not measured everywhere is no choice."""
    wide, narrow = DEFAULT(vectors=2), DEFAULT(vectors=1)
    assert {USUAL.vectors, wide.vectors, narrow.vectors} == {1, 2, 3}
    won = record(64, wide, 0.8, seconds=1.0)
    assert choose(DEFAULT, [won, record(1, wide, 2.0, seconds=0.5)]) == UNTUNED
    assert choose(DEFAULT, [won, record(1, USUAL, 1.0), record(64, narrow, 0.1)]) == UNTUNED
    both = [won, record(1, wide, 1.1, seconds=0.1), record(1, replace(USUAL, ahead=8), 0.9)]
    found = choose(DEFAULT, both)
    assert found == Chosen((("vectors", 2),), ((Bucket(1), wide), (Bucket(64), wide)))


@pytest.mark.parametrize(
    ("few", "ratio", "spread", "wins"),
    [
        (0.1, 0.9, 0.0, False),  # of all time 1 %
        (0.3, 0.9, 0.0, True),  # 3 %
        (0.3, 0.9, 0.11, False),
        (1.0, 0.97, 0.0, True),
        (1.0, 0.985, 0.0, False),
    ],
)
def test_panels_have_to_save_a_part_of_all_time(few, ratio, spread, wins):
    """Half of the measurements say how long the default takes, not one that is far off."""
    wide = DEFAULT(vectors=2)
    often = [record(1, wide, 1.0, seconds=1 - few)] * (few < 1)
    found = [record(64, wide, ratio, few, spread), record(64, USUAL, 1.0, few)]
    off = record(64, replace(USUAL, even=True), 1.0, seconds=100.0)
    chosen = choose(DEFAULT, [*often, off, *found])
    assert chosen.shared == ((("vectors", 2),) if wins else ())
    assert wins or chosen == UNTUNED


def variants(target, chosen, by_level=True):
    return layout.product_variants(target, 300, 450, chosen=chosen, by_level=by_level)


@pytest.mark.parametrize("target", TARGETS[:2], ids=["one", "two"])
@pytest.mark.parametrize("by_level", [True, False])
def test_chosen_knobs_run_in_their_bucket_and_the_default_elsewhere(target, by_level):
    usual = variants(target, UNTUNED, by_level)
    knobs = replace(product_knobs(target, 300, 450, "float32"), ahead=8)
    found = variants(target, Chosen((), ((Bucket(16), knobs),)), by_level)
    for rows in (1, 2, 15, 16, 31, 32, 1000, 10**6):
        tile, default = (layout.choose(v, rows).tile for v in (found, usual))
        assert tile.ahead == (8 if rows in Bucket(16) else 0)
        if rows not in Bucket(16):
            assert tile == default
    assert len({v.suffix for v in found}) == len({v.tile for v in found})
    assert [v.min_rows for v in found] == sorted({v.min_rows for v in found})
    assert found[0].min_rows == 1 and (by_level or len(usual) == 1)


def test_neighbours_that_are_cut_alike_are_one_variant():
    knobs = replace(product_knobs(TARGET, 300, 450, "float32"), ahead=8)
    found = variants(TARGET, Chosen((), tuple((Bucket(n), knobs) for n in (4, 8, 16))))
    assert [(v.min_rows, v.tile.ahead) for v in found] == [(1, 0), (4, 8), (32, 0)]
    assert found[0].suffix == found[2].suffix == "" != found[1].suffix
    assert len(variants(TARGET, only(knobs))) <= 2


def test_shared_knobs_hold_outside_of_every_bucket():
    knobs = product_knobs(TARGET, 300, 450, "float32", vectors=4)
    found = variants(TARGET, Chosen((("vectors", 4),), ((Bucket(8), knobs),)))
    assert {v.tile.vectors for v in found} == {4}
    unit = simd(TARGET)
    assert all(v.tile.heights[0] * 4 + 5 <= unit.registers for v in found)
    assert not any(v.suffix == "" for v in found)


def test_threads_are_taken_where_that_was_chosen():
    knobs = product_knobs(TWO, 300, 450, "float32")
    one, two = replace(knobs, split=NEVER), replace(knobs, split=ALWAYS)
    found = variants(TWO, Chosen((), ((Bucket(1), two), (Bucket(1024), one))))
    assert layout.choose(found, 1).tile.tasks == 2
    assert layout.choose(found, 1500).tile.tasks == 1
    assert layout.choose(found, 5000).tile.tasks == 2
    for alone in (one, two):  # where there is one thread
        assert [(v.suffix, v.min_rows, v.tile.tasks) for v in variants(TARGET, only(alone))] == [
            ("", 1, 1)
        ]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("l2", [0, 1024, 4096])
def test_shared_knobs_that_are_given_are_those_of_the_defaults(precision, l2):
    """Whatever the vector unit and the caches; the rest fits them."""
    given = {"kind": "llvm", "mcpu": "sapphirerapids", "model": f"l1=48K l2={l2}K"}
    target = schedules.make_target(given)
    for value in (1, 2):
        assert product_knobs(target, 300, 450, precision, vectors=value).vectors == value
        assert outer_knobs(target, 300, 450, precision, block=32 * value).block == 32 * value
        assert region_knobs(target, lanes=8 * value).lanes == 8 * value
