"""Targets that this machine can run: itself, and narrower models of x86 if it is one."""

import platform

import pytest

pytest.importorskip("tvm")

from tvm.target import codegen

import schedules

X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}  # whatever machine the tests run on
HOST = schedules.host_target(1)
NARROWER = {"x86-64-v3": ["avx2", "fma"], "x86-64-v2": ["sse4.2"]}  # with what each needs


def runnable() -> list[object]:
    """ "host" and the dictionaries of narrower targets."""
    x86 = platform.machine() == "x86_64"
    return [
        "host",
        *(
            {"kind": "llvm", "mcpu": model}
            for model, needs in NARROWER.items()
            if x86 and codegen.llvm_cpu_has_features(needs, HOST)
        ),
    ]


def label(target: object) -> str:
    return target["mcpu"] if isinstance(target, dict) else str(target)
