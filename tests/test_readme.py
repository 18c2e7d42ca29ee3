"""What README.md shows is what happens: its code runs, its files load, its links lead somewhere."""

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from tvm_cavs.executors import registry

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = {"1_000": "30", "12_000": "300", "range(6)": "range(1)", "64, 10)": "16, 10)"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.compiles
def test_the_code_runs_in_order(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    code = "\n".join(blocks("python"))
    for shown, here in SMALLER.items():
        assert shown in code
        code = code.replace(shown, here)
    script = tmp_path / "notebook.py"
    script.write_text(code, encoding="utf-8")
    names = runpy.run_path(str(script))
    printed = capsys.readouterr().out
    assert re.search(r"^epoch 0: loss \d\.\d{3} \d+\.\d% \d+\.\d%$", printed, flags=re.MULTILINE)
    assert "program adjoint of GatedTree" in printed and "forward recurrent, kinds [1]" in printed
    assert names["net"].executor().n_vertices == names["test"][0].n_vertices


def test_the_vertex_function_has_at_most_15_lines():
    code = blocks("python")[0]
    body = code[code.index("class GatedTree") :].split("\n\n\n")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 15


def test_the_shown_file_trains_with_the_shown_config(tmp_path):
    (data,), (config,) = blocks("json"), blocks("yaml")
    (tmp_path / "plans.jsonl").write_text(data, encoding="utf-8")
    (tmp_path / "plans.yaml").write_text(config, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/train.py"), "plans.yaml", "executor.name=reference"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "train 2 graphs, 7 vertices" in done.stdout and "all 3 epochs done" in done.stdout


def test_links_and_commands_name_files_that_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    commands = re.findall(r"\b(?:scripts|configs)/[\w.]+\.(?:py|sh|yaml)", README)
    assert len(links) > 4 and len(commands) >= 4
    for name in [*links, *commands]:
        assert (ROOT / name).exists(), name


TYPED = [shlex.split(line, comments=True) for b in blocks("bash") for line in b.splitlines()]


@pytest.mark.parametrize(
    "words", [w for w in TYPED if w[:1] == ["tvm-cavs"] and "--help" not in w], ids=" ".join
)
def test_commands_are_taken(words):
    """What README.md tells people to type is what the command takes."""
    module = importlib.import_module(f"tvm_cavs.cli.{words[1]}")
    module.parse([word.replace("PATH", "configs") for word in words[2:]])  # or SystemExit
