"""Records of measurements: JSON files -> what is known of a kernel on a target.

A record says how fast one set of knobs was, in one bucket of row counts, on one sort of machine.
Files are written whole or not at all. What does not fit (another schema, another version of TVM,
knobs that the target cannot have, no record at all) is left out, and said in words.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import tvm
from tvm.target import Target, codegen

from .choice import Bucket
from .host import instructions
from .knobs import FAMILIES, Knobs, misfit
from .target import caches, threads

SCHEMA = 1
VECTORS = ("avx", "fma", "amx", "neon", "sve", "bf16", "dotprod", "fullfp16", "i8mm")


@dataclass(frozen=True)
class Record:
    """One candidate, measured in alternation with the default knobs.

    kernel: its family and sizes. target: see `target_key`. seconds: of all its calls in the bucket
    that a step makes, None if it `failed`. ratio: that by the default's time. spread: of the ratio
    over the rounds, half the distance of its quartiles. peak: GFLOP/s of the FMA probe beside it.
    origin: how it was obtained. date: ISO, in UTC.
    """

    kernel: str
    target: str
    bucket: Bucket
    knobs: Knobs
    seconds: float | None
    ratio: float = 1.0
    spread: float = 0.0
    calls: int = 1
    peak: float = 0.0
    failed: str = ""
    origin: str = ""
    date: str = ""
    tvm: str = tvm.__version__

    @property
    def key(self) -> tuple[str, str, Bucket, Knobs]:
        """What a record is about; two with one key are two measurements of the same."""
        return self.kernel, self.target, self.bucket, self.knobs

    @cached_property
    def line(self) -> str:
        """The record as it stands in a file. All of a file is written with every new record, so
        this is made once.
        """
        return json.dumps(to_json(self))

    @cached_property
    def place(self) -> tuple[str, str, Bucket, str]:
        """By what records are sorted in a file."""
        return self.kernel, self.target, self.bucket, repr(self.knobs)

    @property
    def default_seconds(self) -> float:
        """What the default took beside it."""
        return (self.seconds or 0.0) / self.ratio

    def __str__(self) -> str:
        took = self.failed or f"{1e6 * (self.seconds or 0):.1f} us, {self.ratio:.3f} of the default"
        return f"{self.kernel}, {self.bucket} rows, {self.knobs}: {took}"


def product_key(k: int, n_columns: int, precision: str) -> str:
    """The kernel of a record about a product [n, k] x [k, n_columns]."""
    return f"product {k}x{n_columns} {precision}"


def outer_key(k: int, n_columns: int, precision: str) -> str:
    """The same of a weight gradient [n, k]^T x [n, n_columns]."""
    return f"outer {k}x{n_columns} {precision}"


def direct_key(k: int, n_columns: int, transposed: bool) -> str:
    """The same of a product with weights where they lie."""
    return f"direct {k}x{n_columns}{' transposed' * transposed}"


def step_key(name: str, text: str, precision: str) -> str:
    """The same of whole steps of a network.

    Args:
        name: of its vertex function. text: of its programs, which tells it from others.
    """
    return f"step {name} {hashlib.sha256(text.encode()).hexdigest()[:8]} {precision}"


def precision_of(kernel: str) -> str:
    """To what the operands of a record's kernel are rounded."""
    return "bf16" if kernel.endswith(" bf16") else "float32"


def target_key(target: Target) -> str:
    """What decides about speed: architecture, vector features, near caches, threads."""
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    features = sorted(name for name in instructions(target) if name.startswith(VECTORS))
    near = replace(caches(target), l3=0)
    return " ".join([triple.partition("-")[0], *features, str(near), f"threads={threads(target)}"])


class BadRecordError(ValueError):
    """A record that cannot be used, whatever the target."""


def to_json(record: Record) -> dict[str, Any]:
    """A record as it stands in a file."""
    return {**asdict(record), "bucket": record.bucket.first}


