"""Kill training at any moment, go on, and compare the end with a run that nobody killed.

    python scripts/crash.py                      kill -9 at 20 random moments
    python scripts/crash.py --kills 50 --seed 1
    python scripts/crash.py --faults             at each fsync and each rename (needs strace)
    python scripts/crash.py --faults fsync

Runs begin without compiled kernels, so that kills fall into their writing too, and save a
checkpoint at each step. After each kill every entry of the kernel cache has to be whole. At the end
parameters, optimizer, and the steps, losses and metrics of the log have the bits of the run that
nobody killed; else the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tvm_cavs import kernel_cache  # noqa: E402
from tvm_cavs.training import load_checkpoint  # noqa: E402

SMALL = (
    "demo data.n_train=48 data.n_dev=8 data.n_test=8 data.max_tokens=12 model.embedding=4 "
    "model.hidden=8 model.dropout=0.2 train.batch_size=8 train.epochs=2 train.max_seconds=null "
    "train.checkpoint_seconds=1e-6 executor.threads=1"
).split()
CALLS = ("fsync", "fdatasync", "rename", "renameat", "renameat2")
STORING = ("renameat", "renameat2")  # kernels come by these alone, the files of a run by others
KEPT = ("event", "epoch", "step", "train_loss", "lr", "dev", "test", "whole")  # no times
LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass
class Trial:
    """One run in a folder, killed as often as it is told, with kernels of its own."""

    folder: Path
    words: Sequence[str]
    n_killed: int = 0
    where: Counter[str] = field(default_factory=Counter)
    parts: set[str] = field(default_factory=set)  # what kills have left among the kernels

    @property
    def kernels(self) -> Path:
        return self.folder.with_name(self.folder.name + "-kernels")

    def command(self) -> list[str]:
        """What starts the run, or goes on with it; without a checkpoint it begins again."""
        train = [sys.executable, "-m", "tvm_cavs", "train"]
        if (self.folder / LAST).exists():
            return [*train, "--resume", str(self.folder)]
        shutil.rmtree(self.folder, ignore_errors=True)
        return [*train, *self.words, f"folder={self.folder}"]

    def start(self, before: Sequence[str] = ()) -> subprocess.Popen:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            [*before, *self.command()],
            env=os.environ | {"TVM_CAVS_CACHE": str(self.kernels), "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def finish(self) -> float:
        """Run to the end; the seconds that took."""
        begun = time.monotonic()
        process = self.start()
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"{self.folder} cannot go on after {self.n_killed} kills:\n{said}")
        return time.monotonic() - begun

    def kill_after(self, seconds: float, in_training: bool) -> bool:
        """Kill the run and its children after so long; False if it ended before.

        Args:
            in_training: count from the first step, else from the start of the process.
        """
        process = self.start()
        if in_training:
            self.wait_for_a_step(process)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return self.ended(process)

    def wait_for_a_step(self, process: subprocess.Popen) -> None:
        """Until a checkpoint comes; a new run has one before its first step already."""
        seen = set(self.saved())
        while process.poll() is None and len(seen) < 2:
            seen.update(self.saved())
            time.sleep(0.001)

    def saved(self) -> Iterator[int]:
        """When the newest checkpoint was written, if there is one."""
        with suppress(OSError):
            yield (self.folder / LAST).stat().st_mtime_ns

    def kill_at(self, call: str, number: int) -> bool:
        """Kill the run at its `number`-th call of the kernel; False if it has made fewer."""
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject]
        return self.ended(self.start(strace))

    def ended(self, process: subprocess.Popen) -> bool:
        """Whether it was killed; what it was doing is counted, and its kernels are looked at."""
        _, said = process.communicate()
        if process.returncode == 0:
            return False
        if process.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise SystemExit(f"{self.folder}: ended with {process.returncode}:\n{said}")
        self.n_killed += 1
        self.where[self.state()] += 1
        check_kernels(self.kernels)
        return True

    def state(self) -> str:
        """How far the run had come when it was killed."""
        parts = {path.name for path in self.kernels.glob("part-*")}
        new, self.parts = parts - self.parts, parts
        if new:
            return "storing kernels"
        if any(self.folder.glob(".*.part")):
            return "writing a file of the run"
        if not (self.folder / LAST).exists():
            return "before the first checkpoint"
        events = read_events(self.folder)
        return f"after epoch {events[-1]['epoch']}" if events else "in the first epoch"


def check_kernels(folder: Path) -> None:
    """Every entry of the kernel cache is whole."""
    if not folder.exists():
        return
    with kernel_cache.opened(folder) as opened:
        for entry in kernel_cache.contents(opened).entries:
            if kernel_cache.libraries(opened, entry.key) is None:
                raise SystemExit(f"{folder}: entry {entry.key} lacks a library")


def read_events(folder: Path) -> list[dict]:
    """The log without times; a line that was torn by the kill is left out."""
    events = []
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        events.append({key: event[key] for key in KEPT if key in event})
    return [event for event in events if event["event"] != "start"]


def training_seconds(folder: Path) -> float:
    """The seconds from the first step to the end of a run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return max(e.get("seconds", 0.0) for e in map(json.loads, lines) if e["event"] == "epoch")


