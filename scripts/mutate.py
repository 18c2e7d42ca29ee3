"""Planted errors -> which of them the tests notice: `python scripts/mutate.py [names] [options]`.

tests/mutants.yaml lists small, plausible errors as search and replace, each with the tests that
must fail when it is there. Every error is planted in a temporary copy of the tree and those tests
run in it. They run once without any error first: a test that fails then counts for nothing.

Exit code: 0 all noticed; 1 some survived, or their tests were skipped; 2 some entries are stale or
their tests fail without an error; 130 interrupted. No copy is left behind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TABLE = "tests/mutants.yaml"
LEFT_OUT = ("__pycache__", ".*", "*.egg-info")
LEFT_OUT_AT_THE_TOP = ("build", "dist", "runs", "shared", "site")
PACKAGE = "tvm_cavs"
KERNELS = f"{PACKAGE}/compiler/cache.py"  # its SOURCES are the modules that make kernels
SECONDS = 300.0
NOTICED, SURVIVED, SKIPPED, STALE, BROKEN = "noticed", "SURVIVED", "skipped", "STALE", "broken"


@dataclass(frozen=True)
class Mutant:
    """One planted error: `search` occurs once in `file`; the tests are pytest's node ids."""

    name: str
    file: str
    search: str
    replace: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant, and why in a few words."""

    mutant: Mutant
    what: str
    note: str
    seconds: float = 0.0


def read_table(path: Path) -> list[Mutant]:
    """The mutants of a table, in its order; a name stands once."""
    rows: list[dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = [Mutant(**{**row, "tests": tuple(row["tests"].split())}) for row in rows]
    names = [m.name for m in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SystemExit(f"{path}: {', '.join(twice)} stands more than once")
    return found


def planted(mutant: Mutant, root: Path) -> str | None:
    """The text of the mutant's file with the error in it; None if the search text is not there
    exactly once, or what comes out is no Python.
    """
    path = root / mutant.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(mutant.search) != 1:
        return None
    changed = text.replace(mutant.search, mutant.replace)
    try:
        compile(changed, mutant.file, "exec")
    except SyntaxError:
        return None
    return changed


class Running:
    """The processes under way, so that an interruption ends them all."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[Any]] = set()
        self.stopped = False

    def pytest(self, root: Path, cache: Path, tests: Sequence[str], seconds: float) -> Pytest:
        """Run tests in a copy of the tree; what hangs is ended after `seconds`."""
        options = ["-p", "no:cacheprovider", "--tb=line", "-rfE"]
        env = os.environ | {
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TVM_CAVS_TEST_CACHE": str(cache),
            "TMPDIR": str(root.parent),  # what a test that is ended leaves goes with the copy
        }
        command = [sys.executable, "-m", "pytest", *options, *tests]
        log = root.parent / "output"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=root, env=env, stdout=out, stderr=out, start_new_session=True
            )
            self._processes.add(process)
            try:
                code: int | None = -9 if self.stopped else process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)
                self._processes.discard(process)
        return Pytest(code, log.read_text(errors="replace"))

    def stop(self) -> None:
        """End everything; what would start from now on ends at once."""
        self.stopped = True
        for process in list(self._processes):
            end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@dataclass(frozen=True)
class Pytest:
    """How a run of pytest ended: its exit code, None where it took too long; what it printed."""

    code: int | None
    output: str

    def verdict(self) -> tuple[str, str]:
        """What it says about the error that was there, and why."""
        if self.code is None:
            return NOTICED, "took too long"
        if self.code in (4, 5):
            return STALE, "no such test"
        if self.code == 0:
            ran = re.search(r"\d+ passed", self.output)
            return (SURVIVED, "") if ran else (SKIPPED, "no test ran here")
        if self.code < 0:
            return NOTICED, f"ended by signal {-self.code}"
        return NOTICED, (self.failed() or ["did not start"])[0]

    def failed(self) -> list[str]:
        """The tests that failed."""
        return re.findall(r"^(?:FAILED|ERROR) (\S+)", self.output, re.MULTILINE)


@contextmanager
def copied(source: Path) -> Iterator[Path]:
    """A copy of the tree, in a temporary folder of its own that goes with it."""
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        root = Path(folder, "tree")

        def left_out(folder: str, names: list[str]) -> set[str]:
            found = shutil.ignore_patterns(*LEFT_OUT)(folder, names)
            return found | ({*LEFT_OUT_AT_THE_TOP} if Path(folder) == source else set())

        shutil.copytree(source, root, symlinks=True, ignore=left_out)
        yield root


