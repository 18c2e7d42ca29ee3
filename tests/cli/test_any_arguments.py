"""Any command line: an exit status and words, never a traceback, and nothing written elsewhere.

Each case gets a folder of its own with configs, data and runs, some of them damaged. More cases by
hand: TVM_CAVS_EXAMPLES=20000 pytest tests/cli/test_any_arguments.py
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.any_config import KEYS, LIKELY, raw, text_of, values
from tvm_cavs.cli.main import COMMANDS, main
from tvm_cavs.runs import report, runlog
from tvm_cavs.training.checkpoint import _checksum, _read

pytest.importorskip("tvm")
from safetensors.numpy import save

from tvm_cavs.bench.ablate import Ablation
from tvm_cavs.bench.compare import Comparison
from tvm_cavs.bench.measure import Result, parts_of
from tvm_cavs.bench.peers import PEERS
from tvm_cavs.bench.workloads import Workload
from tvm_cavs.cli import bench_cases as bench
from tvm_cavs.errors import BenchError
from tvm_cavs.executors import exporting
from tvm_cavs.profiling.report import Profile
from tvm_cavs.profiling.tape import Span
from tvm_cavs.runs.runlock import LOCK

pytestmark = pytest.mark.compiles  # the optimizer

N_CASES = int(os.environ.get("TVM_CAVS_EXAMPLES", "150"))
BY_HAND = N_CASES != 150
SECONDS = 10 if BY_HAND else 2  # of one case; what trains longer than that has been taken
MEMORY = 3 << 30  # bytes that the cases may take, beyond what the process has
TINY = {
    "executor.name": "reference",
    "data.name": "listops",
    "data.n_train": "4",
    "data.n_dev": "2",
    "data.n_test": "2",
    "data.max_tokens": "6",
    "model.embedding": "2",
    "model.hidden": "2",
    "train.batch_size": "3",
    "train.epochs": "1",
}
GRAPH = '{"children": [[], [0]], "inputs": {"word": ["a", "b"], "label": [0, 1]}}\n'
PLANS = """data: {name: jsonl, train: plans.jsonl, dev: plans.jsonl}
model: {embedding: 2, hidden: 2}
train: {epochs: 1}
executor: {name: reference}
"""


class TooLong(BaseException):
    """A case that would go on; no fault."""


# Folders that commands are called in.


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs, data, one run of each kind."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "tiny.yaml").touch()
    (folder / "plans.jsonl").write_text(GRAPH * 3)
    (folder / "plans.yaml").write_text(PLANS)
    (folder / "trees.txt").write_text("(3 (2 good) (1 film))\n" * 30)
    (folder / "empty.yaml").touch()
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "folder").mkdir()
    (folder / "folder.yaml").mkdir()
    (folder / "loop").symlink_to("loop")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        overrides = [f"{key}={value}" for key, value in TINY.items()]
        assert main(["train", "tiny", *overrides, "folder=runs/tiny"]) == 0
        shutil.copyfile("runs/tiny/config.yaml", "tiny.yaml")
        assert main(["train", "plans", "folder=runs/plans"]) == 0
        assert main(["train", "tiny", "folder=runs/begun", "train.max_seconds=1e-9"]) == 0
    return folder


RUNS = ("runs/tiny", "runs/plans", "runs/begun")
FILES = ("config.yaml", "versions.json", "metrics.jsonl", runlog.LAST, runlog.BEST, "run.lock")
FILES += ("curve.png", ".last.safetensors.part")
LINES = ("[]", "{}", "1", '{"event": 1}', '{"step": "a", "event": "epoch"}', '{"step": 1}', "\xff")
LINES += ('{"event": "epoch", "step": 1, "epoch": 1, "train_loss": "x", "dev": []}', "NaN")
LINES += ('{"event": "step", "step": 0, "epoch": 1, "train_loss": null}',)
DAMAGES = ("remove", "empty", "cut", "binary", "folder", "swap", "flip", "loop", "line", "forge")
STATES = [None, 0, -1, 1, 2.5, "x", [], {}, [1], {"a": 1}, 10**30, True, float("nan"), "nan"]


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """What has happened to runs: how, to which file, and a few numbers."""
    if draw(st.integers(0, 2)):
        return []
    one = st.tuples(
        st.sampled_from(DAMAGES),
        st.sampled_from(RUNS),
        st.sampled_from(FILES),
        st.sampled_from([f"{run}/{name}" for run in RUNS for name in FILES]),
        st.floats(0, 1),
        st.sampled_from(LINES),
        st.sampled_from(STATES),
    )
    return draw(st.lists(one, min_size=1, max_size=2))


def damage(how: str, run: str, name: str, other: str, at: float, line: str, value: Any) -> None:
    path = Path(run, name)
    content = path.read_bytes() if path.is_file() else b""
    if how == "forge":
        forge(Path(run, runlog.LAST), at, value)
        return
    swapped = Path(other).read_bytes() if Path(other).is_file() else b""
    remove(path)
    place = int(at * len(content))
    if how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "flip" and content:
        place = min(place, len(content) - 1)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif how != "remove":
        added = {"binary": b"\xff\x00" * 20, "line": line.encode("latin-1") + b"\n" + content}
        path.write_bytes({**added, "cut": content[:place], "swap": swapped}.get(how, b""))


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def forge(path: Path, at: float, value: Any) -> None:
    """A checkpoint whose checksum is right and whose content is not what this package writes."""
    if not path.is_file():
        return
    try:
        tensors, metadata = _read(path)
        state = json.loads(metadata["state"])
    except (ValueError, KeyError):
        return  # it is damaged already
    places = [(state, key) for key in state]
    for name in ("progress", "config"):
        if isinstance(state.get(name), dict):
            places += [(state[name], key) for key in state[name]]
    if not places:
        return
    place, key = places[min(int(at * len(places)), len(places) - 1)]
    if value is None:
        del place[key]
    else:
        place[key] = value
    text = json.dumps(state)
    metadata |= {"state": text, "crc32": _checksum(tensors, text)}
    path.write_bytes(save(tensors, metadata))


# Words of command lines.


PATHS = [
    *RUNS,
    *(f"{run}/{name}" for run in RUNS for name in FILES[:5]),
    "runs",
    "",
    ".",
    "/",
    "..",
]
PATHS += [
    "tiny",
    "tiny.yaml",
    "plans",
    "plans.jsonl",
    "trees.txt",
    "empty.yaml",
    "binary",
    "folder",
]
PATHS += [
    "folder.yaml",
    "loop",
    "new/er",
    "é",
    "\udcff",
    "\u2028",
    "~",
    "~/x",
    "~no-such-user/x",
    "a" * 300,
]
PATHS += [
    "binary/x",
    "loop/x",
    "demo",
    "demmo",
    "/dev/null",
    "/dev/full",
    "/proc/x",
    "-",
    "-x",
    "a\nb",
]
PATHS += [
    "x.png",
    "x.xyz",
    "x.json",
    "runs/tiny/",
    "[red]",
    "[/]",
    "%s",
    "{}",
    "tiny.yml",
    "a=b",
    "$",
]
paths = st.sampled_from(PATHS)
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1.5",
    "nan",
    "inf",
    "",
    "x",
    "1e3",
    "٣",
    " 1",
    "1_0",
    "\udcff",
]
NUMBERS += ["9" * 30, "9" * 5000, "1000000000000", "2147483648", "-0", "0.5", "0.999999", "1e-400"]
numbers = st.sampled_from([*["1", "2", "3"] * 2 * len(NUMBERS), *NUMBERS])
PLACES = ["folder", "data.folder", "data.train", "data.dev", "data.test", "model.pretrained"]
QUOTED = ['"\\0"', '"\\ud800"', '"\\u2028"', '"a\\nb"', "null", "[]", "3", "~", '"~no-such-user/x"']
keyed = st.builds("{}={}".format, st.sampled_from(KEYS), values.map(text_of))
likely = st.sampled_from([(k, v) for k, v in LIKELY if BY_HAND or v != {"n_train": 10**9}])
places = st.builds("{}={}".format, st.sampled_from(PLACES), paths | st.sampled_from(QUOTED))
sizes = st.builds("{}={}".format, st.sampled_from(list(TINY)), numbers)
folders = st.builds("folder={}".format, paths)
odd = st.one_of(keyed, st.builds("{}={}".format, st.sampled_from(KEYS), raw), raw, paths)
near = likely.map(lambda pair: f"{pair[0]}={text_of(pair[1])}")
WEIGHTS = [places] * 4 + [folders] * 3 + [sizes] * 3 + [near] * 3 + [odd]
overrides = st.sampled_from(WEIGHTS).flatmap(lambda kind: kind)
some = st.integers(0, 2).flatmap(lambda n: st.lists(overrides, min_size=n and 1, max_size=n))
STRANGE = [
    "--",
    "--unknown",
    "--json=1",
    "-h",
    "--help",
    "--version",
    "--resume",
    "--s",
    "-",
    "",
    "@x",
]
strange = st.sampled_from([[]] * 60 + [[word] for word in STRANGE])


def mostly(usual: Sequence[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One of the usual, five times in six."""
    return st.integers(0, 5).flatmap(lambda n: st.sampled_from(usual) if n else odd)


