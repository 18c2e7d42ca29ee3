"""What an error says of a mistake, without the user's line: that may hold the words looked for."""

import linecache
from collections.abc import Callable
from typing import Any


def beside_the_line(error: BaseException, function: Callable[..., Any]) -> str:
    """The message without the text of the line on which the function that was traced begins."""
    code = function.__code__
    line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    assert line, code
    return str(error).replace(line, "...")
