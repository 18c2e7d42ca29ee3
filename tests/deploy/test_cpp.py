"""The C library: the bits of `tvm_cavs.deploy`, errors in words, nothing leaked or undefined."""

import ctypes
import json
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.paths import ROOT
from helpers.random_graphs import (
    N_CLASSES,
    N_WORDS,
    WIDTH,
    alike,
    random_chain,
    random_dag,
    random_tree,
)
from tvm_cavs.data import TOKENS, to_json
from tvm_cavs.deploy import digest, load
from tvm_cavs.executors import About
from tvm_cavs.graph import Field

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++ to build the library with"),
]
SOURCES = ROOT / "tvm_cavs" / "deploy" / "cpp"
CHECK = ROOT / "tests" / "deploy" / "cpp" / "check.cpp"
WORDS = ("<unk>", "a", "é", '"\n', "d")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
OK, ARGUMENT, FILE, DAMAGED, NEWER, CPU, GRAPH, KIND, MEMORY, KERNEL = range(10)
NUMBERS = {"int32": 1, "float32": 2}


class Mixed(cavs.VertexFunction):
    """Inputs of all types that any vertex may lack, a table that is chosen from, two outputs."""

    arity = 3
    state = {"h": 5, "m": 1}

    def __init__(self) -> None:
        self.E, self.T = cavs.Parameter((N_WORDS, 3)), cavs.Parameter((N_CLASSES, 5))
        self.W, self.X = cavs.Parameter((3, 5)), cavs.Parameter((WIDTH, 5))
        self.U = [cavs.Parameter((5, 5)) for _ in range(3)]
        self.b = cavs.Parameter((5,))

    def forward(self, v: cavs.Vertex) -> None:
        y = cavs.embedding(v.pull("word"), self.E) @ self.W + v.pull("x", WIDTH) @ self.X
        y = y + cavs.embedding(v.pull("label"), self.T) * v.pull("target", (), "float32")
        for k, U in enumerate(self.U):
            y = y + v.gather(k).h @ U
        h = cavs.tanh(y + self.b) * (1.0 + v.present("target"))
        v.scatter(h=h, m=v.gather(0).m + 1.0)
        v.push("pair", cavs.reshape(h[0:4], (2, 2)))
        v.push("sum", cavs.reduce_sum(h) + cavs.reshape(v.gather(2).m, ()))


class Wide(cavs.VertexFunction):
    """More slots than a table of all kinds is made for."""

    arity = 17
    state = {"h": 3}

    def __init__(self) -> None:
        self.b = cavs.Parameter((3,))

    def forward(self, v: cavs.Vertex) -> None:
        h = cavs.tanh(v.gather(0).h + 0.5 * v.gather(16).h + self.b)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


class Built(NamedTuple):
    """Programs: the example, the check of tests, and that with sanitizers."""

    answer: Path
    check: Path
    sanitized: Path


def run(*command: object, **options: Any) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], capture_output=True, check=False, **options)


def succeed(*command: object, **options: Any) -> bytes:
    done = run(*command, **options)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    """The library, by cmake where it is installed, and once more with sanitizers."""
    folder = tmp_path_factory.mktemp("built")
    common = ("g++", "-std=c++17", f"-I{SOURCES}", *WARNINGS)
    library = ("-pthread", "-ldl", f"-L{folder}", "-lcavs", f"-Wl,-rpath,{folder}")
    if shutil.which("cmake"):
        options = "-DCAVS_WARNINGS=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0"
        succeed("cmake", "-S", SOURCES, "-B", folder, *options)
        succeed("cmake", "--build", folder)
    else:
        shared = ("-shared", "-fPIC", "-fvisibility=hidden", "-o", folder / "libcavs.so")
        succeed(*common, *shared, *SOURCES.glob("*.cpp"), "-pthread", "-ldl")
        example = (SOURCES / "examples" / "answer.cpp", SOURCES / "json.cpp")
        succeed(*common, *example, "-o", folder / "answer", *library)
    check, sanitized = folder / "check", folder / "sanitized"
    succeed(*common, CHECK, "-o", check, *library)
    sources = (CHECK, *SOURCES.glob("*.cpp"))
    succeed(*common, *SANITIZE, *sources, "-o", sanitized, "-pthread", "-ldl")
    return Built(folder / "answer", check, sanitized)


