"""What a subcommand is and takes -> its parser, whose help fits the terminal."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

FORM = "tvm-cavs {}"  # how a command is called, where nothing else is said


def fill(text: str, after: int = 0) -> str:
    """`text` in lines that fit the terminal; all but the first begin after so many blanks."""
    width = max(20, shutil.get_terminal_size().columns - 2)
    return textwrap.fill(
        text, width, subsequent_indent=" " * after, break_long_words=False, break_on_hyphens=False
    )


def make_parser(
    name: str, form: str, what: Sequence[str], examples: Sequence[str]
) -> argparse.ArgumentParser:
    """The parser of the subcommand `name`, without its arguments.

    Args:
        what: paragraphs that say what it does.
        examples: arguments of calls that make sense; they are printed whole, to be copied.
    """
    command = form.format(name)
    return argparse.ArgumentParser(
        prog=command,
        description="\n\n".join(map(fill, what)),
        epilog="\n".join(["examples:", *(f"  {command} {each}" for each in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_folder(text: str) -> Path:
    """The folder of a run as a user names it; ~ is the home folder.

    Raises:
        argparse.ArgumentTypeError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {error}; expected the folder of a run, such as runs/demo"
        ) from error
