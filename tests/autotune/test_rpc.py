"""Measuring on other devices: a tracker and servers of TVM's RPC on loopback."""

import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")
pytest.importorskip("tornado", reason="TVM's RPC tracker needs the package tornado")

from tvm.rpc import base

from autotune.measure import RpcBench, bench_of
from autotune.worker import Failed, Settings, Timing
from helpers import rpc
from helpers.paths import ROOT
from helpers.planted import CRASHES, GOOD, HANGS, OTHER_PANELS, WRONG, OnDevice, recorded
from schedules.records import read_records
from tvm_cavs.cli.main import main
from tvm_cavs.compiler import Compiler, Form, Libraries, Remote, Session, Tracker
from tvm_cavs.compiler.trial import tracker as trial_tracker
from tvm_cavs.compiler.trial.remote import RemoteFunction
from tvm_cavs.errors import TuningError

pytestmark = pytest.mark.compiles
TINY = (
    "data.n_train=24 data.n_dev=4 data.n_test=4 data.max_tokens=30 model.embedding=6 "
    "model.hidden=8 train.batch_size=12 tune.batches=2 executor.threads=1"
).split()


@pytest.fixture(scope="module")
def compiler():
    return Compiler("host", 1, cache=False, records=False)


@pytest.fixture(scope="module")
def tracker():
    with rpc.tracker() as found:
        yield found


def settings(compiler, tracker, timeout=30.0):
    target = dict(compiler.target.export())
    return Settings(target, 1, "float32", timeout, OnDevice, tracker)


def measured(given, compiler, candidates, best=None):
    """The answers for some candidates."""
    bench = bench_of(given)
    assert isinstance(bench, RpcBench) and bench.width == 1
    try:
        bench.load(recorded(compiler))
        return dict(bench.measure(candidates, best))
    finally:
        bench.close()


def test_candidates_of_every_sort(compiler, tracker):
    """On one server, which is started again when a candidate has crashed it."""
    tracker = replace(tracker, patience=60.0)
    with rpc.servers(tracker, 1, again=True):
        given = settings(compiler, tracker, timeout=4.0)  # the server ends what hangs
        assert measured(given, compiler, [HANGS]) == {HANGS: Failed("no answer within 4 s")}
        candidates = [GOOD, WRONG, CRASHES, OTHER_PANELS]
        found = measured(settings(compiler, tracker), compiler, candidates, GOOD)
    for knobs in (GOOD, OTHER_PANELS):
        timing = found[knobs]
        assert isinstance(timing, Timing), timing
        assert min(timing.seconds, timing.ratio, timing.to_best, timing.peak) > 0
    assert found[WRONG].reason.startswith("wrong: 1200 of 3000 results differ")
    assert isinstance(found[CRASHES], Failed) and "server" in found[CRASHES].reason


class Command:
    """`tvm-cavs tune` over RPC, in a process, and what it has recorded."""

    def __init__(self, path: Path, tracker: Tracker, cache: Path) -> None:
        self.path, self.before = path, read_records(path)[0]
        arguments = ["tune", "demo", *TINY, f"tune.records={path}", f"tune.rpc={tracker}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tvm_cavs", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT), "TVM_CAVS_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def records(self) -> list:
        """All so far: the file is whole whenever it is read."""
        found, notes = read_records(self.path)
        assert notes == []
        return found

    def measures(self, more: int) -> None:
        """Wait for so many records more than there are now."""
        wanted = len(self.records()) + more

        def done() -> bool:
            return self.process.poll() is not None or len(self.records()) >= wanted

        assert rpc.eventually(done, 120) and self.process.poll() is None, self.process.communicate()

    def end(self) -> tuple[int, str, str]:
        """Exit code and output; what was known before has not been measured again."""
        out, err = self.process.communicate(timeout=120)
        found = {record.key: record for record in self.records()}
        assert all(found[record.key] == record for record in self.before)
        return self.process.returncode, out, err


@pytest.mark.slow
def test_a_server_and_tunings_are_killed_and_records_stay_whole(sweep, tracker, cache, tmp_path):
    """One of two servers, then kill -9 of a tuning on the other, then Ctrl-C."""
    if not sweep:
        pytest.skip("takes a minute: with --sweep")
    path = tmp_path / "records.json"
    with rpc.servers(tracker, 2) as (first, _):
        command = Command(path, tracker, cache)
        command.measures(2)
        first.kill()
        command.measures(2)
        command.process.kill()
        command.end()
        assert rpc.eventually(lambda: tracker.servers() == (1, 1)), "a session has not ended"

        command = Command(path, tracker, cache)
        command.measures(1)
        command.process.send_signal(signal.SIGINT)
        code, out, _ = command.end()
    assert code == 130 and "kernels, microseconds of a step" in out and "whole step" not in out
    assert f"measured on 1 server(s) of {tracker}" in out
    for record in command.records():
        assert not record.failed and record.seconds > 0, str(record)