def exported(function: cavs.VertexFunction, folder: Path, **options: Any) -> Path:
    net = cavs.Network(function)
    net.initialize(seed=4)
    net.hybridize("tvm", threads=1, records=False, sharing=options.pop("sharing", None))
    net.export(folder, **options)
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """With its backward pass, which the C library passes over."""
    spelling = {"lower": True, "unescape": True}
    about = About(WORDS, ("word",), notes={"spelling": spelling})
    folder = tmp_path_factory.mktemp("tree") / "out"
    cell = cavs.nn.TreeLSTM(N_WORDS, 6, 8, N_CLASSES)
    return exported(cell, folder, about=about, sharing=True, backward=True)


def graphs_of(arity: int) -> list[cavs.Graph]:
    rng = np.random.default_rng(arity)
    made = [m(rng, arity, int(rng.integers(1, 12))) for m in (random_tree, random_dag) * 8]
    return [*made, random_chain(rng, 200), *alike(rng, 10, arity)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Kinds of vertices that may have inputs or not."""
    folder = tmp_path_factory.mktemp("mixed") / "out"
    return exported(Mixed(), folder, graphs=graphs_of(3))


FULL = cavs.Graph.from_children([[], [0, *[None] * 15, 0], [1, *[None] * 15, 0]])


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Exported for two kinds of vertices."""
    return exported(Wide(), tmp_path_factory.mktemp("wide") / "out", graphs=[FULL])


def sized(content: bytes) -> bytes:
    return struct.pack("<q", len(content)) + content


def encoded(graph: cavs.Graph, bits: int = 64, **changed: Any) -> bytes:
    """A batch as the check reads it; `changed` are arrays that take the place of the graph's."""
    index = np.dtype(f"int{bits}") if bits in (32, 64) else np.dtype("int64")
    ptr = np.asarray(changed.get("child_ptr", graph.child_ptr)).astype(index)
    child = np.asarray(changed.get("child", graph.child)).astype(index)
    n = changed.get("n_vertices", graph.n_vertices)
    inputs = changed.get("inputs", graph.inputs)
    made = struct.pack("<qqq", n, child.size, bits) + sized(ptr.tobytes()) + sized(child.tobytes())
    made += struct.pack("<q", len(inputs))
    for name, field in inputs.items():
        values, everywhere = np.array(field.values), bool(field.present.all())
        garbage = -(2**31) if values.dtype == np.int32 else np.nan
        values[~field.present] = garbage  # what is absent may be anything
        made += sized(name.encode())
        made += struct.pack("<qqq", NUMBERS[str(values.dtype)], values.size, 1)
        made += sized(values.tobytes())
        made += struct.pack("<q", not everywhere)
        made += sized((field.present * 255).astype("uint8").tobytes())
    return made


class Answers:
    """What the check wrote, read piece by piece."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, n: int) -> bytes:
        self.at += n
        assert self.at <= len(self.content)
        return self.content[self.at - n : self.at]

    def number(self) -> int:
        return int(struct.unpack("<q", self.take(8))[0])

    def outputs(self, model: Any, n: int) -> dict[str, np.ndarray]:
        """Those of a batch of n vertices, or an assertion with its error."""
        status = self.number()
        assert status == OK, self.take(self.number()).decode()
        made = {}
        for output in model.manifest["outputs"]:
            shape = (n, *output["shape"])
            made[output["name"]] = np.frombuffer(self.take(4 * int(np.prod(shape))), "f4").reshape(
                shape
            )
        return made

    def error(self) -> tuple[int, str]:
        return self.number(), self.take(self.number()).decode()


def checked(program: Path, folder: Path, batches: Sequence[bytes], threads=0, repeats=0, limit=0):
    given = struct.pack("<q", len(batches)) + b"".join(batches)
    return Answers(succeed(program, folder, threads, repeats, limit, input=given))


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def batches_of(graphs: Sequence[cavs.Graph]) -> list[cavs.Graph]:
    return [*graphs, cavs.batch(list(graphs)), cavs.batch(list(graphs[::-1])), graphs[0]]


@pytest.mark.parametrize("program", ["check", "sanitized"])
@pytest.mark.parametrize("which", ["tree", "mixed"])
def test_answers_are_those_of_python_to_the_last_bit(program, which, built, request):
    """Trees, DAGs, a deep chain, empty slots, absent inputs, equal subtrees; threads at once."""
    folder = request.getfixturevalue(which)
    model = load(folder)
    batches = batches_of(graphs_of(2 if which == "tree" else 3))
    given = [encoded(graph, bits=(32, 64)[i % 2]) for i, graph in enumerate(batches)]
    found = checked(getattr(built, program), folder, given, threads=4, repeats=2)
    for graph in batches:
        same(found.outputs(model, graph.n_vertices), model(graph))
    assert found.at == len(found.content)


def test_a_deep_chain(built, tree):
    """Levels are found without the stack."""
    n = 10_000
    words = np.arange(n) % N_WORDS
    ptr = np.concatenate([np.arange(n), [n - 1]])  # vertex v is the parent of v + 1
    backwards = cavs.Graph.from_csr(ptr, np.arange(1, n), {"word": words})
    found = checked(built.check, tree, [encoded(backwards)])
    same(found.outputs(load(tree), n), load(tree)(backwards))


def test_what_is_refused(built, tree):
    """Every error names the vertex and what was expected; the next batch is answered."""
    graph = cavs.Graph.from_children([[], [], [0, 1]], {"word": [1, 2, None]})

    def words(*values: int, dtype: str = "int32") -> dict[str, Any]:
        return {"inputs": {"word": Field(np.array(values, dtype), np.ones(len(values)))}}

    cases: list[tuple[int, str, dict[str, Any]]] = [
        (GRAPH, "the batch is empty", {"n_vertices": 0}),
        (GRAPH, "at most 2147483647", {"n_vertices": 2**40}),
        (GRAPH, "vertex 2: child 3 in slot 1 is out of range; expected 0..2", {"child": [0, 3]}),
        (GRAPH, "vertex 2: child -2 in slot 0", {"child": [-2, 1]}),
        (GRAPH, "vertex 2 is its own child (self-loop in slot 1)", {"child": [0, 2]}),
        (GRAPH, "child_ptr must rise from 0 to 2, got 1 to 2", {"child_ptr": [1, 1, 1, 2]}),
        (GRAPH, "vertex 1: child_ptr must rise", {"child_ptr": [0, 2, 1, 2], "child": [1, 2]}),
        (GRAPH, "vertex 0: child_ptr must rise", {"child_ptr": [0, 2**40, 1, 2]}),
        (
            GRAPH,
            "the batch has a cycle: 0 -> 1 -> 2 -> 0",
            {"child_ptr": [0, 1, 2, 3], "child": [1, 2, 0]},
        ),
        (
            GRAPH,
            "vertex 2 has 3 children, but TreeLSTM gathers from 2",
            {"child_ptr": [0, 0, 0, 3], "child": [0, 1, -1]},
        ),
        (GRAPH, "TreeLSTM pulls 'word', which the batch does not have", {"inputs": {}}),
        (GRAPH, f"vertex 1: input 'word' is 5; TreeLSTM takes 0..{N_WORDS - 1}", words(1, 5, 0)),
        (GRAPH, "vertex 0: input 'word' is -1", words(-1, 2, 0)),
        (GRAPH, "as int32; the batch gives 2 numbers of int32 for 3 vertices", words(1, 2)),
        (GRAPH, "3 numbers of float32", words(1, 2, 3, dtype="float32")),
        (ARGUMENT, "index_bits is 16; expected 32 or 64", {"bits": 16}),
    ]
    given = [encoded(graph, **changed) for _, _, changed in cases]
    for program in (built.check, built.sanitized):
        found = checked(program, tree, [*given, encoded(graph)], threads=2, repeats=2)
        for status, text, changed in cases:
            said = found.error()
            assert said[0] == status and text in said[1], (said, changed)
        same(found.outputs(load(tree), 3), load(tree)(graph))


def test_kinds_that_were_not_exported(built, wide):
    """With so many slots that kinds are searched for, not looked up."""
    half = cavs.Graph.from_children([[], [], [0, 1]])
    found = checked(built.sanitized, wide, [encoded(FULL), encoded(half), encoded(FULL)])
    same(found.outputs(load(wide), 3), load(wide)(FULL))
    status, text = found.error()
    assert status == KIND and text.startswith("vertex 2: Wide was exported for"), text
    assert "children in slots 0, 1 and the inputs none" in text
    same(found.outputs(load(wide), 3), load(wide)(FULL))


def test_memory_is_bounded(built, tree):
    graphs = graphs_of(2)[:3]
    given = [encoded(graphs[0]), encoded(random_chain(np.random.default_rng(0), 5000))]
    found = checked(built.sanitized, tree, [*given, given[0]], threads=2, repeats=2, limit=300_000)
    same(found.outputs(load(tree), graphs[0].n_vertices), load(tree)(graphs[0]))
    status, text = found.error()
    assert status == MEMORY and "needs more than the 300000 bytes" in text
    same(found.outputs(load(tree), graphs[0].n_vertices), load(tree)(graphs[0]))


def copied(folder: Path, to: Path, **changed: Any) -> Path:
    """A copy of an export with another manifest."""
    shutil.copytree(folder, to)
    manifest = json.loads((to / "manifest.yaml").read_text())
    for key, value in changed.items():
        manifest[key] = value
    (to / "manifest.yaml").write_text(json.dumps(manifest))
    return to


def tampered(
    folder: Path, to: Path, name: str, old: bytes, new: bytes, admit: bool = False
) -> Path:
    """A copy with other bytes in a file; `admit`: the manifest knows."""
    copied(folder, to)
    content = (to / name).read_bytes()
    assert old in content
    (to / name).write_bytes(content.replace(old, new, 1))
    if admit:
        manifest = json.loads((to / "manifest.yaml").read_text())
        manifest["files"][name]["sha256"] = digest(to / name)
        (to / "manifest.yaml").write_text(json.dumps(manifest))
    return to


def test_folders_that_are_refused(built, tree, tmp_path):
    target = json.loads((tree / "manifest.yaml").read_text())["target"]
    lacking = copied(tree, tmp_path / "lacking")
    (lacking / "kernels.so").unlink()
    cut = copied(tree, tmp_path / "cut")
    (cut / "manifest.yaml").write_text((tree / "manifest.yaml").read_text()[:300])
    program, manifest = "program.json", "manifest.yaml"
    cases = [
        (tmp_path / "nowhere", "FILE", "is no exported model"),
        (lacking, "FILE", "kernels.so cannot be read: No such file"),
        (cut, "DAMAGED", "manifest.yaml is damaged"),
        (
            copied(tree, tmp_path / "newer", format=2),
            "NEWER",
            "format 2; this library reads up to 1",
        ),
        (copied(tree, tmp_path / "none", format="x"), "DAMAGED", "is no manifest of tvm_cavs"),
        (
            tampered(tree, tmp_path / "a", program, b'"arity": 2', b'"arity": 3'),
            "DAMAGED",
            "program.json is not the file that was exported: its SHA-256 is",
        ),
        (
            tampered(tree, tmp_path / "b", program, b'"arity": 2', b'"arity": 3', admit=True),
            "DAMAGED",
            "has 3 slots, the manifest 2",
        ),
        (
            tampered(
                tree, tmp_path / "c", program, b'"role": "push"', b'"role": "novel"', admit=True
            ),
            "DAMAGED",
            'buffers of role "novel" are unknown here',
        ),
        (
            tampered(tree, tmp_path / "d", program, b'"space": 0', b'"space": 99', admit=True),
            "DAMAGED",
            "space is 99, and there are",
        ),
        (
            tampered(tree, tmp_path / "e", manifest, b'"name": "word"', b'"name": "w\xff"'),
            "DAMAGED",
            "no UTF-8",
        ),
        (
            copied(tree, tmp_path / "arm", target=target | {"architecture": "aarch64"}),
            "CPU",
            "the model is for aarch64, and this machine is",
        ),
        (
            copied(tree, tmp_path / "more", target=target | {"instructions": ["sse2", "avx9"]}),
            "CPU",
            "instructions that this CPU lacks: avx9",
        ),
    ]
    for folder, name, text in cases:
        done = run(built.sanitized, folder, 0, 0, 0, input=b"")
        said = done.stdout.decode()
        assert done.returncode == 2 and said.startswith(f"CAVS_ERROR_{name}: "), (said, done.stderr)
        assert text in said, said


def test_the_example_answers_json_lines(built, tree, tmp_path):
    """Tokens by the vocabulary; floats come back as they were."""
    model, graphs = load(tree), graphs_of(2)
    lines = [to_json(graph, {"word": TOKENS}, model.reader.vocab) for graph in graphs]
    lines[3:3] = ["", '{"parents": [2, 2, null], "inputs": {"word": ["\\u00e9", "unheard", null]}}']
    lines.append('{"children": [[], [0]], "inputs": {"word": ["A", "-LRB-"]}}')
    lines.append(
        json.dumps({"children": [[], [0, -1]], "inputs": {"word": ["a", "d"], "y": [1, 2]}})
    )
    (tmp_path / "lines").write_text("\n".join(lines), encoding="utf-8")
    expected = model.answers(model.read("\n".join(lines)))
    for batch in (1, 5, 64):
        said = (
            succeed(built.answer, "--batch", batch, tree, tmp_path / "lines").decode().splitlines()
        )
        assert len(said) == len(expected) == len(lines) - 1
        for line, answer in zip(said, expected, strict=True):
            found = {k: np.array(v, "float32") for k, v in json.loads(line).items()}
            same(found, answer)
    timed = succeed(built.answer, "--time", tree, input=lines[0].encode()).decode()
    assert timed.startswith("median ") and "us a graph, of 1 graphs" in timed


def test_numbers_in_json_lines(built, mixed, tmp_path):
    """Vectors, scalars, numbers at the ends of float32; two outputs, one of them a matrix."""
    inputs = {
        "word": [1, None, 4],
        "x": [[0.1, -3, 1e-46], None, [1e38, 2.5e-42, 1e-400]],
        "label": [None, 2, 0],
        "target": [1, 0.1, None],
    }
    line = json.dumps({"children": [[], [], [0, None, 1]], "inputs": inputs}).replace(
        "0.0]", "1e-400]"
    )
    model = load(mixed)
    found = json.loads(succeed(built.answer, mixed, input=line.encode()))
    same({k: np.array(v, "float32") for k, v in found.items()}, model(model.read(line)))


BAD = {
    "{": "expected a key in quotes",
    '{"children": [[], [0]]} x': "there is more behind the value",
    '{"children": [[], [0,]]}': "expected a value",
    '{"children": [[]], "children": [[]]}': 'the key "children" stands twice',
    '{"child": [[]]}': 'unknown key "child"',
    '{"children": [[]], "parents": [null]}': "expected either",
    '{"children": [[1]], "inputs": {}}': "vertex 0: child 1 is out of range",
    '{"children": [[0]], "inputs": {"word": ["a"]}}': "vertex 0 is its own child",
    '{"children": [[], [2], [1]], "inputs": {"word": [null, null, null]}}': "a cycle: 1 -> 2 -> 1",
    '{"parents": [5]}': "its parent 5 is out of range",
    '{"children": []}': "the graph is empty",
    '{"children": [[]], "inputs": {"word": ["a", "b"]}}': "has 2 entries; expected a list of 1",
    '{"children": [[]], "inputs": {"word": ["a"], "y": []}}': "y has 0 entries; expected a list",
    '{"children": [[]], "inputs": {"word": 1}}': "word has no list of entries",
    '{"children": [[]], "inputs": {"word": [1]}}': "vertex 0: input word: it is no text",
    '{"children": [[0.0]]}': "a vertex is no integer",
    '{"children": [[]], "inputs": {"word": ["\\ud800"]}}': "half of a surrogate pair",
    '{"children": [[]], "inputs": {"word": ["\xff"]}}': "no UTF-8",
    '{"children": [[]], "inputs": {"word": [nan]}}': "expected a value",
    '{"children": ' + "[" * 100: "too many lists",
    '{"children": [[0, 1, 2]]}': "child 1 is out of range",
    '{"children": [[], [0, 0, 0]], "inputs": {"word": ["a", "b"]}}': "gathers from 2",
}


def test_lines_that_are_refused(built, tree):
    """By number, after the answers of those before it."""
    good = '{"children": [[]], "inputs": {"word": ["a"]}}'
    for line, text in BAD.items():
        done = run(built.answer, tree, input="\n".join([good, "", line]).encode("latin-1"))
        said = done.stderr.decode()
        assert done.returncode == 1 and said.startswith("input, line 3: ") and text in said, said
    assert run(built.answer, tree, "nowhere.jsonl").returncode == 1
    assert run(built.answer).returncode == run(built.answer, "--what", tree).returncode == 2


def test_the_program_of_the_docs(built, tree, tmp_path):
    page = (ROOT / "docs" / "deploy-c.md").read_text(encoding="utf-8")
    code = page.split('```c title="main.c"\n')[1].split("```")[0]
    (tmp_path / "main.c").write_text(code, encoding="utf-8")
    folder, program = built.answer.parent, tmp_path / "main"
    compiler = ("g++", "-x", "c", "-std=c99", *WARNINGS, f"-I{SOURCES}", tmp_path / "main.c")
    succeed(*compiler, "-o", program, f"-L{folder}", "-lcavs", f"-Wl,-rpath,{folder}")
    (tmp_path / "served").symlink_to(tree)
    said = succeed(program, cwd=tmp_path).decode()
    unknown = cavs.Graph.from_children([[], [], [0, 1]], {"word": [0, 0, None]})
    numbers = [np.float32(n) for n in said.removeprefix("logits of the root:").split()]
    assert np.array_equal(numbers, load(tree)(unknown)["logits"][2])


def test_the_header_is_plain_c():
    succeed("g++", "-x", "c", "-std=c99", *WARNINGS, "-fsyntax-only", SOURCES / "cavs.h")


def test_a_folder_that_was_exported_anew_gives_the_new_model(built, tree, wide, tmp_path):
    """While the model of before is still loaded from the same path."""
    library = ctypes.CDLL(str(built.answer.parent / "libcavs.so"))
    library.cavs_name.restype = ctypes.c_char_p
    models = []
    for folder in (tree, wide, tree):
        shutil.copytree(folder, tmp_path / "new")
        if (tmp_path / "served").exists():
            (tmp_path / "served").rename(tmp_path / f"old{len(models)}")
        (tmp_path / "new").rename(tmp_path / "served")
        model = ctypes.c_void_p()
        assert library.cavs_load(bytes(tmp_path / "served"), ctypes.byref(model)) == OK
        models.append(model)
    assert [library.cavs_name(model) for model in models] == [b"TreeLSTM", b"Wide", b"TreeLSTM"]
    for model in models:
        library.cavs_free(model)
