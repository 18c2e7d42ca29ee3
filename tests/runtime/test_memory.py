"""Buffers stay where they are as long as they are large enough, and say when they moved."""

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm_cavs.runtime.memory import GROWTH, Both, HostMemory, ready, table
from tvm_cavs.runtime.roles import BufferId, Role

ONE, TWO, OTHER = (BufferId(Role.PLAN, name) for name in ("one", "two", "other"))


def test_a_buffer_grows_only_where_it_has_to() -> None:
    memory = HostMemory()
    capacities = []
    for n_rows in (0, 1, 4, 4, 3, 5, 6, 7):
        version = memory.version
        tensor = memory.rows(ONE, n_rows, 3, "float32")
        held = memory.read(ONE)
        assert tensor.shape == held.shape == (len(held), 3) and len(held) >= n_rows
        moved = len(capacities) == 0 or len(held) != capacities[-1]
        assert memory.version == version + moved
        held[:] = n_rows
        assert (np.from_dlpack(memory.tensor(ONE)) == n_rows).all()
        capacities.append(len(held))
    # at first as asked, then a quarter more
    assert capacities == [1, 1, 5, 5, 5, 5, 7, 7] and GROWTH == 1.25
    memory.rows(ONE, 9, 3, "float32", spare=False)
    assert len(memory.read(ONE)) == 9
    vector = memory.rows(TWO, 2, 0, "int32")
    assert vector.shape == (2,) and memory.read(TWO).dtype == np.int32
    fixed = memory.fixed(OTHER, (2, 5))
    assert memory.fixed(OTHER, (2, 5)) is fixed and (memory.read(OTHER) == 0).all()


def test_what_is_beneath_is_seen_and_not_taken() -> None:
    beneath = HostMemory()
    beneath.fixed(ONE, (3,))
    above = HostMemory(beneath)
    assert ONE not in above and ONE in beneath
    above.read(ONE)[:] = 7.0
    assert above.read(ONE) is beneath.read(ONE) and above.tensor(ONE) is beneath.tensor(ONE)
    above.fixed(ONE, (2,))
    assert ONE in above and len(above.read(ONE)) == 2 and len(beneath.read(ONE)) == 3
    for missing in (above.read, above.tensor, beneath.tensor):
        with pytest.raises(KeyError):
            missing(OTHER)
    above.fixed(TWO, (5,), "int64")
    assert above.sizes() == {ONE: 8, TWO: 40} and beneath.sizes() == {ONE: 12}
    beneath.bind(OTHER, beneath.read(ONE)[:2])  # the same memory counts once
    assert beneath.sizes() == {ONE: 12}


def test_a_call_sees_the_batch_first_and_both_versions() -> None:
    batch, workspace = HostMemory(), HostMemory()
    for memory in (batch, workspace):
        memory.fixed(ONE, (2,))
    workspace.fixed(TWO, (2,))
    both = Both(batch, workspace)
    assert both.tensor(ONE) is batch.tensor(ONE) and both.tensor(TWO) is workspace.tensor(TWO)
    seen = {both.version}
    for memory in (batch, workspace, batch):
        memory.bind(OTHER, np.zeros(16, "float32"))
        seen.add(both.version)
    assert len(seen) == 4


def test_parts_of_a_buffer_are_written_where_they_belong() -> None:
    memory = HostMemory()
    memory.rows(ONE, 5, 0, "float32")
    memory.fill(ONE, 9.0)
    memory.write(ONE, np.array([1.0, 2.0], "float32"), start=2)
    memory.write(ONE, np.array([3.0], "float32"))
    assert memory.read(ONE).tolist() == [3.0, 9.0, 1.0, 2.0, 9.0]


def test_arrays_are_given_as_they_are_where_kernels_can_take_them() -> None:
    plain = np.arange(6, dtype="int32").reshape(2, 3)
    assert ready(plain, "int32") is plain and ready(plain, None) is plain
    for made, dtype in ((plain.T, None), (plain, "int64"), (plain[:, ::2], "int32")):
        found = ready(made, dtype)
        assert found is not made and found.flags.c_contiguous and (found == made).all()
        assert found.dtype == (dtype or made.dtype)
    assert ready(np.zeros((0, 3), "int32"), "int64").shape == (1,)
    assert np.from_dlpack(table([], "int32")).tolist() == [0]
    assert np.from_dlpack(table([3, 5], "int64")).tolist() == [3, 5]
