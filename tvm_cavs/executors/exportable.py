"""What is exported, and what its users are told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ..graph import Policy
from ..language import Parameter
from ..transform import Programs


@dataclass(frozen=True)
class About:
    """What the manifest says beyond the network itself.

    vocabulary: of the inputs that are tokens. tokens: their names. classes: names of the classes of
    the output, in order. example: graphs as JSON lines. notes: more, by keys of one's own.
    """

    vocabulary: Sequence[str] | None = None
    tokens: Sequence[str] = ()
    classes: Sequence[str] | None = None
    example: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exportable:
    """What is exported: programs of inference, parameters, how equal vertices are found."""

    programs: Programs
    parameters: Mapping[str, Parameter]
    policy: Policy | None


def export(net: Exportable, *given: Any, **options: Any) -> None:
    """Write a network's inference to a folder: `exporting.export`, loaded now, as it needs TVM."""
    import_module(".exporting", __package__).export(net, *given, **options)
