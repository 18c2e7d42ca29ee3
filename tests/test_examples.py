"""Every public class and function shows an example, and it prints what is shown."""

import doctest
import inspect
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

from helpers.paths import ROOT

PUBLIC = dict(runpy.run_path(str(ROOT / "scripts" / "public_names.py"))["public_names"]())
CONSTANTS = {"tvm_cavs.data.LISTOPS_VOCAB", "tvm_cavs.nn.CELLS"}
# a trainer compiles its updates, whatever runs the network; an exported model is compiled
COMPILES = {"tvm_cavs.Trainer", "tvm_cavs.deploy.Model"}


def is_error(value: object) -> bool:
    """Errors need no example: what raises one says when."""
    return isinstance(value, type) and issubclass(value, Exception)


def problems(name: str, value: object) -> Iterator[str]:
    """What is wrong with the examples of a name and of its methods, run without any other name."""
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    tests = [test for test in finder.find(value, name, globs={}) if test.examples]
    if name not in {test.name for test in tests}:
        yield f"{name}: its docstring has no example (Examples:, then lines with >>>)"
    for test in tests:
        said: list[str] = []
        runner.run(test, out=said.append)
        yield from said
        if "\nExamples:\n" not in inspect.cleandoc(test.docstring or ""):
            yield f"{test.name}: not below Examples:, so mkdocstrings makes a quotation of it"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.compiles if name in COMPILES else ())
        for name, value in PUBLIC.items()
        if name not in CONSTANTS and not is_error(value)
    ],
)
def test_examples_print_what_is_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(problems(name, PUBLIC[name]))
    assert not found, "\n".join(found)
    assert not list(tmp_path.iterdir()), f"{name}: its example leaves files behind"


def test_only_constants_and_errors_are_left_out() -> None:
    others = {n for n, value in PUBLIC.items() if not isinstance(value, (type, FunctionType))}
    assert others == CONSTANTS


RIGHT = "Doubles.\n\nExamples:\n    >>> print(2 * 3)\n    6\n"


@pytest.mark.parametrize(
    "doc, complaint",
    [
        (RIGHT, ""),
        ("Doubles.", "has no example"),
        (RIGHT.replace("6", "7"), "Expected:\n    7\nGot:\n    6"),
        (RIGHT.replace("2 * 3", "ROOT"), "name 'ROOT' is not defined"),
        (RIGHT.replace("Examples:", "Example:"), "not below Examples:"),
    ],
)
def test_what_is_wrong_is_noticed(doc: str, complaint: str) -> None:
    def double() -> None: ...

    double.__doc__ = doc
    found = "\n".join(problems("double", double))
    assert complaint in found and bool(complaint) == bool(found)
