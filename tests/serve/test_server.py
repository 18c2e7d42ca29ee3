"""The server as a process: signals, reloading, connections that lead nowhere, its port."""

import asyncio
import json
import shutil
import signal
import socket
import time

import httpx
import pytest

from helpers.asking import outputs
from helpers.exported import TREE, line, same
from helpers.servers import running
from tvm_cavs.cli.main import main
from tvm_cavs.cli.serve import read_token
from tvm_cavs.deploy import load
from tvm_cavs.errors import ConfigError
from tvm_cavs.serve.sockets import Address, bind

pytestmark = pytest.mark.compiles
PREDICT = "/v1/predict"
ONE = line(TREE)
each_number = pytest.mark.parametrize("n", ["1", "2"], ids="{}-processes".format)
FAILED = 'tvm_cavs_reloads_total{result="failed"}'
CHAIN = json.dumps({"children": [[], *([i] for i in range(2000))]})


async def keep_asking(url, seconds, ended, change, enough=lambda answer: True):
    """Statuses and answers of clients that ask again and again; `change` is called in between.

    `ended`: whether a connection that is refused is what must come at the end. `enough`: whether
    this answer may be the last one.
    """
    found, stop, last = [], time.monotonic() + seconds, time.monotonic() + 20

    async def ask(k):
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            is_last = False
            while time.monotonic() < stop or not (is_last or time.monotonic() > last):
                await asyncio.sleep(0.02)
                try:
                    response = await client.post(PREDICT, content=CHAIN if k % 4 == 0 else ONE)
                except httpx.ConnectError:
                    assert ended
                    return
                found.append((k, response.status_code, response.json()))
                is_last = k % 4 == 0 or enough(outputs(response.json()))

    async def act():
        await asyncio.sleep(seconds / 3)
        change()

    await asyncio.gather(act(), *map(ask, range(6)))
    return found


@each_number
def test_no_request_is_dropped_when_the_server_ends(folder, n):
    model = load(folder)
    with running(folder, "--drain", "1", "--processes", n) as server:

        def end():
            server.process.send_signal(signal.SIGTERM)

        found = asyncio.run(keep_asking(server.url, 2.0, True, end))
        assert server.process.wait(15) == 0
        assert server.process.stderr.read() == ""
    assert {status for _, status, _ in found} == {200}
    wanted = model(TREE)
    assert all(same(outputs(answer), wanted) for k, _, answer in found if k % 4)


@each_number
def test_asked_twice_a_server_ends_at_once(folder, n):
    """Though a client has not sent all of its request."""
    given = "--body-seconds", "30", "--processes", n
    with running(folder, *given) as server, server.connect() as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        for _ in range(2):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert server.process.wait(8) == 0


@each_number
def test_nobody_connects_to_a_server_that_waits_for_its_last_answers(folder, n):
    """Who tries is refused at once, though a client has not sent all of its request."""
    given = "--drain", "0.2", "--body-seconds", "6", "--processes", n
    with running(folder, *given) as server, server.connect() as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=2)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(8) == 0


@each_number
def test_an_ending_server_is_not_ready_and_says_close(folder, n):
    with running(folder, "--drain", "2", "--processes", n) as server:
        assert httpx.get(f"{server.url}/readyz").text == "ready\n"
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        response = httpx.post(f"{server.url}{PREDICT}", content=ONE)
        assert response.status_code == 200 and response.headers["connection"] == "close"
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.process.wait(15) == 0


def answer_of_any(server):
    """By a connection of its own, which leads to any of the processes."""
    headers = {"Authorization": "Bearer secret-token"}
    return outputs(httpx.post(f"{server.url}{PREDICT}", content=ONE, headers=headers).json())


