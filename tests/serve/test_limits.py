"""Who sends too much, too slowly or without leave is told so, and holds nothing."""

import asyncio
import json
import threading
import time

import pytest

from helpers.asking import lines, message, with_server
from helpers.exported import TREE, line
from tvm_cavs.errors import ConfigError, OutOfMemoryError
from tvm_cavs.runtime import Arena
from tvm_cavs.serve import Limits, bodies, engine
from tvm_cavs.serve.engine import FEW, RECENT
from tvm_cavs.serve.reading import Reader
from tvm_cavs.serve.running import Levels

pytestmark = pytest.mark.compiles
PREDICT = "/v1/predict"
ONE = line(TREE)


def chain(n):
    return json.dumps({"children": [[], *([i] for i in range(n - 1))]})


def ask_once(folder, /, *, token=None, limits=None, **request):
    return with_server(
        folder,
        lambda client, _: client.post(PREDICT, **request),
        token=token,
        **(limits or {}),
    )


@pytest.mark.parametrize(
    ("request_", "limits", "status", "said"),
    [
        (
            {"content": " " * 101 + ONE},
            {"body": 100},
            413,
            f"the request has {101 + len(ONE)} bytes; expected at most 100. Send fewer",
        ),
        (
            {"content": f"[{ONE},{chain(11)}]"},
            {"vertices": 10, "batch": 12},
            413,
            "request, graph 1 has 11 vertices; expected at most 10, which",
        ),
        (
            {"content": f"[{ONE},{ONE},{ONE}]"},
            {"graphs": 2},
            413,
            "has 3 graphs; expected at most 2.",
        ),
        (lines([ONE] * 3), {"graphs": 2}, 413, "has 3 graphs; expected at most 2."),
        (
            {"content": ONE, "headers": {"Content-Type": "image/png"}},
            {},
            415,
            "the request is 'image/png'; expected",
        ),
        ({"content": ONE, "headers": {"Content-Encoding": "gzip"}}, {}, 415, "compressed"),
        (
            {"content": ONE, "params": {"vertices": "leaves"}},
            {},
            422,
            "vertices is 'leaves'; expected",
        ),
        ({"content": ONE, "params": {"vertices": ""}}, {}, 422, "vertices is ''"),
        ({"content": ONE, "params": {"vertex": "roots"}}, {}, 422, "'vertex'"),
        ({"content": ONE, "params": {"a": "1", "vertices": "all", "b": "1"}}, {}, 422, "'a' is no"),
    ],
)
def test_too_much_is_refused(folder, request_, limits, status, said):
    response = ask_once(folder, limits=limits, **request_)
    assert response.status_code == status and said in message(response)


def test_a_large_body_is_refused_before_it_is_read(folder):
    read = []

    async def endless():
        while True:
            read.append(1)
            yield b" " * 1000

    response = ask_once(folder, limits={"body": 10_000}, content=endless())
    assert response.status_code == 413 and len(read) < 15
    assert response.headers["connection"] == "close"
    said = {"Content-Length": str(10 << 20)}
    read.clear()
    response = ask_once(folder, content=endless(), headers=said)
    assert response.status_code == 413 and not read


def test_a_slow_body_is_given_up(folder):
    async def slow():
        yield b'{"children"'
        await asyncio.sleep(60)
        yield b""

    async def ask(client, service):
        slow_one = asyncio.create_task(client.post(PREDICT, content=slow()))
        good = await client.post(PREDICT, content=ONE)
        return await slow_one, good, service.metrics.count("open_requests")

    slow_one, good, n_open = with_server(folder, ask, body_seconds=0.3)
    assert slow_one.status_code == 408 and good.status_code == 200 and n_open == 0
    assert slow_one.headers["connection"] == "close"
    assert message(slow_one) == "the request was not there within 0.3 seconds"


@pytest.fixture
def stopped(monkeypatch):
    """Kernels do not run until the event is set."""
    go, step = threading.Event(), Levels.step

    def wait(self):
        assert go.wait(20)
        step(self)

    monkeypatch.setattr(Levels, "step", wait)
    yield go
    go.set()


def test_more_than_may_wait_are_told_to_come_again(folder, stopped):
    async def ask(client, service):
        tasks = [asyncio.create_task(client.post(PREDICT, content=ONE)) for _ in range(200)]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        stopped.set()
        return await asyncio.gather(*tasks)

    found = with_server(folder, ask, waiting=3)
    statuses = [response.status_code for response in found]
    assert set(statuses) == {200, 503}
    refused = found[statuses.index(503)]
    assert refused.headers["retry-after"] == "1" and "3 requests wait already" in message(refused)


