"""How many requests a second a server answers, and how long each waits, by ways of batching.

    python scripts/load_test.py served/demo --seconds 5 --clients 1 8 64

Starts `tvm-cavs serve` on a free port of this machine for each way of batching, and sends it random
binary trees of 5 to 40 words, as long as sentences of the Stanford Sentiment Treebank. First
clients that send the next tree once the last is answered; then, at some parts of the most that was
reached, trees that come at random times whether or not others are answered. Printed with them is
the processor time of a request, the server's and that of the clients, which are this process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from tvm_cavs.bench.workloads import random_tree
from tvm_cavs.deploy import Model, load

N_TREES = 512
MOST_SECONDS = 60.0
BATCHING = ("levels", "whole", "one")


@dataclass(frozen=True)
class Figures:
    """What was measured: requests a second, seconds that half, or 99 in 100, took at most.

    batch: vertices of a step. cpu, own: processor seconds of the server and of the clients for a
    request. refused: requests that were told to come again.
    """

    rate: float
    p50: float
    p99: float
    n: int
    batch: float
    cpu: float
    own: float
    refused: int

    def __str__(self) -> str:
        return (
            f"{self.rate:8.0f} /s   p50 {self.p50 * 1e3:7.2f} ms   p99 {self.p99 * 1e3:7.2f} ms   "
            f"{self.batch:6.1f} vertices a step   "
            f"{self.cpu * 1e3:5.2f} + {self.own * 1e3:.2f} ms of CPU   {self.n} asked"
            + (f", {self.refused} refused" if self.refused else "")
        )


def trees(model: Model, n: int, seed: int) -> list[str]:
    """Random trees with words of the model's vocabulary, as JSON."""
    rng, vocab = np.random.default_rng(seed), model.reader.vocab
    assert vocab is not None, "a model that reads words"
    names = [each["name"] for each in model.manifest["inputs"]]
    made = []
    for _ in range(n):
        children = random_tree(rng, int(rng.integers(5, 41)))
        words = [
            None if below else vocab.tokens[int(rng.integers(1, len(vocab.tokens)))]
            for below in children
        ]
        made.append(json.dumps({"children": children, "inputs": {names[0]: words}}))
    return made


def request(body: str, vertices: str) -> bytes:
    return (
        f"POST /v1/predict?vertices={vertices} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}"
    ).encode()


