"""Two deployments share a box with two GPUs, without a scheduler: what `--on local` does, proven on real GPUs.

    python benchmarks/local_gpus.py --venv DIR [--out DIR] [--only together,kills] [--budget-s 540]

Needs two GPUs of which nobody else holds memory, and an environment with vLLM (its version is ENGINE_VERSION).
The models are made on the spot and have no weights (``load-format: dummy``). Every step prints what it found; results.json
and results.md in ``--out`` hold all of it, and the deployments' logs are beside them. What a later step needs of an earlier one
it brings up itself, so that steps can be run alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from local_gpus_box import (  # noqa: E402
    RATE,
    Box,
    Load,
    ask,
    empty,
    environ,
    gpu_processes,
    holders,
    lives,
    processes,
    suppressed,
    title,
    waited,
)

SAFE = {
    "engine_env.VLLM_ALLREDUCE_USE_SYMM_MEM": "'0'",
    "engine_env.VLLM_FLASHINFER_ALLREDUCE_BACKEND": "trtllm",
    "engine_env.NCCL_NVLS_ENABLE": "'0'",
}
"""For one model on several GPUs of a virtual machine: nothing that uses NVLink's multicast. What lemnos sets by
itself there is checked first; this is in addition."""


def serving(box: Box, name: str, model: str) -> None:
    """``name`` is up, on one GPU, with 8 requests at once."""
    if box.status(name):
        waited(lambda: box.status(name).get("phase") == "ready", 240)
        return
    code, _, said = box.up(name, box.plan(name, model))
    if code:
        raise RuntimeError(f"{name} does not start: {said}")


def answers(box: Box, name: str) -> bool:
    """Whether a real completion comes through the endpoint."""
    status = box.status(name)
    try:
        found = ask(status["url"], served(status))
    except Exception as error:
        box.say(f"    {name}: {error}")
        return False
    return bool(found["usage"]["completion_tokens"] >= 1)


def served(status: dict[str, Any]) -> str:
    return str(status["model"])


def device_of(box: Box, name: str) -> str:
    """CUDA_VISIBLE_DEVICES of the engine's process, from /proc."""
    return environ(box.engine(name)).get("CUDA_VISIBLE_DEVICES", "not set")


def together(box: Box) -> None:
    """Two starts at the same moment; a GPU for each."""
    plans = {n: box.plan(n, m) for n, m in (("one", "dense"), ("two", "moe"))}
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: box.up(name, plans[name]), plans))
    for name, (code, took, said) in zip(plans, found, strict=True):
        box.note("together", f"up {name}", code == 0, f"{took} s {said[-200:]}")
    devices = {name: device_of(box, name) for name in plans}
    box.note("together", "a GPU each", len(set(devices.values())) == 2, devices)
    box.note("together", "MiB in use", min(holders().values()) > 10_000, holders())
    box.note("together", "who holds them", None, _gpus_by_deployment(box))
    for name in plans:
        box.note("together", f"{name} answers", answers(box, name))
    for name in plans:
        box.note("together", f"processes of {name}", None, family(box, name))


def family(box: Box, name: str) -> str:
    """All processes of the engine's session, and whether each still shows its mark."""
    leader = box.engine(name).pid
    found = []
    for process in processes():
        with suppressed():
            if os.getsid(process.pid) == leader:
                name = title(process)[-40:]
                marked = "LEMNOS_JOB" in environ(process)
                found.append(f"{name} ({'marked' if marked else 'no mark'})")
    return "; ".join(found)


def _gpus_by_deployment(box: Box) -> str:
    sessions = {p.pid: n for n in ("one", "two", "both") for p in box.marked(n)}
    found = []
    for pid, gpu in gpu_processes().items():
        with suppressed():
            name = sessions.get(os.getsid(pid), "nobody of ours")
            found.append(f"GPU {gpu}: {name} (pid {pid})")
    return ", ".join(sorted(found)) or "the driver does not tell"


def third(box: Box) -> None:
    """Both GPUs are taken: another start is refused, and leaves nothing."""
    serving(box, "one", "dense")
    serving(box, "two", "moe")
    code, took, said = box.up("three", box.plan("three", "dense"))
    refused = code != 0 and "free GPU" in said
    box.note("third", "refused, with the reason", refused, f"{took} s: {said}")
    names = [row["name"] for row in box.json("ps")]
    box.note("third", "nothing of it is left", "three" not in names, names)


