"""The deployment's pods as they are now: one list, then one long answer of the API server that a thread reads.

``kubectl get --raw`` passes the API's own watch on, a line of JSON for each change. It begins at the version of the list, so that nothing
between is missed, and again from the last version when the server ends it, as it does every few minutes; a version
that is too old leads to a new list. Asking for the state costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from lemnos.errors import LemnosError
from lemnos.launchers.kubernetes.client import Client
from lemnos.launchers.kubernetes.parse import (
    History,
    Pod,
    folded,
    pod_of,
    status_of,
)
from lemnos.launchers.kubernetes.words import refused
from lemnos.spec.unit import UnitStatus
from lemnos.transport.base import Transport
from lemnos.transport.forwards import tethered
from lemnos.transport.ssh import Ssh

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0
"""Between tries while the cluster cannot be asked, doubled from one to the next."""
WATCH_S = 240
"""After that the server ends the watch; one that says nothing for longer than SILENT_S is dead."""
SILENT_S = WATCH_S + 60
NOBODY: list[Pod] = []
NOTHING = History()
START_S = 30.0
"""The first list is waited for so long."""


class Pods:
    """All pods with the labels of ``selector``, and what was seen of units before."""

    def __init__(self, client: Client, selector: str) -> None:
        self._client, self._selector = client, quote(selector, safe="")
        self._units: dict[str, list[Pod]] = {}
        self._histories: dict[str, History] = {}
        self._statuses: dict[str, tuple[list[Pod], History, int, UnitStatus]] = {}
        self._error: LemnosError | None = None
        self._known = threading.Event()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def now(self) -> tuple[dict[str, list[Pod]], dict[str, History]]:
        """Pods and histories by unit. Raises LemnosError while the cluster cannot be asked."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, daemon=True)
            self._thread.start()
        if not self._known.wait(START_S):
            raise LemnosError("the API server does not answer", where="kubernetes")
        with self._changed:
            if self._error:
                raise self._error
            return dict(self._units), dict(self._histories)

    def status(self, name: str, hosts: int) -> UnitStatus:
        """Of a unit of ``hosts`` pods, by what was told last: worked out again only where that has changed."""
        with self._changed:
            pods = self._units.get(name, NOBODY)
            history = self._histories.get(name, NOTHING)
        known = self._statuses.get(name)
        if known and known[0] is pods and known[1] is history and known[2] == hosts:
            return known[3]
        found = status_of(name, pods, history, hosts)
        self._statuses[name] = (pods, history, hosts, found)
        return found

    def wait(
        self, until: Callable[[dict[str, list[Pod]]], bool], within_s: float
    ) -> bool:
        """Whether the pods became so in that time. Raises LemnosError as ``now`` does."""
        done = threading.Event()

        def look() -> bool:
            return self._error is not None or until(self._units)

        self.now()
        with self._changed:
            if self._changed.wait_for(look, within_s):
                done.set()
            if self._error:
                raise self._error
        return done.is_set()

    def forget(self, unit: str) -> None:
        """What was seen of it does not count for its next start."""
        with self._changed:
            self._histories.pop(unit, None)

    def close(self) -> None:
        """End the watch."""
        self._closing.set()
        child = self._child
        if child:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        if self._thread:
            self._thread.join(START_S)

    # ------------------------------------------------------------ the thread

    def _keep(self) -> None:
        wait_s = FIRST_WAIT_S
        version = ""
        while not self._closing.is_set():
            try:
                version = version or self._list()
                self._tell(None)
                wait_s = FIRST_WAIT_S
                version = self._follow(version)
            except (LemnosError, ValueError, KeyError) as error:
                self._tell(_told(error))
                version = ""
                self._closing.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _list(self) -> str:
        """All of them as they are; the version of that. Raises LemnosError."""
        told = self._client.raw(self._path())
        found = [pod_of(obj) for obj in told.get("items", [])]
        with self._changed:
            self._units = {}
            for pod in found:
                self._units.setdefault(pod.unit, []).append(pod)
                self._fold(pod)
            self._changed.notify_all()
        return str(told["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> str:
        """Read changes from ``version`` on until the answer ends; from where to go on, or empty for a
        new list. Raises LemnosError where it could not be asked for."""
        first = version
        path = f"{self._path()}&watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&resourceVersion={version}"
        argv = self._client.argv("get", "--raw", path)
        with tempfile.TemporaryFile() as said:
            with spawned(self._client.transport, argv, said) as child:
                self._child = child
                for line in lines_of(child, self._closing):
                    if not line.startswith(b"{"):
                        continue  # a login shell's greeting
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        child.kill()
                        return ""  # too old, most often: the list says what else
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._take(event["type"], pod_of(event["object"]))
                code = child.wait()
            said.seek(0)
            words = said.read().decode(errors="replace")
        if code <= 0 or self._closing.is_set():
            return version
        if version != first:
            return ""  # it was cut, as by a server that restarts: the list says whether it answers
        raise refused(words, "the pods cannot be watched")

    def _take(self, how: str, pod: Pod) -> None:
        with self._changed:
            self._fold(pod)
            others = [p for p in self._units.get(pod.unit, ()) if p.uid != pod.uid]
            now = others if how == "DELETED" else [*others, pod]
            self._units |= {pod.unit: now}
            if not now:
                del self._units[pod.unit]
            self._changed.notify_all()

    def _fold(self, pod: Pod) -> None:
        before = self._histories.get(pod.unit, NOTHING)
        self._histories[pod.unit] = folded(before, pod)

    def _tell(self, error: LemnosError | None) -> None:
        with self._changed:
            self._error = error
            self._known.set()
            self._changed.notify_all()

    def _path(self) -> str:
        there = f"/api/v1/namespaces/{self._client.namespace()}/pods"
        return f"{there}?labelSelector={self._selector}"


def _told(error: Exception) -> LemnosError:
    """What nobody expected in an answer is an error too, and no end of the thread."""
    if isinstance(error, LemnosError):
        return error
    what = f"the cluster's answer cannot be read ({error!r})"
    return LemnosError(what, where="kubernetes")


@contextlib.contextmanager
def spawned(
    transport: Transport, argv: Sequence[str], said: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that runs there and ends with us; ``said`` is its standard error."""
    if isinstance(transport, Ssh):
        # Without a terminal ssh leaves what it started alone; its input's end is the sign.
        script = (
            f"exec 3<&0; {shlex.join(argv)} 3<&- & child=$!; "
            "(cat <&3 >/dev/null; kill $child 2>/dev/null) & wait $child"
        )
        child = transport.start(script)
    else:
        child = subprocess.Popen(
            tethered(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        elif child.stderr:
            said.write(child.stderr.read())
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream:
                stream.close()
        child.wait()


def lines_of(
    child: subprocess.Popen[bytes], closing: threading.Event
) -> Iterator[bytes]:
    """Whole lines as they come, until the child ends or says nothing for SILENT_S."""
    assert child.stdout
    rest = b""
    while not closing.is_set():
        ready, _, _ = select.select([child.stdout], [], [], SILENT_S)
        if not ready:
            child.kill()
            return
        data = os.read(child.stdout.fileno(), 1 << 20)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from (line for line in whole if line)