@pytest.mark.parametrize("most", [1, 3])
def test_as_many_wait_as_may(folder, stopped, most):
    """One runs, and is not counted; the next ones wait, and the one after them is refused."""

    async def ask(client, service):
        first = asyncio.create_task(client.post(PREDICT, content=ONE))
        while service._engine._runner.is_idle:
            await asyncio.sleep(0.01)
        tasks = [asyncio.create_task(client.post(PREDICT, content=ONE)) for _ in range(most + 1)]
        done, _ = await asyncio.wait(tasks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        refused, n_waiting = (
            [task.result().status_code for task in done],
            service.metrics.count("waiting_requests"),
        )
        stopped.set()
        answered = await asyncio.gather(first, *tasks)
        return refused, n_waiting, [response.status_code for response in answered]

    refused, n_waiting, statuses = with_server(folder, ask, waiting=most)
    assert refused == [503] and n_waiting == most
    assert sorted(statuses) == [200] * (most + 1) + [503]


def test_who_waits_too_long_is_told_so(folder, stopped):
    async def ask(client, service):
        response = await client.post(PREDICT, content=ONE)
        stopped.set()
        return response, await client.post(PREDICT, content=ONE)

    late, next_one = with_server(folder, ask, seconds=0.5)
    assert late.status_code == 504 and "0.5 seconds" in message(late)
    assert next_one.status_code == 200


def test_who_waits_no_more_is_not_run(folder, stopped):
    async def ask(client, service):
        first = asyncio.create_task(client.post(PREDICT, content=ONE))
        while service._engine._runner.is_idle:
            await asyncio.sleep(0.01)
        late = await client.post(PREDICT, content=ONE)
        stopped.set()
        while service._engine._turns is not None:
            await asyncio.sleep(0.01)
        n_first = service.metrics.count("vertices_total")
        good = await client.post(PREDICT, content=ONE)
        answers = [r.status_code for r in (await first, late, good)]
        return answers, n_first, service.metrics.count("vertices_total")

    answers, n_first, n_both = with_server(folder, ask, seconds=0.5)
    assert answers == [504, 504, 200] and n_both == 2 * n_first > 0


@pytest.mark.parametrize(("kind", "status"), [(RuntimeError, 500), (OutOfMemoryError, 503)])
def test_a_failure_ends_the_requests_that_ran_and_no_others(
    folder, monkeypatch, kind, status, caplog
):
    step, times = Arena.step, []

    def fail_once(self, least=1):
        times.append(1)
        if len(times) == 2:
            raise kind("a kernel failed")
        return step(self, least)

    monkeypatch.setattr(Arena, "step", fail_once)

    async def ask(client, service):
        long = await client.post(PREDICT, content=chain(200))
        return long, await client.post(PREDICT, content=chain(200))

    failed, next_one = with_server(folder, ask)
    assert failed.status_code == status and "a kernel failed" in message(failed)
    assert next_one.status_code == 200
    (record,) = (each for each in caplog.records if each.levelname == "ERROR")
    assert record.getMessage() == "1 requests were given up" and record.exc_info[0] is kind


def test_only_who_has_the_token_is_answered(folder):
    async def ask(client, service):
        def post(value):
            headers = {} if value is None else {"Authorization": value}
            return client.post(PREDICT, content=ONE, headers=headers)

        given = (None, "", "Bearer wrong", "secret-token", "Basic secret-token")
        refused = [await post(value) for value in given]
        open_paths = [await client.get(path) for path in ("/healthz", "/readyz", "/")]
        closed = [await client.get(path) for path in ("/metrics", "/v1/model")]
        return refused, await post("Bearer secret-token"), open_paths, closed

    refused, good, open_paths, closed = with_server(folder, ask, token="secret-token")
    assert {r.status_code for r in [*refused, *closed]} == {401}
    assert good.status_code == 200 and {r.status_code for r in open_paths} == {200}


def test_reloading_needs_a_token(folder):
    response = with_server(folder, lambda client, _: client.post("/v1/reload"))
    assert response.status_code == 403 and "kill -HUP" in message(response)


def test_unknown_paths_and_methods_are_said_so(folder):
    async def ask(client, service):
        return await client.get("/v2"), await client.get(PREDICT)

    unknown, wrong = with_server(folder, ask)
    assert (unknown.status_code, wrong.status_code) == (404, 405) and message(unknown)
    assert wrong.headers["allow"] == "POST"


def test_a_mistake_of_ours_is_in_the_log_and_the_answer_says_so(folder, monkeypatch, caplog):
    async def ask(client, service):
        monkeypatch.setattr(service.metrics, "text", lambda: 1 / 0)
        found = await client.get("/metrics")
        return found, service.metrics.count("open_requests")

    found, n_open = with_server(folder, ask)
    assert (found.status_code, n_open) == (500, 0)
    assert message(found) == "the server failed; its log says more"
    assert "ZeroDivisionError" in caplog.text


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="10 vertices, and 5 may run .* Raise --batch, or"):
        Limits(vertices=10, batch=5)