def kills(box: Box) -> None:
    """kill -9 of one engine's API process, and of the other's worker, which holds the GPU."""
    serving(box, "one", "dense")
    serving(box, "two", "moe")
    status = {name: box.status(name) for name in ("one", "two")}
    first = box.engine("one")
    second = box.engine("two")
    workers = [
        p for p in second.children(recursive=True) if "EngineCore" in title(p)
    ] or second.children()
    orphans = first.children(recursive=True)
    with (
        Load(status["one"]["url"], served(status["one"])) as load_one,
        Load(status["two"]["url"], served(status["two"])) as load_two,
    ):
        time.sleep(2)
        box.say(f"kills {first.pid}, and {workers[0].pid} ({title(workers[0])})")
        first.kill()
        workers[0].kill()
        began = time.monotonic()
        for name, pid in (("one", first.pid), ("two", second.pid)):
            back = waited(lambda n=name, p=pid: _is_back(box, n, p), 180)  # type: ignore[misc]
            took = round(time.monotonic() - began, 1)
            box.note("kills", f"{name} is back", back is not None, f"{took} s")
        time.sleep(2)
    alive = [p.pid for p in orphans if p.is_running() and lives(p)]
    box.note("kills", "orphans of the killed one", not alive, alive)
    box.note("kills", "load on one", None, load_one.told())
    box.note("kills", "load on two", None, load_two.told())
    devices = {name: device_of(box, name) for name in status}
    box.note("kills", "a GPU each", len(set(devices.values())) == 2, devices)
    box.note("kills", "who holds them", None, _gpus_by_deployment(box))
    for name in status:
        why = box.status(name).get("why", "")
        box.note("kills", f"what ps says of {name}", None, why[:200])


def _is_back(box: Box, name: str, pid: int) -> bool:
    status = box.status(name)
    return status.get("phase") == "ready" and [p.pid for p in box.marked(name)] not in (
        [],
        [pid],
    )


def stop_first(box: Box) -> None:
    """A new revision where both GPUs are taken: the old one makes room for it."""
    serving(box, "one", "dense")
    serving(box, "two", "moe")
    _revision(box, "stop-first", "one", box.plan("one", "dense", 16), works=True)


def refused(box: Box) -> None:
    """A new revision that vLLM refuses, where the old one had to stop for it: that one comes back."""
    serving(box, "one", "dense")
    serving(box, "two", "moe")
    bad = Path(box.plan("one", "dense", 12))
    text = bad.read_text().replace("context: 2048", "context: 100000")
    bad.write_text(text)
    before = box.status("one")
    began = time.monotonic()
    with Load(before["url"], served(before)) as load:
        code, took, said = box.up("one", str(bad))
        back = waited(lambda: box.status("one").get("phase") == "ready", 180)
        time.sleep(2)
    box.note("refused", "up fails, with the engine's words", code != 0, said[-300:])
    box.note("refused", "it took", None, f"{took} s")
    whole = round(time.monotonic() - began, 1)
    after = box.status("one")
    same = after.get("revision") == before.get("revision")
    box.note(
        "refused",
        "the old revision serves again",
        bool(back is not None and same and answers(box, "one")),
        f"{whole} s",
    )
    box.note("refused", "load", None, load.told())
    box.note("refused", "history", None, _history(box, "one"))


def side_by_side(box: Box) -> None:
    """A new revision where a GPU is free: beside the old one, and nobody notices."""
    serving(box, "one", "dense")
    if box.marked("two"):
        box.lemnos("down", "two")
    _revision(box, "side-by-side", "one", box.plan("one", "dense", 24), works=True)


def _revision(box: Box, how: str, name: str, path: str, works: bool) -> None:
    before = box.status(name)
    device = device_of(box, name)
    with Load(before["url"], served(before)) as load:
        time.sleep(2)
        code, took, said = box.up(name, path)
        time.sleep(4)
    box.note(how, "up", (code == 0) == works, f"{took} s {said[-200:]}")
    after = box.status(name)
    newer = after.get("revision", 0) > before.get("revision", 0)
    box.note(how, "the new revision serves", newer and answers(box, name))
    box.note(how, "GPU before and after", None, f"{device} and {device_of(box, name)}")
    none = None if how == "stop-first" else not load.failed
    box.note(how, f"{RATE:g} requests/s", none, load.told())
    events = _events(box, name)
    box.note(how, "chosen by itself", f"({how})" in events, events)


def _events(box: Box, name: str) -> str:
    """What the supervisor noted last."""
    from lemnos.records.store import Store

    return "; ".join(event.text for event in Store().events(name)[-10:])


def _history(box: Box, name: str) -> str:
    return box.lemnos("history", name).stdout[-400:].replace("\n", " / ")


