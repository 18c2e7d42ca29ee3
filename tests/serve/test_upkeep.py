"""What a server does beside answering: files, clients that rest, another model, its end."""

import asyncio
import copy
import json
import os
import resource
import socket
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm_cavs.errors import CavsError
from tvm_cavs.serve import server, sweep
from tvm_cavs.serve.jobs import Refused
from tvm_cavs.serve.limits import Limits
from tvm_cavs.serve.openapi import about_model, documented
from tvm_cavs.serve.server import Server
from tvm_cavs.serve.service import Service
from tvm_cavs.serve.sockets import FILES, Address, bind, let_connections_be_open


def test_what_is_said_of_a_model_is_of_this_model_and_these_limits() -> None:
    """The shortest of its examples is shown; what FastAPI holds is not changed."""
    long, short = {"parents": [1, None]}, {"parents": [None]}
    manifest = {"arity": 2, "inputs": [], "outputs": []}
    manifest |= {"example": f"{json.dumps(long)}\n\n{json.dumps(short)}\n"}
    reader = SimpleNamespace(vocab=None, objects=lambda given, source: [each for _, each in given])
    model: Any = SimpleNamespace(
        name="M",
        manifest=manifest,
        reader=reader,
        answers=lambda given: [{"y": np.array(each["parents"] == [None])} for each in given],
    )
    about = about_model(model, Limits(body=1, graphs=2, vertices=3, batch=4))
    assert about["limits"] == {"bytes": 1, "graphs": 2, "vertices": 3}
    assert about["examples"] == [long, short]
    schema: dict[str, Any] = {"info": {}, "paths": {"/v1/predict": {"post": {}}}}
    before = copy.deepcopy(schema)
    shown = documented(schema, model)
    post = shown["paths"]["/v1/predict"]["post"]
    assert schema == before and shown["info"] == {"description": "The model M."}
    content = post["requestBody"]["content"]
    assert content["application/json"]["example"] == short
    assert json.loads(content["application/x-ndjson"]["example"]) == short
    assert post["requestBody"]["required"] is True
    (vertices,) = post["parameters"]
    assert vertices["schema"] == {"enum": ["all", "roots"], "default": "all"}
    answer = post["responses"]["200"]["content"]["application/json"]["example"]
    assert answer == {"outputs": {"y": True}}
    for none in ({}, {"example": None}, {"example": ""}):
        model.manifest = {"arity": 2, "inputs": [], "outputs": [], **none}
        limits = Limits(body=1, graphs=2, vertices=3, batch=4)
        assert about_model(model, limits)["examples"] == []


