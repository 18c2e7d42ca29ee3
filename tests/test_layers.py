"""The layers: imports go down the list only, and the front half needs NumPy only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Lowest first. A module imports from strictly lower layers; the modules of one package folder
# (data/, nn/) may import each other. A new module gets its place here.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "dropout", "curve", "display", "process", "roles", "tape"),
    ("arguments", "neighbours"),
    ("given", "recent", "yaml_values"),
    ("init", "runlock", "levels", "field", "options", "schedule", "value", "versions"),
    ("shapes",),
    ("value",),
    ("shapes",),
    ("ops", "parameter"),
    ("program", "pieces"),
    ("absence",),
    ("rules", "masks"),
    ("vertex", "rewrite"),
    ("functions", "autodiff", "stages", "optim"),
    ("forest",),
    ("graph",),
    ("plan", "data", "netlevel", "digests"),
    ("occupancy",),
    ("timings",),
    ("timeline", "observer", "bench_names"),
    ("execution", "sharing"),
    ("reference", "inputs"),
    ("target_rules",),  # from here on: TVM
    ("buffers", "loopnest", "polynomials"),
    ("operands", "bfloat16", "integers"),
    ("sums", "regions", "register_tile", "elementwise", "pairs"),
    ("packing", "region_row", "narrow_outer", "narrow_product"),
    ("outer", "region_loops"),
    ("products", "region_kernel", "plan_kernels", "slice_kernels", "update_kernels"),
    ("direct_product", "routine_kernel"),
    ("listing",),
    ("steps",),
    ("contributions", "places", "compile"),
    ("host_kernels", "buffer_assignment"),
    ("region_builder", "planner", "routine", "updates"),
    ("lower",),
    ("kinds", "accuracy"),
    ("assemble",),
    ("batching", "direct", "gradients"),
    ("filling", "passes", "weights"),
    ("loaded",),
    ("batch_memory",),
    ("executor",),
    ("relaxed",),
    ("loss",),  # from here on: NumPy again, what a user of networks sees
    ("network", "nn", "metrics"),
    ("checkpoint", "trainer", "schema", "evaluation", "fingerprints"),
    ("split_checks",),
    ("splits",),
    ("config", "build", "profiling"),
    ("runlog",),
    ("run", "report", "pace"),
    ("run_profile",),
    ("fit",),
    ("bench",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
USES_TVM = {name for names in LAYERS[RANK["target_rules"] : RANK["loss"]] for name in names}

# What is imported when it is used, so that `import tvm_cavs` needs no TVM.
DEFERRED = {("trainer", "updates")}


def layer_of(path: Path) -> str:
    """The name in LAYERS of a file of the package: `data` for tvm_cavs/data/ptb.py."""
    return path.relative_to(ROOT / "tvm_cavs").with_suffix("").parts[0]


def package_files(package: str) -> list[Path]:
    """Every Python file of a top-level package, without its root `__init__.py`."""
    folder = ROOT / package
    return [path for path in sorted(folder.rglob("*.py")) if path != folder / "__init__.py"]


def short(path: Path) -> str:
    """A test's name for a file."""
    return str(path.relative_to(ROOT))


def imported(path: Path) -> list[str]:
    """Full names of everything a file imports, also inside functions, relative imports resolved.

    Imports for type annotations only (`if TYPE_CHECKING:`) do not count.
    """
    package = list(path.relative_to(ROOT).parent.parts)
    names = []
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{origin}.{alias.name}" for alias in node.names]
    return names


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node of a file in order, without the blocks that only a type checker runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from walk(child)


def top(name: str) -> str:
    return name.split(".")[0]


def test_relative_imports_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "tvm_cavs" / "data" / "ptb.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "from ..errors import DataError\nfrom . import vocab\nimport numpy.linalg\n"
        "if TYPE_CHECKING:\n    from ..network import Network\n"
    )
    assert imported(file) == [
        "tvm_cavs.errors.DataError",
        "tvm_cavs.data.vocab",
        "numpy.linalg",
    ]


@pytest.mark.parametrize("path", package_files("tvm_cavs"), ids=short)
def test_imports_go_down_the_layers(path):
    own = layer_of(path)
    assert own in RANK, f"{path.name} has no layer: add {own!r} to LAYERS in {__file__}"
    for name in imported(path):
        if top(name) != "tvm_cavs":
            continue
        target = name.split(".")[1]
        if (own, target) in DEFERRED:
            continue
        assert target in RANK, f"{path} imports {name}: take it from the module that defines it"
        assert target == own or RANK[target] < RANK[own], f"{path} imports {name}, a higher layer"


@pytest.mark.parametrize("path", package_files("tvm_cavs"), ids=short)
def test_only_the_back_half_imports_tvm(path):
    tvm = [name for name in imported(path) if top(name) in {"tvm", "tvm_ffi", "schedules"}]
    assert not tvm or layer_of(path) in USES_TVM, f"{path} imports {tvm}"


def test_one_module_imports_schedules():
    """The one that looks first whose `schedules` it is."""
    files = [*package_files("tvm_cavs"), ROOT / "tvm_cavs" / "__init__.py"]
    found = [p.name for p in files if "schedules" in {top(name) for name in imported(p)}]
    assert found == ["target_rules.py"]


def test_tvm_cavs_never_imports_autotune():
    for path in [*package_files("tvm_cavs"), ROOT / "tvm_cavs" / "__init__.py"]:
        if path.exists():
            assert "autotune" not in {top(name) for name in imported(path)}, path


def test_schedules_imports_tvm_only():
    for path in (ROOT / "schedules").rglob("*.py"):
        assert "tvm_cavs" not in {top(name) for name in imported(path)}, path
        assert "autotune" not in {top(name) for name in imported(path)}, path
