"""The command tvm-cavs: what it prints, which config a name means, and what a wheel holds."""

import argparse
import importlib
import io
import os
import shlex
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from helpers.paths import ROOT
from helpers.runs import config, run_to_the_end
from tvm_cavs import neighbours
from tvm_cavs.cli.evaluate import measure, parse
from tvm_cavs.cli.main import COMMANDS, main
from tvm_cavs.cli.shipped import find_config, shipped
from tvm_cavs.errors import ConfigError, TargetError
from tvm_cavs.runs.run import start

CPP = ROOT / "tvm_cavs" / "deploy" / "cpp"
PACKAGES = ("tvm_cavs", "schedules", "autotune")
TINY = (
    "executor.name=reference data.n_train=12 data.n_dev=4 data.n_test=4 data.max_tokens=6 "
    "model.embedding=3 model.hidden=4 train.batch_size=6 train.epochs=1"
).split()
NO_TVM = "import sys; assert not {'tvm', 'tvm_ffi', 'schedules', 'torch'} & set(sys.modules)"
COMPILER = [pytest.mark.compiles]  # what the benchmarks import


def python(*arguments: str, path: Path = ROOT, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """A finished process whose tvm_cavs is that of `path`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with nothing in it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# What it prints.


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "evaluate",
        "cache",
        "tune",
        "export",
        "serve",
        pytest.param("bench", marks=COMPILER),
    ],
)
@pytest.mark.parametrize("width", [40, 80])
def test_help_fits_the_terminal(command, width, capsys, monkeypatch):
    if command == "bench":
        pytest.importorskip("tvm")
    monkeypatch.setenv("COLUMNS", str(width))
    try:
        status = main([*command.split(), "--help"])
    except SystemExit as end:  # argparse's
        status = end.code
    shown = capsys.readouterr().out
    assert status == 0 and shown.startswith(f"usage: tvm-cavs {command or 'COMMAND'}")
    text, _, examples = shown.partition("examples:\n")
    assert max(map(len, text.splitlines())) <= width
    assert bool(examples) == bool(command)
    assert max(map(len, ["", *examples.splitlines()])) <= 64, "printed whole, to be copied"


def test_help_says_what_every_argument_is(golden, monkeypatch):
    """Its words, however argparse sets them: that differs from Python to Python."""
    pytest.importorskip("tvm")  # which `bench` imports
    found = {}

    def look(parser, *_):
        found[parser.prog] = parser
        raise SystemExit

    monkeypatch.setenv("COLUMNS", "80")
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, look)
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command])
    lines = []
    for parser in found.values():
        lines += [parser.prog, parser.description or "", parser.epilog or ""]
        lines += [
            f"  {' '.join(each.option_strings) or each.dest} {each.metavar}: {each.help}"
            for each in parser._actions
            if each.dest != "help"  # Python's own
        ]
    assert len(found) == len(COMMANDS)
    golden("help", "\n".join(lines))


def test_help_names_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert "\ntvm-cavs COMMAND --help tells more of one.\n" in shown
    column = max(map(len, COMMANDS)) + 4
    rows = shown.partition("commands:\n")[2].partition("\n\n")[0].splitlines()
    assert {row[:column].strip() for row in rows} == {*COMMANDS, ""}, "one is told in two lines"
    assert main([]) == 2
    assert capsys.readouterr().err == shown
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["--help"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == ("usage: tvm-cavs COMMAND", "       [ARGUMENTS]")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["trian"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["bench", "--help"],
        ["cache", "--help"],
        ["serve", "--help"],
        ["cache", "--json"],
        ["bench", "--rounds", "0"],
    ],
)
def test_what_needs_no_compiler_does_not_import_it(arguments):
    code = f"import sys; from tvm_cavs.cli.main import main\ntry: main({arguments})\n"
    done = python("-c", f"{code}except SystemExit: pass\n{NO_TVM}")
    assert done.returncode == 0, done.stderr
    if len(arguments) == 1:
        assert "pydantic" not in python("-X", "importtime", "-m", "tvm_cavs", *arguments).stderr


def test_a_mistyped_command_gets_the_nearest(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for given, hint in (("trian", "; did you mean 'train'?"), ("fly", "cache."), ("--json", ".")):
        assert main([given, "demo"]) == 2
        told = capsys.readouterr().err
        expected = "expected one of train, evaluate, tune, export, serve, bench, cache"
        assert f"'{given}' is no command: {expected}" in told
        assert hint in told and told.endswith("See tvm-cavs --help.\n")


def test_the_version_is_that_of_the_package(capsys):
    import tvm_cavs

    assert main(["--version"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"tvm_cavs {tvm_cavs.__version__}"
    assert [line.split()[0] for line in others] == ["Python", "apache-tvm", "apache-tvm-ffi"]
    done = python("-m", "tvm_cavs", "--version")
    assert done.stdout.splitlines() == [first, *others]


def test_a_version_that_is_none_is_said(capsys, monkeypatch):
    def version(package):
        if package == "apache-tvm":
            raise PackageNotFoundError(package)
        return "7.8"

    monkeypatch.setattr(sys.modules[main.__module__], "version", version)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "apache-tvm not installed",
        "apache-tvm-ffi 7.8",
    ]


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (TargetError("why"), 1, "error: why\n"),
        (MemoryError(), 1, "error: there is not enough memory. Make the sizes"),
        (ModuleNotFoundError("x", name="yaml"), 1, "error: PyYAML is not installed: "),
        (ModuleNotFoundError("x", name="rich"), 1, "error: rich is not installed: "),
        (ModuleNotFoundError("x", name="mine"), None, ""),
        (KeyboardInterrupt(), 130, ""),
        (ZeroDivisionError(), None, ""),
    ],
    ids=repr,
)
def test_what_ends_a_command(raised, status, said, capsys, monkeypatch):
    """What is expected becomes a message and a number, what is not goes through."""

    def fail(*_):
        raise raised

    monkeypatch.setattr(sys.modules[main.__module__], "import_module", fail)
    if status is None:
        with pytest.raises(type(raised)):
            main(["cache"])
    else:
        assert main(["cache"]) == status
    told = capsys.readouterr()
    assert told.err.startswith(said) and bool(told.err) == bool(said) and not told.out


@pytest.mark.parametrize("arguments", [["train=1"], ["train.lr=1", "demo"]])
def test_overrides_come_after_a_config(arguments, empty, capsys):
    with pytest.raises(SystemExit):
        main(["train", *arguments])
    assert f"give a config before {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "a" * 300], "expected one of demo, sst"),
        (["evaluate", "a" * 300], "does not exist"),
        (["train", "demo", 'folder="\\0"'], "no path holds a NUL"),
        (["train", "demo", 'folder="\\ud800"'], "it holds what is no character"),
        (["train", "demo", "data.test=~no-such-user/x"], "Could not determine home directory"),
        (["train", "demo", *TINY, "folder=/"], "cannot be made"),
    ],
)
def test_paths_that_are_none(arguments, said, empty, capsys):
    assert main(arguments) == 1
    assert said in capsys.readouterr().err
    assert not list(empty.iterdir())


def test_a_home_that_is_none(capsys):
    for arguments in (["evaluate", "~no-such-user/x"], ["train", "--resume", "~no-such-user/x"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        told = capsys.readouterr().err
        assert end.value.code == 2 and "'~no-such-user/x': Could not determine home" in told
        assert "; expected the folder of a run" in told


def test_a_working_folder_that_is_gone(tmp_path, capsys, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["cache"]) == 1
    assert "error: the working folder has been removed" in capsys.readouterr().err


CLOSED = """
import os, sys
from tvm_cavs.cli.main import main
main(["--version"])
for number in range(3):
    assert os.path.sameopenfile(number, os.open(os.devnull, os.O_RDWR)), number
print("nowhere")
assert sys.stdin.read() == ""
with open(sys.argv[1], "w") as file:
    print(file.fileno() > 2, file=file)
"""


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    """TVM writes to descriptor 2, whatever that is: a checkpoint, if standard error was closed."""
    told = tmp_path / "told"
    command = shlex.join([sys.executable, "-c", CLOSED, str(told)])
    done = subprocess.run(
        ["sh", "-c", f"exec {command} <&- >&- 2>&-"], cwd=ROOT, check=False, timeout=120
    )
    assert done.returncode == 0
    assert told.read_text() == "True\n"


def test_too_little_memory_is_told(empty, capsys, monkeypatch):
    def fail(*given):
        raise MemoryError("Unable to allocate 8 GiB")

    monkeypatch.setattr("tvm_cavs.cli.train.start", fail)
    assert main(["train", "demo"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: there is not enough memory (Unable to allocate 8 GiB). Make")


def test_a_terminal_without_the_letters(empty, monkeypatch):
    """What it cannot show becomes an escape."""
    shown = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    (empty / "é.yaml").write_text("train: {lr: x}", encoding="utf-8")
    assert main(["train", "é"]) == 1
    shown.flush()
    assert shown.buffer.getvalue() == b"config: \\xe9.yaml in this folder\n"


def test_standard_output_may_be_a_stream_without_codes_for_letters(tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("TVM_CAVS_CACHE", str(tmp_path))
    assert main(["cache"]) == 0
    assert str(tmp_path) in shown.getvalue()


@pytest.mark.compiles
@pytest.mark.parametrize("option", ["--plot", "--trace"])
def test_a_benchmark_learns_before_it_begins_that_it_cannot_be_saved(option, empty, capsys):
    pytest.importorskip("tvm")
    for path in (".", "absent/x.png"):
        with pytest.raises(SystemExit):
            main(["bench", "--ablate", "--profile", option, path])
        assert f"{option} {path}: expected a file in a folder" in capsys.readouterr().err


# Which config a name means.


def test_the_names_are_the_files_of_the_repository():
    assert set(shipped()) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert {"demo", "sst"} <= set(shipped())
    for name, path in shipped().items():
        assert path.samefile(ROOT / "configs" / f"{name}.yaml"), "there is one copy"
        second = path.read_text(encoding="utf-8").splitlines()[1]
        assert second.startswith(f"# or, installed: tvm-cavs train {name}")


@pytest.mark.parametrize("file", ["demo", "demo.yaml", "demo.yml"])
def test_a_file_of_the_folder_comes_before_a_shipped_config(file, empty):
    path, note = find_config("demo")
    assert path == shipped()["demo"] and note == "config: demo, which comes with tvm_cavs"
    (empty / "demo").mkdir()
    assert find_config("demo")[0] == path, "a folder is no config"
    (empty / "demo").rmdir()
    (empty / file).touch()
    assert find_config("demo") == (
        Path(file),
        f"config: {file} in this folder, not the one that comes with tvm_cavs",
    )
    (empty / "mine.yaml").touch()
    assert find_config("mine") == (Path("mine.yaml"), "config: mine.yaml in this folder")
    assert find_config(f"./{file}") == (Path(file), ""), "of a path there is nothing to say"


def test_an_unknown_name_gets_the_nearest(empty, capsys):
    wanted = "^config 'demmo': no file demmo or demmo.yaml.*expected one of demo, sst; did you mean"
    with pytest.raises(ConfigError, match=f"{wanted} 'demo'"):
        find_config("demmo")
    for given in ("demo.yaml", "configs/demo.yaml", "./demo.yml"):
        with pytest.raises(ConfigError, match=f"^{given} does not exist.*its name alone, demo"):
            find_config(given)
    assert main(["train", "other.yaml"]) == 1
    assert capsys.readouterr().err == "error: other.yaml does not exist.\n"


@pytest.mark.compiles  # the optimizer
@pytest.mark.parametrize("form", ["tvm-cavs {}", "python -m tvm_cavs {}", "python scripts/{}.py"])
def test_a_named_config_trains_in_an_empty_folder(form, empty, capsys):
    """And the command that a run names is one of the same kind, that works."""
    pytest.importorskip("tvm")
    assert main(["train", "demo", *TINY], form) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("config: demo, which comes with tvm_cavs\nrun runs/demo: train 12")
    start = form.format("evaluate")
    command = shown.rpartition("measure again: ")[2].strip()
    assert command == f"{start} runs/demo"
    rest = shlex.split(command.removeprefix(start))
    assert main(["evaluate", *rest, "--json"], form) == 0
    assert '"test": {"accuracy": ' in capsys.readouterr().out
    header = (empty / "runs/demo/config.yaml").read_text(encoding="utf-8").splitlines()[:2]
    assert header[1] == "# or, installed: tvm-cavs train runs/demo/config.yaml"


@pytest.mark.compiles  # the optimizer
def test_the_best_parameters_are_measured_or_the_last(tmp_path):
    """The options of the command, each with what it changes."""
    pytest.importorskip("tvm")
    run_to_the_end(start(config(epochs=1), tmp_path))

    def measured(*options: str) -> tuple[set[str], str]:
        metrics, what = measure(parse([str(tmp_path), *options]))
        path, step = what.split(", ")
        assert step == "step 4" and Path(path).parent == tmp_path
        return set(metrics), Path(path).name

    assert measured() == ({"dev", "test"}, "best.safetensors")
    assert measured("--last", "--split", "train") == ({"train"}, "last.safetensors")
    (tmp_path / "best.safetensors").unlink()
    assert measured("--split", "test", "--split", "dev") == ({"dev", "test"}, "last.safetensors")


# Whose package `schedules` is.


def find(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """An import looks into this folder first, as in a process that has imported nothing."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "schedules", raising=False)


@pytest.mark.parametrize("file", ["schedules.py", "schedules/__init__.py"])
def test_a_stranger_is_refused_and_not_run(file, tmp_path, monkeypatch):
    neighbours.check_neighbour("schedules")
    stranger = tmp_path / file
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_text("raise SystemExit('ran')")
    find(monkeypatch, tmp_path)
    with pytest.raises(TargetError) as error:
        neighbours.check_neighbour("schedules")
    ours = ROOT / "schedules/__init__.py"
    said = f"package 'schedules', {ours}, but `import schedules` finds {stranger}. Rename or"
    assert str(error.value).startswith(f"tvm_cavs needs its {said} uninstall that")


def test_a_folder_of_that_name_without_a_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / "schedules").mkdir()
    find(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # where ours is found, ours comes first
    with pytest.raises(TargetError, match=rf"finds {tmp_path}/schedules\. Rename"):
        neighbours.check_neighbour("schedules")


def test_a_stranger_that_was_imported_before_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedules", sys.modules["json"])
    with pytest.raises(TargetError, match=r"finds \S*json/__init__\.py"):
        neighbours.check_neighbour("schedules")


def test_a_stranger_installed_over_ours_is_refused(tmp_path, monkeypatch):
    here, ours = tmp_path / "tvm_cavs/neighbours.py", tmp_path / "schedules/__init__.py"
    monkeypatch.setattr(neighbours, "__file__", str(here))
    said = f"^tvm_cavs needs its package 'schedules', and {ours} is absent. Install tvm_cavs again"
    with pytest.raises(TargetError, match=said):
        neighbours.check_neighbour("schedules")
    ours.parent.mkdir()
    ours.write_text(f"{neighbours.MARK}\n")
    find(monkeypatch, tmp_path)
    neighbours.check_neighbour("schedules")
    ours.write_text("raise SystemExit('ran')")
    said = rf"^{ours} is not the package 'schedules' of tvm_cavs \({here}\): another .* has been"
    with pytest.raises(TargetError, match=f"{said} installed over it. Uninstall that. Install"):
        neighbours.check_neighbour("schedules")


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_packages_of_the_top_level_are_marked(package):
    text = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    assert text.startswith(neighbours.MARK)


# What a wheel holds.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the network, from a copy, since setuptools leaves folders behind."""
    pytest.importorskip("setuptools", minversion="70.1", reason="extra: test")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for name in (*PACKAGES, "configs", "tests", "scripts"):
        copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
    done = python("-m", "pip", "wheel", *options, "-w", str(folder), str(tree), cwd=folder)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_a_wheel_holds_the_packages_and_the_configs(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
        (entry,) = (name for name in file.namelist() if name.endswith("entry_points.txt"))
        points = file.read(entry).decode()
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {f"tvm_cavs/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    others = [*(ROOT / "tvm_cavs/serve/pages").iterdir(), *CPP.rglob("*.*"), CPP / "CMakeLists.txt"]
    others += (ROOT / "autotune/records").glob("*.json")
    expected |= {p.relative_to(ROOT).as_posix() for p in others if not p.name.startswith(".")}
    assert held == expected | {"tvm_cavs/py.typed", "tvm_cavs/compiler/support.c"}
    assert "tvm-cavs = tvm_cavs.cli.main:main" in points
    assert EntryPoint("tvm-cavs", "tvm_cavs.cli.main:main", "console_scripts").load() is main


@pytest.mark.compiles
def test_a_wheel_works_away_from_the_clone(wheel, tmp_path, empty):
    """Beside a stranger's `schedules` too, as far as nothing is compiled."""
    pytest.importorskip("tvm")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    done = python("-m", "tvm_cavs", "train", "demo", "train.lrr=1", path=site, cwd=empty)
    assert done.stdout == "config: demo, which comes with tvm_cavs\n"
    assert f"{site}/tvm_cavs/configs/demo.yaml: 1 problem" in done.stderr
    assert main(["train", "demo", *TINY]) == 0
    (empty / "schedules.py").write_text("raise SystemExit('ran')")
    done = python("-m", "tvm_cavs", "evaluate", "runs/demo", path=site, cwd=empty)
    assert done.returncode == 0 and "best.safetensors" in done.stdout
    done = python("-c", "import tvm_cavs.compiler.target_rules", path=site, cwd=empty)
    assert done.returncode == 1 and "TargetError: tvm_cavs needs its package" in done.stderr
    assert str(empty / "schedules.py") in done.stderr and "ran" not in done.stderr.split()


def test_a_process_that_is_spawned_imports_the_command_and_does_not_run_it():
    importlib.import_module("tvm_cavs.__main__")
