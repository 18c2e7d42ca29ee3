"""A network in a folder: the same bits, from a process that has no compiler; nothing half."""

import errno
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers import functions
from helpers.paths import ROOT
from helpers.random_graphs import N_CLASSES, N_WORDS, random_chain, random_dag, random_tree
from tvm_cavs.data import Vocab, read_graphs, to_json
from tvm_cavs.deploy import cpu, load
from tvm_cavs.deploy.runner import Runner
from tvm_cavs.errors import DataError, DeployError, GraphError, OutOfMemoryError
from tvm_cavs.executors import About, exporting
from tvm_cavs.graph import Read, masks
from tvm_cavs.runtime import BufferId, Role

pytestmark = pytest.mark.compiles
WORDS = ("<unk>", "a", "b", "(", "d")
SPELLING = {"lower": True, "unescape": True}
ABOUT = About(WORDS, ("word",), ("no", "yes"), notes={"why": "a test", "spelling": SPELLING})
NEEDED = {"arguments", "arrays", "data", "deploy", "dropout", "errors", "expressions", "given"}
NEEDED |= {
    "ffi",
    "graph",
    "meanings",
    "memory_file",
    "renewal",
    "row_sparse",
    "runtime",
    "versions",
}


def network(function: cavs.VertexFunction, cache: Path, sharing: bool | None = None):
    net = cavs.Network(function)
    net.initialize(seed=4)
    net.hybridize("tvm", threads=1, cache=cache, sharing=sharing, records=False)
    return net


def some_graphs(n: int = 30):
    """With absent inputs, empty slots, vertices of several parents."""
    rng = np.random.default_rng(7)
    makers = [lambda: random_tree(rng, 2, 9), lambda: random_dag(rng, 2, 8)]
    return [makers[i % 2]() for i in range(n - 1)] + [random_chain(rng, 40)]


@pytest.fixture(scope="module")
def tree(cache, tmp_path_factory):
    """A network, and the folder that it was exported to."""
    net = network(cavs.nn.TreeLSTM(N_WORDS, 6, 8, N_CLASSES), cache, sharing=True)
    folder = tmp_path_factory.mktemp("exports") / "tree"
    net.export(folder, about=ABOUT)
    return net, folder


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_answers_are_those_of_the_network_to_the_last_bit(tree):
    net, folder = tree
    graphs, model = some_graphs(), load(folder)
    for given in (graphs, graphs[:1], graphs[::-1], [graphs[3]] * 5):
        same(model(given), net(cavs.batch(given)))
    for graph, answer in zip(graphs, model.answers(graphs), strict=True):
        same(answer, net(graph))
    assert model.answers([]) == []


@pytest.mark.parametrize("make", [functions.TwoLooks, functions.Attention])
def test_other_functions(make, cache, tmp_path):
    """Matrices that parameters make, inputs that may be absent; all kinds of vertices."""
    net = network(make(), cache)
    net.export(tmp_path / "out")
    graphs, model = some_graphs(12), load(tmp_path / "out")
    same(model(graphs), net(cavs.batch(graphs)))


def test_a_process_without_compiler_and_language_answers(tree, tmp_path):
    net, folder = tree
    graphs = some_graphs(6)
    (tmp_path / "in.jsonl").write_text("\n".join(to_json(graph) for graph in graphs))
    hidden = [f.stem for f in (ROOT / "tvm_cavs").iterdir() if f.stem not in {*NEEDED, "__init__"}]
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        first, _, rest = name.partition(".")
        if first in ("tvm", "schedules", "autotune", "safetensors", "pydantic", "rich", "yaml"):
            raise ImportError(name)
        if first == "tvm_cavs" and rest.partition(".")[0] in {hidden!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
import numpy as np
from tvm_cavs.deploy import load
from tvm_cavs.data import read_graphs
lines = open("in.jsonl").read().splitlines()
graphs = read_graphs("in.jsonl", enumerate(lines, 1), {{"word": "integers"}})
np.save("out.npy", load({str(folder)!r})(graphs)["logits"])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), net(cavs.batch(graphs))["logits"])


