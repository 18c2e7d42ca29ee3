"""YAML text -> plain values, or where the text is wrong.

YAML 1.1 lets two things pass that a config must not: the last of two equal keys wins, and 1e-3 is a
text. Here the first is an error and the second a number.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..errors import ConfigError

EXPONENT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """YAML's safe types, with 1e-3 among the numbers."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def parse(text: str) -> Any:
    """The value that a YAML text describes.

    Raises:
        ConfigError: it is no YAML, a key stands twice in one section, or a value holds itself; the
            message begins with the line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        problems: list[str] = []
        _check(node, problems, set(), set())
        if problems:
            raise ConfigError("; ".join(problems))
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{where}no valid YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"no valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError("no valid YAML: nested too deeply.") from error
    except ConfigError:
        raise
    except (ValueError, OverflowError, KeyError) as error:  # such as the date 2026-13-01
        raise ConfigError(
            f"no valid YAML: {error}. A text that looks like a date or a number needs quotes."
        ) from error


def _check(node: yaml.Node, problems: list[str], around: set[int], done: set[int]) -> None:
    """Find keys given twice and values inside themselves, once for what several aliases name."""
    if id(node) in around:
        problems.append(f"line {node.start_mark.line + 1}: a value that holds itself")
    if id(node) in around or id(node) in done:
        return
    done.add(id(node))
    inner = around | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check(each, problems, inner, done)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                problems.append(
                    f"line {line}: {key.value!r} is given a second time (first in line "
                    f"{lines[key.value]}); join the two or drop one"
                )
            elif isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
            _check(key, problems, inner, done)
            _check(value, problems, inner, done)
