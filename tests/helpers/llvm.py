"""The LLVM text of what is compiled: products marked as never wrapping, and memory on the stack."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import pytest

BYTES = {"ptr": 8, "float": 4, "double": 8, "half": 2, "bfloat": 2}


def marked_products(text: str) -> list[str]:
    """Products of integers of up to 32 bits that LLVM may take for such as never wrap.

    Hashes wrap. Places of elements are counted in 64 bits, and never wrap.
    """
    found = re.findall(r".*= mul (?:nuw |nsw )*(?:<\d+ x )?i(?:8|16|32)>? .*", text)
    return [line for line in found if re.search(r"= mul n[us]w", line)]


def stack_bytes(text: str) -> dict[str, int]:
    """What every function of a module takes on the stack, by name, as far as it says so.

    (What LLVM adds for registers that it must put aside is bounded by the size of its loops.)
    """
    found: dict[str, int] = {}
    for function in re.split(r"^(?=define )", text, flags=re.MULTILINE)[1:]:
        name = re.search(r"@([\w.$]+|\"[^\"]+\")\(", function)
        assert name, function[:200]
        allocas = re.findall(r"= alloca (.+)", function)
        found[name[1]] = sum(map(_size, allocas))
    return found


def _size(alloca: str) -> int:
    """Bytes of `type[, i64 count][, align n]`."""
    kind, *rest = re.split(r", (?![^<\[{]*[>\]}])", alloca.split(" !")[0])
    counts = [int(part.split()[1]) for part in rest if re.fullmatch(r"i\d+ \d+", part)]
    dynamic = [part for part in rest if re.match(r"i\d+ %", part)]
    assert not dynamic, f"a stack allocation of a size that is found at run time: {alloca}"
    if kind.startswith("%"):  # a struct of the interface's, such as an argument
        return 64 * prod(counts)
    sizes = [int(n) for n in re.findall(r"(\d+) x ", kind)]
    element = kind.rstrip("]>").split(" x ")[-1]
    if element.startswith("{"):
        return 8 * len(element.split(",")) * prod(sizes) * prod(counts)
    bits = re.fullmatch(r"i(\d+)", element)
    width = -(-int(bits[1]) // 8) if bits else BYTES[element]
    return width * prod(sizes) * prod(counts)


@contextmanager
def recorded_llvm() -> Iterator[list[str]]:
    """The texts of the modules that are compiled within; such as come from a cache are not."""
    from tvm_cavs.compiler.compiler import Compiler

    texts: list[str] = []
    compile_part = Compiler._compile_part

    def recorded(self: Compiler, functions: object) -> object:
        made = compile_part(self, functions)
        texts.append(made.mod.inspect_source("ll"))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compiler, "_compile_part", recorded)
        yield texts
