"""What a worker does, in this process: kernels, servers and the system's alarm are made up."""

import itertools
import signal
from types import SimpleNamespace

import pytest

pytest.importorskip("tvm")

from autotune import worker
from autotune.worker import (
    FAR_BEHIND,
    GLANCE,
    GRACE,
    LEAST_SECONDS,
    LOADED,
    LOOK_SECONDS,
    ROUNDS,
    Failed,
    Lost,
    OnDevices,
    OnHost,
    Settings,
    Timing,
    Unusable,
    compiler_of,
    in_words,
    measure,
    race,
    serve,
)
from tvm_cavs.compiler import NoServerError, Recorded, Tracker, Wrong

TRACKER = Tracker("127.0.0.1", 9190, "a-device")
RECORDED = Recorded("a kernel", (), ())


class Takes:
    """So many seconds, one number after the other and then from the first again."""

    def __init__(self, log, name, seconds):
        self._log, self._name, self._seconds = log, name, itertools.cycle(seconds)

    def run(self):
        self._log.append((self._name, "warm"))

    def seconds(self, repeats):
        self._log.append((self._name, repeats))
        return next(self._seconds)


def raced(ratios, to_best=None):
    """A race against a default of so many milliseconds in each round, and what ran in it."""
    log, scale = [], [1, 4, 1, 2, 1, 8, 1, 1, 2]
    default = [1e-3 * s for s in scale]
    candidate = [d * r for d, r in zip(default, ratios, strict=True)]
    made = {
        "default": Takes(log, "default", [LEAST_SECONDS / 3.5, *default]),
        "candidate": Takes(log, "candidate", candidate),
    }
    if to_best:
        best = [c / r for c, r in zip(candidate, to_best, strict=True)]
        made["best"] = Takes(log, "best", best)
    probe = Takes(log, "probe", [0.5, 0.1, 0.2, 0.5, 1.0, 0.5, 1.0, 1.0, 0.5])
    return race(made, probe, 10.0), log, candidate


SHUFFLED = [0.9, 0.1, 0.8, 0.2, 0.3, 0.7, 0.5, 0.6, 0.4]


