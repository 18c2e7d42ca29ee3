"""Several processes behind one port: whichever is asked, and whatever becomes of one of them."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from helpers.asking import outputs
from helpers.exported import TREE, line, same
from helpers.servers import running
from tvm_cavs.deploy import load
from tvm_cavs.errors import CavsError, ConfigError
from tvm_cavs.serve import Limits, Metrics, orders, processes, run, start
from tvm_cavs.serve.jobs import Refused
from tvm_cavs.serve.orders import Orders, message, read_message
from tvm_cavs.serve.processes import HEEDED, Child, Heard, Parent
from tvm_cavs.serve.sockets import Address, bind

pytestmark = pytest.mark.compiles
PREDICT = "/v1/predict"
ONE = line(TREE)
N = 3


@pytest.fixture(scope="module")
def server(folder):
    with running(folder, "--processes", str(N)) as found:
        yield found


def children(pid):
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def n_open(server):
    """Files, which connections are, of each process."""
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in children(server.process.pid)]


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_all_of_them_answer_and_what_they_count_is_one(folder, server):
    """Connections are spread over them; whichever is asked for its counters says those of all."""
    wanted = load(folder)(TREE)
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=server.url)) for _ in range(60)]
        before = n_open(server)
        for k, client in enumerate(clients):
            assert same(outputs(client.post(PREDICT, content=ONE).json()), wanted)
            text = httpx.get(f"{server.url}/metrics").text
            assert f"tvm_cavs_graphs_total {k + 1}\n" in text
            assert f"tvm_cavs_processes {N}\n" in text
        after = n_open(server)
    assert len(after) == N and all(a > b for a, b in zip(after, before, strict=True))


def test_who_connects_to_one_that_was_killed_waits_for_its_successor(server):
    before = children(server.process.pid)
    assert len(before) == N
    os.kill(before[1], signal.SIGKILL)
    for _ in range(20):
        assert httpx.post(f"{server.url}{PREDICT}", content=ONE, timeout=20).status_code == 200
    wait_until(lambda: len(children(server.process.pid)) == N)
    assert set(before) - set(children(server.process.pid)) == {before[1]}
    assert "tvm_cavs_restarts_total 1\n" in httpx.get(f"{server.url}/metrics").text


def test_signals_to_a_process_that_answers_are_not_heeded(server):
    """A terminal and a service manager send theirs to all; the one that minds them decides."""
    answering = children(server.process.pid)
    for pid in answering:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    assert httpx.post(f"{server.url}{PREDICT}", content=ONE).status_code == 200
    assert children(server.process.pid) == answering


def test_they_end_when_the_one_that_minds_them_has_gone(folder):
    with running(folder, "--processes", "2", "--drain", "0.1") as server:
        answering = children(server.process.pid)
        server.process.kill()
        wait_until(lambda: not any(map(is_there, answering)))


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_one_that_minds_them_is_busy_is_heeded(folder, ends):
    """It waits before it starts a successor, as who ended was young."""
    with running(folder, "--processes", "2") as server:
        killed = children(server.process.pid)[1]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in children(server.process.pid))
        server.process.send_signal(ends)
        assert server.process.wait(20) == 0


@contextmanager
def another_thread():
    """One that blocks no signal."""
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def test_a_shared_port_is_nobody_elses(server, folder):
    """Not even of a server that would share it."""
    for n in (1, 2):
        with pytest.raises(CavsError, match="Address already in use"):
            bind(Address(port=server.port), n)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("a.b", "http://a.b:80"), ("::1", "http://[::1]:80")],
)
def test_an_address_is_written_as_one_types_it(host, shown):
    assert str(Address(host, 80)) == shown


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sockets_of_one_port(n):
    found = bind(Address(port=0), n)
    assert len(found) == n and len({each.getsockname() for each in found}) == 1
    for each in found:
        assert bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)) == (n > 1)
        each.close()


class Service:
    """One whose models are numbers."""

    def __init__(self):
        self.metrics, self.loaded, self.model, self.fails = Metrics(), 0, None, ""
        self.is_ending, self.begun = False, "old"

    async def load(self):
        if self.fails:
            raise self.fails if isinstance(self.fails, Exception) else Refused(500, self.fails)
        return self.made()

    def made(self):
        self.loaded += 1
        return type("Engine", (), {"model": type("Model", (), {"name": f"m{self.loaded}"})})

    def take(self, engine):
        self.model = engine.model

    def load_now(self):
        if self.fails:
            raise CavsError(self.fails)
        return self.made()

    def begin_with(self, engine):
        self.begun = engine.model.name


def test_a_process_takes_what_it_has_loaded_when_it_is_told_and_ends_when_nobody_is_there(
    monkeypatch,
):
    service, killed = Service(), []
    monkeypatch.setattr(orders.os, "kill", lambda *given: killed.append(given))
    ours, theirs = socket.socketpair()

    class Server:
        ended = 0

        def __init__(self):
            self.service = service

        def begin(self, task):
            self.task = asyncio.create_task(task)

        def end(self):
            Server.ended += 1
            service.is_ending = True

    async def run():
        reader, writer = await asyncio.open_connection(sock=ours)
        made, server = Orders(service, theirs), Server()
        made.listen(server)

        async def said():
            return read_message(await asyncio.wait_for(reader.readline(), 10))

        assert await said() == ("ready", "")
        writer.write(message("load"))
        assert await said() == ("loaded", "m1") and service.model is None
        writer.write(message("take"))
        writer.write(message("load"))
        assert await said() == ("loaded", "m2") and service.model.name == "m1"
        asked = asyncio.create_task(made.reload())
        await asyncio.sleep(0)
        assert killed == [(os.getppid(), signal.SIGHUP)]
        with pytest.raises(Refused, match="already") as refused:
            await made.reload()
        assert refused.value.status == 409
        writer.write(message("keep", "another one failed") + message("keep", "and once more"))
        with pytest.raises(Refused, match="another one failed") as refused:
            await asked
        assert refused.value.status == 500
        writer.write(message("take"))  # nothing is there to take
        service.fails = "no model"
        writer.write(message("load"))
        assert await said() == ("failed", "no model") and service.model.name == "m1"
        service.fails = RuntimeError("a mistake")
        writer.write(message("load"))
        assert await said() == ("failed", "a mistake"), "whatever it is, the others have to know"
        service.fails = ""
        writer.write(message("load"))
        assert await said() == ("loaded", "m3")
        asked = asyncio.create_task(made.reload())
        await asyncio.sleep(0)
        writer.write(message("take"))
        assert await asked == "m3" and service.model.name == "m3"
        writer.write(message("end"))
        writer.close()
        await asyncio.wait_for(server.task, 10)
        assert Server.ended == 1, "told to, and not once more when nobody is there"
        for service.is_ending, parent in ((True, os.getppid()), (False, 1 << 30)):
            monkeypatch.setattr(orders.os, "getppid", lambda parent=parent: parent)
            with pytest.raises(Refused, match="the server is ending") as refused:
                await asyncio.wait_for(made.reload(), 5)
            assert refused.value.status == 503
        assert len(killed) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("says", "order", "why"),
    [
        ([("loaded", "a"), ("loaded", "a")], "take", ""),
        ([("loaded", "a"), ("failed", "no room")], "keep", "no room"),
        ([("loaded", "a"), None], "keep", "a process has ended"),
        ("no model", "keep", "no model"),
    ],
)
def test_all_take_another_model_or_none(says, order, why):
    service = Service()
    service.fails = says if isinstance(says, str) else ""
    parent = Parent(service, [], lambda number, channel: None)
    heard = []

    def answer(channel, said):
        with channel, channel.makefile("rb") as lines:
            if not service.fails:
                assert read_message(lines.readline()) == ("load", "")
                if said is None:
                    return
                channel.sendall(message(*said))
            heard.append(read_message(lines.readline()))

    threads = []
    for said in [None, None] if service.fails else says:
        ours, theirs = socket.socketpair()
        parent._children.append(Child(0, 0, ours, ours.makefile("rb")))
        threads.append(threading.Thread(target=answer, args=(theirs, said)))
        threads[-1].start()
    parent._reload()
    for thread, child in zip(threads, parent._children, strict=True):
        thread.join(10)
        child.close()
    n_alive = sum(said is not None for said in says) if not service.fails else 2
    assert heard == [(order, why)] * n_alive
    assert service.begun == ("m1" if order == "take" else "old"), "what successors begin with"
    result = "done" if order == "take" else "failed"
    assert service.metrics.count("reloads_total", f'result="{result}"') == 1


def test_a_process_that_cannot_begin_is_said_so():
    def fail(number, channel):
        raise RuntimeError("nothing works")

    listening = bind(Address(port=0), 2)
    with pytest.raises(CavsError, match="ended before it could answer"):
        Parent(Service(), listening, fail).run(lambda: None)
    for each in listening:
        each.close()


@pytest.mark.parametrize(("fails", "code"), [(False, 0), (True, 1)])
def test_how_a_process_has_ended_is_said(fails, code, caplog, monkeypatch):
    """Of one that could not go on, not as of one that has come to its end."""
    monkeypatch.setattr(processes, "YOUNG", 0.0)
    service = Service()
    service.metrics = Metrics(2)

    def serve(number, channel):
        if number == 1 and not service.metrics.count("restarts_total"):
            service.metrics.add("graphs_total", os.getpid())
        channel.sendall(message("ready"))
        if service.metrics.count("restarts_total"):
            os.kill(os.getppid(), signal.SIGTERM)
            channel.makefile("rb").readline()
        elif number == 1 and fails:
            raise RuntimeError("nothing works")
        elif number == 0:
            channel.makefile("rb").readline()

    with caplog.at_level("ERROR"):
        Parent(service, bind(Address(port=0), 2), serve).run(lambda: None)
    (said,) = [r.getMessage() for r in caplog.records]
    pid = int(service.metrics.count("graphs_total"))
    assert said == f"process {pid} has ended ({code}); another one takes its place"


def test_each_process_counts_in_a_row_of_its_own():
    """So that none writes over what another one has counted at the same time."""
    service, found = Service(), []
    service.metrics = Metrics(2)

    def serve(number, channel):
        service.metrics.set("processes", 10**number)
        channel.sendall(message("ready"))
        channel.makefile("rb").readline()

    def started():
        found.append(service.metrics.count("processes"))
        os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(each) for each in HEEDED]
    with another_thread():
        Parent(service, bind(Address(port=0), 2), serve).run(started)
    assert found == [11]
    assert [signal.getsignal(each) for each in HEEDED] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_are_heard_in_their_order_and_those_of_others_are_not():
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    with another_thread(), Heard() as heard:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            signal.raise_signal(number)
        assert [heard.next(), heard.next()] == [signal.SIGHUP, signal.SIGTERM]
    signal.signal(signal.SIGUSR1, before)


def test_more_connections_than_there_can_be_files_for_are_refused(monkeypatch):
    def refuse(n):
        raise CavsError(f"{n} connections are too many")

    monkeypatch.setattr(start, "let_connections_be_open", refuse)
    service = Service()
    service.limits = Limits(connections=77)
    with pytest.raises(CavsError, match="^77 connections are too many"):
        run(service, Address(port=0))


def test_metrics_for_another_number_of_processes_are_refused():
    service = Service()
    service.metrics = Metrics(3)
    with pytest.raises(ConfigError, match=r"_processes is 2, .* for 3\. .*=Metrics\(2\)"):
        run(service, Address(port=0), n_processes=2)


@pytest.mark.parametrize("n", [1, 2])
def test_a_server_is_started_in_the_main_thread(n):
    """Elsewhere one process would answer, but nothing could end it, and nobody was told of it."""
    service, found = Service(), []
    service.metrics = Metrics(n)

    def work():
        with pytest.raises(ConfigError, match="given thread 'aside'. Call it in the main") as error:
            run(service, Address(port=0), n_processes=n)
        found.append(error)

    thread = threading.Thread(target=work, name="aside")
    thread.start()
    thread.join(20)
    assert len(found) == 1


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "257", "two"])
def test_a_number_of_processes_that_is_none(folder, text, capsys):
    from tvm_cavs.cli.main import main

    with pytest.raises(SystemExit):
        main(["serve", str(folder), "--processes", text])
    assert "expected 1 to 256 processes" in capsys.readouterr().err


def test_messages_are_lines_whatever_they_say():
    for what in ("", "two\nlines", "\u2028 \\", json.dumps(["a"])):
        assert message("keep", what).count(b"\n") == 1
        assert read_message(message("keep", what)) == ("keep", what)
    assert read_message(b"") == read_message(message("keep", "x")[:-1]) == ("", "")
