"""One pass of the supervisor over many replicas: prints a Markdown table.

    uv run python benchmarks/reconciling.py [--replicas 10,100,1000]

A pass is what happens each tick: the launcher asks its machine room and reads the units' files,
``lifecycle.tick`` decides, the state goes to the database. Launchers, files and database are real; what
squeue, qstat and systemctl print is told by this script, a whole job each as real ones print
it. Five passes, from nothing to ready: the slowest of each part counts. Each line is a process of
its own, whose peak memory counts whole: interpreter, imports, and the text that is told.
Wanted: 1,000 replicas in under 1 s and 100 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lemnos.deployments import lifecycle
from lemnos.deployments.state import (
    GATEWAY,
    Effect,
    JobSeen,
    Observed,
    Probe,
    ProbeEndpoint,
    Publish,
    Rules,
    Start,
    State,
)
from lemnos.launchers.registry import launcher_for
from lemnos.launchers.site import Site
from lemnos.records.store import Store
from lemnos.spec.place import Place
from lemnos.spec.plan import Command, Job, Plan
from lemnos.spec.status import Phase
from lemnos.spec.unit import Unit, UnitStatus
from lemnos.transport.base import Done
from lemnos.transport.here import Here

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data"
NAME = "many"
SYSTEMD = """\
Result=success
NRestarts=0
MainPID={pid}
ExecMainStartTimestampMonotonic=5146014327
ExecMainCode=0
ExecMainStatus=0
Id=lemnos-many-{name}.service
Description=lemnos many/{name} [me]
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
"""


def main() -> None:
    """Measure, print, and exit 0 whatever the figures are: they are not a test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", default="10,100,1000")
    parser.add_argument("--room", choices=ROOMS, help="one line's figures as JSON")
    options = parser.parse_args()
    counts = [int(count) for count in options.replicas.split(",")]
    if options.room:
        sys.stdout.write(json.dumps(measured(options.room, counts[0])) + "\n")
        return
    sys.stdout.write("| room | replicas | status s | tick s | save s | pass s | of it CPU s | peak MB |\n")  # fmt: skip
    sys.stdout.write("|---|---|---|---|---|---|---|---|\n")
    for room in ROOMS:
        for count in counts:
            words = [sys.executable, __file__, "--room", room, "--replicas", str(count)]
            told = subprocess.run(words, check=True, capture_output=True, text=True)
            one = json.loads(told.stdout)
            parts = " | ".join(f"{one[p]:.3f}" for p in ("status", "tick", "save", "pass", "cpu"))  # fmt: skip
            sys.stdout.write(f"| {room} | {count} | {parts} | {one['mb']:.0f} |\n")
            sys.stdout.flush()


def measured(room: str, count: int) -> dict[str, float]:
    """The slowest of each part, in seconds, and the process's peak memory."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["LEMNOS_HOME"] = home
        plan = _plan(room)
        site = Site(NAME, plan.spec, Told(), f"{home}/site", "", Path(home), "me")
        names = [f"engine-{number}" for number in range(count)]
        fill: Callable[[Site, Sequence[str]], Told] = ROOMS[room][1]
        told = fill(site, names)
        site = Site(NAME, plan.spec, told, site.directory, "", Path(home), "me")
        store = Store()
        store.add_revision(plan, "http://127.0.0.1:5366")
        return _passes(site, store, count)


@dataclass
class Times:
    """The slowest of each part so far, and the most of the processor's time."""

    status: float = 0.0
    tick: float = 0.0
    save: float = 0.0
    whole: float = 0.0
    cpu: float = 0.0

    def take(self, cpu: float, *moments: float) -> None:
        first, looked, ticked, saved = moments
        self.cpu = max(self.cpu, cpu)
        self.status = max(self.status, looked - first)
        self.tick = max(self.tick, ticked - looked)
        self.save = max(self.save, saved - ticked)
        self.whole = max(self.whole, saved - first)


def _passes(site: Site, store: Store, count: int) -> dict[str, float]:
    """From nothing to ready, and once more when nothing changes."""
    state, effects = lifecycle.begin(1, count, 1000.0), list[Effect]()
    times = Times()
    for number in range(5):
        first, cpu = time.perf_counter(), time.process_time()
        units = launcher_for(site).status()  # anew: nothing is remembered
        looked = time.perf_counter()
        seen = _seen(state, units if number else {}, effects, 1000.0 + 10 * number)
        state, effects = lifecycle.tick(state, seen, Rules(lead_s=300.0))
        ticked = time.perf_counter()
        store.update(NAME, state=state.model_dump_json(), phase=state.phase, stage="")
        cpu = time.process_time() - cpu
        times.take(cpu, first, looked, ticked, time.perf_counter())
        _check(number, effects, units, count)
    assert state.phase == Phase.ready, state.phase
    found = {"status": times.status, "tick": times.tick, "save": times.save}
    return found | {"pass": times.whole, "cpu": times.cpu, "mb": _peak_mb()}


def _seen(
    state: State, units: dict[str, UnitStatus], effects: Sequence[Effect], now: float
) -> Observed:
    """What a supervisor would have seen after ``effects``: each probe succeeded."""
    probed = {effect.job for effect in effects if isinstance(effect, Probe)}
    asked = any(isinstance(effect, ProbeEndpoint) for effect in effects)
    if units:
        units = {**units, GATEWAY: UnitStatus(state="running")}
    jobs = {
        name: JobSeen(unit=unit, probe=True if name in probed else None)
        for name, unit in units.items()
    }
    return Observed(
        now=now,
        wanted="running",
        revision=1,
        replicas={1: len(state.jobs) - 1},
        jobs=jobs,
        endpoint=True if asked else None,
    )


