"""The fake's server, and what its commands answer: ``python -m tests.testbeds.fake_pbs.server DIR``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.testbeds.fake_pbs.asked import Asked, RefusedError, asked
from tests.testbeds.fake_pbs.jobs import USER, Job, now
from tests.testbeds.fake_pbs.running import Running
from tests.testbeds.fake_pbs.shown import as_json, as_list, as_text


class Server(Running):
    """Its commands."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.queues: dict[str, dict[str, Any]] = {
            "workq": {"enabled": "True", "started": "True"},
            "short": {
                "enabled": "True",
                "started": "True",
                "resources_max": {"walltime": "01:00:00"},
            },
            "closed": {"enabled": "False", "started": "True"},
        }

    async def answer(
        self, program: str, request: dict[str, Any]
    ) -> tuple[str, str, int]:
        argv, env = request["argv"], request["env"]
        if program == "pbs_tmrsh":
            return await self.tmrsh(argv, env)
        try:
            if program == "qsub":
                return (
                    self.qsub(asked(argv, env, request["cwd"], request["stdin"])),
                    "",
                    0,
                )
            if program == "qstat":
                return self.qstat(argv, env.get("TZ", ""))
            if program == "qselect":
                return self.qselect(argv), "", 0
            if program == "pbsnodes":
                return as_json("nodes", self.shown_nodes(), ""), "", 0
            if program == "qsig" and argv[0] == "--lose":
                self.lose(argv[1])
                return "", "", 0
            return self.each(program, argv)
        except RefusedError as refusal:
            return "", f"{refusal.said}\n", refusal.code

    def qsub(self, wanted: Asked) -> str:
        queue = wanted.options.get("q", self.config.default_queue)
        if not queue:
            raise RefusedError("qsub: No default queue specified", 189)
        if queue not in self.queues:
            raise RefusedError("qsub: Unknown queue", 170)
        if self.queues[queue]["enabled"] != "True":
            raise RefusedError("qsub: Queue is not enabled", 173)
        wanted.options["q"] = queue
        if queue == "short" and (wanted.walltime_s or 0) > 3600:
            raise RefusedError(
                "qsub: Job violates queue and/or server resource limits", 188
            )
        job = Job(len(self.jobs), wanted, self.directory)
        job.times["ctime"] = now()
        self.jobs[job.id] = job
        unknown = [i for _, i in wanted.depends if i not in self.jobs]
        if unknown:  # the server aborts it
            job.state, job.substate, job.exit_status = "F", 92, None
        if "h" in wanted.options:
            job.state, job.substate, job.hold = "H", 20, "u"
        self.soon()
        return f"{job.id}\n"

    def qstat(self, argv: list[str], tz: str) -> tuple[str, str, int]:
        flags = [word for word in argv if word.startswith("-")]
        names = [w for w in argv if not w.startswith("-") and w != "json"]
        if "-Q" in flags:
            shown = {
                name: {"queue_type": "Execution", **q}
                for name, q in self.queues.items()
            }
            return as_json("Queue", shown, tz), "", 0
        if "-B" in flags:
            server = {
                "server_state": "Active",
                "default_queue": self.config.default_queue,
            }
            return as_text({"login": server}, tz, "Server: "), "", 0
        if "-x" in flags and not self.config.history:
            said = "qstat: PBS is not configured to maintain job history\n"
            return (as_json("Jobs", {}, tz) if "-F" in flags else ""), said, 0
        found, err, code = {}, "", 0
        for name in names or self.jobs:
            job = self.jobs.get(name if "." in name else f"{name}.login")
            if job is None or (job.over and not self.config.history):
                err += f"qstat: Unknown Job Id {name if '.' in name else name + '.login'}\n"
                code = 153
            elif job.over and "-x" not in flags:
                if names:
                    err += (
                        f"qstat: {job.id} Job has finished, use -x or -H to obtain "
                        "historical job information\n"
                    )
                    code = 35
            else:
                found[job.id] = job.attributes()
        if "-f" not in flags:
            return as_list(found), err, code
        if "-F" not in flags:
            return as_text(found, tz), err, code
        out = as_json("Jobs", found, tz)
        if self.config.broken_json:
            out = out.replace(
                '"PBS_O_SYSTEM"', '"ODD":\t"a \\x tab",\n\t\t\t\t"PBS_O_SYSTEM"'
            )
        return out, err, code

    def qselect(self, argv: list[str]) -> str:
        given = dict(zip(argv[::2], argv[1::2], strict=True))
        return "".join(
            f"{job.id}\n"
            for job in self.jobs.values()
            if not job.over
            and given.get("-u", USER) == USER
            and given.get("-N", job.name) == job.name
            and job.state in given.get("-s", job.state)
        )

    def each(self, program: str, argv: list[str]) -> tuple[str, str, int]:
        """qdel and qsig, for each job named."""
        err, code, force, number = "", 0, False, signal.SIGTERM
        names = list(argv)
        if "-W" in names:
            at = names.index("-W")
            force = names[at + 1] == "force"
            del names[at : at + 2]
        if "-s" in names:
            at = names.index("-s")
            number = _signal(names[at + 1])
            del names[at : at + 2]
        for name in names:
            whole = name if "." in name else f"{name}.login"
            job = self.jobs.get(whole)
            try:
                if job is None or (job.over and not self.config.history):
                    raise RefusedError(f"{program}: Unknown Job Id {whole}", 153)
                if job.over:
                    raise RefusedError(f"{program}: Job has finished {whole}", 35)
                if program == "qdel":
                    self.delete(job, force)
                elif job.state != "R":
                    raise RefusedError(
                        f"qsig: Request invalid for state of job {whole}", 168
                    )
                else:
                    job.signal(number)
            except RefusedError as refusal:
                err, code = f"{err}{refusal.said}\n", refusal.code
        return "", err, code

    async def tmrsh(self, argv: list[str], env: dict[str, str]) -> tuple[str, str, int]:
        """pbs_tmrsh.c: the host must be in PBS_NODEFILE; the words are run as they are."""
        words = list(argv)
        while words and words[0] == "-n":
            words.pop(0)
        if len(words) < 2:
            return (
                "",
                "usage: pbs_tmrsh [-n][-l username] host [-n][-l username] command\n",
                255,
            )
        if "PBS_ENVIRONMENT" not in env:
            return "", "pbs_tmrsh: not executing under PBS\n", 255
        host, *command = words
        job = self.jobs[env["PBS_JOBID"]]
        if host not in job.nodes:
            said = f'pbs_tmrsh: host "{host}" is not a node in job <{job.id}>\n'
            return "", said, 255
        if not self.nodes[host].up:
            return "", f'pbs_tmrsh: tm_spawn: host "{host}" err TM_ESYSTEM\n', 255
        child = await self.spawn(job, host, command)
        code = await child.wait()
        job.sessions.pop(child.pid, None)
        return "", "", (code if code >= 0 else 256 - code) & 255

    def shown_nodes(self) -> dict[str, Any]:
        shown = {}
        for name, node in self.nodes.items():
            jobs = [
                j for j in self.jobs.values() if j.state in "RE" and name in j.nodes
            ]
            used: dict[str, float] = {}
            for held in (h for j in jobs for h in j.held if h.node == name):
                for key, value in held.numbers.items():
                    used[key] = used.get(key, 0) + value
            own: dict[str, Any] = {
                "Mom": name,
                "ntype": "PBS",
                "state": "free" if node.up else "down",
                "pcpus": 2,
            }
            if jobs:
                own["jobs"] = [job.id for job in jobs]
            own["resources_available"] = {
                "arch": "linux",
                "host": name,
                "mem": f"{int(node.mem) // 1024}kb",
                "ncpus": node.ncpus,
                "ngpus": node.ngpus,
                "vnode": name,
                **node.words,
            }
            own["resources_assigned"] = {
                k: f"{int(v) // 1024}kb" if k == "mem" else int(v)
                for k, v in used.items()
            }
            shown[name] = own
        return shown


def _signal(name: str) -> signal.Signals:
    word = name.removeprefix("SIG")
    try:
        return (
            signal.Signals(int(word))
            if word.isdigit()
            else signal.Signals[f"SIG{word}"]
        )
    except (KeyError, ValueError):
        raise RefusedError("qsig: Unknown/illegal signal name", 165) from None


async def main(directory: Path) -> None:
    server = Server(directory)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            request = json.loads(await reader.readline())
            out, err, code = await server.answer(request["program"], request)
            writer.write(
                json.dumps({"out": out, "err": err, "code": code}).encode() + b"\n"
            )
            await writer.drain()
            writer.close()

    os.chdir(directory)
    listening = await asyncio.start_unix_server(serve, "socket", limit=2**24)
    await over.wait()
    server.stop()
    listening.close()
    for task in server.tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
