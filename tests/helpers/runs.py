"""Small runs on the reference executor, and what is compared of them."""

import numpy as np

from tvm_cavs.runs import runlog
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.schema import RunConfig
from tvm_cavs.training.checkpoint import load_checkpoint

TINY = {
    "data": {"name": "listops", "n_train": 20, "n_dev": 6, "n_test": 6, "max_tokens": 8},
    "model": {"embedding": 3, "hidden": 4, "dropout": 0.3},
    "train": {"batch_size": 6, "epochs": 3, "optimizer": "adam", "lr": 0.01},
    "executor": {"name": "reference"},
}


class Silent:
    """A display that keeps its lines, and can do something after each step."""

    def __init__(self, after_step=lambda status: None):
        self.lines, self.after_step = [], after_step

    def status(self, status):
        self.after_step(status)

    def line(self, text):
        self.lines.append(text)


def config(**train):
    return RunConfig.model_validate(TINY | {"train": TINY["train"] | train})


def run_to_the_end(run):
    return fit(run, Silent(), Stop())


def parameters(run):
    return {name: p.data.copy() for name, p in run.net.parameters().items()}


def assert_same_run(one, other):
    """Two run folders ended with the same bits and the same history."""
    first, second = load_checkpoint(one / runlog.LAST), load_checkpoint(other / runlog.LAST)
    for group in ("parameters", "optimizer"):
        for name, array in getattr(first, group).items():
            np.testing.assert_array_equal(array, getattr(second, group)[name], err_msg=name)
    keys = ("event", "epoch", "step", "train_loss", "lr", "dev", "test")
    histories = [
        [{key: event.get(key) for key in keys} for event in runlog.read_events(folder)]
        for folder in (one, other)
    ]
    assert histories[0] == histories[1]
