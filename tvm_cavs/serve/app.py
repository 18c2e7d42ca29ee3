"""The paths of the server, as an ASGI application of FastAPI.

Predictions go past FastAPI, whose layers take longer than all else that is done for a small graph.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from ..versions import VERSION
from .bodies import is_lines, read_body, write
from .jobs import Refused
from .openapi import about_model, documented
from .service import Service

PAGES = Path(__file__).parent / "pages"
GONE, NO_TOKEN, NO_RELOADS, SLOW, LARGE, UNKNOWN_OPTION = 400, 401, 403, 408, 413, 422
BROKEN, BUSY = 500, 503
PREDICT = "/v1/predict"
JSON, LINES = "application/json", "application/x-ndjson"
LONGEST = 2000  # letters of a message
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)
Handler = Callable[[Request], Awaitable[Response]]
Reload = Callable[[], Awaitable[str]]
LOG = logging.getLogger(__name__)


def make_app(service: Service, token: str | None = None, reload: Reload | None = None) -> ASGIApp:
    """The application.

    Args:
        token: what clients must send as `Authorization: Bearer TOKEN`; None lets all in.
        reload: loads the model again, and gives its name; None: the service does.
    """
    app = FastAPI(title="tvm_cavs", version=VERSION, docs_url=None, redoc_url=None)
    doors = _Doors(service, token, reload or service.reload)
    predict = doors.guarded(doors.predict)
    app.post(PREDICT)(predict)
    app.get("/v1/model")(doors.guarded(doors.model))
    app.post("/v1/reload")(doors.guarded(doors.reload))
    app.get("/metrics")(doors.guarded(doors.metrics))
    app.get("/healthz")(doors.healthz)
    app.get("/readyz")(doors.readyz)
    app.get("/", include_in_schema=False)(_page("index.html"))
    app.get("/docs", include_in_schema=False)(_page("docs.html"))
    app.add_exception_handler(HTTPException, _http_error)
    plain = app.openapi
    app.openapi = lambda: documented(plain(), service.model)  # type: ignore[method-assign]

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PREDICT and scope["method"] == "POST":
            response = await predict(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await app(scope, receive, send)

    return front


class _Doors:
    """What is behind each path."""

    def __init__(self, service: Service, token: str | None, reload: Reload) -> None:
        self._service, self._reload = service, reload
        self._token = None if token is None else f"Bearer {token}".encode()

    def guarded(self, answer: Handler) -> Callable[[Request], Awaitable[Response]]:
        """The same for those who have the token; what is refused is said as JSON."""
        service = self._service

        async def handle(request: Request) -> Response:
            began, status = time.monotonic(), BROKEN
            service.metrics.add("open_requests")
            try:
                self._check_token(request)
                response = await answer(request)
            except Refused as error:
                response = _error(error.status, error.message)
            except ClientDisconnect:
                response = _error(GONE, "the client has gone")
            except Exception as error:  # a mistake of ours must not end the connection in silence
                LOG.error("a request failed", exc_info=error)
                response = _error(BROKEN, "the server failed; its log says more")
            finally:
                service.metrics.add("open_requests", -1)
            status = response.status_code
            if service.is_ending:
                response.headers["Connection"] = "close"
            service.metrics.add("requests_total", label=f'status="{status}"')
            service.metrics.observe("request_seconds", time.monotonic() - began)
            return response

        handle.__name__, handle.__doc__ = answer.__name__, answer.__doc__
        return handle

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._token):
            raise Refused(NO_TOKEN, "expected the header Authorization: Bearer TOKEN")

    async def predict(self, request: Request) -> Response:
        """Answer graphs: one as a JSON object, several as a list, or one a line.

        `?vertices=roots` answers the vertices without a parent only. The answer has the form of
        what was asked: an object, a list, or lines.
        """
        began, service = time.monotonic(), self._service
        lines, roots = is_lines(request.headers), _roots(request)
        body = await read_body(request.stream(), request.headers, service.limits)
        job = await service.answer(body, lines, roots, began)
        return Response(await write(job), media_type=LINES if lines else JSON)

    async def model(self, request: Request) -> Response:
        """What the model reads and answers, with an example."""
        return JSONResponse(about_model(self._service.model, self._service.limits))

    async def reload(self, request: Request) -> Response:
        """Load the model's folder again; requests that have begun end with the model before it."""
        if self._token is None:
            raise Refused(
                NO_RELOADS,
                "a server without a token loads its model again by a signal only: kill -HUP",
            )
        return JSONResponse({"name": await self._reload()})

    async def metrics(self, request: Request) -> Response:
        """What has been counted, as Prometheus reads it."""
        return PlainTextResponse(
            self._service.metrics.text(), media_type="text/plain; version=0.0.4"
        )

    async def healthz(self) -> Response:
        """Whether the server runs."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """Whether requests should be sent here."""
        if self._service.is_ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("ending\n", BUSY)


def _roots(request: Request) -> bool:
    unknown = [name for name in request.query_params if name != "vertices"]
    if unknown:
        raise Refused(UNKNOWN_OPTION, f"{unknown[0]!r:.60} is no option; there is vertices=roots")
    given = request.query_params.get("vertices", "all")
    if given not in ("all", "roots"):
        raise Refused(UNKNOWN_OPTION, f"vertices is {given!r:.60}; expected all or roots")
    return given == "roots"


def _error(status: int, message: str) -> Response:
    if len(message) > LONGEST:
        message = f"{message[:LONGEST]}..."
    response = JSONResponse({"error": message}, status)
    if status == BUSY:
        response.headers["Retry-After"] = "1"
    if status == NO_TOKEN:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status in (SLOW, LARGE):  # what is left of the body is not read
        response.headers["Connection"] = "close"
    return response


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _page(name: str) -> Callable[[], Awaitable[Response]]:
    text = (PAGES / name).read_text(encoding="utf-8")

    async def page() -> Response:
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})

    return page
