"""What asks for more memory than there is is refused in words, and nothing has changed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.networks import LOSS
from tvm_cavs.nn import CELLS
from tvm_cavs.runtime import memory_limit
from tvm_cavs.runtime.memory_limit import VARIABLE, available, check_room, most_bytes, parse, shown

GIB = 1 << 30


def machine(root: Path, files: dict[str, object]) -> Path:
    """A folder that holds what the kernel says of a machine."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: {32 << 20} kB\nMemAvailable: {16 << 20} kB"}
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
CASES: dict[str, tuple[dict[str, object], int]] = {
    "no group": ({}, 16 * GIB),
    "a group": (
        {
            "proc/self/cgroup": "0::/a/b",
            f"{V2}/a/b/memory.max": 4 * GIB,
            f"{V2}/a/b/memory.current": 3 * GIB,
            f"{V2}/a/b/memory.stat": f"anon 5\ninactive_file {GIB}\n",
        },
        2 * GIB,
    ),
    "a group above": (
        {
            "proc/self/cgroup": "0::/a/b",
            f"{V2}/a/b/memory.max": "max",
            f"{V2}/a/b/memory.current": 0,
            f"{V2}/a/memory.max": 3 * GIB,
            f"{V2}/a/memory.current": GIB,
        },
        2 * GIB,
    ),
    "a group of any name": (
        {
            "proc/self/cgroup": "0::/größe",
            f"{V2}/größe/memory.max": 2 * GIB,
            f"{V2}/größe/memory.current": GIB,
        },
        GIB,
    ),
    "a container": (  # which sees its group as the top, and its path as it is outside
        {
            "proc/self/cgroup": "0::/docker/0123",
            f"{V2}/memory.max": GIB,
            f"{V2}/memory.current": 2 * GIB,
        },
        0,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/a\n2:memory:/a",
            f"{V1}/a/memory.limit_in_bytes": 8 * GIB,
            f"{V1}/a/memory.usage_in_bytes": GIB,
            f"{V1}/memory.limit_in_bytes": 9223372036854771712,
            f"{V1}/memory.usage_in_bytes": 20 * GIB,
        },
        7 * GIB,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_least_of_all_limits_counts(name: str, tmp_path: Path) -> None:
    files, expected = CASES[name]
    assert available(machine(tmp_path, {**MEMINFO, **files})) == expected


def test_ulimit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, {**MEMINFO, "proc/self/statm": "1000 10 10"})
    page = memory_limit.os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(memory_limit.resource, "getrlimit", lambda _: (3 * GIB, 3 * GIB))
    assert available(root) == 3 * GIB - 1000 * page


def test_this_machine_says_something(tmp_path: Path) -> None:
    assert (available() or 0) > 0
    assert (available(tmp_path) or 0) > 0, "without /proc: what sysconf says"


def test_what_is_free_counts_where_nobody_says_what_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"SC_AVPHYS_PAGES": 3, "SC_PHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory_limit.os, "sysconf", said.__getitem__)
    monkeypatch.setattr(memory_limit.os, "sysconf_names", said)
    assert available(tmp_path) == 3 * 4096
    del said["SC_AVPHYS_PAGES"]
    assert available(tmp_path) == 7 * 4096
    assert available(machine(tmp_path, MEMINFO)) == 16 * GIB


