"""The fake's scheduler and moms: when jobs run, where, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbeds.fake_pbs.asked import RefusedError
from tests.testbeds.fake_pbs.jobs import (
    USER,
    Held,
    Job,
    Node,
    fitted,
    kill_all_of,
    kill_session,
    now,
)

NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@dataclass
class Config:
    """What a test may change."""

    nodes: list[str] = field(default_factory=lambda: list(NODES))
    words: dict[str, str] = field(default_factory=dict)
    """Of every node: ``{"gpu_model": "h200"}``."""
    history: bool = True
    kill_delay_s: float = 10.0
    late_s: float = 0.0
    """How late an end by walltime comes: mom looks at times now and then."""
    end_s: float = 0.1
    """From the top process's end to F."""
    broken_json: bool = False
    """A variable with a control character, as qstat prints it."""
    default_queue: str = "workq"


class Running:
    """The nodes and jobs of one PBS."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = Config(**json.loads((directory / "config.json").read_text()))
        self.nodes = {n: Node(n, words=self.config.words) for n in self.config.nodes}
        self.jobs: dict[str, Job] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        (directory / "aux").mkdir()
        (directory / "spool").mkdir()

    def soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self.schedule())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def schedule(self) -> None:
        used: dict[str, dict[str, float]] = {}
        for job in self.jobs.values():
            for held in job.held if job.state in "RE" else ():
                own = used.setdefault(held.node, {})
                for key, value in held.numbers.items():
                    own[key] = own.get(key, 0) + value
        for job in list(self.jobs.values()):
            if job.state not in "QH" or job.hold == "u" or job.runs > 20:
                continue
            job.state, job.hold = ("Q", "n") if self.free_to_go(job) else ("H", "s")
            if job.state == "H":
                continue
            found = fitted(job.asked, self.nodes.values(), used)
            if isinstance(found, str):
                job.comment = found
                continue
            await self.start(job, found)
            return self.soon()
        return None

    def free_to_go(self, job: Job) -> bool:
        return all(
            self.jobs[other].runs or self.jobs[other].over
            for kind, other in job.asked.depends
            if kind == "after"
        )

    async def start(self, job: Job, held: list[Held]) -> None:
        if job.direct and not Path(job.output).parent.is_dir():
            job.state, job.substate, job.hold = "H", 20, "s"
            job.comment = "job held, too many failed attempts to run"
            job.runs, job.exit_status = 21, -3
            return
        job.held, job.state, job.substate = held, "R", 42
        job.runs += 1
        job.times["stime"] = now()
        nodes = "+".join(f"({h.node}:ncpus=1)" for h in held)
        job.comment = f"Job run at {_moment()} on {nodes}"
        lines = "".join(f"{held.node}\n" for held in held)
        (self.directory / "aux" / job.id).write_text(lines)
        script = self.directory / "spool" / f"{job.id}.SC"
        script.write_text(job.asked.script)
        command = job.asked.argv or ["/bin/bash", "-l", str(script)]
        try:
            child = await self.spawn(job, job.nodes[0], command)
        except OSError:
            job.exit_status = 254
            await self.end(job)
            return
        job.top = child.pid
        task = asyncio.get_running_loop().create_task(self.live(job, child, job.runs))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        if job.asked.walltime_s is not None:
            asyncio.get_running_loop().call_later(
                job.asked.walltime_s + self.config.late_s, self.overlimit, job, job.runs
            )

    async def spawn(
        self, job: Job, node: str, command: list[str]
    ) -> asyncio.subprocess.Process:
        """A task: a session of its own, in the user's home."""
        spool = self.directory / "spool" / f"{job.id}.OU"
        path = job.output if job.direct else str(spool)
        with open(path, "ab") as output:  # as mom does: appended to
            child = await asyncio.create_subprocess_exec(
                *command,
                env=job.environment(node),
                cwd=job.home,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        job.sessions[child.pid] = node
        return child

    async def live(self, job: Job, child: asyncio.subprocess.Process, run: int) -> None:
        code = await child.wait()
        if job.lost or job.runs != run or job.state != "R":
            return
        job.exit_status = code if code >= 0 else 256 - code
        await self.end(job)

    async def end(self, job: Job) -> None:
        """The top process has ended, so all of it does."""
        job.state, job.substate = "E", 51
        job.signal(signal.SIGKILL, all_nodes=True)
        await asyncio.sleep(self.config.end_s)
        spool = self.directory / "spool" / f"{job.id}.OU"
        if not job.direct and spool.exists() and job.output != "/dev/null":
            Path(job.output).write_bytes(spool.read_bytes())
        if job.forced is not None:
            job.exit_status = job.forced
        job.sessions.clear()
        job.state = "F"
        job.substate = 91 if job.deleted else 93 if job.exit_status else 92
        if job.forced == -29:
            job.comment += " and exceeded resource walltime"
        elif not job.deleted:
            job.comment += " and failed" if job.exit_status else " and finished"
        job.times["obittime"] = job.times["mtime"] = now()
        self.soon()

    def overlimit(self, job: Job, run: int) -> None:
        if job.state != "R" or job.runs != run:
            return
        job.forced = -29
        said = f"=>> PBS: job killed: walltime {int(now() - job.times['stime'])} exceeded limit {int(job.asked.walltime_s or 0)}\n"
        path = job.output if job.direct else self.directory / "spool" / f"{job.id}.OU"
        with contextlib.suppress(OSError), open(path, "a") as output:
            output.write(said)
        self.terminate(job)

    def terminate(self, job: Job) -> None:
        job.signal(signal.SIGTERM)
        sessions = dict(job.sessions)

        def kill() -> None:
            for session in sessions if job.state == "R" else ():
                kill_session(session, signal.SIGKILL)

        asyncio.get_running_loop().call_later(self.config.kill_delay_s, kill)

    def delete(self, job: Job, force: bool) -> None:
        """req_delete.c: forced, SIGKILL at once; else SIGTERM, and later SIGKILL."""
        if job.state == "E":
            raise RefusedError(f"qdel: Request invalid for state of job {job.id}", 168)
        down = job.nodes and not self.nodes[job.nodes[0]].up
        if job.state == "R" and down and not force:
            raise RefusedError(f"qdel: Server could not connect to MOM {job.id}", 222)
        job.deleted = True
        if "terminated" not in job.comment:
            job.comment += f" and terminated by {USER}@login"
        if job.state != "R" or down:
            job.state, job.substate = "F", 91
            self.soon()
        elif force:
            job.signal(signal.SIGKILL)
        else:
            self.terminate(job)

    def lose(self, name: str) -> None:
        node = self.nodes[name]
        node.up = False
        kill_all_of(f"{self.directory}/{name}")
        for job in self.jobs.values():
            if job.state != "R" or name not in job.nodes:
                continue
            job.signal(signal.SIGKILL, all_nodes=True)
            job.sessions.clear()
            if job.asked.options.get("r", "y") == "y":
                job.state, job.substate, job.held, job.top = "Q", 10, [], 0
            else:
                job.state, job.substate, job.exit_status = "F", 93, -20
        self.soon()

    def stop(self) -> None:
        for job in self.jobs.values():
            job.signal(signal.SIGKILL, all_nodes=True)
            job.lost = True


def _moment() -> str:
    return time.strftime("%a %b %d at %H:%M")
