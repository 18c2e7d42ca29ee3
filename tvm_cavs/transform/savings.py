"""Savings: how much arithmetic of F and its adjoint falls away where an input is absent."""

from __future__ import annotations

from collections.abc import Collection

from ..language import Program
from .absence import Need, Runs, presences, saved_runs
from .programs import Programs


def multiplications_saved(programs: Programs, pull: str) -> int:
    """Multiplications of matrix products that a vertex without this input need not do.

    It has everything else. Weight gradients count as the products that they are; what only the
    gradient of a table's row needs does not count.
    """
    reads = programs.forward.select("pull", "present")
    has = {*range(programs.arity), *(c["name"] for _, c in reads)} - {pull}
    saved = _saved(programs.forward, presences(programs.forward), has)
    if programs.adjoint is not None:
        runs = presences(programs.adjoint, saved_runs(programs.forward))
        saved += _saved(programs.adjoint, runs, has)
    return saved


def _saved(program: Program, runs: list[Runs], has: Collection[Need]) -> int:
    total = 0
    for _, c in program.select("matmul", "outer"):
        left, right = c.args
        if c.type.per == "vertex":
            there = _share(runs[left], has) * (_share(runs[right], has) if c.op == "outer" else 1)
            n_terms = program.calls[left].type.size if c.op == "matmul" else 1
            total += round(max(1, c.type.size) * n_terms * (1 - there))
    return total


def _share(runs: Runs, has: Collection[Need]) -> float:
    """How much of a value is there."""
    return sum(n for n, p in runs if p.holds(has)) / sum(n for n, _ in runs)
