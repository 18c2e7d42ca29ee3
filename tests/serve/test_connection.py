"""What is not the body of a request: bounded, and never taken for another request."""

import asyncio
import json
import time

import pytest

uvicorn = pytest.importorskip("uvicorn")

from uvicorn.server import ServerState

from helpers.exported import TREE, line
from helpers.servers import running
from tvm_cavs.serve.connection import HEAD, Connection

pytestmark = pytest.mark.compiles
POST = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\n"
ONE = line(TREE).encode()
LAST = b"Connection: close\r\n"
CLOSED = ([], [400])


@pytest.fixture(scope="module")
def server(folder):
    with running(folder) as made:
        yield made


def answers(server, *parts, pause=0.0):
    """The statuses that come for these bytes, until the server closes; one that sends on after that
    may not see them. With a pause between parts the server reads them one by one.
    """
    found = b""
    with server.connect() as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while more := connection.recv(1 << 16):
                found += more
        except (ConnectionResetError, BrokenPipeError):
            pass
    return [int(text[:3]) for text in found.split(b"HTTP/1.1 ")[1:]]


def length(n):
    return b"Content-Length: %d\r\n" % n


def chunks(body, size):
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def headers(n_bytes):
    """Lines of so many bytes together, that are read as names and values."""
    each = b"X-%06d: " + b"x" * 90 + b"\r\n"
    return b"".join(each % i for i in range(n_bytes // 98))


class Transport:
    """Of a client that reads nothing."""

    def __init__(self):
        self.closed = False

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def write(self, data):
        self.written = data

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


def connected(app):
    """A connection to this application, and its client's end."""
    config = uvicorn.Config(app, lifespan="off", log_level="critical")
    config.load()
    made = Connection(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    made.connection_made(transport)
    return made, transport


def is_refused(*parts):
    """Whether a connection is closed that takes in exactly these parts."""

    async def app(scope, receive, send):
        await asyncio.Event().wait()

    async def take_in():
        made, transport = connected(app)
        for part in parts:
            made.data_received(part)
            if transport.closed:
                assert transport.written.startswith(b"HTTP/1.1 400")
                assert b"The head of a request has more than 65536 bytes." in transport.written
                return True
        return False

    return asyncio.run(take_in())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_request_comes_through_as_it_was_sent(size):
    """Address, headers and body, in parts of any size."""

    async def take_in():
        seen = asyncio.get_running_loop().create_future()

        async def app(scope, receive, send):
            found, more = b"", True
            while more:
                message = await receive()
                found, more = found + message["body"], message["more_body"]
            seen.set_result((scope["path"], scope["query_string"], scope["headers"], found))

        made, _ = connected(app)
        text = b"POST /a?b=c HTTP/1.1\r\nHost: d\r\nX: e f\r\nContent-Length: 9\r\n\r\n123456789"
        for i in range(0, len(text), size):
            made.data_received(text[i : i + size])
        return await asyncio.wait_for(seen, 5)

    headers = [(b"host", b"d"), (b"x", b"e f"), (b"content-length", b"9")]
    assert asyncio.run(take_in()) == ("/a", b"b=c", headers, b"123456789")


@pytest.mark.parametrize("more", [0, 1])
def test_a_head_has_at_most_so_many_bytes(more):
    """Of names and values of whole lines, the address with them; or of a line that does not end."""
    first, name, end = b"POST /v1 HTTP/1.1\r\n", b"X", b"\r\n\r\n"
    value = b"v" * (HEAD - len(b"/v1") - len(name) + more)
    assert is_refused(first + name + b": " + value + end) == bool(more)
    half = len(value) // 2
    lines = [first + name + b": " + value[:half] + b"\r\n" + name + b": " + value[half + 1 :] + end]
    assert is_refused(*lines) == bool(more)
    assert is_refused(first, b"X: " + b"v" * (HEAD - 3 + more)) == bool(more)


@pytest.mark.parametrize("more", [0, 1])
def test_what_is_around_a_body_grows_with_it(more):
    """Eight bytes for each of its own."""
    size = b"3;" + b"e" * (HEAD + 8 * 3 - 6 + more) + b"\r\n"
    assert is_refused(CHUNKED + b"\r\n", size + b"abc\r\n") == bool(more)


def test_requests_that_come_together_count_each_for_itself():
    """Those before it in the same bytes, and those before it on the connection, too."""
    many = (POST + b"X: " + b"v" * 900 + b"\r\n\r\n") * 100
    assert len(many) > HEAD and not is_refused(many, many, POST, LAST)


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_body_may_come_in_chunks_of_any_size(server, size):
    body = chunks(ONE, size)
    assert answers(server, CHUNKED + LAST + b"\r\n" + body + b"0\r\n\r\n") == [200]


def test_a_long_body_may_come_byte_by_byte(server):
    """With five bytes around each."""
    body = chunks(ONE + b" " * HEAD, 1)
    pieces = [body[i : i + 9000] for i in range(0, len(body), 9000)]
    assert answers(server, CHUNKED + LAST + b"\r\n", *pieces, b"0\r\n\r\n") == [200]


def test_requests_may_come_without_waiting_for_answers(server):
    request = POST + length(len(ONE)) + b"\r\n" + ONE
    last = POST + LAST + length(len(ONE)) + b"\r\n" + ONE
    assert answers(server, request * 20 + last) == [200] * 21
    assert answers(server, *([request] * 5), last[:70], last[70:]) == [200] * 6


@pytest.mark.parametrize("at_once", [True, False])
def test_a_long_head_of_many_lines(server, at_once):
    def parts(n_bytes):
        lines = headers(n_bytes)
        given = [POST, *(lines[i : i + 9800] for i in range(0, len(lines), 9800))]
        given.append(LAST + length(len(ONE)) + b"\r\n" + ONE)
        return [b"".join(given)] if at_once else given

    assert answers(server, *parts(HEAD - 4000)) == [200]
    assert answers(server, *parts(HEAD + 4000)) in CLOSED


def test_a_line_that_does_not_end(server):
    endless = [b"x" * 10_000] * 60
    assert answers(server, POST + b"X: ", *endless) in CLOSED
    assert answers(server, b"GET /", *endless) in CLOSED
    body = chunks(ONE, 50)
    assert answers(server, CHUNKED + b"\r\n" + body + b"0\r\nX: ", *endless) in CLOSED
    assert answers(server, CHUNKED + b"\r\n", b"1;", *endless) in CLOSED


def test_a_line_that_comes_little_by_little(server):
    assert answers(server, POST + b"X: ", *[b"x" * 4000] * 40, pause=0.01) in CLOSED


def test_a_large_body_is_no_long_head(server):
    graph = json.loads(ONE)
    graph["inputs"]["note"] = ["x" * 100_000 for _ in graph["children"]]
    body = json.dumps(graph).encode()
    parts = [body[i : i + 30_000] for i in range(0, len(body), 30_000)]
    head = POST + LAST + length(len(body)) + b"\r\n"
    assert answers(server, head, *parts, pause=0.01) == [200]


def test_lines_after_a_body_without_end(server):
    endless = [headers(9800)] * 60
    assert answers(server, CHUNKED + b"\r\n" + chunks(ONE, 50) + b"0\r\n", *endless) in CLOSED


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity, chunked, identity\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length : 5\r\n",
        b"X: a\rb\r\n",
        b" folded: 1\r\n",
    ],
)
def test_a_length_with_two_meanings_is_refused(server, lines):
    """As another server on the way may have read another length: the rest is no request."""
    hidden = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    found = answers(server, POST + lines + b"\r\n" + b"0\r\n\r\n" + hidden)
    assert found[0] in (400, 408), found
    assert len(found) == 1
