"""A server among clients that send nonsense: good requests are answered right, memory stays flat.

    python scripts/abuse_test.py served/demo --bad 10000 --good 100000

Starts `tvm-cavs serve` on a free port of this machine and sends malformed, oversized and unfinished
requests among good ones. Every good answer is compared with the model's own to the last bit, every
bad request must get a status of its kind; then good requests only, while memory is watched.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import runpy
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvm_cavs.deploy import Model, load

LOAD = runpy.run_path(str(Path(__file__).with_name("load_test.py")))
N_GOOD, N_CLIENTS, N_SLOW = 200, 16, 8
PATIENCE = 2.0  # seconds that the server gives slow clients
SOME_MIB = 8  # that memory may grow by once it has been used
MOST_SECONDS = 3600.0


@dataclass
class Found:
    """What came back."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Good:
    """A request and its answer, as the model has it."""

    request: bytes
    answer: dict[str, bytes]


def good_requests(model: Model) -> list[Good]:
    texts = LOAD["trees"](model, N_GOOD, 3)
    answers = model.answers(model.read("\n".join(texts)))
    return [
        Good(LOAD["request"](text, "all"), {name: rows.tobytes() for name, rows in answer.items()})
        for text, answer in zip(texts, answers, strict=True)
    ]


def is_right(good: Good, body: bytes) -> bool:
    found = json.loads(body)["outputs"]
    return {n: np.array(rows, "float32").tobytes() for n, rows in found.items()} == good.answer


def bad_bodies(model: Model) -> dict[str, tuple[bytes, int]]:
    """By name: a body, and the status that it must get."""
    tree = json.loads(LOAD["trees"](model, 1, 4)[0])
    name = next(iter(tree["inputs"]))
    n = len(tree["children"])

    def changed(**what: Any) -> bytes:
        return json.dumps(tree | what).encode()

    texts = {
        "no JSON": b"{children",
        "empty": b"",
        "not UTF-8": b"\xff\xfe\x00",
        "a number": b"3",
        "a cycle": b'{"children": [[1], [2], [0]]}',
        "its own child": b'{"children": [[0]]}',
        "a child out of range": b'{"children": [[], [99]]}',
        "a huge child": b'{"children": [[], [' + b"9" * 30 + b"]]}",
        "a number too long": b'{"children": [[' + b"9" * 5000 + b"]]}",
        "huge fan-in": json.dumps({"children": [[], [0] * 3000]}).encode(),
        "children are text": changed(children="abc"),
        "children are numbers": changed(children=[1, 2]),
        "a fraction": b'{"children": [[], [0.5]]}',
        "inputs are a list": changed(inputs=[1]),
        "too few inputs": changed(inputs={name: ["a"]}),
        "inputs of another kind": changed(inputs={name: [1.5] * n}),
        "nested inputs": changed(inputs={name: [[["a"]]] * n}),
        "NaN": b'{"children": [[]], "inputs": {"x": [NaN]}}',
        "deep lists": b"[" * 200_000,
        "deep objects": b'{"children":' * 50_000,
        "the same key twice": b'{"children": [[]], "children": [[]]}',
        "many keys": json.dumps({f"k{i}": 0 for i in range(20_000)}).encode(),
        "an unknown key": b'{"kids": []}',
        "no graphs": b"[]",
        "no vertices": b'{"children": []}',
        "good and bad": b"[" + json.dumps(tree).encode() + b', {"children": [[0]]}]',
        "half a surrogate": b'{"children": [[]], "inputs": {"\\ud800": ["a"]}}',
    }
    too_large = {
        "too many vertices": json.dumps({"children": [[]] * 5000}).encode(),
        "too many graphs": b"[" + b",".join([b'{"children": [[]]}'] * 300) + b"]",
    }
    return {
        **{name: (text, 422) for name, text in texts.items()},
        **{name: (text, 413) for name, text in too_large.items()},
    }


