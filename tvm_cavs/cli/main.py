"""The words of a command line -> the subcommand that does it, and the number a shell gets.

A subcommand is a module of this package with `main(arguments, form)`. `form` is how commands are
called here, such as "tvm-cavs {}": what one says about another is then a command that works.
"""

from __future__ import annotations

import difflib
import io
import os
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from ..errors import CavsError
from ..versions import REQUIRED, VERSION, not_installed
from .parser import FORM, fill

# name -> what it does. Importing this module imports none of them.
COMMANDS = {
    "train": "Train from a config, or continue a run.",
    "evaluate": "Measure the best parameters of a run.",
    "tune": "Measure which schedules are fastest here, and keep that.",
    "export": "Write a trained network to a folder that answers without the compiler.",
    "serve": "Answer over HTTP with an exported model.",
    "bench": "Time training and inference.",
    "cache": "Show or clear the compiled kernels that are kept.",
}
WRONG_USE = 2  # argparse's exit status
# modules that come with the extra `train`, and the packages that hold them
OF_TRAINING = {
    "pydantic": "pydantic",
    "rich": "rich",
    "safetensors": "safetensors",
    "yaml": "PyYAML",
}


def main(arguments: Sequence[str] | None = None, form: str = FORM) -> int:
    """Run `tvm-cavs` with these arguments, by default the process's own; return its exit status."""
    _stand_in_for_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        print(help_text(form), file=sys.stderr)
        return WRONG_USE
    name, *rest = given
    if name in ("-h", "--help"):
        print(help_text(form))
        return 0
    if name == "--version":
        print(version_text())
        return 0
    if name not in COMMANDS:
        print(unknown(name, form), file=sys.stderr)
        return WRONG_USE
    return run(name, rest, form)


def run(name: str, arguments: Sequence[str], form: str) -> int:
    """Import a subcommand and run it; an error that is expected becomes one message.

    Returns:
        The exit status: 1 after an error, 130 after Ctrl-C.
    """
    _print_what_cannot_be_encoded()
    try:
        os.getcwd()
    except FileNotFoundError:
        print(
            "error: the working folder has been removed. Go to one that exists (cd ~) and run the "
            "command again.",
            file=sys.stderr,
        )
        return 1
    try:
        status: int = import_module(f".{name}", __package__).main(arguments, form)
        return status
    except CavsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in OF_TRAINING:
            raise
        print(f"error: {not_installed(OF_TRAINING[error.name])}", file=sys.stderr)
        return 1
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        print(
            f"error: there is not enough memory{what}. Make the sizes of the model, the batches or "
            "the data smaller.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130


def _stand_in_for_closed_streams() -> None:
    """Of a stream that is closed (`>&-`), no file takes the number: TVM's messages would go there.

    Python has None for such a stream.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                assert os.open(os.devnull, os.O_RDWR) == number
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _print_what_cannot_be_encoded() -> None:
    """A character that the terminal has no code for becomes an escape, as on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def help_text(form: str = FORM) -> str:
    """What there is to call, in lines that fit the terminal."""
    width = max(map(len, COMMANDS)) + 4
    lines = [
        fill(f"usage: {form.format('COMMAND')} [ARGUMENTS]", after=7),
        "",
        fill("Train networks whose structure differs per example."),
        "",
        "commands:",
        *(fill(f"  {name.ljust(width - 2)}{what}", after=width) for name, what in COMMANDS.items()),
        "",
        fill(f"{form.format('COMMAND')} --help tells more of one."),
        fill("--version prints the versions that run."),
    ]
    return "\n".join(lines)


def version_text() -> str:
    """The versions of this package, of Python, and of the packages that are pinned."""
    found = {"tvm_cavs": VERSION, "Python": platform.python_version()}
    for package in REQUIRED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return "\n".join(f"{name} {each}" for name, each in found.items())


def unknown(name: str, form: str) -> str:
    """What to say of a name that is no command."""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    expected = f"expected one of {', '.join(COMMANDS)}{hint}"
    return fill(f"error: {name!r:.60} is no command: {expected} See {form.format('--help')}.")
