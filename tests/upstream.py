"""An engine that does what a test says, over real sockets: answers, streams, breaks, hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Writer = asyncio.StreamWriter
Script = Callable[[Writer], Awaitable[None]]


@dataclass
class Asked:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    head: str
    """The request line and the headers as they came, repeated ones too."""


@dataclass
class Upstream:
    """``script`` writes the raw answer to each request."""

    script: Script
    asked: list[Asked] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    """The gateway closed a connection while a script was running."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines[1:] if line)
                low = {key.lower(): value for key, value in headers.items()}
                body = await reader.readexactly(int(low.get("content-length", "0")))
                self.asked.append(
                    Asked(lines[0].split(" ")[1], low, body, "\n".join(lines))
                )
                work = asyncio.ensure_future(self.script(writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    self.hung_up.set()
                    work.cancel()
                    await asyncio.gather(work, gone, return_exceptions=True)
                    return
                if not gone.done():
                    gone.cancel()
                    await asyncio.gather(gone, return_exceptions=True)
                await work
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@contextmanager
def serving(script: Script) -> Iterator[Upstream]:
    """An Upstream that listens on loopback while the body runs."""
    upstream = Upstream(script)
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        upstream.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait()
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def answer(
    body: bytes, status: str = "200 OK", kind: str = "application/json", extra: str = ""
) -> Script:
    """A whole answer with its length."""

    async def script(writer: Writer) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return script


def stream(
    *pieces: bytes, end: str = "whole", kind: str = "text/event-stream"
) -> Script:
    """A chunked answer; ``end`` is whole, cut (a reset within a chunk) or hang."""

    async def script(writer: Writer) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        for piece in pieces:
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
        if end == "cut":
            writer.write(b"ff\r\nhalf a chunk")
            await writer.drain()
            writer.transport.abort()
        elif end == "hang":
            await asyncio.Event().wait()
        else:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return script


async def hang(_: Writer) -> None:
    """No answer, ever."""
    await asyncio.Event().wait()


async def reset(writer: Writer) -> None:
    """The connection breaks before any answer."""
    writer.transport.abort()
