"""Stage functions in Relax, run by its virtual machine, do what the executor's own calls do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

import schedules
import tvm_cavs as cavs
from helpers.random_graphs import N_CLASSES, N_WORDS, random_tree
from schedules import host_target
from schedules.target import PRECISIONS, simd
from tvm_cavs.compiler import relaxed
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.kinds import Group
from tvm_cavs.compiler.relaxed import stage_name
from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.executors.tvm import TvmExecutor
from tvm_cavs.runtime.batch_memory import Batch
from tvm_cavs.runtime.executable import CompiledGroup
from tvm_cavs.runtime.memory import Both
from tvm_cavs.runtime.roles import BufferId, Role
from tvm_cavs.runtime.slices import Spaces

pytestmark = pytest.mark.compiles


@pytest.mark.parametrize("precision", PRECISIONS)
def test_virtual_machine_runs_the_stages(tmp_path: Path, precision: str) -> None:
    if precision == "bf16" and not simd(host_target()).bf16:
        pytest.skip("this CPU has no AVX512_BF16")
    width = {"float32": 4, "bf16": 33}[precision]  # products of few rows stay float32
    cell = {"float32": cavs.nn.TreeLSTM, "bf16": cavs.nn.LSTM}[precision]
    net = cavs.Network(cell(N_WORDS, width, width + 1, N_CLASSES))
    net.initialize(seed=2)
    chosen = {"precision": precision, "without": ("direct",)}  # as module and buffers have it
    net.hybridize("tvm", sharing=False, threads=1, cache=tmp_path, **chosen)
    loss = cavs.loss.SoftmaxCrossEntropy()
    rng = np.random.default_rng(4)
    batch = cavs.batch([random_tree(rng, net.function.arity, 4) for _ in range(3)])  # few kinds
    executor = net.executor(loss)
    assert isinstance(executor, TvmExecutor)
    want = {k: v.copy() for k, v in executor.forward(batch, Seeds()).outputs.items()}
    totals = executor.compiled.totals
    assert len(totals) >= 5
    executor.backward()
    gradients = {buffer: executor.workspace.memory.read(buffer).copy() for buffer in totals}

    module = relaxed.network_module(executor.kinds, executor.compiler)
    assert "def forward_recurrent_" in str(module)
    vm = build(module, executor.compiler)
    pushed = {name: BufferId(Role.PUSHED, name) for name in want}
    states = (BufferId(Role.STATE, name) for name in "hc")
    for buffer in (*pushed.values(), *states, *totals):
        executor.workspace.memory.fill(buffer, 0.0)
    planned, compiled = executor.plan(batch), executor.compiled
    for direction, groups in (("forward", compiled.forward), ("backward", compiled.backward)):
        lowered = relaxed.directions(executor.kinds)[direction]
        seen = executor.workspace.seen_by(planned)
        run_stages(vm, direction, lowered, groups, executor.spaces, planned, seen)
    for name, value in want.items():
        got = executor.workspace.memory.read(pushed[name])[planned.plan.row].reshape(value.shape)
        np.testing.assert_array_equal(got, value)
    for buffer, value in gradients.items():
        np.testing.assert_array_equal(executor.workspace.memory.read(buffer), value)


def build(module: tvm.IRModule, compiler: Compiler) -> relax.VirtualMachine:
    """Schedule and compile a network module for the host, and load it."""
    scheduled, _ = schedules.schedule(module, compiler.target)
    executable = tvm.compile(scheduled, target=compiler.target, tir_pipeline=schedules.pipeline())
    return relax.VirtualMachine(executable, tvm.cpu())


def run_stages(
    vm: relax.VirtualMachine,
    direction: str,
    lowered: Sequence[Group],
    groups: Sequence[CompiledGroup],
    spaces: Spaces,
    batch: Batch,
    memory: Both,
) -> None:
    """Run one direction of a planned batch through the virtual machine."""
    found = {
        id(group): (vm[stage_name(direction, group.stage, number)], low.lowered.buffers)
        for number, (low, group) in enumerate(zip(lowered, groups, strict=True))
    }
    for piece in batch.slices(direction):
        function, buffers = found[id(piece.group)]
        starts = (piece.row[spaces.column(s)] for s in piece.group.spaces)
        function(piece.n_rows, *starts, *map(memory.tensor, buffers))