def test_short_turns_are_taken_in_the_loop_and_long_ones_beside_it(folder, monkeypatch):
    """While a long one is, others are heard; and what is long is taken by a thread at once."""
    where, seconds, step = [], 0.0, Levels.step

    def slow(self):
        where.append(threading.current_thread() is threading.main_thread())
        time.sleep(seconds)
        step(self)

    monkeypatch.setattr(Levels, "step", slow)
    monkeypatch.setattr(engine, "SHORT", 0.2)

    async def ask(client, service):
        nonlocal seconds
        for _ in range(RECENT + 2):
            assert (await client.post(PREDICT, content=ONE)).status_code == 200
        assert where == [False] * RECENT + [True] * 2, "the first ones are not known to be short"
        where.clear()
        seconds = 0.2
        for _ in range(3):
            await client.post(PREDICT, content=ONE)
        assert where == [True, False, False]
        seconds = 0.5
        slow_one = asyncio.create_task(client.post(PREDICT, content=ONE))
        await asyncio.sleep(0.1)
        assert (await client.get("/healthz")).status_code == 200 and not slow_one.done()
        return await slow_one

    assert with_server(folder, ask).status_code == 200


@pytest.mark.parametrize(("n", "here"), [(FEW, True), (FEW + 1, False)])
def test_large_bodies_are_read_beside_the_loop(folder, monkeypatch, n, here):
    where, read = [], Reader.read

    def reading(self, jobs, most):
        where.append(threading.current_thread() is threading.main_thread())
        return read(self, jobs, most)

    monkeypatch.setattr(Reader, "read", reading)
    response = ask_once(folder, content=ONE + " " * (n - len(ONE)))
    assert response.status_code == 200 and where == [here]


@pytest.mark.parametrize(("most", "here"), [(6, False), (9, True)])
def test_large_answers_are_written_beside_the_loop(folder, monkeypatch, most, here):
    """The tree has three vertices with three logits each."""
    where, write = [], bodies._write

    def writing(job, answers):
        where.append(threading.current_thread() is threading.main_thread())
        return write(job, answers)

    monkeypatch.setattr(bodies, "_write", writing)
    monkeypatch.setattr(bodies, "MANY", most)
    assert ask_once(folder, content=ONE).status_code == 200 and where == [here]


def test_a_mistake_in_reading_ends_all_that_was_read(folder, stopped, monkeypatch):
    """And nothing that comes later."""
    fails, read = [], Reader.read

    def reading(self, jobs, most):
        if fails:
            raise RuntimeError(fails.pop())
        return read(self, jobs, most)

    monkeypatch.setattr(Reader, "read", reading)

    async def ask(client, service):
        first = asyncio.create_task(client.post(PREDICT, content=ONE))
        while service._engine._runner.is_idle:
            await asyncio.sleep(0.01)
        tasks = [asyncio.create_task(client.post(PREDICT, content=ONE)) for _ in range(3)]
        while service.metrics.count("waiting_requests") < 3:
            await asyncio.sleep(0.01)
        fails.append("a mistake")
        stopped.set()
        found = await asyncio.gather(first, *tasks)
        return [r.status_code for r in [*found, await client.post(PREDICT, content=ONE)]]

    assert with_server(folder, ask) == [200, 500, 500, 500, 200]


def test_who_has_gone_is_not_run(folder, stopped):
    async def ask(client, service):
        def begin():
            return asyncio.create_task(service.answer(ONE.encode(), False, False, time.monotonic()))

        first = begin()
        while service._engine._runner.is_idle:
            await asyncio.sleep(0.01)
        gone = begin()
        while not service.metrics.count("waiting_requests"):
            await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        stopped.set()
        await first
        return service.metrics.count("vertices_total")

    assert with_server(folder, ask) == TREE.n_vertices


def test_a_client_that_goes_while_it_sends_has_a_status_of_its_own(folder):
    """It is no mistake of the server."""

    async def ask(client, service):
        async def receive():
            return {"type": "http.disconnect"}

        async def send(_):
            pass

        scope = {
            "type": "http",
            "path": PREDICT,
            "method": "POST",
            "headers": [],
            "query_string": b"",
        }
        await client._transport.app(scope, receive, send)
        return service.metrics.count("requests_total", 'status="400"')

    assert with_server(folder, ask) == 1


def test_after_its_end_nothing_is_taken_or_kept(folder):
    async def ask(client, service):
        answers = [await client.post(PREDICT, content=ONE)]
        await service.end()
        answers += [await client.get("/readyz"), await client.post(PREDICT, content=ONE)]
        return answers, service._engine._done

    answers, kept = with_server(folder, ask)
    assert [r.status_code for r in answers] == [200, 503, 503] and kept == []
    assert message(answers[-1]) == "the server is ending"
