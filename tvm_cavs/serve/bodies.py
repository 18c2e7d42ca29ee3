"""A request's body, read within limits; and answers, written as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .jobs import Answer, Job, Refused
from .limits import Limits
from .waiting import timeout

LINES = frozenset({"application/x-ndjson", "application/jsonl", "application/json-lines"})
JSON = frozenset({"", "application/json", "text/json", "application/x-www-form-urlencoded"})
SLOW, LARGE, OTHER_TYPE, OTHER_CODING, BAD_LENGTH, NOT_FINITE = 408, 413, 415, 415, 400, 422
MANY = 20_000  # numbers whose text takes long enough to write to do it in another thread


def is_lines(headers: Mapping[str, str]) -> bool:
    """Whether a body is JSON lines, by its headers.

    Raises:
        Refused: it is neither these nor JSON.
    """
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in LINES | JSON:
        raise Refused(
            OTHER_TYPE,
            f"the request is {given!r:.80}; expected application/json, or application/x-ndjson for "
            "a graph a line",
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(OTHER_CODING, "the request is compressed; send it as it is")
    return given in LINES


async def read_body(
    stream: AsyncIterator[bytes], headers: Mapping[str, str], limits: Limits
) -> bytes:
    """The body; no more of it is taken in than the limit says, and for no longer.

    Raises:
        Refused: it is larger, or does not come.
    """
    said = headers.get("content-length")
    if said is not None and not said.isdecimal():
        raise Refused(BAD_LENGTH, f"Content-Length is {said!r:.40}; expected a number of bytes")
    if said is not None and (len(said) > 18 or int(said) > limits.body):
        raise Refused(LARGE, f"the request has {said:.18} bytes{_limit(limits)}")
    try:
        async with timeout(limits.body_seconds):
            return await _read(stream, limits)
    except asyncio.TimeoutError:
        raise Refused(
            SLOW, f"the request was not there within {limits.body_seconds:g} seconds"
        ) from None


async def _read(stream: AsyncIterator[bytes], limits: Limits) -> bytes:
    body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > limits.body:
            raise Refused(LARGE, f"the request has more than {limits.body} bytes{_limit(limits)}")
    return bytes(body)


def _limit(limits: Limits) -> str:
    return f"; expected at most {limits.body}. Send fewer graphs at a time."


async def write(job: Job) -> bytes:
    """The answer of a job: an object for one graph, a list, or lines.

    Raises:
        Refused: an output is no finite number, which JSON has no word for.
    """
    answers = [answer for answer in job.answers if answer is not None]
    assert len(answers) == len(job.answers)
    n = sum(rows.size for answer in answers for rows in answer.outputs.values())
    if n > MANY:
        return await asyncio.to_thread(_write, job, answers)
    return _write(job, answers)


def _write(job: Job, answers: list[Answer]) -> bytes:
    made = [_plain(answer) for answer in answers]
    try:
        if job.lines:
            return "".join(f"{_json(each)}\n" for each in made).encode()
        return _json(made[0] if job.single else made).encode()
    except ValueError:
        raise Refused(
            NOT_FINITE,
            "an output is not a finite number: the model cannot take inputs as large as these",
        ) from None


def _plain(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {name: rows.tolist() for name, rows in answer.outputs.items()}
    made = {"outputs": found}
    return made if answer.vertices is None else {"vertices": answer.vertices, **made}


def _json(given: Any) -> str:
    return json.dumps(given, allow_nan=False, separators=(",", ":"))
