"""Time this checkout against another commit, in alternation:  python scripts/against.py HEAD~1

For each case two processes run the same batches in turn, one with the code of each commit, and
what is printed is the time of this checkout by that of the other: the median of the pairs, and
between which the middle half lies. Below 1 this checkout is faster. A change that should cost
nothing shows ratios within 0.97 and 1.03.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("commit", help="what to compare with, as git names it")
    parser.add_argument("--workload", default="treelstm")
    parser.add_argument("--hidden", type=int, nargs="+", default=[8, 256])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--mode", choices=["train", "infer"], nargs="+", default=["train", "infer"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--their-threads", type=int, help="of the other commit (default: the same)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--pairs", type=int, default=21, help="of rounds over the same batches")
    parser.add_argument("--json", action="store_true", help="print JSON lines, no table")
    return parser.parse_args(arguments)


def work() -> None:
    """The process of one commit: for a case a line on stdin, then for every empty line a round.

    Only what has long had its name is imported, since the code may be an old one.
    """
    from tvm_cavs.bench.measure import Case, parts_of, round_of
    from tvm_cavs.bench.workloads import WORKLOADS

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    run = None
    for line in sys.stdin:
        if line.strip():
            given = json.loads(line)
            workload = WORKLOADS[given.pop("workload")](None)
            case = Case(**given)
            net = workload.network(case.hidden, case.embedding)
            net.hybridize("tvm", sharing=False, threads=case.threads)
            run = round_of(net, workload, case, parts_of(workload, case.batch))
        assert run is not None, "a case comes first"
        print(sum(times.total for times in run()), file=answers, flush=True)


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The files of a commit in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


class Worker:
    """A process that runs the code of one folder."""

    def __init__(self, tree: Path, threads: int) -> None:
        variables = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            cwd=tree,
            env={**os.environ, **variables, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str = "") -> float:
        """Seconds of a round; with a case, which is prepared first, of its first round."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"error: a worker ended with code {self._process.wait()}; see above")
        return float(answer)

    def close(self) -> None:
        self._process.communicate()


def compare(
    new: Worker, old: Worker, case: dict[str, object], theirs: int, pairs: int
) -> list[float]:
    """Time of a round with the new code by that with the old, for every pair of rounds.

    theirs: threads of the old code, where the case has those of the new one.
    """
    new.ask(json.dumps(case))
    old.ask(json.dumps({**case, "threads": theirs}))
    ratios = []
    for i in range(pairs):
        first, second = (new, old) if i % 2 else (old, new)
        times = {first: first.ask()}
        times[second] = second.ask()
        ratios.append(times[new] / times[old])
    return ratios


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    theirs = given.their_threads or given.threads
    with worktree(given.commit) as tree:
        new, old = Worker(ROOT, given.threads), Worker(tree, theirs)
        for mode in given.mode:
            for hidden in given.hidden:
                for batch in given.batch:
                    case = {"hidden": hidden, "embedding": hidden, "batch": batch, "mode": mode}
                    run = {"workload": given.workload, "threads": given.threads}
                    asked = {**case, **run, "clock": given.clock}
                    ratios = compare(new, old, asked, theirs, given.pairs)
                    low, middle, high = statistics.quantiles(ratios, n=4)
                    if given.json:
                        print(json.dumps({**asked, "ratio": middle, "quartiles": [low, high]}))
                    else:
                        print(
                            f"{mode:5}  hidden {hidden:4}  batch {batch:4}  "
                            f"{middle:.3f}  ({low:.3f} to {high:.3f})",
                            flush=True,
                        )
        new.close()
        old.close()
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        sys.exit(main(sys.argv[1:]))
