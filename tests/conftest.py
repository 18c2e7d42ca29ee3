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
        "--sweep", action="store_true", help="dropout at every k/256 and 200 random rates"
    )
    parser.addoption(
        "--llvm", action="store_true", help="no kernel that any test compiles marks products"
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled kernels that all tests of a run share."""
    given = os.environ.get("TVM_CAVS_TEST_CACHE")  # from scripts/mutate.py
    return Path(given) if given else tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session", autouse=True)
def _default_cache(cache: Path) -> Iterator[None]:
    """What names no folder keeps its kernels there too, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVM_CAVS_CACHE", str(cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_marked_product(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --llvm: what is compiled in the whole session is looked through at its end."""
    if not request.config.getoption("--llvm"):
        yield
        return
    from helpers.llvm import marked_products, recorded_llvm

    with recorded_llvm() as texts:
        yield
    functions = sum(text.count("\ndefine ") for text in texts)
    marked = [line for text in texts for line in marked_products(text)]
    print(f"\n{len(texts)} modules, {functions} functions, marked products: {marked}")
    assert not marked


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
