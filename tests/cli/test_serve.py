"""What `tvm-cavs serve` is asked for -> the service, its limits and its address; none is run."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tvm_cavs import serve
from tvm_cavs.cli import serve as command
from tvm_cavs.cli.main import main
from tvm_cavs.serve import Address, Limits

pytestmark = pytest.mark.compiles  # what reads an exported model


@pytest.fixture
def asked(monkeypatch):
    """Of what a service is made, and how it is run."""
    found = SimpleNamespace(services=[], runs=[])

    def service(*given):
        found.services.append(given)
        return SimpleNamespace(model=SimpleNamespace(name="a model"))

    monkeypatch.setattr(serve, "Service", service)
    monkeypatch.setattr(serve, "Metrics", lambda n: f"metrics of {n}")
    monkeypatch.setattr(serve, "run", lambda *given: found.runs.append(given))
    monkeypatch.setattr(command, "find_spec", lambda name: name)
    monkeypatch.delenv(command.TOKEN, raising=False)
    return found


def test_what_is_not_said_is_as_it_always_is(asked, capsys):
    assert main(["serve", "~"]) == 0
    assert asked.services == [(Path.home(), Limits(), "levels", "metrics of 1")]
    ((_, address, token, begun, n),) = asked.runs
    assert (address, token, n) == (Address("127.0.0.1", 8000), None, 1)
    begun("http://here")
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"a model of {Path.home()} at http://here\n", "")


def test_every_option_reaches_what_it_is_for(asked, tmp_path):
    (tmp_path / "token").write_text("0123456789")
    limits = {name: 1000 + n for n, name in enumerate(command.OF_LIMITS)}
    limits["seconds"] = 0.5
    given = f"--host ::1 --port 65535 --batching whole --processes 3 --token-file {tmp_path}/token"
    for name, value in limits.items():
        given += f" --{name.replace('_', '-')} {value}"
    assert main(["serve", "a", *given.split()]) == 0
    assert asked.services == [(Path("a"), Limits(**limits), "whole", "metrics of 3")]
    made = asked.services[0][1]
    assert all(type(getattr(made, n)) is type(getattr(Limits(), n)) for n in command.OF_LIMITS)
    ((_, address, token, _, n),) = asked.runs
    assert (address, token, n) == (Address("::1", 65535), "0123456789", 3)


@pytest.mark.parametrize(
    ("host", "token", "warns"),
    [("127.0.0.1", "", False), ("localhost", "", False), ("::1", "", False)]
    + [("0.0.0.0", "", True), ("0.0.0.0", "0123456789", False)],
)
def test_who_can_be_reached_without_a_token_is_told(host, token, warns, asked, capsys, monkeypatch):
    if token:
        monkeypatch.setenv(command.TOKEN, token)
    assert main(["serve", "a", "--host", host]) == 0
    assert asked.runs[0][2] == (token or None)
    warning = f"no token: whoever reaches {host} can ask\n"
    assert capsys.readouterr().err == (warning if warns else "")


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none(port, asked, capsys):
    assert main(["serve", "a", "--port", port]) == 1
    assert f"--port: expected 0 to 65535, given {port}" in capsys.readouterr().err
    assert not asked.runs


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e13", "x"])
def test_a_limit_that_is_none(value, asked, capsys):
    with pytest.raises(SystemExit):
        main(["serve", "a", "--graphs", value])
    told = capsys.readouterr().err
    assert "--graphs" in told and value in told.splitlines()[-1] and not asked.services
    assert f"{value}: expected a number above 0" in told or value == "x"


@pytest.mark.parametrize("value", ["0", "257", "1.5", "x"])
def test_a_number_of_processes_that_is_none(value, asked, capsys):
    with pytest.raises(SystemExit):
        main(["serve", "a", "--processes", value])
    assert f"{value}: expected 1 to 256 processes" in capsys.readouterr().err


def test_a_token_of_eight_letters_is_one(tmp_path, monkeypatch):
    """Whether it comes from a file, which goes before the environment, or from there."""
    monkeypatch.setenv(command.TOKEN, " of-the-environment\n")
    assert command.read_token(None) == "of-the-environment"
    for text, fits in (("12345678", True), ("1234567", False), ("1234567\x7f9", False)):
        (tmp_path / "token").write_text(text)
        if fits:
            assert command.read_token(tmp_path / "token") == text
            continue
        with pytest.raises(command.ConfigError, match=f"^{tmp_path}/token: expected a token of 8"):
            command.read_token(tmp_path / "token")
    (tmp_path / "token").write_bytes("é2345678".encode())
    said = f"--token-file: {tmp_path}/token cannot be read: 'ascii' codec"
    with pytest.raises(command.ConfigError, match=said):
        command.read_token(tmp_path / "token")
    monkeypatch.setenv(command.TOKEN, "1234567")
    with pytest.raises(command.ConfigError, match="^TVM_CAVS_TOKEN: expected a token of 8 or mor"):
        command.read_token(None)


def test_ways_of_batching_are_those_there_are():
    """The command names them without importing what serves."""
    assert set(command.BATCHING) == set(serve.BATCHING)


@pytest.mark.parametrize("n", [1, 2])
def test_packages_that_are_missing_are_named(n, asked, capsys, monkeypatch):
    missing = command.NEEDED[-n:]
    monkeypatch.setattr(command, "find_spec", lambda name: None if name in missing else name)
    assert main(["serve", "a"]) == 1
    assert f"a server needs {' and '.join(missing)}: pip install" in capsys.readouterr().err