def test_sizes_are_read() -> None:
    assert [parse(t) for t in ("8G", "1.5 GiB", "500M", "7", "2kb")] == [
        8 * GIB,
        3 * GIB // 2,
        500 << 20,
        7,
        2048,
    ]
    for wrong in ("much", "-1G", "0", "1X", "9" * 99 + "X"):
        with pytest.raises(cavs.ConfigError, match=f"^{VARIABLE}: expected a size such as 8G") as e:
            parse(wrong)
        assert str(e.value).endswith(f'or "unlimited", given {repr(wrong)[:60]}')
    assert [shown(n) for n in (7, 2048, 3 * GIB // 2)] == ["7 bytes", "2.0 KiB", "1.5 GiB"]


def test_a_refusal_names_the_largest_buffers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by name where they are equally large; what is empty is not named."""
    sizes = {"few": 1 << 10, "b": 3 << 20, "most": 9 << 19, "a": 3 << 20}
    monkeypatch.setenv(VARIABLE, "1.5M")
    for given, largest in (
        (sizes, "most 4.5 MiB, a 3.0 MiB, b 3.0 MiB"),
        ({"none": 0, "two": 2 << 20}, "two 2.0 MiB"),
    ):
        with pytest.raises(cavs.OutOfMemoryError) as error:
            check_room("it", given, 0, lambda most: f"Take {most - 7}.")
        assert str(error.value) == (
            f"it needs {shown(sum(given.values()))} for its buffers, and 1.5 MiB may be taken "
            f"({VARIABLE}=1.5M). The largest: {largest}. Take {(3 << 19) - 7}."
        )


def test_what_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(memory_limit, "available", lambda: 10 * GIB)
    assert most_bytes(held=GIB) == GIB + 9 * GIB, "what is held already may be given back"
    monkeypatch.setattr(memory_limit, "available", lambda: None)
    assert most_bytes(0) is None
    monkeypatch.setenv(VARIABLE, "2G")
    assert most_bytes(held=GIB) == 2 * GIB
    monkeypatch.setenv(VARIABLE, "unlimited")
    assert most_bytes(0) is None


def test_little_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(memory_limit, "available", lambda: 0)
    check_room("it", {"a": memory_limit.SMALL - 1}, 0, lambda most: "")
    with pytest.raises(cavs.OutOfMemoryError, match=r"it needs 64.0 MiB .*: a 64.0 MiB\. Less"):
        check_room("it", {"a": memory_limit.SMALL, "b": 0}, 0, lambda most: "Less.")
    with pytest.raises(MemoryError):
        check_room("it", {"a": memory_limit.SMALL}, 0, lambda most: "")


@pytest.mark.parametrize("given", [None, "", " ", "1M", " 1M "])
def test_who_set_the_limit_is_said(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable without a value sets none."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(VARIABLE, given)
    monkeypatch.setattr(memory_limit, "available", lambda: 0)
    ours = given is not None and given.strip()
    why = rf"\({VARIABLE}=1M\)" if ours else rf"\(90% .* left; {VARIABLE} sets another limit\)"
    with pytest.raises(cavs.OutOfMemoryError, match=f"may be taken {why}"):
        check_room("it", {"a": memory_limit.SMALL}, 0, lambda most: "")
    assert check_room("it", {"a": 3}, 0, lambda most: "") == ((1 << 20) if ours else None)


@pytest.mark.compiles
def test_a_batch_that_is_too_large(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, the batch that is said to fit fits, one that is larger does not."""
    net = cavs.Network(CELLS["tree_lstm"](5, 4, 8, 3))
    net.initialize(0)
    net.hybridize("tvm", threads=1, cache=cache)
    tree = cavs.Graph.from_children([[], [], [0, 1]], {"word": [0, 1, None], "label": [None, 2, 1]})

    def loss_of(n: int) -> float:
        with cavs.record():
            loss = LOSS(net(cavs.batch([tree] * n)))
        loss.backward()
        return float(loss)

    one = loss_of(1)
    monkeypatch.setenv(VARIABLE, "200K")
    with pytest.raises(cavs.OutOfMemoryError) as refused:
        loss_of(1_000)
    text = str(refused.value)
    assert text.startswith("a batch of 3,000 vertices in 1,000 graphs needs ")
    assert f"200.0 KiB may be taken ({VARIABLE}=200K). The largest: scratch." in text
    fits = int(re.findall(r"about ([\d,]+) such graphs, fits\.", text)[0].replace(",", ""))
    assert loss_of(fits) == pytest.approx(fits * one, rel=1e-5)
    with pytest.raises(cavs.OutOfMemoryError, match=f"{3 * (fits * 5 // 4):,} vertices in "):
        loss_of(fits * 5 // 4)
    monkeypatch.setenv(VARIABLE, "100")
    with pytest.raises(cavs.OutOfMemoryError, match="About 0 vertices fit, less than one such"):
        loss_of(2 * fits)
    monkeypatch.delenv(VARIABLE)
    assert loss_of(1_000) == pytest.approx(1_000 * one, rel=1e-5)


def test_memory_that_the_system_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm_cavs.runtime import BufferId, HostMemory, Role, memory

    def fail(*given: Any) -> np.ndarray:
        raise MemoryError("Unable to allocate")

    held, buffer = HostMemory(), BufferId(Role.STATE, "h")
    held.rows(buffer, 3, 2, "float32")
    before, version = held.read(buffer), held.version
    monkeypatch.setattr(memory, "aligned", fail)
    with pytest.raises(
        cavs.OutOfMemoryError, match=r"^state\.h \[7, 2\] needs 56 bytes, which the"
    ):
        held.rows(buffer, 6, 2, "float32")
    assert held.read(buffer) is before and held.version == version


@pytest.mark.parametrize("have", [0, 5])
def test_one_large_buffer_is_asked_about_alone(have: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is allocated; it stays what it was."""
    from tvm_cavs.runtime import BufferId, HostMemory, Role, memory

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(memory_limit, "available", lambda: 0)
    held, buffer = HostMemory(), BufferId(Role.STATE, "h")
    if have:
        held.rows(buffer, have, 1, "float32")
    version = held.version
    monkeypatch.setattr(memory, "aligned", lambda *_: pytest.fail("allocated"))
    rows = memory_limit.SMALL // 2
    with pytest.raises(
        cavs.OutOfMemoryError, match=r"^state\.h \[.* needs .* Make batches smaller"
    ):
        held.rows(buffer, rows, 1, "float32")
    with pytest.raises(cavs.OutOfMemoryError) as error:
        held.fixed(BufferId(Role.STATE, "c"), (rows // 2, 3))
    assert str(error.value).startswith(f"state.c [{rows // 2}, 3] needs 192.0 MiB for its buffers")
    assert " The largest: state.c 192.0 MiB. Make batches smaller" in str(error.value)
    assert held.version == version and held.sizes() == ({buffer: 4 * have} if have else {})
