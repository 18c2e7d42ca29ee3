"""Options and fixtures that several tests share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden/*.txt instead of comparing"
    )
    parser.addoption(
        "--sweep",
        action="store_true",
        help="what takes minutes: dropout at every k/256 and 200 random rates; interruptions at "
        "every line; 64 threads; tunings over RPC that are killed; more cells on narrower CPUs",
    )
    parser.addoption(
        "--llvm",
        action="store_true",
        help="no kernel that any test compiles marks products, or takes much of the stack",
    )
    parser.addoption(
        "--guard",
        choices=("end", "start"),
        help="memory that kernels are given ends, or starts, at a page that cannot be touched",
    )


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With --guard: tests run in a child process, which may be killed."""
    side = config.getoption("--guard")
    if side is None:
        return None
    from helpers import guard

    given = [str(argument) for argument in config.invocation_params.args]
    return None if guard.is_child() else guard.supervise(given, side)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What runs is known when a guard page has ended the process."""
    from helpers import guard

    if guard.is_child():
        guard.note("no kernel yet", item.nodeid)


@pytest.fixture(scope="session", autouse=True)
def _guard_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --guard: for the whole session."""
    side = request.config.getoption("--guard")
    if side is None:
        yield
        return
    from helpers.guard import guard_pages

    with guard_pages(side):
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled kernels that all tests of a run share, in all of its processes."""
    given = os.environ.get("TVM_CAVS_TEST_CACHE")  # from scripts/mutate.py
    if given:
        return Path(given)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("kernels")
    shared = tmp_path_factory.getbasetemp().parent / "kernels"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session", autouse=True)
def _default_cache(cache: Path) -> Iterator[None]:
    """What names no folder keeps its kernels there too, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVM_CAVS_CACHE", str(cache))
        yield


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """The tests of a file leave no file open that was not, and no process running."""
    from helpers.left_open import held

    before = held()
    yield
    left = {what: name for what, name in held().items() if before.get(what) != name}
    assert not left, f"left open by the tests of this file: {left}"


@pytest.fixture(scope="session", autouse=True)
def _llvm_text(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --llvm: what is compiled in the whole session is looked through at its end."""
    if not request.config.getoption("--llvm"):
        yield
        return
    from helpers.llvm import marked_products, recorded_llvm, stack_bytes
    from tvm_cavs.compiler.lowering.region import STACK_BYTES

    with recorded_llvm() as texts:
        yield
    functions = sum(text.count("\ndefine ") for text in texts)
    marked = [line for text in texts for line in marked_products(text)]
    print(f"\n{len(texts)} modules, {functions} functions, marked products: {marked}")
    stack = {name: size for text in texts for name, size in stack_bytes(text).items()}
    name = max(stack, key=stack.__getitem__, default="none")
    print(f"the most of the stack: {stack.get(name, 0)} bytes, by {name}; may be {STACK_BYTES}")
    assert not marked and stack.get(name, 0) <= STACK_BYTES


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> bool:
    """Whether all cases are wanted of which otherwise a few are tried."""
    return bool(request.config.getoption("--sweep"))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """`golden(name, thing)`: the text of `thing` is that of tests/golden/<name>.txt."""

    def compare(name: str, thing: object) -> None:
        path, text = GOLDEN / f"{name}.txt", f"{thing}\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no {path.name}; run pytest --update-golden and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), (
            f"{path.name} differs; if the new text is right, run pytest --update-golden"
        )

    return compare


@pytest.fixture
def both_kinds_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only very small batches read weights where they lie, so that batches of tests do both."""
    pytest.importorskip("tvm")
    monkeypatch.setattr("schedules.knobs.DIRECT_VERTICES", 24)