def test_the_manifest_says_what_is_there(tree):
    _, folder = tree
    manifest = load(folder).manifest
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.yaml"}
    word = {"name": "word", "shape": [], "dtype": "int32", "limit": N_WORDS, "kind": "tokens"}
    assert manifest["inputs"] == [word]
    assert manifest["outputs"] == [{"name": "logits", "shape": [N_CLASSES], "dtype": "float32"}]
    assert manifest["states"] == {"h": [8], "c": [8]}
    assert (manifest["classes"], manifest["why"], manifest["complete"]) == (
        ["no", "yes"],
        "a test",
        True,
    )
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load((folder / "manifest.yaml").read_text()) == manifest


def test_an_input_is_told_as_its_values_are_read():
    """In whatever order a vertex looks for it and reads it; one that is only looked for, too."""
    values, other = Read("x", (3,), "float32", None), Read("word", (), "int32", 9)
    looks = [Read(name, None, "", None) for name in ("x", "word", "flag")]
    for order in itertools.permutations([values, other, *looks]):
        told = exporting._distinct(order)
        assert [read.name for read in told] == list(dict.fromkeys(read.name for read in order))
        assert {*told} == {values, other, looks[2]}


def test_the_same_network_gives_the_same_bytes(tree, tmp_path, monkeypatch):
    net, folder = tree
    monkeypatch.setattr("tvm_cavs.compiler.workers.n_cores", lambda: 1)
    net.export(tmp_path / "again", about=ABOUT)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_words_are_read_as_in_training(tree):
    model = load(tree[1])
    text = '{"parents": [2, 2, null], "inputs": {"word": ["b", "?", null], "label": [1, 2, 3]}}\n\n'
    (graph,) = model.read(text)
    assert list(graph.inputs) == ["word"]
    assert graph.inputs["word"].values.tolist() == [2, 0, -1]
    assert to_json(graph, {"word": "tokens"}, Vocab(WORDS)) == (
        '{"children": [[], [], [0, 1]], "inputs": {"word": ["b", "<unk>", null]}}'
    )
    (spelled,) = model.read(
        '{"children": [[], [], []], "inputs": {"word": ["B", "-LRB-", "-lrb-"]}}'
    )
    assert spelled.inputs["word"].values.tolist() == [2, 3, 0]
    (bare,) = model.read('{"children": [[]]}')
    assert not bare.inputs["word"].present.any()
    with pytest.raises(DataError, match="line 2, vertex 0: input 'word': 3 stands where tokens"):
        model.read('{"children": [[]]}\n{"children": [[]], "inputs": {"word": [3]}}')
    with pytest.raises(DataError, match="line 1: .*cycle"):
        model.read('{"children": [[1], [0]]}')


def test_json_there_and_back():
    for graph in some_graphs(8):
        (again,) = read_graphs("x", [(1, to_json(graph))], {"word": "integers"})
        np.testing.assert_array_equal(again.child, graph.child)
        np.testing.assert_array_equal(again.inputs["word"].values, graph.inputs["word"].values)


def test_graphs_that_do_not_fit_are_refused_and_later_ones_answered(tree, monkeypatch):
    net, folder = tree
    model, graphs = load(folder), some_graphs(3)
    expected = net(cavs.batch(graphs))
    wide = cavs.Graph.from_children([[], [], [], [0, 1, 2]], {"word": [1, 1, 1, None]})
    with pytest.raises(GraphError, match="vertex 3 has 3 children, but TreeLSTM gathers from 2"):
        model([graphs[0], wide])
    with pytest.raises(GraphError, match=r"input 'word' is 99; TreeLSTM takes 0\.\."):
        model([cavs.Graph.from_sequence(2, {"word": [1, 99]})])
    with pytest.raises(GraphError, match="no graphs"):
        model([])
    same(model(graphs), expected)
    monkeypatch.setenv("TVM_CAVS_MEMORY", "2K")
    with pytest.raises(OutOfMemoryError, match="TVM_CAVS_MEMORY"):
        load(folder)(graphs)
    monkeypatch.delenv("TVM_CAVS_MEMORY")
    same(model(graphs), expected)


