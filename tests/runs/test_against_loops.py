"""Logs, curves, overrides and clocks of runs against plain loops."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tvm_cavs.errors import ConfigError
from tvm_cavs.runs import runlog
from tvm_cavs.runs.config import load_config
from tvm_cavs.runs.curve import BLOCKS, draw
from tvm_cavs.runs.display import clock
from tvm_cavs.runs.pace import RECENT_STEPS, Pace, count_recent, recent_loss
from tvm_cavs.training import Progress


def random_event(rng: np.random.Generator, step: int) -> dict[str, Any]:
    kind = str(rng.choice(["step", "epoch", "test", "start"]))
    event: dict[str, Any] = {"event": kind, "step": step, "epoch": step // 3}
    if kind in ("step", "epoch"):
        event["train_loss"] = float(rng.normal()) if rng.random() < 0.8 else math.nan
    if kind == "epoch":
        event["dev"] = {"accuracy": float(rng.random())}
    return event


def shown(event: dict[str, Any]) -> dict[str, Any]:
    """An event as it comes back: what is no number is null."""
    lost = {k for k, v in event.items() if isinstance(v, float) and math.isnan(v)}
    return {k: None if k in lost else v for k, v in event.items()}


@pytest.mark.parametrize("seed", range(12))
def test_a_log_against_a_list(seed: int, tmp_path: Path) -> None:
    """Lines are added, put in the place of one that says the same, and dropped after a step."""
    rng, kept = np.random.default_rng(seed), []
    assert runlog.read_events(tmp_path) == []
    for step in range(12):
        event, what = random_event(rng, step // 2), rng.integers(4)
        if what == 0:
            runlog.append(tmp_path, event)
            kept.append(event)
        elif what < 3:
            runlog.put(tmp_path, event)
            place = [event.get(key) for key in ("event", "epoch", "step")]
            kept = [e for e in kept if [e.get(k) for k in ("event", "epoch", "step")] != place]
            kept.append(event)
        else:
            last = int(rng.integers(-1, 6))
            runlog.rewind(tmp_path, last)
            kept = [e for e in kept if e["step"] <= last]
        assert runlog.read_events(tmp_path) == [shown(e) for e in kept]
        for last in range(-1, 7):
            held = [shown(e) for e in kept if e["step"] <= last]
            assert runlog.read_events(tmp_path, last) == held
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(whole + '{"event": "st', encoding="utf-8")  # torn
    assert runlog.read_events(tmp_path) == [shown(e) for e in kept]
    assert [json.loads(line) for line in whole.splitlines()] == [shown(e) for e in kept]


def heights(picture: str, n: int) -> list[int]:
    """The filled parts of every column; below a full one all are full."""
    rows = [line.split(" | ", 1) for line in picture.splitlines()]
    cells = [row[1].ljust(n) if len(row) > 1 else " " * n for row in rows]
    found = []
    for column in range(n):
        parts = [BLOCKS.index(row[column]) for row in reversed(cells)]
        full = sum(part == 8 for part in parts)
        assert parts[:full] == [8] * full and not any(parts[full + 1 :])
        found.append(sum(parts))
    return found


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("n", [1, 2, 9, 30, 31, 60, 61, 130])
def test_a_curve_is_as_high_as_its_values(n: int, log: bool) -> None:
    for height in (1, 2, 6):
        values = np.random.default_rng(n).uniform(0.01, 5, n).tolist()
        picture = draw(values, 60, height, log=log)
        if n <= 60:
            each = min(60 // n, 8)
            columns = [v for v in values for _ in range(each)]
        else:
            ends = [n * c // 60 for c in range(61)]
            columns = [float(np.mean(values[a:b])) for a, b in zip(ends, ends[1:], strict=False)]
        lines = picture.splitlines()
        assert len(lines) == height and max(map(len, lines)) <= 11 + len(columns)
        marks = [line.split(" | ")[0].rstrip("| ").strip() for line in lines]
        assert marks[0] == f"{max(columns):.4g}" and not any(marks[1:-1])
        assert height == 1 or marks[-1] == f"{min(columns):.4g}"
        scaled = [math.log(c) for c in columns] if log else columns
        low, span = min(scaled), (max(scaled) - min(scaled)) or 1.0
        for found, value in zip(heights(picture, len(columns)), scaled, strict=True):
            assert abs(found - 1 - (value - low) / span * (8 * height - 1)) <= 0.501
        plain = draw(values, 60, height, plain=True, log=log)
        assert plain.isascii()
        for one, other in zip(plain.splitlines(), lines, strict=True):
            assert [c == "#" for c in one[11:]] == [c != " " for c in other[11:]]


@pytest.mark.parametrize("seed", range(8))
def test_overrides_against_a_dictionary(seed: int, tmp_path: Path) -> None:
    """Keys of sections, of sections inside them, and of some that the file does not have."""
    rng, path = np.random.default_rng(seed), tmp_path / "run.yaml"
    given: dict[str, Any] = {"train": {"lr": 0.3, "lr_mult": {"E": 0.5}}, "model": {"hidden": 9}}
    path.write_text(yaml.safe_dump(given))
    choices: dict[str, Any] = {
        "train.lr": 0.25,
        "train.seed": 7,
        "train.lr_mult.E": 0.0,
        "train.lr_mult.W": 2.0,
        "train.early_stop.patience": 3,
        "model.hidden": 5,
        "model.cell": "tree_gru",
        "data.n_train": 11,
        "data.name": "listops",
        "executor.name": "reference",
    }
    keys = [key for key in choices if key == "data.name" or rng.random() < 0.6]
    wanted = copy.deepcopy(given)
    for key in keys:
        place = wanted
        *sections, last = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = choices[key]
    path_of_wanted = tmp_path / "wanted.yaml"
    path_of_wanted.write_text(yaml.safe_dump(wanted))
    order = rng.permutation(len(keys)).tolist()
    found = load_config(path, [f"{keys[i]}={choices[keys[i]]}" for i in order])
    assert found == load_config(path_of_wanted)
    assert yaml.safe_load(path.read_text()) == given


@pytest.mark.parametrize("wrong", ["", "=", "=3", "train.lr", "train.lr:0.1"])
def test_what_is_no_override_is_said(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("")
    with pytest.raises(ConfigError, match="expected an override such as train.lr=0.1"):
        load_config(path, [wrong])


def test_the_loss_and_the_speed_of_the_last_steps() -> None:
    rng, progress, pace = np.random.default_rng(0), Progress(), Pace(lambda: None)
    losses, speeds = [], []
    for step in range(2 * RECENT_STEPS):
        loss, n, seconds = float(rng.random()), int(rng.integers(0, 4)), float(rng.random()) + 0.1
        count_recent(progress, loss, n)
        losses.append((loss, n))
        last = losses[-RECENT_STEPS:]
        mean = sum(v for v, _ in last) / max(1, sum(m for _, m in last))
        assert recent_loss(progress) == pytest.approx(mean)
        pace.add(n, seconds)
        speeds += [(n, seconds)] if step else []
        if step % 7 == 6:
            whole = sum(m for m, _ in speeds) / sum(s for _, s in speeds)
            assert pace.take() == pytest.approx(whole)
            speeds = []
    assert pace.n_steps == 2 * RECENT_STEPS


def test_clocks_read_back() -> None:
    for seconds in [*range(130), 3599, 3600, 3661, 86399, 360000, 59.4, 59.6, 3599.5]:
        parts = [int(part) for part in clock(seconds).split(":")]
        total = sum(part * 60**i for i, part in enumerate(reversed(parts)))
        assert total == round(seconds) and all(part < 60 for part in parts[-2:])
        assert len(parts) == (3 if total >= 3600 else 2)
        assert all(len(text) == 2 for text in clock(seconds).split(":")[1:])