@each_number
def test_another_model_takes_its_place(folder, other_folder, tmp_path, n):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    old = load(place)(TREE)
    with running(place, "--processes", n, TVM_CAVS_TOKEN="secret-token") as server:
        other = shutil.copytree(other_folder, tmp_path / "other")
        new = load(other)(TREE)
        headers = {"Authorization": "Bearer secret-token"}
        with httpx.Client(base_url=server.url, headers=headers) as client:

            def answer():
                return outputs(client.post(PREDICT, content=ONE).json())

            assert same(answer(), old)
            place.rename(tmp_path / "before")
            failed = client.post("/v1/reload")
            assert failed.status_code == 500 and "is no exported model" in failed.json()["error"]
            assert same(answer(), old)
            server.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 10
            while f"{FAILED} 2" not in client.get("/metrics").text:
                assert time.monotonic() < end, "a signal that cannot be obeyed is counted, too"
            other.rename(place)
            server.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 10
            while same(answer(), old) and time.monotonic() < end:
                time.sleep(0.05)
            assert same(answer(), new)
            place.rename(tmp_path / "again")
            (tmp_path / "before").rename(place)
            assert client.post("/v1/reload").json() == {"name": "TreeLSTM"}
            assert same(answer(), old)
            end = time.monotonic() + 10
            while not all(same(answer_of_any(server), old) for _ in range(12)):
                assert time.monotonic() < end, "whoever was asked, all have it"
            counted = client.get("/metrics").text
            assert 'tvm_cavs_reloads_total{result="done"} 2' in counted
            assert f"{FAILED} 2" in counted
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        said = server.process.stderr.read()
    assert "WARNING loaded 'TreeLSTM' again\n" in said
    errors = [each for each in said.splitlines() if each.startswith("ERROR")]
    assert len(errors) == int(n)  # several say it of the request, too
    assert all("is no exported model" in each for each in errors)


@each_number
def test_no_request_is_dropped_for_another_model(folder, other_folder, tmp_path, n):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    old = load(place)(TREE)
    with running(place, "--processes", n) as server:
        other = shutil.copytree(other_folder, tmp_path / "other")
        new = load(other)(TREE)

        def change():
            place.rename(tmp_path / "before")
            other.rename(place)
            server.process.send_signal(signal.SIGHUP)

        def is_new(answer):
            return same(answer, new)

        found = asyncio.run(keep_asking(server.url, 2.0, False, change, is_new))
    assert {status for _, status, _ in found} == {200}
    answers = [outputs(answer) for k, _, answer in found if k % 4]
    assert all(same(a, old) or same(a, new) for a in answers)
    assert same(answers[0], old) and same(answers[-1], new)


@pytest.fixture(scope="module")
def impatient(folder):
    with running(folder, "--body-seconds", "0.5") as server:
        yield server


def answer_of(connection):
    """All that comes until the other side says no more for a moment."""
    connection.settimeout(0.2)
    found = b""
    try:
        while more := connection.recv(1000):
            found += more
    except TimeoutError:
        assert found
    connection.settimeout(20)
    return found


def test_clients_that_do_not_go_on_are_closed(impatient):
    silent, slow_head, second_head, slow_body = (impatient.connect() for _ in range(4))
    slow_head.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\n")
    second_head.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer_of(second_head).endswith(b"ok\n")
    second_head.sendall(b"GET /heal")
    slow_body.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    assert slow_body.recv(12) == b"HTTP/1.1 408"
    assert httpx.post(f"{impatient.url}{PREDICT}", content=ONE).status_code == 200
    for connection in (silent, slow_head, second_head, slow_body):
        with connection:
            try:
                while connection.recv(1000):
                    pass
            except ConnectionResetError:
                pass


def test_a_large_body_is_answered_while_it_is_sent(impatient):
    with impatient.connect() as connection:
        head = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n{"
        connection.sendall(head)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_port_that_is_taken_is_said_so(impatient, folder, capsys):
    assert main(["serve", str(folder), "--port", str(impatient.port)]) == 1
    told = capsys.readouterr().err
    assert f":{impatient.port} cannot be had: Address already in use" in told


def test_a_folder_without_a_model_is_said_so(tmp_path, capsys):
    assert main(["serve", str(tmp_path)]) == 1
    assert "is no exported model" in capsys.readouterr().err


def test_a_missing_package_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr("tvm_cavs.cli.serve.find_spec", lambda name: None)
    assert main(["serve", str(folder)]) == 1
    assert "pip install 'tvm_cavs[serve]'" in capsys.readouterr().err


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("0123456789\n")
    monkeypatch.delenv("TVM_CAVS_TOKEN", raising=False)
    assert read_token(None) is None and read_token(file) == "0123456789"
    monkeypatch.setenv("TVM_CAVS_TOKEN", "abcdefgh")
    assert read_token(None) == "abcdefgh"
    for text in ("short", "with a blank", ""):
        file.write_text(text)
        with pytest.raises(ConfigError, match="expected a token of 8 or more letters"):
            read_token(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_a_port_that_was_just_left_can_be_had_again():
    with bind(Address(port=0))[0] as listening:
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert listening.proto == socket.IPPROTO_TCP