def _check(
    number: int, effects: Sequence[Effect], units: dict[str, UnitStatus], count: int
) -> None:
    """The passes are those that they are meant to be."""
    running = [unit for unit in units.values() if unit.state == "running" and unit.url]
    assert len(running) == count, (len(running), next(iter(units.values()), None))
    kinds = {0: Start, 1: Probe, 2: Publish}
    if kind := kinds.get(number):
        assert any(isinstance(effect, kind) for effect in effects), effects[:3]


def _peak_mb() -> float:
    """Of this process since its start; ru_maxrss would count the one that started it."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def _plan(room: str) -> Plan:
    import lemnos

    on = ROOMS[room][0]
    example = ROOT / "examples/embedded/deployment.yaml"
    return lemnos.plan(example, on=on, name=NAME)


# ---------------------------------------------------------------- what rooms say


class Told(Here):
    """Files are real; a command that has one of ``answers``' words is answered with its text."""

    def __init__(self, **answers: Callable[[Sequence[str]], str]) -> None:
        self._answers = {name.replace("_", "-"): a for name, a in answers.items()}

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        name = next((word for word in argv if word in self._answers), "")
        if name:
            return Done(0, self._answers[name](argv), "")
        return super().run(*argv, stdin=stdin, timeout_s=timeout_s)


def _slurm_json(site: Site, names: Sequence[str]) -> Told:
    _register(site, names)
    job = json.loads((DATA / "slurm/job-24.11.json").read_text())
    job |= {"comment": "COMMENT", "job_id": "JOB"}
    one = json.dumps(job).replace('"JOB"', "{id}", 1)
    before, _, after = one.partition("COMMENT")
    middle = ((before + site.mark(n) + after).replace("{id}", str(i)) for i, n in enumerate(names, 1))  # fmt: skip
    text = f'{{"jobs": [{", ".join(middle)}]}}'
    return Told(squeue=lambda _: text, sinfo=lambda _: "slurm-wlm 24.11.5")


def _slurm_plain(site: Site, names: Sequence[str]) -> Told:
    _register(site, names)
    lines = (
        f"{i}|RUNNING|None|0|0|1795231271|1795231271|1795231391|n{i}|{site.mark(n)}|\n"
        for i, n in enumerate(names, 1)
    )
    text = "".join(lines)
    return Told(squeue=lambda _: text, sinfo=lambda _: "slurm 22.05.8")


def _pbs(site: Site, names: Sequence[str]) -> Told:
    _register(site, names)
    jobs = json.loads((DATA / "pbs/qstat-f.json").read_text())["Jobs"]
    running = next(job for job in jobs.values() if job["job_state"] == "R")

    texts = {}
    for number, name in enumerate(names, 1):
        own = running["Variable_List"] | {"LEMNOS_JOB": site.mark(name)}
        job = json.dumps(running | {"Variable_List": own})
        texts[f"{number}.login"] = f'"{number}.login": {job}'

    def qstat(argv: Sequence[str]) -> str:
        known = ", ".join(texts[word] for word in argv if word in texts)
        return f'{{"timestamp": 1795228374, "Jobs": {{{known}}}}}'

    return Told(qstat=qstat)


def _systemd(site: Site, names: Sequence[str]) -> Told:
    for name in names:
        number = int(name.partition("-")[2])
        job = Job(
            deployment=NAME,
            role="engine",
            index=number,
            command=Command(argv=("serve", name)),
            port=4000 + number,
            log=f"{site.directory}/{name}.log",
        )
        place = Place(port=4000 + number)
        unit = Unit(deployment=NAME, name=name, jobs=(job,), place=place)
        _write(site, name, "unit.json", unit.model_dump_json())
    listed = "".join(f"lemnos-many-{name}.service enabled enabled\n" for name in names)
    shown = "\n".join(SYSTEMD.format(name=n, pid=p) for p, n in enumerate(names, 100))
    return Told(list_unit_files=lambda _: listed, show=lambda _: shown)


def _register(site: Site, names: Sequence[str]) -> None:
    """What jobs write as they start, and launchers as they submit them."""
    for number, name in enumerate(names, 1):
        job = f"{number}.login" if site.spec.on == "pbs" else number
        here = {"id": job, "attempt": 0, "host": f"n{number}", "hosts": [f"n{number}"]}
        here |= {"port": 4000, "inner_port": 4001, "time": 1795231271}
        _write(site, name, "here.json", json.dumps(here) + "\n")
        _write(site, name, "job", f"{job}\n")
        _write(site, name, "unit.json", json.dumps({"mark": site.mark(name)}) + "\n")


def _write(site: Site, unit: str, file: str, text: str) -> None:
    path = Path(site.unit_directory(unit)) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


ROOMS: dict[str, tuple[str, Callable[[Site, Sequence[str]], Told]]] = {
    "Slurm 24.11, JSON": ("slurm", _slurm_json),
    "Slurm 22.05, plain": ("slurm", _slurm_plain),
    "PBS, JSON": ("pbs", _pbs),
    "systemd": ("systemd", _systemd),
}


if __name__ == "__main__":
    main()