def option(name: str, value: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return value.flatmap(lambda v: st.sampled_from([[name, v], [f"{name}={v}"]]))


def without_given(config: str, given_: Sequence[str]) -> list[str]:
    """Overrides that make a run tiny where its config does not, but for the keys that are given."""
    keys = [each.partition("=")[0] for each in given_]
    if config in ("tiny", "tiny.yaml", "plans", "plans.yaml"):
        return []
    return [
        each
        for each in (f"{key}={value}" for key, value in TINY.items())
        if not any(f"{each.partition('=')[0]}.".startswith(f"{key}.") for key in keys)
    ]


@st.composite
def train(draw: st.DrawFn) -> list[str]:
    config = draw(mostly(["tiny", "tiny.yaml", "plans", "demo", "empty.yaml"], paths))
    given_ = draw(some)
    return [config, *without_given(config, given_), *given_, *draw(strange)]


@st.composite
def resumed(draw: st.DrawFn) -> list[str]:
    """Often one more epoch of a run that exists."""
    run = draw(option("--resume", mostly(RUNS, paths)))
    words = [*run, *draw(some), *draw(strange)]
    words += draw(st.sampled_from([[], [], ["--changed-data"], ["--resume", "runs/plans"]]))
    return [*words, *draw(st.sampled_from([[], ["train.epochs=2"]]))]


@st.composite
def evaluated(draw: st.DrawFn) -> list[str]:
    words = [draw(mostly(RUNS, paths)), *draw(some)]
    splits = mostly(["train", "dev", "test"], st.sampled_from(["", "all", "é"]))
    for each in draw(st.lists(option("--split", splits), max_size=2)):
        words += each
    words += draw(st.lists(st.sampled_from(["--json", "--last"]), max_size=2))
    return [*words, *draw(strange)]


VALUED = {
    "--workload": st.sampled_from(["treelstm", "sst", "chain", "chain", "listops", "x", ""]),
    "--data": st.sampled_from(["trees.txt", "trees.txt"]) | paths,
    "--mode": st.sampled_from(["train", "infer", "infer", ""]),
    "--dropout": numbers,
    "--threads": numbers,
    "--precision": st.sampled_from(["float32", "bf16", "x"]),
    "--clock": st.sampled_from(["wall", "cpu", "x"]),
    "--rounds": numbers,
    "--trace": paths,
    "--ablate": st.sampled_from(["fusion", "overlap", "x", "--json", ""]),
    "--peers": st.sampled_from(["torch", "torch", "x"]),
    "--mkl": st.sampled_from(["unlocked", "installed", "x"]),
    "--plot": paths,
    "--hidden": numbers,
    "--embedding": numbers,
    "--batch": numbers,
}
FLAGS = ["--json", "--profile", "--overlap", "--ablate", "--hidden"]
USUAL = [[], [], ["--profile"], ["--ablate"], ["--peers", "torch"], ["--workload", "sst"]]


@st.composite
def benched(draw: st.DrawFn) -> list[str]:
    words = list(draw(st.sampled_from(USUAL)))
    for name in draw(st.lists(st.sampled_from(list(VALUED)), max_size=3)):
        words += draw(option(name, VALUED[name]))
    words += draw(st.lists(st.sampled_from(FLAGS), max_size=1))
    return [*words, *draw(strange)]


TARGETS = ["host", "x86-64-v3", "aarch64", '{"kind": "llvm"}', '{"kind": "cuda"}', "{", "[1]", "3"]
TARGETS += ['{"kind": "llvm", "mcpu": "x"}', '{"kind": "llvm", "mtriple": "x"}', "null", '"llvm"']


@st.composite
def exported(draw: st.DrawFn) -> list[str]:
    words = [draw(mostly(RUNS, paths)), *draw(some)]
    words += draw(option("--out", mostly(["out", "new/out", "runs"], paths)))
    words += draw(st.one_of(st.just([]), option("--target", mostly(TARGETS, paths))))
    words += draw(st.sampled_from([[]] * 4 + [["--linker", "x"], ["--linker", ""]]))
    words += draw(st.lists(st.sampled_from(["--replace", "--last"]), max_size=2))
    return [*words, *draw(strange)]


anything = st.lists(st.one_of(overrides, st.sampled_from([*STRANGE, *COMMANDS])), max_size=3)
NAMED = [("train", train()), ("train", resumed()), ("evaluate", evaluated()), ("bench", benched())]
NAMED.append(("export", exported()))
lines = st.sampled_from(
    [*NAMED * 4, *((name, anything) for name in COMMANDS), ("", anything)]
).flatmap(lambda kind: kind[1].map(lambda words: [kind[0], *words] if kind[0] else words))


# Benchmarks that end at once.


class NoSgemm:
    best = 1.0

    def __init__(self, *given_: Any) -> None:
        pass

    def __enter__(self) -> NoSgemm:
        return self

    def __exit__(self, *given_: Any) -> None:
        pass


def no_library(compiler: Any, folder: Path, name: str, linker: str | None) -> None:
    """A library of no kernels."""
    (folder / name).write_bytes(b"")


class NoPeers(NoSgemm):
    def __init__(self, workload: str, *given_: Any) -> None:
        if workload not in PEERS:
            raise BenchError(f"workload {workload} has no peers")


def prepared(workload: Any, case: Any) -> dict[str, Any]:
    """All of a measurement but the running; the fields of its case."""
    net = workload.network(case.hidden, case.embedding)
    net.hybridize("tvm", sharing=False, threads=case.threads, precision=case.precision)
    parts_of(workload, case.batch)
    workload.trainer(net)
    return vars(case)


def no_measure(workload: Any, case: Any, rounds: int, sgemm: Any) -> Result:
    return Result(workload.name, **prepared(workload, case), **dict.fromkeys(TIMES, 1.0))


TIMES = "ms_per_batch samples_per_s batch_ms plan_ms forward_ms backward_ms update_ms".split()
TIMES += ["product_gflop", "sgemm_gflop_per_s", "share_of_floor", "share_in_pairs"]


def no_profile(workload: Any, case: Any, gflop_per_s: float) -> Profile:
    prepared(workload, case)
    return Profile("no step", (), {}, 1.0, (), {}, (Span("step", 0.0, 1.0),), ())


def no_ablation(workload: Any, case: Any, rounds: int, switches: Sequence[str]) -> Ablation:
    prepared(workload, case)
    return Ablation(workload.name, case, 1.0, dict.fromkeys(switches, 1.0))


def no_comparison(workload: Any, case: Any, rounds: int, sgemm: Any, peers: Any) -> Comparison:
    return Comparison(no_measure(workload, case, rounds, sgemm), ())


def few_words(make: Callable[[Path | None], Workload]) -> Callable[[Path | None], Workload]:
    """The workload with a small table of words."""
    return lambda path: replace(make(path), n_words=20)


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Nothing is timed, no picture of a curve is drawn, workloads are made once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, instead in {
            "Sgemm": NoSgemm,
            "Peers": NoPeers,
            "measure": no_measure,
            "profile_case": no_profile,
            "ablate": no_ablation,
            "compare": no_comparison,
        }.items():
            patch.setattr(bench, name, instead)
        patch.setattr(exporting, "make_library", no_library)
        patch.setattr(report, "save_picture", lambda path, *given_: bool(path.write_bytes(b"")))
        for name, make in bench.WORKLOADS.items():
            if name != "sst":
                patch.setitem(bench.WORKLOADS, name, functools.cache(few_words(make)))
        yield


# What comes out.


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Inside, little memory and little time."""

    def stop(*given_: Any) -> None:
        raise TooLong

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def call(arguments: list[str], encoding: str) -> tuple[Any, str, str]:
    """The exit status, and what is printed; as in a process of its own, of this encoding."""
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    error = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status: Any = main(arguments)
        except SystemExit as end:
            status = end.code
    for stream in (out, error):
        stream.flush()
    texts = [stream.buffer.getvalue().decode(encoding, "replace") for stream in (out, error)]
    return status, *texts


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def told(status: Any, out: str, error: str) -> None:
    """A failure has words, in the form of this package or of argparse."""
    assert type(status) is int and status in (0, 1, 2)
    assert "Traceback" not in out + error
    if status == 1:
        assert any(line.startswith("error: ") for line in error.splitlines())
        assert len(error) < 10_000
    if status == 2:
        assert "usage:" in error or error.startswith("error: ")


def written_elsewhere(arguments: list[str], before: dict[str, bytes], folder: Path) -> set[str]:
    """Files that are new, changed or gone, and no concern of the command's."""
    after = files(folder)
    names = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    if arguments[0] == "train":  # one folder, a run's
        folders = {str(Path(name).parent) for name in names}
        locked = {each for each in folders if f"{each}/{LOCK}" in after}
        return names if folders - locked or len(folders) > 1 else set()
    if arguments[0] == "export":  # one folder, an exported model's
        folders = {str(Path(name).parent) for name in names}
        whole = {each for each in folders if f"{each}/manifest.yaml" in after}
        return names if folders - whole or len(folders) > 1 else set()
    if arguments[0] == "bench":
        return {n for n in names if not any(n in (w, w.partition("=")[2]) for w in arguments)}
    return names


@settings(
    max_examples=N_CASES,
    derandomize=not BY_HAND,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(lines, damages(), st.sampled_from(["utf-8"] * 6 + ["ascii", "latin-1"]))
def test_any_command_line(template, tmp_path, arguments, damaged, encoding):
    folder = tmp_path / "case"
    remove(folder)
    shutil.copytree(template, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(TooLong), limited():
        patch.chdir(folder)
        for each in damaged:
            damage(*each)
        before = files(folder)
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))  # its own cache, of fonts
        patch.setattr(sys, "argv", ["tvm-cavs", *arguments])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shown = call(arguments, encoding)
        told(*shown)
        assert shown[0] != 2 or files(folder) == before
        assert arguments[:1] == [] or not written_elsewhere(arguments, before, folder)
