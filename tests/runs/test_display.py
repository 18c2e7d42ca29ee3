"""What a run prints: status lines, the bar on narrow terminals, curves."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from tvm_cavs.runs import display
from tvm_cavs.runs.curve import draw, save_picture
from tvm_cavs.runs.display import Bar, Lasting, Plain, Status, clock, show
from tvm_cavs.runs.pace import Pace
from tvm_cavs.runs.report import say

STATUS = Status(2, 10, 30, 120, 0.51234, 987.6, 75.0)


def test_clock():
    assert [clock(s) for s in (-1, 7, 61, 3723)] == ["0:00", "0:07", "1:01", "1:02:03"]


def test_plain_lines_are_rare_and_without_escapes(monkeypatch):
    console = Console(file=io.StringIO(), width=20)
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    with show(console) as shown:
        shown.status(STATUS)
        monkeypatch.setattr(display, "PLAIN_SECONDS", 100.0)
        shown.status(STATUS)
        shown.status(STATUS)
        shown.line("an [odd] line that is longer than the console is wide")
    line = "epoch 2/10  batch 30/120  loss 0.5123  988 samples/s  1:15 left\n"
    assert console.file.getvalue() == 2 * line + (
        "an [odd] line that is longer than the console is wide\n"
    )


def test_a_status_is_shown_once_in_ten_seconds(monkeypatch):
    """The first one, too, when ten have passed."""
    now, console, shown = [3.0], Console(file=io.StringIO()), []
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    plain = Plain(console)
    for now[0] in (3.0, 12.9, 13.0, 22.9, 23.1):
        plain.status(STATUS)
        shown.append(console.file.getvalue().count("\n"))
    assert shown == [0, 0, 1, 1, 2]


def test_a_line_is_in_the_file_at_once(tmp_path):
    """For whoever follows it."""
    with open(tmp_path / "log", "w", encoding="utf-8") as file:
        Plain(Console(file=Lasting(file))).line("one")
        assert (tmp_path / "log").read_text() == "one\n"


def test_the_bar_is_as_long_as_the_epoch_is_far():
    progress = Progress(console=Console(file=io.StringIO()), auto_refresh=False)
    Bar(progress).status(STATUS)
    (task,) = progress.tasks
    assert (task.description, task.completed, task.total) == ("epoch 2/10", 30, 120)


@pytest.mark.parametrize(
    "say", [say, lambda console, text: Bar(Progress(console=console)).line(text)]
)
def test_a_line_stays_as_it_is(say):
    """On a terminal, too: what looks like markup, a number or a name is neither."""
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    say(console, "an [odd] line of 3 and True")
    assert console.file.getvalue() == "an [odd] line of 3 and True\n"


def test_a_path_can_be_copied():
    console = Console(file=io.StringIO(), width=20)
    say(console, f"run {'x' * 50} and more")
    assert console.file.getvalue() == f"run {'x' * 50} and more\n"


@pytest.mark.parametrize(
    ("width", "shown_left", "shown_bar"),
    [(90, 1, 1), (72, 1, 1), (71, 0, 1), (60, 0, 1), (59, 0, 0), (44, 0, 0)],
)
def test_the_bar_gives_way(width, shown_left, shown_bar):
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    with show(console) as shown:
        shown.status(STATUS)
        shown.line("kept")
    text = console.file.getvalue()
    assert "epoch 2/10" in text
    assert "loss 0.5123  988 samples/s" in text
    assert "kept" in text
    assert ("1:15 left" in text) == shown_left
    assert ("━" in text) == shown_bar


def test_a_curve():
    assert draw([0, 1, 2, 3], width=4, height=2) == "       3 |   ▃█\n       0 | ▁▆██"
    assert draw([1, 1], width=2, height=1, plain=True).endswith("| ##")
    falling = draw([100, 10, 1], width=3, height=1, log=True)
    assert falling == "     100 | █▅▁"
    wide = draw(list(range(1000)), width=50).splitlines()
    assert len(wide) == 6
    assert max(len(line) for line in wide) == len("       0 | ") + 50
    assert wide[-1].startswith("     9.5 |") and wide[0].startswith("   989.5 |")  # means of 20
    for n, width in ((1, 8), (2, 16), (7, 56), (8, 56), (31, 31), (60, 60), (61, 60)):
        assert len(draw(range(1, n + 1), height=1)) == len("       0 | ") + width


def test_the_picture(tmp_path, monkeypatch):
    """A panel a series, over epochs."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    series, saved, save = {"loss": [2.0, 1.0], "dev": [0.1, 0.2]}, [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: saved.append(f) or save(f, *a, **k))
    assert save_picture(tmp_path / "curve.png", [3, 4], series)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    drawn = {
        axes.get_title(): [line.get_xydata().tolist() for line in axes.lines]
        for axes in saved[0].axes
    }
    assert drawn == {name: [[[3, one], [4, two]]] for name, (one, two) in series.items()}
    assert {axes.get_xlabel() for axes in saved[0].axes} == {"epoch"}


def test_marks_of_a_curve_stand_in_one_column():
    """Also where a number takes more room than most."""
    lines = draw([1.2, 0.5, 0.0002917], log=True).splitlines()
    assert lines[-1].startswith("0.0002917 |") and len({line.index("|") for line in lines}) == 1


def test_the_first_step_says_nothing_about_speed():
    """It compiles."""
    pace = Pace(lambda: None)
    pace.add(6, 100.0)
    assert (pace.recent, pace.take()) == (0.0, 0.0)
    pace.add(6, 2.0)
    pace.add(6, 1.0)
    assert pace.recent == pytest.approx(0.9 * 3 + 0.1 * 6)
    assert (pace.take(), pace.take()) == (4.0, 0.0)
