"""What holds where nothing is said: the defaults of every function, class, config key and option.

A default is a promise to whoever leaves it out. The texts are those of tests/golden/defaults*.txt.
So are the constants of all modules, in constants.txt: a limit, a wait, a grain, a coefficient or a
file's name changes because somebody wanted it to.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

tvm = pytest.importorskip("tvm")

from helpers.paths import ROOT
from tvm_cavs.cli import bench_options, cache, evaluate, train, tune
from tvm_cavs.runs.config import dump_config
from tvm_cavs.runs.schema import JsonlData, PtbData, RunConfig

PACKAGES = "tvm_cavs", "schedules", "autotune"
OTHER_PROCESSES = ".bench.peers."  # which import torch


def modules() -> Iterator[ModuleType]:
    """All of them."""
    for package in map(importlib.import_module, PACKAGES):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if OTHER_PROCESSES not in found.name and not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def shown(default: Any) -> str:
    """Its text, without what differs from process to process."""
    if isinstance(default, (type, Callable)):  # type: ignore[arg-type]
        return getattr(default, "__qualname__", type(default).__name__)
    text = re.sub(r" (object )?at 0x[0-9a-f]+", "", repr(default))
    return text.replace(str(ROOT), "").replace(tvm.__version__, "TVM's")


def of_class(cls: type) -> dict[str, str]:
    """The defaults of a data class's fields, or of what a class is made with."""
    if not dataclasses.is_dataclass(cls):
        return of_call(cls.__init__) if "__init__" in vars(cls) else {}
    found = {}
    for each in dataclasses.fields(cls):
        if each.default is not dataclasses.MISSING:
            found[each.name] = shown(each.default)
        elif each.default_factory is not dataclasses.MISSING and each.init:
            make = each.default_factory  # a class, or what may make another thing each time
            found[each.name] = shown(make() if isinstance(make, type) else make)
    return found


def of_call(function: Callable[..., Any]) -> dict[str, str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: shown(p.default) for p in parameters if p.default is not p.empty}


def defaults(module: ModuleType) -> Iterator[tuple[str, dict[str, str]]]:
    """Of all that a module defines, by name."""
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            yield name, of_class(thing)
            for method, function in vars(thing).items():
                function = getattr(function, "__func__", function)  # of a static method
                own = not method.startswith("__") or method == "__call__"
                if own and inspect.isfunction(function):
                    yield f"{name}.{method}", of_call(function)
        elif inspect.isfunction(thing):
            yield name, of_call(thing)


def test_defaults_of_calls(golden: Callable[[str, object], None]) -> None:
    lines = [
        f"{module.__name__}.{name}: {', '.join(f'{k}={v}' for k, v in found.items())}"
        for module in modules()
        for name, found in defaults(module)
        if found
    ]
    assert len(lines) > 100
    golden("defaults", "\n".join(sorted(lines)))


PLAIN = (int, float, str, bytes, type(None))
LONGEST = 600  # text of a constant; longer ones are made of others, or of Python's own lists


def of_constant(value: Any) -> str | None:
    """The text of a plain value, or of plain values together; None of others, and of prose."""
    if isinstance(value, re.Pattern):
        return f"{value.pattern!r} {re.RegexFlag(value.flags)!r}"
    if isinstance(value, PLAIN):
        return None if isinstance(value, str) and value.count(" ") > 5 else shown(value)
    if isinstance(value, dict):
        value = tuple(value.items())
    if not isinstance(value, (tuple, list, set, frozenset)):
        return None
    made = [of_constant(each) for each in value]
    texts = [text for text in made if text is not None]
    if len(texts) < len(made):
        return None
    return f"({', '.join(texts if isinstance(value, (tuple, list)) else sorted(texts))})"


def constants(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Those that its file, or a class in it, gives a name in capitals."""
    body = ast.parse(inspect.getsource(module)).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    for owner, nodes in [(module, body), *((getattr(module, c.name), c.body) for c in classes)]:
        for node in nodes:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            for name in (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)):
                text = of_constant(getattr(owner, name, ...)) if name.isupper() else None
                if text is not None and len(text) <= LONGEST:
                    yield name if owner is module else f"{owner.__name__}.{name}", text


def test_constants(golden: Callable[[str, object], None]) -> None:
    lines = [f"{m.__name__}.{name} = {text}" for m in modules() for name, text in constants(m)]
    assert len(lines) > 300
    golden("constants", "\n".join(sorted(lines)))


def test_defaults_of_a_config(golden: Callable[[str, object], None]) -> None:
    others = [
        RunConfig(data=made)
        for made in (PtbData(name="ptb", train="t"), JsonlData(name="jsonl", train="t"))
    ]
    rest = [dump_config(each).partition("model:")[0] for each in others]
    golden("defaults_of_a_config", "\n".join([dump_config(RunConfig()), *rest]))


@pytest.mark.parametrize(
    ("parse", "least"),
    [
        (train.parse, ["demo"]),
        (evaluate.parse, ["runs/demo"]),
        (tune.parse, ["demo"]),
        (cache.parse, []),
        (bench_options.parse, []),
    ],
)
def test_defaults_of_commands(
    parse: Callable[..., Any], least: list[str], golden: Callable[[str, object], None]
) -> None:
    name = parse.__module__.rpartition(".")[2]
    lines = (f"{k}: {v!r}" for k, v in vars(parse(least)).items())
    golden(f"defaults_of_{name}", "\n".join(lines))
