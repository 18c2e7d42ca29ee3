"""The command: one process that answers and heeds signals, or several and one that minds them."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable
from threading import current_thread, main_thread

import uvloop

from ..errors import ConfigError
from .app import make_app
from .orders import Orders, obey_signals
from .processes import Parent
from .server import Server
from .service import Service
from .sockets import Address, bind, let_connections_be_open


def run(
    service: Service,
    address: Address,
    token: str | None = None,
    started: Callable[[Address], None] = lambda _: None,
    n_processes: int = 1,
) -> None:
    """Serve until SIGTERM or SIGINT; then answer what has come in, and return. SIGHUP reloads.

    Args:
        started: is told the address, with the port that was found for port 0.
        n_processes: that answer; the service's metrics are made for as many.

    Raises:
        ConfigError: the service's metrics are made for another number of processes; or this is not
            the main thread, which alone gets signals.
        CavsError: the address cannot be had, or a process does not start.
    """
    if n_processes != service.metrics.n_processes:
        raise ConfigError(
            f"n_processes is {n_processes}, and the service's metrics have rows for "
            f"{service.metrics.n_processes}. Give it some: "
            f"Service(folder, metrics=Metrics({n_processes}))."
        )
    if current_thread() is not main_thread():
        raise ConfigError(
            "signals end and reload a server, and Python hands them to the main thread; given "
            f"thread {current_thread().name!r}. Call it in the main thread, or start a process of "
            "its own: tvm-cavs serve DIR."
        )
    let_connections_be_open(service.limits.connections)
    gc.collect()
    gc.freeze()  # what is loaded stays: to look through it takes 30 ms, in which nobody is answered
    listening = bind(address, n_processes)
    found = Address(address.host, listening[0].getsockname()[1])
    service.metrics.set("start_time_seconds", time.time())
    service.metrics.set("processes", n_processes)

    def alone(server: Server) -> None:
        obey_signals(server)
        started(found)

    def one_of_several(number: int, channel: socket.socket) -> None:
        orders = Orders(service, channel)
        app = make_app(service, token, orders.reload)
        uvloop.run(Server(service, app, listening[number]).run(orders.listen))

    if n_processes > 1:
        Parent(service, listening, one_of_several).run(lambda: started(found))
    else:
        uvloop.run(Server(service, make_app(service, token), listening[0]).run(alone))