def supervisor(box: Box) -> None:
    """The supervisor killed: what serves goes on and is found again; then with its engine dead too."""
    serving(box, "one", "dense")
    status, engine = box.status("one"), box.engine("one")
    os.kill(status["supervisor_pid"], signal.SIGKILL)
    time.sleep(0.5)
    gone = box.status("one")
    box.note("supervisor", "ps says so", not gone["supervisor_alive"], gone["phase"])
    box.note("supervisor", "it serves on", answers(box, "one"))
    path = box.last("one")
    code, took, said = box.up("one", path)
    same = [p.pid for p in box.marked("one")] == [engine.pid]
    box.note("supervisor", "found again", code == 0 and same, f"{took} s {said[-200:]}")
    children = engine.children(recursive=True)
    os.kill(box.status("one")["supervisor_pid"], signal.SIGKILL)
    engine.kill()
    time.sleep(1)
    left = [title(p) for p in children if lives(p)]
    box.note("supervisor", "left by a dead engine", None, left)
    code, took, said = box.up("one", path)
    box.note("supervisor", "up again", code == 0, f"{took} s {said[-200:]}")
    alive = [title(p) for p in children if p.is_running() and lives(p)]
    box.note("supervisor", "nothing of the dead engine is left", not alive, alive)
    box.note("supervisor", "who holds GPUs", None, _gpus_by_deployment(box))


def both(box: Box) -> None:
    """One model on both GPUs."""
    for name in ("one", "two"):
        if box.status(name):
            box.lemnos("down", name)
    path = box.plan("both", "dense", tensor=2)
    if _multicast(box, path):
        box.note("both", "lemnos would use NVLink's multicast here", False)
        return
    code, took, said = box.up("both", path, **SAFE)
    box.note("both", "up with TP=2", code == 0, f"{took} s {said[-300:]}")
    if code:
        return
    engine = box.engine("both")
    box.note("both", "its GPUs", None, device_of(box, "both"))
    words = [w for w in engine.cmdline() if "fuse_allreduce" in w]
    box.note("both", "no fused all-reduce", bool(words), words)
    shown = {k: v for k, v in environ(engine).items() if "NVLS" in k or "ALLRED" in k}
    box.note("both", "settings of NCCL and vLLM", None, shown)
    box.note("both", "answers", answers(box, "both"))
    box.note("both", "who holds them", None, _gpus_by_deployment(box))


def _multicast(box: Box, path: str) -> bool:
    """Whether the launcher would let ranks use it: on shared hosts that must never be."""
    import lemnos
    from lemnos.deployments.units import launcher_of

    made = lemnos.plan(path, name="both", on="local", settings=[f"venv={box.venv}"])
    return launcher_of(made).place(made, "engine-0", dry=True).multicast


def down(box: Box) -> None:
    """Nothing is left: no process, no memory on a GPU."""
    done = box.lemnos("down", "--all")
    box.note("down", "down --all", done.returncode == 0)
    left = [
        f"{p.pid} {title(p)}"
        for p in processes()
        if str(box.home) in environ(p).get("LEMNOS_JOB", "") or "VLLM::" in title(p)
    ]
    box.note("down", "processes left", not left, left)
    freed = waited(empty, 10)
    box.note("down", "GPU memory left", freed is not None, holders())


STEPS: dict[str, Callable[[Box], None]] = {
    "together": together,
    "third": third,
    "kills": kills,
    "stop-first": stop_first,
    "refused": refused,
    "side-by-side": side_by_side,
    "supervisor": supervisor,
    "both": both,
    "down": down,
}


def main() -> int:
    """Every step, whatever becomes of the others; 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", required=True)
    parser.add_argument("--out", default="local-gpus")
    parser.add_argument("--home", default="/tmp/local-gpus")
    parser.add_argument("--only", default=",".join(STEPS))
    parser.add_argument("--budget-s", type=float, default=3600.0)
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    box = Box(options)
    box.note("box", "MiB in use before", None, holders())
    for name in options.only.split(","):
        if time.monotonic() - box.began > options.budget_s:
            box.note(name, "no time is left for it", None)
            continue
        began = time.monotonic()
        try:
            STEPS[name](box)
        except Exception as error:
            box.note(name, "could not be tried", False, repr(error)[:300])
        box.say(f"{name} took {time.monotonic() - began:.0f} s")
    with tarfile.open(box.out / "logs.tgz", "w:gz") as packed:
        for path in sorted(box.home.rglob("*.log")):
            packed.add(path, path.relative_to(box.home))
    return int(any(row["ok"] is False for row in box.rows))


if __name__ == "__main__":
    sys.exit(main())
