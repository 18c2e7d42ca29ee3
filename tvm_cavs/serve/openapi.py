"""What the server says of its model: to programs as JSON, to tools as OpenAPI with an example."""

from __future__ import annotations

import copy
import json
from typing import Any

from ..deploy import Model
from ..errors import CavsError
from .limits import Limits

GRAPH = {
    "type": "object",
    "properties": {
        "children": {
            "description": "The children of every vertex in slot order; null is an empty slot.",
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "nullable": True}},
        },
        "parents": {
            "description": "Instead of children: the parent of every vertex; null is a root.",
            "type": "array",
            "items": {"type": "integer", "nullable": True},
        },
        "inputs": {
            "description": "By name, an entry a vertex; null where it has none.",
            "type": "object",
            "additionalProperties": {"type": "array", "items": {}},
        },
    },
}
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}
STATUSES = {
    "401": "No token, or another one.",
    "408": "The body did not come in time.",
    "413": "The body, the graphs or a graph are too large.",
    "415": "The body is of another type.",
    "422": "It is no graph of the model; the message names the vertex.",
    "503": "Too many requests wait; try again after Retry-After seconds.",
    "504": "There was no answer in time.",
}


def examples(model: Model) -> list[dict[str, Any]]:
    """The graphs that the model was exported with to be shown; none if it has none."""
    text = model.manifest.get("example") or ""
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def about_model(model: Model, limits: Limits) -> dict[str, Any]:
    """What a client needs to know."""
    manifest = model.manifest
    return {
        "name": model.name,
        "arity": manifest["arity"],
        "inputs": manifest["inputs"],
        "outputs": manifest["outputs"],
        "classes": manifest.get("classes"),
        "vocabulary": None if model.reader.vocab is None else len(model.reader.vocab.tokens),
        "examples": examples(model),
        "limits": {"bytes": limits.body, "graphs": limits.graphs, "vertices": limits.vertices},
    }


def documented(schema: dict[str, Any], model: Model) -> dict[str, Any]:
    """The schema that FastAPI makes, with what `predict` takes and answers."""
    made = copy.deepcopy(schema)
    made["info"]["description"] = f"The model {model.name}."
    predict = made["paths"]["/v1/predict"]["post"]
    given = min(examples(model), key=lambda each: len(json.dumps(each)), default=None)
    one = {"schema": {"oneOf": [GRAPH, {"type": "array", "items": GRAPH}]}}
    lines: dict[str, Any] = {"schema": {"type": "string"}}
    answer: dict[str, Any] = {"schema": {"type": "object"}}
    if given is not None:
        one["example"], lines["example"] = given, json.dumps(given)
        answer["example"] = _answer(model, given)
    predict["requestBody"] = {
        "required": True,
        "content": {"application/json": one, "application/x-ndjson": lines},
    }
    predict["parameters"] = [
        {"name": "vertices", "in": "query", "schema": {"enum": ["all", "roots"], "default": "all"}}
    ]
    predict["responses"] = {
        "200": {"description": "Outputs.", "content": {"application/json": answer}},
        **{
            status: {"description": what, "content": {"application/json": {"schema": ERROR}}}
            for status, what in STATUSES.items()
        },
    }
    return made


def _answer(model: Model, given: dict[str, Any]) -> dict[str, Any] | None:
    try:
        found = model.answers(model.reader.objects([(0, given)], "example"))[0]
    except CavsError:  # an example of the exporter's own making
        return None
    return {"outputs": {name: rows.tolist() for name, rows in found.items()}}
