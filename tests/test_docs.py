"""What the pages of docs/ show is what happens: code runs and prints this, links lead somewhere.

`pytest tests/test_docs.py --update-golden` puts what was printed into the pages.
"""

import ast
import configparser
import io
import os
import re
import runpy
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import tvm_cavs as cavs
from helpers.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))
LANGUAGES = {"python", "bash", "yaml", "json", "text", "diff", "c", "cpp", "rust"}
# Commands that a test only looks at: they take minutes, or change the environment.
NOT_RUN = ("bash scripts/", "pip install", "python scripts/crash.py")
MEASUREMENTS = {"benchmarks.md"}  # the commands of this page take hours
CODE = sorted(
    p.relative_to(ROOT).as_posix()
    for folder in ("tvm_cavs", "schedules", "autotune", "scripts", "tests")
    for p in (ROOT / folder).rglob("*.py")
)
TEXTS = [*(f"docs/{p}" for p in PAGES), "README.md", "CONTRIBUTING.md", "CHANGELOG.md", *CODE]
NOBODYS = {"file.py", "schedules.py"}  # files that a text makes up
# `train.lr`: a key of a config; `tvm.compile`: TVM itself; `kernels.so`: a file of an export
OBJECTS = {"train", "early_stop", "model", "tvm", "kernels", "program", "backward"}


class Block(NamedTuple):
    """A code block: its language, file name (""), line in the page, and text."""

    language: str
    title: str
    line: int
    code: str


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    """The code blocks of a page, in order."""
    text = read(page)
    for m in re.finditer(r'^```(\w*)(?: title="(.*?)")?\n(.*?)^```$', text, flags=re.M | re.S):
        yield Block(m[1], m[2] or "", text[: m.start()].count("\n") + 2, m[3])


def pattern(shown: str) -> str:
    """What a text block allows: a line `...` stands for any lines."""
    parts = re.split(r"^\.\.\.\n", shown, flags=re.M)
    return "".join(f"(?:.*\n)*{re.escape(p)}" if i else re.escape(p) for i, p in enumerate(parts))


def run_python(
    page: str, found: list[Block], capsys: pytest.CaptureFixture[str]
) -> Iterator[tuple[Block, str]]:
    """Each text block that follows a python block, with what that printed."""
    names: dict[str, object] = {"__name__": "page"}
    for block, after in zip(found, [*found[1:], None], strict=False):
        if block.language != "python":
            continue
        # At the lines of the page, whose name errors then give.
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, str(DOCS / page), "exec"), names)
        printed = capsys.readouterr().out
        if after is not None and after.language == "text":
            yield after, printed
        else:
            assert not printed, f"{page}:{block.line} prints something that the page does not show"


def show(page: str, block: Block, printed: str) -> None:
    """Put what was printed into the page."""
    text = read(page)
    assert text.count(block.code) == 1, f"{page}:{block.line}: make this block unlike all others"
    (DOCS / page).write_text(text.replace(block.code, printed), encoding="utf-8")


def run_command(command: str, folder: Path) -> None:
    """`python scripts/X ...` in a folder that holds the files the page shows."""
    program, script, *arguments = command.split()
    assert program == "python", f"{command}: run it here, or add it to NOT_RUN"
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def tables() -> Iterator[None]:
    """Ops that a page adds are gone afterwards."""
    pytest.importorskip("tvm")
    from tvm_cavs.compiler.kernels.region.elementwise import ELEMENTWISE
    from tvm_cavs.language.ops import OPS

    before = [(table, dict(table)) for table in (OPS, ELEMENTWISE)]
    yield
    for table, rows in before:
        for name in set(table) - set(rows):
            del table[name]