def differences(one: Path, other: Path) -> Iterator[str]:
    """What is not the same, bit for bit, in the folders of two runs that ended."""
    for file in (LAST, BEST):
        first, second = load_checkpoint(one / file), load_checkpoint(other / file)
        for group in ("parameters", "optimizer"):
            a, b = getattr(first, group), getattr(second, group)
            if a.keys() != b.keys():
                yield f"{file}: {group} have other names"
            for name in a.keys() & b.keys():
                if (a[name].shape, a[name].tobytes()) != (b[name].shape, b[name].tobytes()):
                    yield f"{file}: {name} differs"
    if read_events(one) != read_events(other):
        yield "the logs differ"


def require_same(whole: Path, trial: Trial) -> None:
    found = list(differences(whole, trial.folder))
    if found:
        raise SystemExit(f"{trial.folder} after {trial.n_killed} kills: {'; '.join(found)}")


def count_calls(trial: Trial, log: Path) -> dict[str, int]:
    """How often a whole run makes each call; of its threads the one that makes most."""
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    process = trial.start(strace)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"strace ended with {process.returncode}:\n{said}")
    made: Counter[tuple[str, str]] = Counter()
    for line in log.read_text().splitlines():
        if found := re.match(r"(\d+) +(\w+)\(", line):
            made[found[1], found[2]] += 1
    most: dict[str, int] = {}
    for (_, call), number in made.items():
        most[call] = max(number, most.get(call, 0))
    return most


def random_kills(work: Path, whole: Trial, given: argparse.Namespace, seconds: float) -> int:
    """Kill at random moments until there were enough, half of them in training; their number."""
    rng, n_killed, where, n_runs = random.Random(given.seed), 0, Counter(), 0
    again = Trial(work / "again", whole.words)
    shutil.copytree(whole.kernels, again.kernels)
    again.finish()
    require_same(whole.folder, again)
    training = training_seconds(again.folder)  # nothing is compiled in them
    while n_killed < given.kills:
        trial = Trial(work / f"random-{n_runs}", whole.words)
        while n_killed + trial.n_killed < given.kills:
            in_training = rng.random() < 0.5
            longest = training if in_training else seconds
            if not trial.kill_after(rng.uniform(0.0, longest), in_training):
                break
        trial.finish()
        require_same(whole.folder, trial)
        n_killed, n_runs = n_killed + trial.n_killed, n_runs + 1
        where += trial.where
        print(f"{n_killed} of {given.kills} kills, run {n_runs} is the same", flush=True)
    print("; ".join(f"{number} {what}" for what, number in sorted(where.items())))
    return n_killed


def faults(work: Path, whole: Trial, given: argparse.Namespace, seconds: float) -> int:
    """Kill once at each call; the number of kills."""
    calls = count_calls(Trial(work / "counted", whole.words), work / "calls")
    print("calls of a run: " + ", ".join(f"{n} {call}" for call, n in calls.items()), flush=True)
    n_killed, where = 0, Counter()
    for call, most in calls.items():
        if given.faults and call not in given.faults:
            continue
        for number in range(1, most + 1):
            trial = Trial(work / f"{call}-{number}", whole.words)
            if call not in STORING:
                shutil.copytree(whole.kernels, trial.kernels)
            if not trial.kill_at(call, number):
                print(f"{call} {number}: not reached", flush=True)
            trial.finish()
            require_same(whole.folder, trial)
            n_killed += trial.n_killed
            where += trial.where
        print(f"{call}: killed at each of {most}, the runs are the same", flush=True)
    print("; ".join(f"{number} {what}" for what, number in sorted(where.items())))
    return n_killed


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("words", nargs="*", help="of tvm-cavs train (default: a small demo)")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="random (default: 20)")
    parser.add_argument(
        "--faults",
        nargs="*",
        choices=CALLS,
        metavar="CALL",
        help=f"kill instead at each of these calls: {', '.join(CALLS)} (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.faults is not None and not shutil.which("strace"):
        parser.error("--faults needs strace; install it, or leave --faults out")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="crash-", ignore_cleanup_errors=True) as folder:
        whole = Trial(Path(folder) / "whole", given.words or SMALL)
        seconds = whole.finish()
        print(f"a run of {seconds:.0f} s, never killed: {whole.folder}", flush=True)
        work, kills = Path(folder), random_kills if given.faults is None else faults
        n = kills(work, whole, given, seconds)
    print(f"{n} kills: all runs ended as the one that was never killed, bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