def test_what_was_measured_before_the_last_server_was_gone_is_answered(compiler, tracker):
    with rpc.servers(tracker, 1) as (server,):
        bench = bench_of(settings(compiler, tracker))
        try:
            bench.load(recorded(compiler))
            answers = bench.measure([GOOD, OTHER_PANELS, WRONG])
            assert isinstance(next(answers)[1], Timing)
            server.kill()
            with pytest.raises(TuningError, match=r"no RPC server .*The same command then goes on"):
                list(answers)
        finally:
            bench.close()


def test_no_server_and_no_tracker_are_said_at_once(compiler, tracker, capsys):
    with pytest.raises(TuningError, match=r"no RPC server is registered as 'a-device'") as error:
        bench_of(settings(compiler, tracker))
    where = f"{tracker.host}:{tracker.port}"
    assert f"as 'a-device' at the tracker {where}. Start one" in str(error.value)
    assert f"--tracker {where} --key a-device" in str(error.value)
    nobody = Tracker("127.0.0.1", rpc.free_port(), "x")
    with pytest.raises(TuningError, match=r"\(.*Connection refused\)\. Start one: ") as error:
        bench_of(settings(compiler, nobody))
    assert f"no RPC tracker answers at 127.0.0.1:{nobody.port} (" in str(error.value)
    assert f"rpc_tracker --host 127.0.0.1 --port {nobody.port}" in str(error.value)
    assert main(["tune", "demo", f"tune.rpc={tracker}"]) == 1
    assert "no RPC server is registered" in capsys.readouterr().err


MAGIC = struct.pack("<i", base.RPC_TRACKER_MAGIC)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 400\r\n", "what answers at 127.0.0.1:9190 is no RPC tracker"),
        (MAGIC[:3], "is no RPC tracker"),
        (b"", "is no RPC tracker"),
        (MAGIC, r"the RPC tracker at 127.0.0.1:9190 does not say what it has \(.+\)\. Start"),
        (MAGIC + b"\xff\0\0\0{", "the RPC tracker at 127.0.0.1:9190 does not say what it has"),
    ],
)
@pytest.mark.parametrize("silent", [False, True])
def test_what_answers_may_be_no_tracker(said, words, silent, compiler, monkeypatch):
    """It says something else, too little, or nothing more: then it hangs up, or is silent."""
    monkeypatch.setattr(trial_tracker, "ANSWER_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(socket, "create_connection", lambda *_: ours)
    with theirs:
        theirs.sendall(said)
        if not silent:
            theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(TuningError, match=words):
            bench_of(settings(compiler, Tracker("127.0.0.1", 9190, "x")))


def test_bfloat16_is_not_measured_over_rpc(tracker, capsys):
    given = ["executor.precision=bf16", "executor.target={kind: llvm, mcpu: znver4}"]
    assert main(["tune", "demo", f"tune.rpc={tracker}", *given]) == 1
    assert "over RPC only float32 is measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tune.rpc=127.0.0.1/KEY", "expected HOST:PORT, such as 127.0.0.1:9190"),
        ("tune.rpc=127.0.0.1:0/KEY", "expected HOST:PORT"),
        ("tune.rpc=127.0.0.1:9190/", "tune.rpc.key = ''"),
        ("tune.rpc.kye=x", "did you mean tune.rpc.key?"),
    ],
)
def test_bad_settings_name_the_key(given, words, capsys):
    assert main(["tune", "demo", given]) == 1
    assert words in capsys.readouterr().err


LOCAL = Tracker("127.0.0.1", 1, "key", patience=15.0)


def test_servers_of_a_key_are_counted(monkeypatch):
    """Those of a longer key are none."""
    registered = [{"key": "server:key"}, {"key": "server:key2"}, {"addr": "?"}]
    told = {"server_info": registered, "queue_info": {"key": {"free": 1}, "key2": {"free": 5}}}
    monkeypatch.setattr(trial_tracker, "_connection", lambda _: nullcontext())
    monkeypatch.setattr(trial_tracker, "_ask", lambda *_: (0, told))
    assert LOCAL.servers() == (1, 1) and replace(LOCAL, key="none").servers() == (0, 0)