def test_threads_share_a_model_and_a_forked_process_answers(tree):
    net, folder = tree
    model, graphs = load(folder), some_graphs(16)
    expected = [net(graph) for graph in graphs]
    wrong: list[object] = []

    def ask(first: int) -> None:
        for i in range(60):
            k = (first * 5 + i) % len(graphs)
            answer = model([graphs[k]])
            if not np.array_equal(answer["logits"], expected[k]["logits"]):
                wrong.append(k)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    child = os.fork()
    if not child:
        try:
            same(model([graphs[1]]), expected[1])
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("libc", [{}, {"renameat2": lambda *_: -1}])
def test_a_system_that_cannot_exchange_folders(libc, cache, tmp_path, monkeypatch):
    """Nor is there anything beside the model; above it, folders are made."""
    net, folder = network(functions.OneSlot(), cache), tmp_path / "some" / "where" / "out"
    net.export(folder, about=About(notes={"first": 1}))
    of_libc = SimpleNamespace(CDLL=lambda name: SimpleNamespace(**libc))
    monkeypatch.setattr(exporting, "ctypes", of_libc)
    net.export(folder, replace=True, about=About(notes={"second": 2}))
    monkeypatch.undo()
    assert json.loads((folder / "manifest.yaml").read_text())["second"] == 2
    assert os.listdir(folder.parent) == ["out"]


class FiveSlots(cavs.VertexFunction):
    """More sets of slots than are kinds of their own."""

    arity = 5
    state = {"h": 2}

    def __init__(self) -> None:
        self.U = [cavs.Parameter((2, 2)) for _ in range(self.arity)]

    def forward(self, v: cavs.Vertex) -> None:
        h = v.pull("x", (2,))
        for k, U in enumerate(self.U):
            h = h + v.gather(k).h @ U
        h = cavs.tanh(h)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


@pytest.mark.parametrize("slots", [(0,), (1, 3, 4), (0, 1, 2, 3, 4)])
def test_graphs_of_the_data_run_what_they_ran_in_training(slots):
    """The first sets of slots are kinds of their own, as in training: so bits are the same."""
    programs = cavs.Network(FiveSlots()).programs()
    below = [0 if k in slots else None for k in range(5)]
    graph = cavs.Graph.from_children([[], below], {"x": np.ones((2, 2), "float32")})
    rounds, is_all = exporting._rounds(programs, [graph])
    assert is_all, "all other sets of slots are compiled too"
    kinds = exporting._learned(programs, rounds)
    mask = int(masks(graph, 5, ("x",))[0][1])
    found = kinds.kinds[kinds.of_mask(mask)]
    assert found.slots == slots and not found.maybe


class Many(cavs.VertexFunction):
    """A vertex with so many inputs that not all sets of them can be compiled."""

    state = {"h": 4}
    arity = 1

    def __init__(self) -> None:
        self.names = [f"x{i}" for i in range(11)]
        self.W = cavs.Parameter((4, 4))

    def forward(self, v: cavs.Vertex) -> None:
        h = v.gather(0).h @ self.W
        for name in self.names:
            h = h + v.pull(name, (4,))
        v.scatter(h=cavs.tanh(h))
        v.push("logits", h)


def test_an_arena_answers_where_equal_vertices_are_computed_once(tree):
    """Rows of a part are those of all vertices, in their order."""
    model = load(tree[1])
    word = {"word": [1, 1, 1, None]}
    graph = cavs.batch([cavs.Graph.from_children([[], [], [], [0, 2]], word)] * 9)
    arena = model.arena(36)
    part, rows = model.part(graph, arena)
    assert part.n_rows < len(rows) == graph.n_vertices
    joined = arena.join(part)
    while not joined.is_done:
        arena.step()
    same(model.outputs_of(arena, joined, rows), model(graph))


