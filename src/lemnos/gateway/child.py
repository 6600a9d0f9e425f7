"""One router of a prefill/decode group: its process, from start to end, and again.

Its port is chosen when it starts, and its target is in force only while it is ready: nothing is
sent to a port that somebody else may have taken meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Iterator

import httpx2
import psutil

from lemnos.engines import smg
from lemnos.gateway.table import WatchedTable
from lemnos.spec.targets import Router
from lemnos.wire.redact import redact

PROBE_S = 0.5
PROBE_TIMEOUT_S = 5.0
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Before a router that ended is started again; from the first anew once it was ready."""
LONGEST_LINE = 1 << 20
# Nothing of the gateway's environment is needed but this; it may hold the clouds' keys, and a
# proxy that does not lead to the engines. LEMNOS_JOB is the mark by which `stop` finds children.
ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LEMNOS_JOB",
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_BANNER = re.compile("[\u2800-\u28ff]")

log = logging.getLogger("lemnos.gateway.routers")


class Child:
    """One router, started again whenever it ends, until it is told to leave or killed."""

    def __init__(
        self,
        router: Router,
        key: str,
        table: WatchedTable,
        replaces: Child | None,
        let_go: Callable[[Child], None],
    ) -> None:
        self.router = router
        self.key = key
        self.replaces = replaces
        """Serves until this one is ready."""
        self.ready = False
        self.leaving = False
        self._table = table
        self._let_go = let_go
        self._process: Process | None = None
        self._task = asyncio.create_task(self._keep())

    def line(self) -> Iterator[Child]:
        """This one, and those that serve until it is ready."""
        yield self
        if self.replaces:
            yield from self.replaces.line()

    async def leave(self) -> None:
        """End when the open requests are done."""
        self.leaving = True
        if self._process and self._process.returncode is None:
            self._process.terminate()
        else:
            self._task.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._task, smg.GRACE_S + 30)

    async def kill(self) -> None:
        """End now."""
        self.leaving = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _name(self) -> str:
        return self.router.target

    async def _keep(self) -> None:
        tries = 0
        while not self.leaving:
            began = time.monotonic()
            served, how = await self._run()
            if self.leaving:
                return
            tries = 0 if served else tries + 1
            wait = WAITS_S[min(tries, len(WAITS_S) - 1)]
            took = time.monotonic() - began
            log.warning(
                "%s: the router ended after %.1f s (%s); it is started again in %g s",
                self._name,
                took,
                how,
                wait,
            )
            await asyncio.sleep(wait)

    async def _run(self) -> tuple[bool, str]:
        """Run it once: whether it was ready, and how it ended."""
        port, metrics_port = _two_ports()
        words = smg.arguments(self.router, port, metrics_port)
        order = {"arguments": words, "key": self.key, "parent": os.getpid()}
        kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                self.router.program,
                "-I",
                str(smg.ENTRY),
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                env=kept | {"NO_COLOR": "1"},
                start_new_session=True,  # Ctrl-C is for the gateway
                limit=LONGEST_LINE,
            )
        except OSError as error:
            return False, f"{self.router.program}: {error.strerror}"
        self._process = process
        reading = asyncio.create_task(self._read(process))
        probing = asyncio.create_task(self._probe(process.pid, port))
        served = False
        try:
            await _tell(process, order)
            code = await process.wait()
            served = self.ready
        finally:
            probing.cancel()
            if process.returncode is None:
                process.kill()
            self._place(None)
            self._process = None
            await process.wait()
            await asyncio.gather(reading, probing, return_exceptions=True)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return served, how

    async def _probe(self, pid: int, port: int) -> None:
        """Place the target while the router says that it has engines of both kinds."""
        url = f"http://{smg.HOST}:{port}"
        # Plain HTTP over loopback: no certificates have to be read, which takes 30 ms.
        async with httpx2.AsyncClient(
            trust_env=False, verify=False, timeout=PROBE_TIMEOUT_S
        ) as client:
            while not self.leaving:
                try:
                    answer = await client.get(f"{url}/readiness")
                    ready = answer.status_code == 200
                except httpx2.TimeoutException:
                    ready = self.ready  # it is busy, not gone
                except httpx2.HTTPError:
                    ready = False
                if ready and not self.ready:
                    ready = _listens(pid, port)
                self._place(url if ready else None)
                await asyncio.sleep(PROBE_S)

    def _place(self, url: str | None) -> None:
        if self.leaving or (url is not None) == self.ready:
            return
        self.ready = url is not None
        if self.ready and self.replaces:
            before, self.replaces = self.replaces, None
            self._let_go(before)
            self._table.place(self._name, url)
        elif self.replaces is None:
            self._table.place(self._name, url)

    async def _read(self, process: Process) -> None:
        """Its output, line by line, into the gateway's log."""
        assert process.stdout
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line longer than any that is worth reading
                continue
            if not line:
                return
            text = readable(line.decode(errors="replace"), self.key)
            if text:
                log.warning("%s: %s", self._name, text)


def readable(line: str, key: str) -> str:
    """Pure: a line of smg's without keys and colours; empty for its banner, a picture in
    braille."""
    if _BANNER.search(line):
        return ""
    text = _COLOURS.sub("", line).strip().replace(key, "***")
    return redact(text)


async def _tell(process: Process, order: dict[str, object]) -> None:
    assert process.stdin
    with contextlib.suppress(ConnectionError):  # it ended at once, and wait() says how
        process.stdin.write(json.dumps(order).encode())
        await process.stdin.drain()
        process.stdin.close()


def _two_ports() -> tuple[int, int]:
    """Free ones, for the router and for its metrics."""
    with socket.socket() as one, socket.socket() as other:
        one.bind((smg.HOST, 0))
        other.bind((smg.HOST, 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _listens(pid: int, port: int) -> bool:
    """Whether it is this process that answers on ``port``, and nobody who took it before."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(
        each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port
        for each in connections
    )
