"""`tvm-cavs serve`: an exported model's folder -> a server that answers over HTTP."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigError, DeployError
from .parser import FORM, make_parser, run_folder

WHAT = (
    "Answer over HTTP with an exported model. Requests that arrive at the same time run together.",
    "POST /v1/predict takes graphs; / is a page to try it, /docs describes the rest.",
    "SIGTERM or Ctrl-C ends it after all answers, SIGHUP loads the folder again.",
)
EXAMPLES = (
    "served/demo",
    "served/demo --port 8080 --batching whole",
    "served/demo --host 0.0.0.0 --token-file token",
)
NEEDED = ("fastapi", "uvicorn", "httptools", "uvloop")
TOKEN = "TVM_CAVS_TOKEN"
BATCHING = ("levels", "whole", "one")
MOST_PROCESSES = 256
SHORTEST = 8  # letters of a token
OF_LIMITS = {
    "body": "bytes of a request",
    "graphs": "graphs of a request",
    "vertices": "vertices of a graph",
    "batch": "vertices that run at the same time",
    "waiting": "requests that wait; more get 503",
    "seconds": "of a request, in all; then 504",
    "body_seconds": "until a body is there; then 408",
    "connections": "open ones; more get 503",
    "drain": "seconds in which an ending server still takes requests",
}


def parse(arguments: Sequence[str], form: str = FORM) -> argparse.Namespace:
    parser = make_parser("serve", form, WHAT, EXAMPLES)
    parser.add_argument("folder", type=run_folder, help="of an exported model")
    parser.add_argument("--host", default="127.0.0.1", help="whence it can be reached")
    parser.add_argument("--port", type=int, default=8000, help="0: one that is free")
    parser.add_argument(
        "--batching",
        choices=BATCHING,
        default="levels",
        metavar="WAY",
        help="levels (the default): a request joins between levels; whole: after the batch that "
        "runs; one: it runs on its own",
    )
    parser.add_argument(
        "--processes",
        type=number_of_processes,
        default=1,
        metavar="N",
        help="that answer at the same port, each with limits of its own (default: 1)",
    )
    parser.add_argument(
        "--token-file", type=run_folder, metavar="F", help=f"or the variable {TOKEN}"
    )
    for name, what in OF_LIMITS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=positive_number, metavar="N", help=what
        )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str], form: str = FORM) -> int:
    given = parse(arguments, form)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DeployError(
            f"a server needs {' and '.join(missing)}: pip install 'tvm_cavs[serve]', then run the "
            "command again."
        )
    from ..serve import Address, Limits, Metrics, Service, run

    if not 0 <= given.port < 1 << 16:
        raise ConfigError(f"--port: expected 0 to 65535, given {given.port}")
    chosen = {name: getattr(given, name) for name in OF_LIMITS}
    whole = {f.name for f in dataclasses.fields(Limits) if isinstance(f.default, int)}
    limits = Limits(**{n: int(v) if n in whole else v for n, v in chosen.items() if v is not None})
    token = read_token(given.token_file)
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    service = Service(given.folder, limits, given.batching, Metrics(given.processes))
    if token is None and given.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"no token: whoever reaches {given.host} can ask", file=sys.stderr)
    run(
        service,
        Address(given.host, given.port),
        token,
        lambda found: print(f"{service.model.name} of {given.folder} at {found}", flush=True),
        given.processes,
    )
    return 0


def read_token(file: Path | None) -> str | None:
    """The token, of a file or the environment; None where there is none.

    Raises:
        ConfigError: the file cannot be read, or the token is too short or no token.
    """
    where, text = TOKEN, os.environ.get(TOKEN)
    if file is not None:
        where = str(file)
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file: {file} cannot be read: {error}") from None
    if text is None:
        return None
    token = text.strip()
    if len(token) < SHORTEST or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            f"{where}: expected a token of {SHORTEST} or more letters without blanks. Make one: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def number_of_processes(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= MOST_PROCESSES):
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to {MOST_PROCESSES} processes")
    return int(text)


def positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < 1 << 40:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number