def test_kinds_that_are_too_many(cache, tmp_path):
    def chain(absent: int) -> cavs.Graph:
        rows = {f"x{i}": [None if i == absent else [0.5] * 4, [0.25] * 4] for i in range(11)}
        return cavs.Graph.from_sequence(2, rows)

    net = network(Many(), cache)
    with pytest.raises(
        DeployError, match=r"^Many: .* 1 slots and 11 inputs; .* 2\^10\).*Give graphs"
    ):
        net.export(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    seen = [chain(3), chain(4)]
    net.export(tmp_path / "out", seen)
    model = load(tmp_path / "out")
    assert model.manifest["complete"] is False
    same(model(seen), net(cavs.batch(seen)))
    batch, arena = cavs.batch([chain(6)]), model.arena(9)
    for use in (model, model.check, lambda graph: model.part(graph, arena)):
        with pytest.raises(GraphError, match="^Many was exported for the vertices .*x5"):
            use(batch)
    model.check(cavs.batch(seen))
    assert str(model) == f"<Model Many: {', '.join(f'x{i}' for i in range(11))} -> logits>"


@pytest.mark.parametrize("arity", [1, 3])
def test_what_a_vertex_without_kernels_has_is_said(arity):
    """Of every combination of slots and inputs, beside one that has kernels; no seed is told."""
    seed = BufferId(Role.INPUT, "grad.y")
    pulls = ("x", str(seed.key), "word")
    deployed = SimpleNamespace(pulls=pulls, arity=arity, seeds={"y": seed})
    for known in (0, 5):
        ranks = SimpleNamespace(number={known | 1: 0}, maybe=1)
        runner = SimpleNamespace(ranks=ranks, deployed=deployed, _name="Many")
        for bits in itertools.product([0, 1], repeat=arity + len(pulls)):
            mask = sum(bit << i for i, bit in enumerate(bits))
            if mask | 1 == known | 1:
                continue
            slots = ", ".join(str(i) for i in range(arity) if bits[i])
            x, _, word = bits[arity:]
            has = ", ".join(name for name, bit in (("x", x), ("word", word)) if bit)
            said = str(Runner.refusal(runner, [known, mask]))
            assert said.startswith("Many was exported for the vertices of its data")
            assert f"children in slots {slots or 'none'} and the inputs {has or 'none'}. " in said


def test_a_model_that_is_exported_anew_is_another_one(cache, tmp_path):
    """While the older one is there, and after it is gone."""
    graphs, expected = some_graphs(4), []
    models = []
    for hidden in (4, 6):
        net = network(cavs.nn.TreeRNN(N_WORDS, 3, hidden, N_CLASSES), cache)
        net.export(tmp_path / "out", replace=True)
        models.append(load(tmp_path / "out"))
        expected.append(net(cavs.batch(graphs)))
    for model, answer in zip(models, expected, strict=True):
        same(model(graphs), answer)
    del models[0], model
    same(load(tmp_path / "out")(graphs), expected[1])


def test_a_library_that_is_none(copy):
    """Its digest is right: the manifest names it."""
    (copy / "kernels.so").write_bytes(b"no library")
    manifest = json.loads((copy / "manifest.yaml").read_text())
    manifest["files"]["kernels.so"]["sha256"] = hashlib.sha256(b"no library").hexdigest()
    (copy / "manifest.yaml").write_text(json.dumps(manifest))
    with pytest.raises(DeployError, match=r"kernels cannot be loaded: .*file too short\.$"):
        load(copy)
    del manifest["files"]["kernels.so"]
    (copy / "manifest.yaml").write_text(json.dumps(manifest))
    with pytest.raises(DeployError, match=r"does not name kernels\.so"):
        load(copy)


# Folders that are not what was exported.


@pytest.fixture
def copy(tree, tmp_path):
    """A copy of the exported folder, to be damaged."""
    made = tmp_path / "copy"
    made.mkdir()
    for path in tree[1].iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    return made


NAMES = ("kernels.so", "parameters.safetensors", "program.json", "vocabulary.json")


@pytest.mark.parametrize("name", [*NAMES, "values.safetensors"])
def test_a_file_that_was_changed_is_named(copy, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DeployError, match=rf"/{name} is not the file that was exported.*SHA-256"):
        load(copy)
    path.unlink()
    words = rf"{re.escape(str(path))} cannot be read: No such file or directory\. Export the"
    with pytest.raises(DeployError, match=words):
        load(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, r"has format 2; tvm_cavs .* reads up to 1"),
        ({"format": "1"}, r"manifest\.yaml is no manifest of tvm_cavs: its format is '1'\."),
        ({"arity": "2"}, r"manifest\.yaml is damaged: arity is '2'\. Export"),
        (
            {"files": {"../manifest.yaml": {"sha256": ""}}},
            r"/manifest\.yaml is damaged: it names the file '\.\./manifest\.yaml'\.",
        ),
    ],
)
def test_a_manifest_of_another_sort(copy, change, words):
    path = copy / "manifest.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DeployError, match=words):
        load(copy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged: Expecting value: line 1 column 1"),
        ('{\n "a', "damaged: Unterminated string starting at: line 2 column 2"),
        ("[1]", "no manifest of tvm_cavs: its format is None"),
        ("format: 1", "damaged: Expecting value: line 1 column 1"),
        (" \xff", "cannot be read: .* byte 0xff in position 1"),
        ("[" * 100_000, "damaged: maximum recursion"),
    ],
)
def test_a_manifest_that_is_none(copy, text, words):
    (copy / "manifest.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(DeployError, match=rf"manifest\.yaml (is )?{words}"):
        load(copy)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("program.json", b"{}", r"program\.json is no program of tvm_cavs: KeyError\('spaces'\)\."),
        ("parameters.safetensors", b"{}", r"parameters\.safetensors is no safetensors file of a"),
        ("values.safetensors", b"{}", r"values\.safetensors is no safetensors file of a model: "),
    ],
)
def test_a_file_of_another_sort(copy, name, content, words):
    """Its digest is right: the manifest names it."""
    (copy / name).write_bytes(content)
    manifest = json.loads((copy / "manifest.yaml").read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    (copy / "manifest.yaml").write_text(json.dumps(manifest))
    with pytest.raises(DeployError, match=words):
        load(copy)


def test_a_folder_that_is_no_export(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DeployError) as refused:
            load(folder)
        assert f"{folder} is no exported model: it has no manifest.yaml." in str(refused.value)


def test_a_cpu_that_lacks_instructions(tree, tmp_path, monkeypatch):
    """Refused by name, before any kernel is loaded."""
    needed = json.loads((tree[1] / "manifest.yaml").read_text())["target"]["instructions"]
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu sse sse2 pni\n")
    monkeypatch.setattr("tvm_cavs.deploy.model.load_library", None)
    lacking = [name for name in needed if name not in ("sse", "sse2", "sse3")]
    assert lacking
    with pytest.raises(DeployError, match=rf"this CPU lacks: {', '.join(sorted(lacking))}\. Exp"):
        load(tree[1])
    (tmp_path / "cpuinfo").unlink()
    with pytest.raises(DeployError) as refused:
        load(tree[1])
    words = f"is unknown: {tmp_path / 'cpuinfo'} cannot be read (No such file or directory)."
    assert words in str(refused.value)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(DeployError, match="and this machine is riscv64"):
        load(tree[1])


# Places that cannot be written.


@pytest.fixture
def quick(monkeypatch):
    """A library that is none, at once."""

    def write(_compiler, folder, name, _linker):
        (folder / name).write_bytes(b"code")

    monkeypatch.setattr(exporting, "make_library", write)


def test_a_full_disk_leaves_what_was_there(tree, quick, tmp_path, monkeypatch):
    net, _ = tree
    net.export(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(path, data, indent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "_write_json", full)
    for place, options in (("out", {"replace": True}), ("new", {})):
        said = f"^{tmp_path / place} could not be written: No space left on device. What"
        with pytest.raises(DeployError, match=said):
            net.export(tmp_path / place, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_is_there_is_not_overwritten_unasked(tree, quick, tmp_path):
    net, _ = tree
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    (tmp_path / "file").write_text("")
    for replace in (False, True):
        with pytest.raises(
            DeployError, match="^.*/mine is there already. It holds something else than"
        ):
            net.export(tmp_path / "mine", replace=replace)
        with pytest.raises(DeployError, match=f"^{tmp_path / 'file'} is there and no folder. Name"):
            net.export(tmp_path / "file", replace=replace)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    net.export(tmp_path / "out")
    with pytest.raises(DeployError, match=f"^{tmp_path / 'out'} is there already. .*--replace.$"):
        net.export(tmp_path / "out")
    net.export(tmp_path / "out", replace=True, about=About(notes={"second": 2}))
    assert json.loads((tmp_path / "out" / "manifest.yaml").read_text())["second"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "out"]
