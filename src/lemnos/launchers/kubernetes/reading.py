"""Logs of pods: read from the cluster while they are there, kept when they go."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence

from lemnos.launchers import logs
from lemnos.launchers.kubernetes.client import Client
from lemnos.launchers.kubernetes.parse import Container, Pod
from lemnos.launchers.kubernetes.watching import lines_of, spawned
from lemnos.launchers.site import Site
from lemnos.spec.unit import LogFile
from lemnos.wire.redact import redact

KEPT = 10_000
"""Lines of a log that are kept when its pod goes."""
LATE_S = 5.0
"""The last words of a pod that is gone are waited for so long."""
BEGIN_S = 2.0
"""A log that is to be followed says something within that, or nothing."""
IN_POD = "pod/"


class Logs:
    """Of one deployment's pods; kept ones are in its directory, as ``JobFiles`` says."""

    def __init__(self, client: Client, site: Site) -> None:
        self._client, self._site = client, site
        self._following: dict[str, list[threading.Thread]] = {}

    def of(self, name: str, pods: Sequence[Pod]) -> tuple[LogFile, ...]:
        """One for each container, the first rank's first."""
        found: dict[str, LogFile] = {}
        for pod in sorted(pods, key=lambda pod: (pod.deleted, pod.rank)):
            for each in pod.containers:
                job = job_of(name, pod, each)
                path = f"{IN_POD}{pod.name}/{each.name}"
                role = each.name.removesuffix(f"-{_number(each.name)}")
                log = LogFile(job=job, role=role, host=pod.node, path=path)
                found.setdefault(job, log)
        return tuple(found.values())

    def kept(self, name: str, ranks: int) -> tuple[LogFile, ...]:
        """Those of a unit that has no pods any more."""
        files = self._site.files(name)
        return tuple(
            LogFile(
                job=f"{name}.{rank}" if rank else name,
                role=name.rpartition("-")[0],
                host="",
                path=files.log_of(rank),
            )
            for rank in range(ranks)
        )

    def read(self, log: LogFile, lines: int) -> list[str]:
        """The last lines, of the container before a restart too; of what was kept where its pod is gone."""
        transport = self._site.transport
        if not log.path.startswith(IN_POD):
            self._wait(log.job.partition(".")[0])
            return logs.last_lines(transport, log.path, lines)
        said = self._both(log.path, lines)
        if said is None:
            self._wait(log.job.partition(".")[0])
            return logs.last_lines(transport, self._file(log.job), lines)
        return said

    def keep(self, name: str, pods: Sequence[Pod], *, follow: bool) -> None:
        """Write what its pods have said into the deployment's directory; with ``follow`` what they will say
        until they end, too."""
        for log in self.of(name, pods):
            said = self._both(log.path, KEPT)
            if said is None:
                continue
            self._write(log.job, said)
            if follow:
                begun = threading.Event()
                args = (log, begun)
                thread = threading.Thread(target=self._follow, args=args, daemon=True)
                thread.start()
                self._following.setdefault(name, []).append(thread)
                begun.wait(BEGIN_S if said else 0.2)

    def _follow(self, log: LogFile, begun: threading.Event) -> None:
        pod, _, container = log.path.removeprefix(IN_POD).partition("/")
        words = ("logs", pod, f"--container={container}", "--follow", f"--tail={KEPT}")
        said: list[str] = []
        with tempfile.TemporaryFile() as errors:
            argv = self._client.argv(*words)
            with spawned(self._client.transport, argv, errors) as child:
                for line in lines_of(child, threading.Event()):
                    begun.set()
                    said.append(line.decode(errors="replace"))
        begun.set()
        if said:
            self._write(log.job, said)

    def _both(self, path: str, lines: int) -> list[str] | None:
        """The last lines, those of the container before a restart first."""
        said = self._said(path, lines)
        if said is not None and len(said) < lines:
            said = [*(self._said(path, lines, "--previous") or ()), *said][-lines:]
        return said

    def _said(self, path: str, lines: int, *more: str) -> list[str] | None:
        """None where there is no such pod, or its container has not begun."""
        pod, _, container = path.removeprefix(IN_POD).partition("/")
        words = ("logs", pod, f"--container={container}", f"--tail={lines}", *more)
        done = self._client.ask(*words)
        return redact(done.out).splitlines() if done.code == 0 else None

    def _wait(self, name: str) -> None:
        for thread in self._following.pop(name, []):
            thread.join(LATE_S)

    def _write(self, job: str, lines: Sequence[str]) -> None:
        text = redact("\n".join([*lines, ""]))
        self._site.transport.write(self._file(job), text.encode())

    def _file(self, job: str) -> str:
        name, _, rank = job.partition(".")
        return self._site.files(name).log_of(int(rank or 0))


def job_of(name: str, pod: Pod, each: Container) -> str:
    """``engine-0``, ``engine-0.1``: the job that a container runs."""
    number = _number(each.name)
    rank = int(number) if number and len(pod.containers) > 1 else pod.rank
    return f"{name}.{rank}" if rank else name


def _number(name: str) -> str:
    last = name.rpartition("-")[2]
    return last if last.isdecimal() else ""
