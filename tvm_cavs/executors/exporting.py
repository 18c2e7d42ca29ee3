"""A network -> a folder that `tvm_cavs.deploy` loads: library, parameters, program, manifest.

What is compiled is inference for one target, for every kind of vertex that graphs can bring. The
folder is made beside its place and renamed, so that there is a whole one or none.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from .. import deploy
from ..compiler import (
    Compiler,
    Kinds,
    assemble,
    directly,
    host_kernels,
    make_library,
    step_knobs,
)
from ..errors import DeployError
from ..graph import Graph, masks
from ..runtime import BufferId, Role, parameter_memory, value_of
from ..transform import SEED, Programs, seeded
from ..versions import REQUIRED, VERSION
from ..whole_files import flush
from .exportable import About, Exportable
from .tvm import pulls_of, pushes_of

MOST_BITS = 10  # slots and inputs of a vertex, up to which all combinations are tried
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
KIND_OF_DTYPE = {"int32": "integers", "float32": "numbers"}
Rounds = Sequence[Iterable[int]]  # of masks, in the order in which they are learned


def export(
    net: Exportable,
    folder: Path,
    seen: Iterable[Graph] = (),
    about: About | None = None,
    replace: bool = False,
    linker: str | None = None,
    backward: bool = False,
    **options: Any,
) -> None:
    """Write the folder.

    Args:
        seen: graphs of the data. Needed where the combinations of inputs are too many to compile
            all; then vertices that are not like theirs are refused later.
        replace: whether an exported model that is there already makes room.
        linker: the C compiler that links, for another architecture.
        backward: whether the folder also has the backward pass.
        options: as `TvmExecutor`: target, precision, records. A call uses one thread: a server uses
            its cores by answering several requests at a time.

    Raises:
        DeployError: the folder is there already, or cannot be written.
        TargetError: the target is unknown, or its library cannot be linked here.
    """
    _check_place(folder, replace)
    compiler = Compiler(n_threads=1, cache=False, symbols=True, **options)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            part = Path(scratch) / "part"
            part.mkdir()
            _Exported(net, compiler, seen, backward).write(part, about or About(), linker)
            _put(part, folder)
    except OSError as error:
        raise DeployError(
            f"{folder} could not be written: {error.strerror or error}. What was there before is "
            "still there, nothing else. Free some space, or name another folder."
        ) from error


class _Exported:
    """What goes into the folder, compiled for one target."""

    def __init__(
        self, net: Exportable, compiler: Compiler, seen: Iterable[Graph], backward: bool
    ) -> None:
        self._net, self._compiler = net, compiler
        rounds, self._complete = _rounds(net.programs, seen)
        self._programs = {deploy.PROGRAM: self._program(net.programs, rounds)}
        if backward:
            self._programs[deploy.BACKWARD] = self._program(seeded(net.programs), rounds)

    def _program(self, programs: Programs, rounds: Rounds) -> deploy.Deployed:
        pulls = pulls_of(programs.forward)
        kinds = _learned(programs, rounds)
        compiled = assemble(kinds, self._compiler, self._net.parameters)
        stages = () if programs.adjoint is None else (*kinds.forward, *kinds.backward)
        groups = (*compiled.forward, *compiled.backward)[: len(stages)]
        direct = directly(stages, groups, self._compiler, self._net.parameters)
        outputs = tuple(deploy.Output(*each) for each in pushes_of(programs.forward))
        return deploy.Deployed(
            executable=compiled,
            arity=programs.arity,
            pulls=pulls,
            number=kinds.number,
            rank=kinds.rank,
            maybe=kinds.maybe,
            outputs=outputs,
            values=tuple(v.buffer for v in compiled.net_values),
            host=host_kernels(self._compiler),
            seeds={
                o.name: BufferId(Role.INPUT, SEED + o.name)
                for o in outputs
                if SEED + o.name in pulls
            },
            direct=tuple(direct),
            direct_vertices=step_knobs(self._compiler.target).direct_vertices,
        )

    def write(self, folder: Path, about: About, linker: str | None) -> None:
        """Write all files; the manifest, which has the digests of the others, comes last."""
        make_library(self._compiler, folder, deploy.LIBRARY, linker)
        parameters = {name: p.data for name, p in sorted(self._net.parameters.items())}
        (folder / deploy.PARAMETERS).write_bytes(save(parameters))
        memory = parameter_memory({name: p.memory for name, p in self._net.parameters.items()})
        values = {
            deploy.buffer_name(v.buffer): value_of(v, memory)
            for program in self._programs.values()
            for v in program.executable.net_values
        }
        if values:
            (folder / deploy.VALUES).write_bytes(save(values))
        for name, program in self._programs.items():
            _write_json(folder / name, deploy.to_data(program), indent=None)
        if about.vocabulary is not None:
            _write_json(folder / deploy.VOCABULARY, list(about.vocabulary), indent=0)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": deploy.digest(path)}
            for path in sorted(folder.iterdir())
        }
        _write_json(folder / deploy.MANIFEST, self._manifest(about) | {"files": files}, indent=2)
        for path in folder.iterdir():
            flush(path)
        flush(folder)

    def _manifest(self, about: About) -> dict[str, Any]:
        programs, compiler = self._net.programs, self._compiler
        policy = self._net.policy
        found: dict[str, Any] = {
            "format": deploy.FORMAT,
            "name": programs.forward.name,
            "arity": programs.arity,
            "inputs": [_input(read, about) for read in _distinct(programs.reads)],
            "outputs": [
                {"name": c["name"], "shape": list(c.type.shape), "dtype": c.type.dtype}
                for _, c in programs.forward.select("push")
            ],
            "states": {
                c["field"]: list(c.type.shape) for _, c in programs.forward.select("scatter")
            },
            "complete": self._complete,
            "backward": deploy.BACKWARD in self._programs,
            "sharing": policy
            and {"names": policy.names, "least": policy.least, "per_level": policy.per_level},
            "precision": compiler.machine.precision,
            "target": compiler.portrait(),
            "records": {key: str(chosen) for key, chosen in sorted(compiler.tuned.used.items())},
            "versions": {"tvm_cavs": VERSION, **REQUIRED, "numpy": np.__version__},
        }
        if about.classes is not None:
            found["classes"] = list(about.classes)
        if about.example is not None:
            found["example"] = about.example
        return found | dict(about.notes)


def _rounds(programs: Programs, seen: Iterable[Graph]) -> tuple[Rounds, bool]:
    """The masks of the vertices that are compiled for, and whether that is all that graphs can
    bring.

    Where some share a kind, the vertices of `seen` come first, as in training: so what runs for
    them is what training ran. They are not looked at where every combination has a kind of its own.

    Raises:
        DeployError: the combinations are too many, and no graphs were given.
    """
    pulls = pulls_of(programs.forward)
    n_bits = programs.arity + len(pulls)
    every = _learned(programs, [range(1 << n_bits)]) if n_bits <= MOST_BITS else None
    if every is not None and len(every.kinds) == 1 << n_bits:
        return [range(1 << n_bits)], True
    found = (masks(graph, programs.arity, pulls)[0].tolist() for graph in seen)
    given = list(dict.fromkeys(itertools.chain.from_iterable(found)))
    if every is not None and (not given or _learned(programs, [given]).maybe == every.maybe):
        return [given, range(1 << n_bits)], True
    if not given:
        raise DeployError(
            f"{programs.forward.name}: a vertex has {programs.arity} slots and {len(pulls)} "
            f"inputs; all combinations of so many (more than 2^{MOST_BITS}) cannot be compiled. "
            "Give graphs of your data: what is like them is compiled, the rest is refused."
        )
    return [given], False


def _learned(programs: Programs, rounds: Rounds) -> Kinds:
    """The kinds of these vertices, which have every seed that there is."""
    pulls = pulls_of(programs.forward)
    bits = (1 << (programs.arity + i) for i, p in enumerate(pulls) if p.startswith(SEED))
    always, kinds = sum(bits), Kinds(programs, pulls)
    for some in rounds:
        kinds.learn(mask | always for mask in some)
    return kinds


def _distinct(reads: Sequence[Any]) -> list[Any]:
    """One read for each input: that of its values, where they are read and not only looked for."""
    by_value = sorted(reads, key=lambda read: read.shape is not None)
    found = {read.name: read for read in by_value}
    return [found[name] for name in dict.fromkeys(read.name for read in reads)]


def _input(read: Any, about: About) -> dict[str, Any]:
    kind = "tokens" if read.name in about.tokens else KIND_OF_DTYPE.get(read.dtype)
    return {
        "name": read.name,
        "shape": None if read.shape is None else list(read.shape),
        "dtype": read.dtype,
        "limit": read.limit,
        "kind": kind,
    }


def _check_place(folder: Path, replace: bool) -> None:
    """Refuses a place where something is that is not ours to replace."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise DeployError(f"{folder} is there and no folder. Name another one.")
    if any(folder.iterdir()) and not (replace and (folder / deploy.MANIFEST).exists()):
        remedy = (
            "To replace an exported model say so: --replace."
            if (folder / deploy.MANIFEST).exists()
            else "It holds something else than an exported model: name another folder."
        )
        raise DeployError(f"{folder} is there already. {remedy}")


def _put(part: Path, folder: Path) -> None:
    """Bring the whole folder to its place; what was there goes to where `part` lies."""
    if not folder.exists():
        part.rename(folder)
    elif not _exchanged(part, folder):
        folder.rename(part.with_name("old"))
        part.rename(folder)
    flush(folder.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places, so that at any moment there is one of them; False where the
    system or its file system cannot do that.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):
        return False
    return bool(libc.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE) == 0)


def _write_json(path: Path, data: Any, indent: int | None) -> None:
    text = json.dumps(data, ensure_ascii=False, indent=indent, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")