@pytest.mark.compiles
@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("page", PAGES)
def test_code_runs_and_prints_what_is_shown(
    page: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, update = list(blocks(page)), request.config.getoption("--update-golden")
    for block in found:
        assert block.language in {"", *LANGUAGES}, f"{page}:{block.line}: {block.language}"
        if block.title:
            (tmp_path / block.title).write_text(block.code, encoding="utf-8")
        if block.language in ("yaml", "json"):  # a line of JSON is YAML
            assert all(yaml.safe_load_all(block.code.replace("\n{", "\n---\n{"))), block
    monkeypatch.chdir(tmp_path)
    for block, printed in run_python(page, found, capsys):
        if not re.fullmatch(pattern(block.code), printed):
            assert update, f"{page}:{block.line} shows another text than was printed:\n{printed}"
            show(page, block, printed)
    for command in commands(found):
        if page not in MEASUREMENTS and not command.startswith(NOT_RUN):
            run_command(command, tmp_path)


def commands(found: list[Block]) -> list[str]:
    """The command lines of the bash blocks, without comments."""
    lines = "\n".join(b.code for b in found if b.language == "bash").replace("\\\n", " ")
    return [c for line in lines.splitlines() if (c := line.split(" #")[0].strip())]


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_files_that_exist(page: str) -> None:
    for name in re.findall(r"\b(?:scripts|configs)/[\w.]+\.(?:py|sh|yaml)", read(page)):
        assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_diffs_fit_the_code(page: str) -> None:
    """Lines that a diff does not add are lines of the package or its tests, in this order."""
    files = [*(ROOT / "tvm_cavs").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    texts = [f.read_text(encoding="utf-8") for f in files]
    for m in re.finditer(r"^( *)```diff\n(.*?)^ *```$", read(page), flags=re.M | re.S):
        lines = [line[len(m[1]) :] for line in m[2].splitlines()]
        kept = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        assert any(kept in text for text in texts), f"{page}: no file has\n{kept}"


def documented(tree: ast.Module) -> Iterator[ast.Constant]:
    """The docstrings of a module, its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str()) as text), *_]:
                    yield text


def said_and_done(code: str) -> tuple[str, str]:
    """Docstrings and comments of a module, and the rest of it, both with the lines as they were."""
    lines = code.splitlines()
    said = [""] * len(lines)
    for text in documented(ast.parse(code)):
        for i in range(text.lineno - 1, text.end_lineno or 0):
            said[i], lines[i] = lines[i], ""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1]:
            i, column = token.start[0] - 1, token.start[1]
            said[i], lines[i] = token.string, lines[i][:column]
    return "\n".join(said), "\n".join(lines)


def is_a_path(path: str) -> bool:
    """Whether a file of ours ends so; of a folder, whether it is one of the root or the package."""
    if path.endswith(".py"):
        return any(f"/{file}".endswith(f"/{path}") for file in CODE)
    return (ROOT / path).exists() or (ROOT / "tvm_cavs" / path).exists()


def is_in_a_module(module: str, name: str, code: dict[str, str]) -> bool:
    """Whether a module or package so called has that name; True for what is no module of ours."""
    inside = [
        text
        for file, text in code.items()
        if file.endswith(f"/{module}.py") or f"/{module}/" in f"/{Path(file).parent}/"
    ]
    return not inside or any(re.search(rf"\b{name}\b", text) for text in inside)


def lost(text: str, code: dict[str, str], words: set[str]) -> Iterator[str]:
    """What a text names that is not there: files, folders, names of modules, words of code."""
    for path in re.findall(r"(?<![\w./*])[\w./-]*\w\.py\b", text):
        if path not in NOBODYS and not is_a_path(path.removeprefix("./")):
            yield path
    tops = "tvm_cavs|schedules|autotune|scripts|tests|docs|configs"
    rooms = "|".join(p.name for p in (ROOT / "tvm_cavs").iterdir() if (p / "__init__.py").exists())
    for path in re.findall(rf"`((?:{tops}|{rooms})/[\w/]*)`", text):
        if not is_a_path(path):
            yield path
    for module, name in re.findall(r"`([a-z_]+)\.(\w+)[`.(]", text):
        if name != "py" and module not in OBJECTS and not is_in_a_module(module, name, code):
            yield f"{module}.{name}"
    for name in re.findall(r"`([a-z]\w*_\w+)[`.(]", text):
        if name not in words:
            yield name


@pytest.fixture(scope="module")
def parted() -> dict[str, tuple[str, str]]:
    """Of every module what it says and what it does."""
    return {f: said_and_done((ROOT / f).read_text(encoding="utf-8")) for f in CODE}


def test_paths_in_texts_exist(parted: dict[str, tuple[str, str]]) -> None:
    code = {file: done for file, (_, done) in parted.items()}
    blocks_of_pages = (b.code for page in PAGES for b in blocks(page) if b.language != "text")
    header = (ROOT / "tvm_cavs" / "deploy" / "cpp" / "cavs.h").read_text(encoding="utf-8")
    texts = [*CODE, *code.values(), *blocks_of_pages, header]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    found = []
    for file in TEXTS:
        text = parted[file][0] if file in parted else (ROOT / file).read_text(encoding="utf-8")
        found += [f"{file}: {name}" for name in lost(text, code, words)]
    assert not found, "named, but not there:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("see graph/novel.py, graph/levels.py and levels.py", ["graph/novel.py"]),
        ("`graph/novel/`, `compiler/kernels/`, `tests/helpers`", ["graph/novel/"]),
        ("`levels.novel` and `levels.find_cycle`", ["levels.novel"]),
        ("`novel_word` and `find_cycle`", ["novel_word"]),
    ],
)
def test_what_is_not_there_is_found(
    text: str, missing: list[str], parted: dict[str, tuple[str, str]]
) -> None:
    code = {file: done for file, (_, done) in parted.items()}
    assert list(lost(text, code, {"find_cycle"})) == missing


def test_the_drawn_layers_are_those_of_the_import_rules() -> None:
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(ROOT / "setup.cfg", encoding="utf-8")
    layers = rules["importlinter:contract:layers"]["layers"].split("\n")
    drawing = next(b.code for b in blocks("design.md") if "__main__" in b.code)
    drawn = [re.split(r"\s{2,}", line.strip())[0] for line in drawing.splitlines()]
    assert drawn == [layer for layer in layers if layer]


def anchors(page: str) -> set[str]:
    """The anchors that a page's headings get."""
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", prose, flags=re.M)
    words = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", w) for w in words}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (DOCS / page).parent / path if path else DOCS / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            there = file.resolve().relative_to(DOCS).as_posix()
            assert anchor in anchors(there), f"{page} links to {target}"


@pytest.mark.compiles
def test_the_drawing_is_what_its_script_draws() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "draw_overview.py"))
    kept = (DOCS / "overview.svg").read_text(encoding="utf-8")
    assert script["svg"](*script["facts"]()) == kept, "run python scripts/draw_overview.py"


def test_every_public_name_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "public_names.py"))
    assert script["undocumented"]() == [] and script["not_in_the_reference"]() == []
    monkeypatch.setattr(cavs.Trainer, "__doc__", None)
    monkeypatch.setattr(cavs.Network.prepare, "__doc__", None)
    monkeypatch.setattr(cavs, "novel", cavs.batch, raising=False)
    assert script["undocumented"]() == ["tvm_cavs.Network.prepare", "tvm_cavs.Trainer"]
    assert script["not_in_the_reference"]() == ["tvm_cavs.novel"]