def from_json(given: Any) -> Record:
    """The record that a file holds.

    Raises:
        BadRecordError: it is none; the message says what is wrong with it.
    """
    try:
        family = str(given["kernel"]).partition(" ")[0].partition("_")[0]
        if family not in FAMILIES:
            raise BadRecordError(f"kernel {given['kernel']!r} is of no family with knobs")
        knobs = FAMILIES[family](**given["knobs"])
        if any(type(value) not in (int, bool) for value in vars(knobs).values()):
            raise BadRecordError(f"knobs {given['knobs']!r}: expected whole numbers")
        record = Record(**{**given, "knobs": knobs, "bucket": Bucket(given["bucket"])})
        _check_numbers(record)
        return record
    except (TypeError, KeyError, AttributeError) as error:
        raise BadRecordError(f"{type(error).__name__}: {error}") from None


def _check_numbers(record: Record) -> None:
    first, seconds = record.bucket.first, record.seconds
    if type(first) is not int or first < 1 or first & (first - 1):
        raise BadRecordError(f"bucket is {first!r}; expected a power of two")
    texts = (record.target, record.failed, record.origin, record.date, record.tvm)
    if not all(isinstance(text, str) for text in texts):
        raise BadRecordError("target, failed, origin, date and tvm have to be texts")
    if seconds is None:
        return
    numbers = (seconds, record.ratio, record.spread)
    if not all(isinstance(x, (int, float)) and 0 <= x < 1e9 for x in numbers) or not record.ratio:
        raise BadRecordError(f"seconds, ratio, spread are {numbers}; expected numbers above 0")


def read_records(path: Path) -> tuple[list[Record], list[str]]:
    """The records of a file, and what in it could not be used; a file that is absent has none."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except (OSError, ValueError) as error:
        return [], [f"{path} holds no records ({error}); defaults are used. Delete it, or tune"]
    if not isinstance(given, dict) or given.get("schema") != SCHEMA:
        found = given.get("schema") if isinstance(given, dict) else type(given).__name__
        return [], [f"{path}: schema {found!r}, expected {SCHEMA}; defaults are used. Tune again"]
    if not isinstance(given.get("records"), list):
        return [], [f"{path} has no list of records; defaults are used. Delete it, or tune"]
    records, notes = [], []
    for number, each in enumerate(given["records"]):
        try:
            records.append(from_json(each))
        except BadRecordError as error:
            notes.append(f"{path}: record {number} is not used: {error}")
    return records, notes


def write_records(path: Path, records: Iterable[Record]) -> None:
    """A file of these records, sorted; whole, or as it was before.

    Of a link the file that it names is written; a device or a pipe is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    lines = ",\n".join(each.line for each in sorted(records, key=attrgetter("place")))
    text = f'{{"schema": {SCHEMA}, "records": [\n{lines}\n]}}\n'
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def merged(*several: Sequence[Record]) -> list[Record]:
    """All records, of two with one key the one that was measured later."""
    found: dict[Any, Record] = {}
    for record in (r for records in several for r in records):
        if record.key not in found or record.date >= found[record.key].date:
            found[record.key] = record
    return list(found.values())


def pruned(records: Sequence[Record]) -> list[Record]:
    """What choosing needs: per kernel, target and bucket the fastest with each shared knob."""
    found: dict[Any, Record] = {}
    for r in sorted(records, key=lambda r: r.ratio):
        if not r.failed:
            shared = tuple(getattr(r.knobs, name) for name in r.knobs.SHARED)
            found.setdefault((r.kernel, r.target, r.bucket, shared), r)
    return list(found.values())


def usable_records(records: Sequence[Record], target: Target) -> tuple[list[Record], list[str]]:
    """The records that are about `target`, and in words why others are not used."""
    key, found, notes = target_key(target), [], []
    foreign = [r for r in records if r.target != key]
    if foreign:
        others = sorted({r.target for r in foreign})
        notes.append(
            f"{len(foreign)} record(s) are for another target ({'; '.join(others)}) and not used; "
            f"this one is {key}"
        )
    refused: dict[str, list[Record]] = {}
    for r in (r for r in records if r.target == key):
        reason = misfit(r.knobs, target, precision_of(r.kernel))
        if r.tvm != tvm.__version__:
            reason = f"measured with TVM {r.tvm}, and this is {tvm.__version__}; tune again"
        if reason:
            refused.setdefault(reason, []).append(r)
        else:
            found.append(r)
    for reason, those in refused.items():
        which = f"{those[0].kernel}, {those[0].bucket} rows"
        notes.append(f"{len(those)} record(s), the first of {which}, are not used: {reason}")
    return found, notes