@contextmanager
def server(folder: Path, batching: str, *options: str) -> Iterator[tuple[int, int]]:
    """A server's port and process, while it runs."""
    command = [sys.executable, "-m", "tvm_cavs", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(
        [*command, "--batching", batching, *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r":(\d+)$", said.strip())
        if not found:
            process.kill()
            raise SystemExit(f"the server did not start: {said}")
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()
            process.wait(30)


class Client:
    """A connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, given: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(given)
        head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert size is not None, head
        body = await reader.readexactly(int(size[1]))
        if b"connection: close" in head.lower():
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def scrape(port: int, process: int) -> dict[str, float]:
    """The server's metrics without labels, and the processor seconds that it has used."""
    client = Client(port)
    _, text = await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.close()
    found = re.findall(r"^(\w+) (\S+)$", text.decode(), re.MULTILINE)
    cpu = {"cpu": cpu_seconds(process), "own": time.process_time()}
    return {**{name: float(n) for name, n in found}, **cpu}


def cpu_seconds(process: int) -> float:
    """Processor seconds that a process and its children have used."""
    stats = [(place / "stat").read_text() for place in family(process)]
    used = [map(int, text.rpartition(")")[2].split()[11:13]) for text in stats]
    return sum(map(sum, used)) / os.sysconf("SC_CLK_TCK")


def family(process: int) -> list[Path]:
    """The folders in /proc of a process and its children."""
    place = Path(f"/proc/{process}")
    children = (place / f"task/{process}/children").read_text().split()
    return [place, *(Path(f"/proc/{child}") for child in children)]


def figures(
    times: list[float],
    seconds: float,
    before: dict[str, float],
    after: dict[str, float],
    refused: int = 0,
) -> Figures:
    def more(name: str) -> float:
        return after[f"tvm_cavs_batch_vertices_{name}"] - before[f"tvm_cavs_batch_vertices_{name}"]

    p50, p99 = np.percentile(times, [50, 99]).tolist()
    batch = more("sum") / max(1, more("count"))
    cpu, own = ((after[name] - before[name]) / len(times) for name in ("cpu", "own"))
    return Figures(len(times) / seconds, p50, p99, len(times), batch, cpu, own, refused)


async def closed(
    port: int, process: int, given: list[bytes], n_clients: int, seconds: float
) -> Figures:
    """Clients that each wait for an answer before they ask again."""
    times: list[float] = []
    before = await scrape(port, process)
    start = time.perf_counter()

    async def ask(k: int) -> None:
        client, n = Client(port), k * 7
        while (begin := time.perf_counter()) < start + seconds:
            status, body = await client.send(given[n % len(given)])
            assert status == 200, (status, body[:300])
            times.append(time.perf_counter() - begin)
            n += 1
        client.close()

    await asyncio.gather(*map(ask, range(n_clients)))
    return figures(times, time.perf_counter() - start, before, await scrape(port, process))


async def opened(
    port: int, process: int, given: list[bytes], rate: float, seconds: float
) -> Figures:
    """Requests at random times, `rate` a second; each has waited since its time had come."""
    rng = np.random.default_rng(1)
    times: list[float] = []
    before = await scrape(port, process)
    free = [Client(port) for _ in range(8)]
    start = time.perf_counter()
    due, tasks = start, []

    async def ask(due: float, n: int) -> None:
        client = free.pop() if free else Client(port)
        status, body = await client.send(given[n % len(given)])
        assert status in (200, 503), (status, body[:300])
        if status == 200:
            times.append(time.perf_counter() - due)
            free.append(client)
        else:
            client.close()

    while due < start + seconds:
        due += float(rng.exponential(1 / rate))
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(due, len(tasks))))
    await asyncio.gather(*tasks)
    for client in free:
        client.close()
    seconds, refused = time.perf_counter() - start, len(tasks) - len(times)
    return figures(times, seconds, before, await scrape(port, process), refused)


async def measure(
    port: int, process: int, given: list[bytes], options: argparse.Namespace
) -> dict[str, Figures]:
    await closed(port, process, given, 8, 1.0)  # buffers grow
    seconds = min(options.seconds, MOST_SECONDS)
    found = {}

    def note(name: str, figures: Figures) -> None:
        found[name] = figures
        print(f"  {name:15s} {figures}", flush=True)

    for n in options.clients:
        note(f"{n} clients", await closed(port, process, given, n, seconds))
    peak = max(each.rate for each in found.values())
    for part in options.load:
        rate = part * peak
        note(f"{part:.0%} of the peak", await opened(port, process, given, rate, seconds))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="an exported model that reads words")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--load", type=float, nargs="*", default=[0.7], help="parts of the peak")
    parser.add_argument("--batching", nargs="+", choices=BATCHING, default=list(BATCHING))
    parser.add_argument("--processes", type=int, default=1, help="of the server")
    parser.add_argument("--vertices", choices=("all", "roots"), default="roots")
    given = parser.parse_args()
    model = load(given.folder)
    requests = [request(text, given.vertices) for text in trees(model, N_TREES, 0)]
    found = {}
    gc.collect()
    gc.freeze()  # clients that rest for the garbage would be taken for a server that does
    for batching in given.batching:
        print(f"--batching {batching}")
        options = ("--processes", str(given.processes)) if given.processes > 1 else ()
        with server(given.folder, batching, *options) as (port, process):
            found[batching] = uvloop.run(measure(port, process, requests, given))
    for batching, each in found.items():
        alone, *others = (each[f"{n} clients"] for n in sorted(given.clients))
        peak = max([alone.rate, *(f.rate for f in others)])
        print(f"{batching}: the peak is {peak / alone.rate:.1f} times one at a time")
        for part in given.load:
            p99 = each[f"{part:.0%} of the peak"].p99
            print(f"    at {part:.0%} of it p99 is {p99 / alone.p50:.1f} times p50 of one alone")


if __name__ == "__main__":
    main()