def raw(body: bytes, *headers: str, path: str = "/v1/predict", length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def bad_requests(model: Model) -> dict[str, tuple[bytes, int]]:
    """By name: what is sent, and the status that it must get."""
    made = {
        name: (raw(body, length=len(body)), status)
        for name, (body, status) in bad_bodies(model).items()
    }
    large = b" " * 100_000
    return {
        **made,
        "ten megabytes": (raw(large, length=10 << 20), 413),
        "ten megabytes in chunks": (
            raw(b"186a0\r\n" + large + b"\r\n", "Transfer-Encoding: chunked") * 1
            + (b"186a0\r\n" + large + b"\r\n") * 30,
            413,
        ),
        "another type": (raw(b"{}", "Content-Type: image/png", length=2), 415),
        "compressed": (raw(b"{}", "Content-Encoding: gzip", length=2), 415),
        "an unknown option": (raw(b"{}", path="/v1/predict?vertices=x", length=2), 422),
        "an unknown path": (raw(b"{}", path="/v1/train", length=2), 404),
        "no HTTP": (b"hello\r\n\r\n", 400),
        "a long head": (raw(b"", "X: " + "x" * 1_000_000, length=0), 400),
        "a length that is none": (raw(b"", "Content-Length: -1"), 400),
    }


async def ask_once(port: int, given: bytes) -> tuple[int, bytes]:
    """The status of a request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        try:
            writer.write(given)
            await writer.drain()
        except ConnectionError:
            pass  # the server has answered before it has read all
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head[9:12]), head
    finally:
        writer.close()


async def slow(port: int, end: asyncio.Event, found: Found) -> None:
    """A client that begins a body, or a head, and never ends it; again and again."""
    head = raw(b"", length=1000)
    n = 0
    while not end.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head + b'{"child' if n % 2 else head[:40])
            got = await asyncio.wait_for(reader.read(100), 5 * PATIENCE + 20)
            found.statuses[("slow body" if n % 2 else "slow head", int(got[9:12] or 0))] += 1
        except asyncio.TimeoutError:
            found.wrong.append("a slow client was not closed")
        except ConnectionError:
            found.statuses["slow head", 0] += 1
        finally:
            writer.close()
        n += 1


def memory(process: int) -> float:
    """What a process and its children hold, in MiB; what they share counts for each."""
    texts = [(place / "status").read_text() for place in LOAD["family"](process)]
    return sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts) / 1024


async def send_good(
    port: int, good: list[Good], numbers: Iterator[int], found: Found, stop: float
) -> None:
    client = LOAD["Client"](port)
    for n in numbers:
        each = good[n % len(good)]
        status, body = await client.send(each.request)
        found.statuses["good", status] += 1
        if status != 200 or not is_right(each, body):
            found.wrong.append(f"good request {n}: {status} {body[:200]!r}")
        if time.monotonic() > stop:
            break
    client.close()


async def send_bad(
    port: int,
    bad: dict[str, tuple[bytes, int]],
    numbers: Iterator[int],
    found: Found,
    stop: float,
) -> None:
    names = list(bad)
    for n in numbers:
        name = names[n % len(names)]
        given, wanted = bad[name]
        try:
            status, _ = await ask_once(port, given)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            # a reset can overtake the answer where the server does not read the rest
            status = 0
            if wanted not in (400, 413):
                found.wrong.append(f"{name}: {error!r}")
        found.statuses[name, status] += 1
        if status not in (0, wanted):
            found.wrong.append(f"{name}: status {status}, expected {wanted}")
        if time.monotonic() > stop:
            break


async def abuse(port: int, process: int, model: Model, given: argparse.Namespace) -> Found:
    found, good, bad = Found(), good_requests(model), bad_requests(model)
    stop = time.monotonic() + min(given.seconds, MOST_SECONDS)
    await send_good(port, good, iter(range(300)), Found(), stop)
    before, end = memory(process), asyncio.Event()
    slow_ones = [asyncio.create_task(slow(port, end, found)) for _ in range(N_SLOW)]
    n_bad, n_good = iter(range(given.bad)), iter(range(given.bad))
    await asyncio.gather(
        *(send_bad(port, bad, n_bad, found, stop) for _ in range(N_CLIENTS // 2)),
        *(send_good(port, good, n_good, found, stop) for _ in range(N_CLIENTS // 2)),
    )
    end.set()
    await asyncio.gather(*slow_ones)
    print(f"{sum(found.statuses.values())} requests, {given.bad} of each sort:")
    for (name, status), n in sorted(found.statuses.items()):
        print(f"  {name:28s} {status or 'closed'}  {n}")
    print(f"memory: {before:.0f} MiB before, {memory(process):.0f} MiB after", flush=True)
    held, numbers = [memory(process)], iter(range(given.good))
    tasks = [
        asyncio.create_task(send_good(port, good, numbers, found, stop)) for _ in range(N_CLIENTS)
    ]
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=max(0.2, given.good / 20_000))
        held.append(memory(process))
    await asyncio.gather(*tasks)
    n = len(held)
    shown = [held[i * (n - 1) // 8] for i in range(9)]
    print(f"then good requests; memory in MiB: {', '.join(f'{each:.0f}' for each in shown)}")
    grown = held[-1] - held[n // 4]
    print(f"{found.statuses['good', 200]} good answers are right; grown by {grown:.1f} MiB")
    if grown > SOME_MIB:
        found.wrong.append(f"memory has grown by {grown:.1f} MiB")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="an exported model that reads words")
    parser.add_argument("--bad", type=int, default=10_000, help="among as many good ones")
    parser.add_argument("--good", type=int, default=100_000, help="afterwards")
    parser.add_argument("--processes", type=int, default=1, help="of the server")
    parser.add_argument("--seconds", type=float, default=1800.0, help="at most, of all")
    given = parser.parse_args()
    options = ("--body-seconds", str(PATIENCE), "--processes", str(given.processes))
    with LOAD["server"](given.folder, "levels", *options) as (port, process):
        found = asyncio.run(abuse(port, process, load(given.folder), given))
    for text in found.wrong[:20]:
        print(f"wrong: {text}")
    if found.wrong:
        raise SystemExit(f"{len(found.wrong)} things are wrong")


if __name__ == "__main__":
    main()
