"""A table that products read too has a dense gradient, to which the rows of its words are added."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm_cavs.row_sparse import made_rows
from tvm_cavs.runtime.gradients import Gradients
from tvm_cavs.runtime.roles import BufferId, Role


def test_rows_are_added_to_the_dense_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of every input that chooses some."""
    dense = np.arange(8, dtype="float32").reshape(4, 2)
    sums = {
        "word": made_rows(np.array([1, 3], "int32"), np.full((2, 2), 10.0, "float32")),
        "other": made_rows(np.array([3, 0], "int32"), np.full((2, 2), 100.0, "float32")),
    }
    made: Any = object.__new__(Gradients)
    made._rows, made._parts, made._tables = {"E": list(sums)}, {"E": []}, {}
    made._dense = {"E": BufferId(Role.GRADIENT, "E")}
    monkeypatch.setattr(Gradients, "_summed", lambda self, pull, *given: sums[pull])
    workspace = SimpleNamespace(memory=SimpleNamespace(read=lambda buffer: dense))
    assert made.collect(None, workspace)["E"] is dense
    assert dense.tolist() == [[100, 101], [12, 13], [4, 5], [116, 117]]