def test_who_rests_too_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a client that does something at some moments; what it waits for then is new."""
    now = 0.0
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now)

    class Connection:
        """`unsent` bytes are not taken in; a cycle is a request and its answer."""

        def __init__(self, **changes: list[Any]) -> None:
            self.changes, self.closed = changes, None
            self.unsent, self.cycle, self.timeout_keep_alive_task = 0, None, None
            self.transport = SimpleNamespace(
                get_write_buffer_size=lambda: self.unsent, abort=self.close
            )

        def close(self) -> None:
            self.closed = now

        def act(self, step: int) -> None:
            for name, values in self.changes.items():
                setattr(self, name, values[min(step, len(values) - 1)])

    runs, ended = (SimpleNamespace(response_complete=done) for done in (False, True))
    given: dict[str, tuple[dict[str, list[Any]], float | None]] = {
        "silent": ({}, 4.0),
        "its request runs": ({"cycle": [runs]}, None),
        "takes nothing in": ({"cycle": [runs], "unsent": [5]}, 4.0),
        "takes some in now and then": ({"cycle": [runs], "unsent": [9, 9, 8, 8, 7, 7, 6, 6]}, 10.0),
        "rests after its answer": ({"cycle": [ended], "timeout_keep_alive_task": [1]}, None),
        "begins another one": ({"cycle": [ended], "timeout_keep_alive_task": [1, 1, None]}, 6.0),
        "asks in time": ({"cycle": [None, None, None, runs]}, None),
    }
    made = {name: Connection(**changes) for name, (changes, _) in given.items()}
    swept = sweep.Sweep(3.0)
    for step in range(14):
        now = float(step)
        for each in made.values():
            each.act(step)
        swept({each for each in made.values() if each.closed is None})
    assert {name: each.closed for name, each in made.items()} == {
        k: v for k, (_, v) in given.items()
    }


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 1, FILES + 9, FILES + 10, 9999])
@pytest.mark.parametrize("soft", [resource.RLIM_INFINITY, 1, FILES + 9, FILES + 10, 9999])
def test_files_are_enough_for_connections_and_what_else_is_open(
    soft: int, hard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system allows it; otherwise how many there can be is said."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: found.append(given))
    if hard in (1, FILES + 9):
        fewer = max(1, hard - FILES)
        with pytest.raises(CavsError, match=rf"^10 .*ay have {hard}\. .*ns {fewer}\.") as error:
            let_connections_be_open(10)
        assert f"10 connections need {FILES + 10} open files" in str(error.value)
        return
    let_connections_be_open(10)
    assert found == ([(FILES + 10, hard)] if soft in (1, FILES + 9) else [])


@pytest.mark.parametrize("seconds", [0.2, 1.0, 30.5])
def test_who_waits_for_an_answer_is_waited_for(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end, for as long as an answer may take; and all who have just connected are heard."""
    heard: list[Any] = []
    monkeypatch.setattr(server, "LINGER", 0.0)
    monkeypatch.setattr(server, "accept_all", lambda listening: ["a", "b", "c"])

    async def hear(self: Server, connection: Any) -> None:
        heard.append(connection)

    monkeypatch.setattr(Server, "_serve_connection", hear)
    behind: Any = SimpleNamespace(limits=Limits(seconds=seconds, drain=0.0))
    none: Any = None
    with socket.socket() as listening:
        made = Server(behind, none, listening)
        made._server.servers = []
        asyncio.run(made._end())
    assert heard == ["a", "b", "c"] and made._server.should_exit
    left = made._server.config.timeout_graceful_shutdown
    assert left is not None and left >= seconds


class Named:
    """An engine that ends when it may."""

    is_open = True

    def __init__(self, name: str) -> None:
        self.model, self.may_end = SimpleNamespace(name=name), asyncio.Event()

    async def end(self) -> None:
        await self.may_end.wait()


def test_another_model_is_loaded_once_at_a_time_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is said and counted, what was refused is not; the end is that of all models."""
    made: list[Any] = []

    def make(self: Service) -> Any:
        if isinstance(made[-1], Exception):
            raise made[-1]
        return made[-1]

    monkeypatch.setattr(Service, "_make", make)

    async def run() -> None:
        old, new = Named("old"), Named("new")
        made.append(old)
        served, count = Service("x"), {"done": 0, "failed": 0}

        def counted() -> dict[str, int]:
            add = served.metrics.count
            return {k: add("reloads_total", f'result="{k}"') for k in count}

        for error in (OSError("gone"), CavsError("gone")):
            made.append(error)
            with pytest.raises(Refused, match="stays the one it was: gone") as refused:
                await served.reload()
            assert refused.value.status == 500
            with pytest.raises(CavsError, match="stays the one it was: gone"):
                served.load_now()
        assert counted() == {"done": 0, "failed": 2} and served.model.name == "old"
        made.append(new)
        found = await asyncio.gather(served.reload(), served.reload(), return_exceptions=True)
        assert found[0] == served.model.name == "new"
        assert isinstance(found[1], Refused) and found[1].status == 409
        assert counted() == {"done": 1, "failed": 2}
        assert served.load_now() is new
        begun = Service("x")
        begun.begin_with(old)
        assert begun.model.name == "old"
        new.may_end.set()
        ending = asyncio.create_task(served.end())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not ending.done() and not served.is_ready
        old.may_end.set()
        await ending

    asyncio.run(run())


def test_a_port_that_cannot_be_had_leaves_no_file_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before, port = len(os.listdir("/proc/self/fd")), taken.getsockname()[1]
        words = rf"^http://127\.0\.0\.1:{port} cannot be had: Address already in use\. Choose"
        with pytest.raises(CavsError, match=words) as refused:
            bind(Address(port=port))
        assert refused.tb and len(os.listdir("/proc/self/fd")) == before