def waited(monkeypatch, known, wanted=lambda: True):
    """What is said, by a clock on which a look takes a second; `known`: servers, all in use."""
    clock = iter(range(100_000))
    monkeypatch.setattr(trial_tracker, "time", SimpleNamespace(monotonic=None, sleep=id))
    monkeypatch.setattr(trial_tracker.time, "monotonic", lambda: float(next(clock)))
    looks = []

    def servers(_):
        looks.append(known(len(looks)))
        return looks[-1], 0

    monkeypatch.setattr(Tracker, "servers", servers)
    with pytest.raises(trial_tracker.NoServerError) as caught:
        trial_tracker.session(LOCAL, 1.0, wanted)
    return str(caught.value), len(looks)


def test_waiting_for_a_server_ends(monkeypatch):
    """Where none is for a while, again and again; where all are in use; where none is wanted."""
    none, n_none = waited(monkeypatch, lambda look: 0)
    later, n_later = waited(monkeypatch, lambda look: int(look % 8 == 0 and look < 80))
    assert "no RPC server is registered" in none and none == later
    assert n_none < 20 < 80 < n_later < 100
    busy, n_busy = waited(monkeypatch, lambda look: 1)
    assert (
        "all RPC servers of 127.0.0.1:1/key have been in use for 600 s" in busy
        and n_none < n_busy < 601
    )
    still = iter((True, True, False))
    assert waited(monkeypatch, lambda look: 1, lambda: next(still))[1] == 2


@pytest.mark.parametrize("error", [OSError, RuntimeError, tvm.error.InternalError, None])
def test_a_session_is_alive_while_its_server_answers(error):
    def get_function(_):
        if error is not None:
            raise error("gone")

    made = Session(SimpleNamespace(get_function=get_function), ("127.0.0.1", 1))
    assert made.alive() is (error is None)


def test_a_server_is_reachable_as_long_as_somebody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = Session(None, listening.getsockname())
        assert found.reachable()
    assert not found.reachable()


def test_what_is_asked_of_a_device():
    """Its threads; a timer for each number of repeats; memory, also for an array without rows."""
    asked = []

    def time_evaluator(symbol, device, number):
        asked.append((symbol, device, number))
        return lambda *_: SimpleNamespace(mean=number)

    library = SimpleNamespace(time_evaluator=time_evaluator, get_function=lambda _: print)
    get = SimpleNamespace(cpu=tvm.cpu)
    get.get_function = lambda name: lambda *given: asked.append((name, *given))
    place = Remote(Session(get, ("127.0.0.1", 1)), None, 3)
    assert asked == [("runtime.config_threadpool", -3, 3)]
    function = RemoteFunction(place, library, "f")
    assert [function.seconds(n, ()) for n in (2, 5, 2)] == [2, 5, 2]
    assert asked[1:] == [("f", place.device, n) for n in (2, 5)]
    assert place.seconds([(function, ()), (function, ())], 5) == 10, "of all calls"
    assert place.get(place.put(np.ones((2, 3)))).shape == (2, 3)
    assert place.put(np.ones((0, 3), "float32")).shape[0] > 0


def test_each_set_of_forms_is_an_archive_of_its_own():
    executable = SimpleNamespace(export_library=lambda path: Path(path).write_bytes(b"code"))
    libraries = Libraries(SimpleNamespace(executables=lambda forms, n: [executable]))
    made = [libraries.of([Form(name, 1, print)])[0] for name in "aba"]
    assert made[0] == made[2] != made[1], "a server keeps what it was sent under its name"


@pytest.mark.parametrize("error", [OSError("refused"), RuntimeError("closed by its peer")])
def test_a_server_that_has_gone_since_it_was_given_is_none(error, monkeypatch):
    """TVM says so by one error or another; the tracker is then asked again."""

    def connect(*_):
        raise error

    given = trial_tracker.TrackerCode.SUCCESS, ("127.0.0.1", 1, "key")
    monkeypatch.setattr(trial_tracker, "_connection", lambda _: nullcontext())
    monkeypatch.setattr(trial_tracker, "_ask", lambda *_: given)
    monkeypatch.setattr(trial_tracker.rpc, "connect", connect)
    assert trial_tracker._request(Tracker("127.0.0.1", 1, "key"), 1.0) is None
