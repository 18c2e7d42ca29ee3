"""A YAML file and overrides -> RunConfig, or every problem of them at once.

A problem names the key, the value given, what was expected, and the nearest key or choice. The keys
and their defaults are in schema.py.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import ConfigError
from .schema import JsonlData, ListOpsData, PtbData, RunConfig
from .yaml_values import parse

REPR = reprlib.Repr()  # a few levels of it: aliases can make a small file a huge value
REPR.maxstring = REPR.maxother = REPR.maxlong = 60
DATA = {"listops": ListOpsData, "ptb": PtbData, "jsonl": JsonlData}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that `path` describes, with overrides such as "train.lr=0.1" (values are YAML).

    Raises:
        ConfigError: the file is absent or no YAML, or holds unknown keys or wrong values; all
            problems are listed.
    """
    given = _read(Path(path))
    problems = [problem for text in overrides if (problem := _override(given, text))]
    problems += _given_twice(overrides)
    try:
        config = RunConfig.model_validate(given)
    except ValidationError as error:
        problems += [_describe(each, given) for each in error.errors()]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{path}: {count}\n" + "\n".join(f"  {text}" for text in problems))
    return config


def dump_config(config: RunConfig) -> str:
    """YAML with every key, defaults included: what is saved with a run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        given = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        others = {other.stem: other for other in sorted(path.parent.glob("*.yaml"))}
        near = difflib.get_close_matches(path.stem, others, n=1)
        hint = f" Did you mean {others[near[0]]}?" if near else ""
        raise ConfigError(f"{path} does not exist.{hint}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a config: {error}") from error
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ConfigError(
            f"{path}: expected keys such as 'data:' and 'train:', got {type(given).__name__}."
        )
    return given


def _override(given: dict[str, Any], text: str) -> str | None:
    """Put "a.b=value" into `given`; return the problem, if there is one."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        return f"{_short(text)}: expected an override such as train.lr=0.1"
    *sections, last = key.split(".")
    place = given
    for section in sections:
        inner = place.get(section)
        if inner is not None and not isinstance(inner, dict):
            return f"{_cut(key)} = {_cut(value)}: {section} is {_short(inner)}, not a section"
        place[section] = dict(inner or {})  # its own, where an alias names it twice
        place = place[section]
    try:
        place[last] = parse(value)
    except ConfigError as error:
        return f"{_cut(key)} = {_cut(value)}: {error}" + (
            "; put quotes around it" if "no valid YAML" in str(error) else ""
        )
    return None


def _given_twice(overrides: Sequence[str]) -> Iterator[str]:
    """A problem for every override that another one would undo."""
    keys = [text.partition("=")[0] for text in overrides if "=" in text]
    for place, key in enumerate(keys):
        for other in keys[:place]:
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                which = "twice" if key == other else f"besides {_cut(other)}"
                yield f"{_cut(key)}: given {which} on the command line; keep one of the two"


def _describe(problem: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """One line about one of pydantic's errors."""
    kind, location = problem["type"], list(problem["loc"])
    if location[:1] == ["data"] and len(location) > 1 and location[1] in DATA:
        del location[1]  # the tag of the union, which is no key
    key = ".".join(str(part) for part in location)
    value = problem["input"]
    if kind == "extra_forbidden":
        key_like = _nearest_key(key, given)
        hint = f"; did you mean {key_like}?" if key_like else ""
        return f"{_cut(key)} = {_short(value)}: unknown key{hint}"
    if kind == "missing":
        return f"{key}: missing; set it in the file, or add {key}=VALUE to the command"
    if kind.startswith("union_tag"):
        value = value.get("name") if isinstance(value, dict) else value
        near = difflib.get_close_matches(str(value), DATA, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if value is None:
            return f"data.name: missing; expected one of {', '.join(DATA)}"
        return f"data.name = {_short(value)}: expected one of {', '.join(DATA)}{hint}"
    return f"{key} = {_short(value)}: {_expectation(problem)}"


def _expectation(problem: Mapping[str, Any]) -> str:
    """What was expected, in words that follow the value."""
    if problem["type"] == "model_type" or problem["type"] == "model_attributes_type":
        return "expected a section with keys of its own"
    text = str(problem["msg"]).removeprefix("Value error, ")
    text = text.replace("Input should be", "expected").replace("valid dictionary", "mapping")
    return text[:1].lower() + text[1:]


def _short(value: Any) -> str:
    return _cut(str(value) if isinstance(value, BaseModel) else REPR.repr(value))


def _cut(text: str) -> str:
    """A text as it was given, no more of it than one reads."""
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest_key(key: str, given: Mapping[str, Any]) -> str | None:
    """The known key most like an unknown one: in its own section first, then by its last part."""
    known = list(_keys(RunConfig, "", given))
    section, _, last = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in known if _section(other) == section}
    near = difflib.get_close_matches(last, siblings, n=1)
    if near:
        return siblings[near[0]]
    anywhere = {other.rpartition(".")[2]: other for other in known}
    near = difflib.get_close_matches(last, anywhere, n=1, cutoff=0.75)
    return anywhere[near[0]] if near else None


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def _keys(model: type[BaseModel], prefix: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Full names of all keys of a section and below; of the data sections, the chosen one's."""
    for name, info in model.model_fields.items():
        yield prefix + name
        inner: Any = info.annotation
        if name == "data":
            chosen = given.get("data")
            chosen = chosen.get("name", "listops") if isinstance(chosen, dict) else ""
            inner = DATA.get(chosen) if isinstance(chosen, str) else None
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not get_args(inner):
            yield from _keys(inner, f"{prefix}{name}.", given)
