"""A client's connection: HTTP as httptools reads it, with a bound on what is no body.

httptools takes a tenth of the time of a parser in Python, and holds a head that does not end, or a
line after a body, for as long as it comes. So bytes are counted here.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = 64 << 10  # bytes that the head of a request may have, and what follows its body
AROUND = 8  # bytes around each byte of a body that comes in chunks, at most
TOO_LONG = f"The head of a request has more than {HEAD} bytes."


class HeadIsTooLong(Exception):
    """It is not read any further."""


class Connection(HttpToolsProtocol):
    """Refuses a request with too much beside its body, by 400; its connection is closed."""

    _n_bytes = _n_body = _n_lines = 0  # of this request: in all, of its body, of whole lines
    _begins = False

    def data_received(self, data: bytes) -> None:
        """Bytes have come in. Those of the call in which a request begins are not all its own."""
        self._begins = False
        super().data_received(data)
        if self._begins or self.transport.is_closing():
            return
        self._n_bytes += len(data)
        if self._n_bytes - self._n_body > HEAD + AROUND * self._n_body:
            self.send_400_response(TOO_LONG)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begins, self._n_bytes, self._n_body, self._n_lines = True, 0, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole line of its head, or of what follows its body."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._n_body += len(body)
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Why a request is refused, where the parser knows only that a callback has failed."""
        super().send_400_response(TOO_LONG if self._n_lines > HEAD else msg)

    def _count(self, n_bytes: int) -> None:
        self._n_lines += n_bytes
        if self._n_lines > HEAD:
            raise HeadIsTooLong  # httptools stops, and says that a callback has failed
