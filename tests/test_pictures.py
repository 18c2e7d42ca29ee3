"""Every picture that the program draws, as it was when somebody last looked at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

figures = pytest.importorskip("matplotlib.figure", reason="the extra plot is not installed")

from helpers.pictures import described
from tvm_cavs.bench.ablate import Ablation
from tvm_cavs.bench.ablation_plot import save_ablations
from tvm_cavs.bench.compare import Comparison, PeerResult
from tvm_cavs.bench.measure import Case, Result
from tvm_cavs.bench.names import OFF
from tvm_cavs.bench.peer_plot import save_comparison
from tvm_cavs.runs.curve import save_picture

CASE = Case(hidden=4, embedding=3, batch=1, mode="train", threads=1)


def ablations(path: Path) -> bool:
    """Two modes, three batches each."""
    return save_ablations(
        path,
        [
            Ablation("treelstm", replace(CASE, mode=mode, batch=n), 1.0, dict.fromkeys(OFF, 1 + n))
            for mode in ("infer", "train")
            for n in (64, 1, 16)
        ],
    )


def comparisons(path: Path) -> bool:
    """Three panels in two columns; a peer that failed."""
    found = []
    for mode, hidden in (("train", 4), ("train", 8), ("infer", 8)):
        for n in (1, 64):
            case = asdict(replace(CASE, mode=mode, hidden=hidden, batch=n))
            figures = dict.fromkeys((f.name for f in fields(Result)), 1.0) | case
            figures |= {"workload": "treelstm", "share_of_floor": 0.5 + n / 256}
            peers = (
                PeerResult("level", "treelstm", **case, ms_per_batch=2.0, ratio=1.5 + n / 64),
                PeerResult("compile", "treelstm", **case, note="no compiler"),
                PeerResult("manual", "treelstm", **case, ms_per_batch=3.0, ratio=2.25),
            )
            found.append(Comparison(Result(**figures), peers))
    return save_comparison(path, found)


def curve(path: Path) -> bool:
    """Two series over epochs that do not begin at the first."""
    return save_picture(path, [3, 4, 5], {"loss": [2.0, 1.0, 0.5], "dev": [0.1, 0.2, 0.25]})


@pytest.mark.parametrize("draw", [ablations, comparisons, curve])
def test_a_picture(
    draw: Callable[[Path], bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden: Callable[[str, object], None],
) -> None:
    drawn: list[str] = []

    def keep(figure: Any, path: Path, **how: Any) -> None:
        assert path == tmp_path / "a.png"
        figure.canvas.draw()
        drawn.append(described(figure, **how))

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    assert draw(tmp_path / "a.png")
    golden(f"picture_{draw.__name__}", *drawn)
