"""Any config and any overrides: a valid run, or a ConfigError; nothing else comes out."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.any_config import (
    assignments,
    keys,
    raw,
    text_of,
)
from tvm_cavs.errors import ConfigError
from tvm_cavs.runs.config import dump_config, load_config
from tvm_cavs.runs.run import absolute
from tvm_cavs.training.lr_schedules import make_schedule
from tvm_cavs.training.optim import OPTIMIZERS, Hyper

N_CASES = int(os.environ.get("TVM_CAVS_EXAMPLES", "200"))
EMPTY = Path(os.devnull)
LARGEST = float(np.finfo("float32").max)


def nested(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Sections as they stand in a file; what does not fit goes in as it is."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        section, _, last = key.rpartition(".")
        place = found.setdefault(section, {}) if section else found
        if isinstance(place, dict):
            place[last] = value
    return found


def check(path: Path, overrides: list[str]) -> None:
    """Load it; a config that is taken can be saved, read again, resumed from and trained with."""
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        assert len(str(error)) < 10_000
        return
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    assert absolute(absolute(config)) == absolute(config)
    train = config.train
    schedule = make_schedule((train.schedule.name, train.schedule.settings))
    rates = [train.lr * schedule(step) for step in (0, 1, 10**6)]
    extra = {**OPTIMIZERS[train.optimizer].extra, **train.hyper}
    for t in (1, 10**6):
        used = OPTIMIZERS[train.optimizer].numbers(Hyper(train.lr, train.weight_decay, t, extra))
        assert all(abs(number) <= LARGEST for number in [*used.values(), *rates]), used
    assert min(rates) >= 0


@settings(
    max_examples=N_CASES,
    derandomize=N_CASES == 200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(assignments, assignments, st.one_of([st.just("")] * 7 + [raw]))
def test_any_config(tmp_path, in_file, on_command_line, tail):
    path = tmp_path / "run.yaml"
    path.write_text(f"{text_of(nested(in_file))}\n{tail}", encoding="utf-8")
    check(path, [f"{key}={text_of(value)}" for key, value in on_command_line[:1]])


@settings(max_examples=N_CASES, derandomize=N_CASES == 200, deadline=None)
@given(st.one_of(raw, st.builds("{}={}".format, keys, raw)))
def test_any_override(text):
    """Also such as are no YAML."""
    try:
        load_config(EMPTY, [text])
    except ConfigError as error:
        assert len(str(error)) < 1000
