"""A server without a port: its application is called in this process."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tvm_cavs.serve import Limits, Service, make_app

Ask = Callable[[httpx.AsyncClient, Service], Awaitable[Any]]


def with_server(
    folder: Path, ask: Ask, batching: str = "levels", token: str | None = None, **limits: Any
) -> Any:
    """What `ask` returns, given a client of a server, and the service behind it."""

    async def run() -> Any:
        service = Service(folder, Limits(**limits), batching)
        transport = httpx.ASGITransport(make_app(service, token))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await ask(client, service)
        finally:
            await service.end()

    return asyncio.run(run())


def outputs(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    """An answer's numbers, as the float32 that they were."""
    return {name: np.array(rows, "float32") for name, rows in answer["outputs"].items()}


def lines(texts: list[str]) -> dict[str, Any]:
    """A request of JSON lines, as httpx takes it."""
    return {"content": "\n".join(texts), "headers": {"Content-Type": "application/x-ndjson"}}


def message(response: httpx.Response) -> str:
    """What the server says of an error."""
    return str(json.loads(response.content)["error"])