def test_times_are_medians_over_rounds_and_ratios_those_of_one_round():
    found, _, candidate = raced(SHUFFLED, [2 * r for r in SHUFFLED])
    assert found.seconds == sorted(candidate)[ROUNDS // 2]
    assert (found.ratio, found.to_best) == pytest.approx((0.5, 1.0))
    # the quartiles of 0.1, ..., 0.9 are 0.25 and 0.75
    assert (found.spread, found.peak) == pytest.approx((0.25, 20.0))
    alone, _, _ = raced(SHUFFLED)
    assert alone.to_best == alone.ratio == found.ratio


def test_every_other_round_is_the_other_way_round():
    """All run until a timing is long enough to be one, each after a run that is not timed."""
    _, log, _ = raced(SHUFFLED, SHUFFLED)
    assert [what for _, what in log[::2]] == ["warm"] * (len(log) // 2)
    assert [name for name, _ in log[::2]] == [name for name, _ in log[1::2]]
    first, *rest = log[1::2]
    assert first == ("default", 1)
    names = "default", "candidate", "best"
    rounds = [rest[i : i + 4] for i in range(0, len(rest), 4)]
    assert rounds == [
        [("probe", 1), *((name, 4) for name in (names[::-1] if n % 2 else names))]
        for n in range(ROUNDS)
    ]


FAR = FAR_BEHIND + 0.05


@pytest.mark.parametrize(
    ("ratios", "n_rounds"),
    [
        ([FAR] * ROUNDS, GLANCE),
        ([FAR, FAR, 0.5] + [0.5] * 6, GLANCE),
        ([FAR, 0.5, 0.5] + [FAR] * 6, ROUNDS),
        ([FAR_BEHIND - 0.01] * ROUNDS, ROUNDS),
    ],
)
def test_what_is_far_behind_after_a_few_rounds_is_given_up(ratios, n_rounds):
    found, log, _ = raced(ratios)
    assert log.count(("candidate", "warm")) == n_rounds
    assert found.ratio == pytest.approx(sorted(ratios[:n_rounds])[n_rounds // 2])


class Candidates:
    """A trial that writes down what it is asked; `wrong` and `refused` fail."""

    default = "default's"

    def __init__(self):
        self.log = []

    def check(self, knobs):
        self.log.append(("check", knobs))
        if knobs == "wrong":
            raise Wrong("3 of 5 results differ")

    def ready(self, knobs):
        self.log.append(("ready", knobs))
        if knobs == "refused":
            raise RuntimeError("Traceback\n  a line\nno such instruction\n")
        return f"{knobs}'s"


@pytest.mark.parametrize(
    ("knobs", "best", "answer"),
    [
        ("one", None, {"default": "default's", "candidate": "one's"}),
        ("one", "two", {"default": "default's", "candidate": "one's", "best": "two's"}),
        ("wrong", "two", Failed("wrong: 3 of 5 results differ")),
        ("refused", "two", Failed("RuntimeError: no such instruction")),
    ],
)
def test_a_candidate_is_checked_and_then_raced(knobs, best, answer, monkeypatch):
    monkeypatch.setattr(worker, "race", lambda contenders, probe, gflop: contenders)
    trial = Candidates()
    assert measure(trial, knobs, best, ("probe", 7.0)) == answer
    assert trial.log[0] == ("check", knobs) and (knobs != "wrong" or len(trial.log) == 1)


@pytest.mark.parametrize(
    ("text", "words"), [("", ""), (" a\nthe last \n\n", "the last"), ("x" * 300, "x" * 200)]
)
def test_an_error_is_said_in_its_last_line(text, words):
    error = KeyError() if not text else OSError(text)
    assert in_words(error) == f"{'OSError' if text else 'KeyError'}: {words}"


def test_a_workers_compiler_is_for_what_was_given_and_keeps_and_knows_nothing(
    tmp_path, monkeypatch
):
    (tmp_path / "broken.json").write_text("{")  # to read it is a warning
    monkeypatch.setattr("tvm_cavs.compiler.tuned.SHIPPED", tmp_path)
    made = compiler_of(Settings({"kind": "llvm", "mcpu": "znver4"}, 3, "bf16", 1.0))
    assert (made.n_threads, made.machine.precision) == (3, "bf16") and made.cache is None
    assert str(made.target.attrs["mcpu"]) == "znver4"


class Stops(Exception):
    """What ends a test's connection at an unexpected place."""


class Connection:
    """The worker's end of a pipe; `gone`: what it raises after the last request."""

    def __init__(self, log, requests, gone=EOFError, answers=100):
        self._log, self._requests, self._gone, self._answers = log, list(requests), gone, answers

    def recv(self):
        if not self._requests:
            raise self._gone
        return self._requests.pop(0)

    def send(self, answer):
        if not self._answers:
            raise OSError
        self._answers -= 1
        self._log.append(("send", answer))


@pytest.fixture
def log(monkeypatch):
    """What the system is asked for, in order."""
    found = []
    asked = SimpleNamespace(
        alarm=lambda seconds: found.append(("alarm", seconds)),
        signal=lambda *given: found.append(("signal", *given)),
        SIGINT=signal.SIGINT,
        SIG_IGN=signal.SIG_IGN,
    )
    monkeypatch.setattr(worker, "signal", asked)
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=lambda s: found.append(("wait", s))))
    return found


@pytest.mark.parametrize("tracker", [None, TRACKER], ids=["here", "servers"])
@pytest.mark.parametrize(
    "gone", [{"gone": EOFError}, {"gone": OSError}, {"gone": Stops, "answers": 3}], ids=str
)
def test_requests_are_answered_in_turn_and_none_takes_too_long(tracker, gone, log, monkeypatch):
    """Until the parent is gone, whether the worker reads or writes then."""

    class Trials:
        def __init__(self, settings):
            log.append(("made", settings))

        def load(self, recorded):
            log.append(("load", recorded))

        def measure(self, knobs, best):
            log.append(("measure", knobs, best))
            return Failed(knobs)

    other = "OnDevices" if tracker is None else "OnHost"
    monkeypatch.setattr(worker, "OnHost" if tracker is None else "OnDevices", Trials)
    monkeypatch.setattr(worker, other, None)
    given = Settings({}, 1, "float32", 2.5, tracker=tracker)
    requests = [RECORDED, ("one", None), ("two", "one")]
    serve(Connection(log, requests, **gone), given)
    begin = ("signal", signal.SIGINT, signal.SIG_IGN), ("made", given), ("send", LOADED)
    until, never = ("alarm", 3 + GRACE), ("alarm", 0)
    assert log[:10] == [
        *begin,
        *(until, ("load", RECORDED), never, ("send", LOADED)),
        *(until, ("measure", "one", None), never),
    ]
    assert log[10:14] == [("send", Failed("one")), until, ("measure", "two", "one"), never]
    assert log[14:] == [("send", Failed("two"))] * (len(gone) == 1)


class Compiles:
    """A compiler for two threads."""

    n_threads = 2

    def __init__(self, log):
        self._log = log

    def require_host(self):
        self._log.append("asks the system")


def test_here_the_system_is_asked_before_anything_runs(log, monkeypatch):
    """And candidates are measured in the order in which they are given, beside one probe."""
    made = Compiles(log)
    monkeypatch.setattr(worker, "compiler_of", lambda _: made)
    monkeypatch.setattr(worker, "use_threads", lambda n: log.append(("threads", n)))
    monkeypatch.setattr(worker, "peak", lambda compiler: log.append("probe") or ("probe", 3.0))
    monkeypatch.setattr(worker, "measure", lambda *given: given)
    trials = OnHost(Settings({}, 2, "float32", 1.0, lambda *given: given))
    assert log == ["asks the system", ("threads", 2), "probe"]
    trials.load(RECORDED)
    assert trials.measure("one", "best") == ((RECORDED, made), "one", "best", ("probe", 3.0))


class Server:
    """A session with one; the looks at it afterwards say so."""

    address = "127.0.0.1", 9091

    def __init__(self, alive=True, reachable=True):
        self.alive, self.reachable = lambda: alive, lambda: reachable


class Trial:
    """On a device; the first of a kernel is given no start."""

    start = "what memory holds first"

    def __init__(self, *given):
        self.given = given


@pytest.fixture
def devices(log, monkeypatch):
    """Candidates on servers that are made up: `devices(server)`, or the error of the tracker."""

    def make(found, trial=Trial, prepare=lambda *given: None, timeout=2.5):
        def session(tracker, seconds, wanted):
            log.append(("session", tracker, seconds, wanted()))
            if isinstance(found, Exception):
                raise found
            return found

        made = Compiles(log)
        libraries = SimpleNamespace(prepare=prepare)
        monkeypatch.setattr(worker, "compiler_of", lambda _: made)
        monkeypatch.setattr(worker, "Libraries", lambda compiler: libraries)
        monkeypatch.setattr(worker, "Remote", lambda *given: given)
        monkeypatch.setattr(worker, "session", session)
        monkeypatch.setattr(worker, "peak", lambda compiler, place: ("probe", compiler, place))
        monkeypatch.setattr(worker, "measure", lambda trial, *given: (trial.given, *given))
        trials = OnDevices(Settings({}, 2, "float32", timeout, trial, TRACKER))
        trials.load(Recorded("a kernel", (), ()))
        return trials, made, (found, libraries, 2)

    return make


ASKED = ("alarm", 0), ("session", TRACKER, 3 + GRACE, True), ("alarm", 3)


def test_the_first_candidate_of_a_kernel_takes_a_session_more(devices, log):
    """In which it is found what memory holds first; and time runs when there is a server."""
    trials, made, place = devices(Server())
    for n, (knobs, best) in enumerate([("one", None), ("two", "one")]):
        given, *rest = trials.measure(knobs, best)
        assert given == (trials._recorded, made, place, Trial.start)
        assert rest == [knobs, best, ("probe", made, place)]
        assert log == [*ASKED] * (2 + n)
    trials.load(RECORDED)
    trials.measure("one", None)
    assert log == [*ASKED] * 5


def test_all_is_compiled_before_a_server_is_taken(devices, log):
    def prepare(workload, knobs):
        log.append((workload, knobs))
        if knobs == "wide":
            raise ValueError("too wide")

    trials, _, _ = devices(Server(), prepare=prepare)
    trials.measure("one", "best")
    assert log[:3] == [("a kernel", None), ("a kernel", "one"), ("a kernel", "best")]
    del log[:]
    assert trials.measure("one", "wide") == Failed("ValueError: too wide")
    assert not set(ASKED) & set(log)


class Refuses(Trial):
    """Its defaults, or a candidate once their start is known."""

    at_first = True

    def __init__(self, *given):
        super().__init__(*given)
        if self.at_first == (given[-1] is None):
            raise RuntimeError("out of memory")


class RefusesLater(Refuses):
    at_first = False


WHERE = "127.0.0.1:9091"
WHY = "RuntimeError: out of memory"


@pytest.mark.parametrize(
    ("server", "trial", "answer"),
    [
        (NoServerError("none is left"), Trial, Lost("none is left", for_good=True)),
        (Server(), Refuses, Unusable(WHY)),
        (Server(), RefusesLater, Failed(WHY)),
        (
            Server(alive=False),
            RefusesLater,
            Failed(f"it ended its session with the server {WHERE}: {WHY}"),
        ),
        (
            Server(alive=False, reachable=False),
            RefusesLater,
            Lost(f"the server {WHERE} is gone: {WHY}"),
        ),
        (
            Server(alive=False, reachable=False),
            Refuses,
            Lost(f"the server {WHERE} is gone: {WHY}"),
        ),
    ],
)
def test_whose_fault_it_is(server, trial, answer, devices, log):
    """A device that refuses, a session that ended, a server that is gone, or the last of them."""
    trials, _, _ = devices(server, trial)
    assert trials.measure("one", None) == answer
    ended = isinstance(server, Server) and not server.alive()
    assert (("wait", LOOK_SECONDS) in log) == ended


def test_an_answer_needs_no_server_any_more(devices):
    trials, _, _ = devices(Server(alive=False, reachable=False))
    assert not isinstance(trials.measure("one", None), (Failed, Lost, Unusable, Timing))


def test_a_server_is_waited_for_as_long_as_the_parent_lives(devices, monkeypatch):
    trials, _, _ = devices(Server())
    assert trials._wanted()
    monkeypatch.setattr(worker.os, "getppid", lambda: 1)
    assert not trials._wanted()
