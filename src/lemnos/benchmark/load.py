"""Sends the load, and notes when what came back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import orjson

from lemnos.benchmark.report import Sample, figures
from lemnos.benchmark.workload import prompt
from lemnos.errors import LemnosError
from lemnos.spec.record import BenchSpec
from lemnos.wire.sse import Parser

REQUEST_TIMEOUT_S = 600.0
TEXT = ("content", "reasoning", "reasoning_content")
"""Where a piece of an answer has its text; vLLM has thoughts in ``reasoning``, others in the last."""


async def bench(
    spec: BenchSpec, base_url: str, model: str, api_key: str | None = None
) -> tuple[dict[str, float], str]:
    """The figures of ``spec`` against ``base_url`` (without ``/v1``), and the first error.

    Requests that fail are counted in ``failed``. Raises LemnosError when all of them do.
    """
    samples = await run(spec, base_url, model, api_key)
    errors = [sample.error for sample in samples if sample.error]
    if len(errors) == len(samples):
        raise LemnosError(f"every request failed: {errors[0]}", where=base_url)
    return figures(samples), errors[0] if errors else ""


async def run(
    spec: BenchSpec, base_url: str, model: str, api_key: str | None
) -> list[Sample]:
    """Send ``spec.requests`` streamed chats, ``spec.concurrency`` at a time."""
    slots = asyncio.Semaphore(spec.concurrency)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def one(index: int) -> Sample:
            async with slots:
                return await _request(session, base_url, _body(spec, model, index))

        return list(await asyncio.gather(*map(one, range(spec.requests))))


def _body(spec: BenchSpec, model: str, index: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt(index, spec.input_tokens)}],
        "max_tokens": spec.output_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _request(
    session: aiohttp.ClientSession, base_url: str, body: dict[str, Any]
) -> Sample:
    sent = time.perf_counter()
    pieces: list[float] = []
    usage: dict[str, Any] = {}
    error = ""
    try:
        async with session.post(
            f"{base_url}/v1/chat/completions",
            json=body,
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        ) as response:
            if response.status != 200:
                raise ValueError(f"{response.status}: {(await response.text())[:200]}")
            parser = Parser()
            async for chunk in response.content.iter_any():
                now = time.perf_counter()
                for event in parser.feed(chunk):
                    _note(event.data, now, pieces, usage)
    except (aiohttp.ClientError, TimeoutError, ValueError) as failure:
        error = str(failure) or type(failure).__name__
    except (LookupError, TypeError, AttributeError) as failure:
        error = f"no stream of completions ({failure})"
    return Sample(
        sent=sent,
        pieces=tuple(pieces),
        ended=pieces[-1] if pieces else time.perf_counter(),
        output_tokens=usage.get("completion_tokens") or len(pieces),
        prompt_tokens=usage.get("prompt_tokens") or 0,
        error=error,
    )


def _note(data: str, now: float, pieces: list[float], usage: dict[str, Any]) -> None:
    """Take the time of a piece of text, or the usage, out of one event."""
    if data == "[DONE]":
        return
    event = orjson.loads(data)  # its error is a ValueError: the request failed
    if "error" in event:
        raise ValueError(str(event["error"]))
    usage.update(event.get("usage") or {})
    delta = (event.get("choices") or [{}])[0].get("delta") or {}
    if any(delta.get(name) for name in TEXT):
        pieces.append(now)
