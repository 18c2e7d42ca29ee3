"""The LLVM text of what is compiled, and the products in it that are marked as never wrapping."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def marked_products(text: str) -> list[str]:
    """Products of integers of up to 32 bits that LLVM may take for such as never wrap.

    Hashes wrap. Places of elements are counted in 64 bits, and never wrap.
    """
    found = re.findall(r".*= mul (?:nuw |nsw )*(?:<\d+ x )?i(?:8|16|32)>? .*", text)
    return [line for line in found if re.search(r"= mul n[us]w", line)]


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
