"""What tuning says of settings that it leaves to the user, of times made up."""

import io
from types import SimpleNamespace

import pytest

pytest.importorskip("tvm")

from rich.console import Console

from tvm_cavs.cli.other_settings import SECONDS, compare_settings, open_settings
from tvm_cavs.errors import CavsError, TargetError, TraceError
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.schema import ExecutorConfig

pytestmark = pytest.mark.compiles


def tuning(shares, failing=None, ratios=(0.9, 0.8, 1.0), **given):
    """Of batches that share equal vertices or do not; asked: what was timed beside what."""
    asked = []

    def shared(graph, loss):
        assert loss == "loss"
        return graph, ("shared" if graph else None)

    def after(**settings):
        if failing and failing[0] in settings:
            raise failing[1]("cannot be")
        return settings

    def pair(*given):
        asked.append(given)
        ratio, low, high = ratios
        return SimpleNamespace(ratio=ratio, low=low, high=high)

    net = SimpleNamespace(shared=shared)
    return SimpleNamespace(
        config=SimpleNamespace(executor=ExecutorConfig(**given)),
        before=SimpleNamespace(net=net, loss="loss", batches=shares),
        after=after,
        tools=SimpleNamespace(pair=pair),
        asked=asked,
    )


BF16 = ("precision", "bf16")


@pytest.mark.parametrize(
    ("shares", "given", "expected"),
    [
        ([True, True], {}, [("sharing", False), BF16]),
        ([False], {}, [("sharing", True), BF16]),
        ([True, False], {}, [BF16]),
        ([True], {"sharing": True}, [BF16]),
        ([True], {"sharing": False}, [BF16]),
        ([True], {"precision": "float32"}, [("sharing", False)]),
        ([True], {"precision": "bf16", "sharing": True}, []),
    ],
)
def test_settings_that_were_chosen_or_change_nothing_are_not_tried(shares, given, expected):
    """Where some batches share and some do not, the rule has chosen for each of them."""
    assert list(open_settings(tuning(shares, **given))) == expected


def said(made, stop=None):
    console = Console(file=io.StringIO(), width=200)
    compare_settings(made, "found", console, stop or Stop())
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("ratios", "begin"),
    [
        ((0.98, 0.5, 0.99), "faster: executor."),
        ((0.981, 0.5, 0.99), "executor."),
        ((0.98, 0.5, 1.0), "executor."),
    ],
)
def test_each_is_timed_beside_what_was_found(ratios, begin):
    made, stop = tuning([True], ratios=ratios), Stop()
    lines = said(made, stop)
    times = "takes {:.3f} of that time ({:.3f} to {:.3f}); ".format(*ratios)
    assert lines == [
        f"{begin}sharing=false {times}equal subgraphs are never looked for",
        f"{begin}precision=bf16 {times}operands of products are rounded, so train with both "
        "and compare",
    ]
    assert made.asked == [
        ("found", {name: value}, stop.requested, SECONDS)
        for name, value in (("sharing", False), BF16)
    ]


@pytest.mark.parametrize("failing", [("sharing", TraceError), ("precision", TargetError)])
def test_what_cannot_be_is_left_out_and_the_others_are_not(failing):
    """Dropout makes equal vertices differ; a CPU may have no instruction."""
    made = tuning([False], failing)
    assert len(said(made)) == 1
    ((_, settings, *_),) = made.asked
    assert failing[0] not in settings


def test_other_errors_are_not_hidden():
    with pytest.raises(CavsError, match="cannot be"):
        said(tuning([False], ("precision", CavsError)))


def test_nothing_is_tried_after_a_signal():
    assert said(tuning([True]), Stop(2)) == []