def makes_kernels(file: str, source: Path) -> bool:
    """Whether kernels made by the code without the error must not be read by the code with it."""
    path = source / KERNELS
    listed = re.search(r"SOURCES = \((.*?)\n\)", path.read_text(), re.S) if path.exists() else None
    patterns = re.findall(r'"([^"]+\.py)"', listed.group(1)) if listed else []
    makers = {f.relative_to(source) for p in patterns for f in (source / PACKAGE).glob(p)}
    compiles = Path(file) in (Path(KERNELS), Path(KERNELS).with_name("compiler.py"))
    return compiles or Path(file) in makers or file.startswith("schedules/")


def check(
    mutant: Mutant, source: Path, cache: Path, running: Running, seconds: float = SECONDS
) -> Outcome:
    """Plant one error and run its tests."""
    changed = planted(mutant, source)
    if changed is None:
        return Outcome(mutant, STALE, "the search text is not there exactly once, or no Python")
    begin = time.monotonic()
    with copied(source) as root:
        (root / mutant.file).write_text(changed, encoding="utf-8")
        own = root.parent / "kernels" if makes_kernels(mutant.file, source) else cache
        run = running.pytest(root, own, ("-x", *mutant.tests), seconds)
    return Outcome(mutant, *run.verdict(), time.monotonic() - begin)


def run_clean(
    mutants: Sequence[Mutant], source: Path, cache: Path, running: Running
) -> list[Outcome]:
    """The mutants whose tests fail, or are not there, without any error."""
    tests = list(dict.fromkeys(t for m in mutants for t in m.tests))
    with copied(source) as root:
        run = running.pytest(root, cache, tests, SECONDS * max(1, len(tests)))
    if run.code == 0 or not tests:
        return []
    if run.code != 1:
        raise SystemExit(f"the tests do not run without an error:\n{run.output[-2000:]}")
    failed = run.failed()
    return [
        Outcome(m, BROKEN, f"without the error too: {mine[0]}")
        for m in mutants
        if (mine := [f for f in failed if any(f == t or in_test(f, t) for t in m.tests)])
    ]


def in_test(node: str, test: str) -> bool:
    """Whether a node id lies in a file, or is a case of a test."""
    return node.startswith((f"{test}::", f"{test}["))


def chosen(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Those with one of these names; `*` stands for anything, and a file's path for its own."""
    for name in names:
        if not any(fnmatch(m.name, name) or m.file == name for m in mutants):
            raise SystemExit(f"no mutant is named {name}; see --list")
    return [
        m for m in mutants if not names or any(fnmatch(m.name, n) or m.file == n for n in names)
    ]


def show(outcome: Outcome) -> None:
    m = outcome.mutant
    print(f"{outcome.what:<9} {outcome.seconds:5.1f} s  {m.name:<28} {outcome.note}", flush=True)


def mutate(
    mutants: Sequence[Mutant], tree: Path, jobs: int, seconds: float, trusted: bool = False
) -> list[Outcome]:
    """Check them all, `jobs` at a time, and print each as it is found.

    trusted: their tests are known to pass without an error.
    """
    running = Running()
    with copied(tree) as source:  # what is edited meanwhile does not matter
        cache = source.parent / "kernels"
        cache.mkdir()
        found = [] if trusted else run_clean(mutants, source, cache, running)
        broken = {o.mutant for o in found}
        for outcome in found:
            show(outcome)
        with ThreadPoolExecutor(jobs) as pool:
            tasks = [
                pool.submit(check, m, source, cache, running, seconds)
                for m in mutants
                if m not in broken
            ]
            try:
                for task in as_completed(tasks):
                    found.append(task.result())
                    show(found[-1])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                running.stop()
                raise
    return found


def exit_code(outcomes: Sequence[Outcome]) -> int:
    what = {o.what for o in outcomes}
    return 2 if what & {STALE, BROKEN} else 1 if what & {SURVIVED, SKIPPED} else 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="only these; * stands for anything; or a file")
    parser.add_argument("--from", dest="source", type=Path, default=ROOT, metavar="FOLDER",
                        help="the tree to copy (default: this one)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit for one error")
    parser.add_argument("--trusted", action="store_true", help="leave out the run without errors")
    parser.add_argument("--list", action="store_true", help="print the table, run nothing")
    given = parser.parse_args(arguments)
    mutants = chosen(read_table(given.source / TABLE), given.names)
    if given.list:
        for m in mutants:
            print(f"{m.name:<28} {m.file:<32} {' '.join(m.tests)}")
        return 0
    signal.signal(signal.SIGTERM, interrupt)
    try:
        outcomes = mutate(mutants, given.source.resolve(), given.jobs, given.seconds, given.trusted)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    counts = Counter(o.what for o in outcomes)
    print(f"{len(outcomes)} errors: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return exit_code(outcomes)


if __name__ == "__main__":
    sys.exit(main())
