"""`tvm-cavs bench`: its arguments are looked at first, then what times is imported, TVM with it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from .bench_options import parse
from .parser import FORM


def main(arguments: Sequence[str], form: str = FORM) -> int:
    given = parse(arguments, form)
    import_module(".bench_cases", __package__).run(given)
    return 0
