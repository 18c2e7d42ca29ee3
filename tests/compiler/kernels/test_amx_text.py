"""What is written in LLVM's own words for tile registers, read here: few CPUs can run it."""

import re

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm_cavs.compiler.kernels.cpu.amx import SIDE, _transpose

LINE = re.compile(
    r"  (?:%(?P<shift>o[ab]\d+) = mul i64 %(?P<by>ld[ab]), (?P<times>\d+)"
    r"|%(?P<place>p[ab]\d+) = getelementptr i8, ptr %(?P<base>[ab]), i64 %(?P<offset>o[ab]\d+)"
    r"|%(?P<row>r0_\d+) = load <16 x i32>, ptr %(?P<source>pa\d+), align 4"
    r"|%(?P<mixed>r\d+_\d+) = shufflevector <16 x i32> %(?P<one>r\d+_\d+), "
    r"<16 x i32> %(?P<other>r\d+_\d+), <16 x i32> <(?P<picks>[^>]*)>"
    r"|store <16 x i32> %(?P<stored>r\d+_\d+), ptr %(?P<target>pb\d+), align 4"
    r"|(?P<end>ret void))"
)


def run(text: str, a: np.ndarray) -> np.ndarray:
    """The 16 x 16 words that the function writes; every word is written once."""
    lines = text.splitlines()
    assert (
        lines[:2]
        == [
            "define weak_odr hidden void @tvm_cavs_amx_transpose(",
            "    ptr %a, i64 %lda, ptr %b, i64 %ldb) {",
        ]
        and lines[-1] == "}"
    )
    known: dict[str, object] = {}
    out, written = np.zeros_like(a), set[int]()
    for each in lines[2:-1]:
        found = LINE.fullmatch(each)
        assert found, each
        if found["shift"]:
            known[found["shift"]] = found["by"], int(found["times"])
        elif found["place"]:
            by, times = known[found["offset"]]  # type: ignore[misc]
            assert by == f"ld{found['base']}"
            known[found["place"]] = times
        elif found["row"]:
            known[found["row"]] = a[known[found["source"]]]  # type: ignore[call-overload]
        elif found["mixed"]:
            both = np.concatenate([known[found["one"]], known[found["other"]]])  # type: ignore[arg-type]
            picks = [int(pick.removeprefix("i32 ")) for pick in found["picks"].split(", ")]
            known[found["mixed"]] = both[picks]
        elif found["stored"]:
            row = known[found["target"]]
            assert isinstance(row, int) and row not in written
            out[row] = known[found["stored"]]
            written.add(row)
    assert len(written) == SIDE
    return out


def test_a_transposition_changes_rows_and_columns() -> None:
    a = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    np.testing.assert_array_equal(run(_transpose(), a), a.T)


def test_the_reader_reads_what_is_there() -> None:
    """One pick of another word is another result."""
    text = _transpose()
    at = text.index("<i32 0, ") + 1
    a = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    assert (run(text[:at] + "i32 1" + text[at + 5 :], a) != a.T).any()
