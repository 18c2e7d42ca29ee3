"""Packed weights are made once for a version of the parameters, which nobody changes meanwhile."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("tvm_ffi")

from tvm_cavs.executors.weights import Weights
from tvm_cavs.runtime import BufferId, HostMemory, Role

A, B = (BufferId(Role.PACKED, name) for name in "ab")


class Lock:
    """Counts how often it was waited for."""

    def __init__(self) -> None:
        self.n = 0

    def __enter__(self) -> None:
        self.n += 1

    def __exit__(self, *_: object) -> None:
        pass


def weights(*parameters: Any) -> Weights:
    compiled: Any = SimpleNamespace(fixed={}, net_values=[], packs={})
    return Weights(compiled, dict(enumerate(parameters)), HostMemory())  # type: ignore


def test_a_version_waits_for_all_who_may_change_a_parameter() -> None:
    one, other = (SimpleNamespace(lock=Lock()) for _ in range(2))
    given = (one, 1), (one, 2), (other, 4)
    made = weights(*(SimpleNamespace(changed_by=c, version=v) for c, v in given))
    assert made.version() == 7
    assert (one.lock.n, other.lock.n) == (1, 1)


def test_what_parameters_make_is_made_once_for_each_of_their_versions() -> None:
    """Every packed weight when it is first wanted in one."""
    made, log = weights(), list[Any]()
    found: Any = SimpleNamespace(evaluate=lambda: log.append("all"), pack=log.append)
    made._made = found
    for packs, version in (((A,), 0), ((A, B), 0), ((A, B), 0), ((B,), 3), ((B, A), 3)):
        made.load(packs, version)
        log.append(version)
    first = ["all", (A,), 0, (B,), 0, 0]
    assert log == [*first, "all", (B,), 3, (A,), 3]
