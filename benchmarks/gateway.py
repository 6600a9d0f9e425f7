"""The gateway's figures beside its peers', in one run: prints Markdown tables.

    sh scripts/uv run python benchmarks/gateway.py [small|stream|open|failover|all]
        [--peers litellm,nginx,smg,vllm-router] [--seconds N] [--rounds N]

The system under test has a core to itself; the load generator and two mock engines, both in C,
share another. Systems take turns, and the best of the rounds counts, since the machine may have
other work; ``noise`` says how much of the core others took. lemnos runs with everything on:
keys with limits, prefix routing over two replicas, metrics, request log, ledger. Peers that
do not install are left out, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gateway_parts import runs, systems
from gateway_parts.runs import Bench, Figures, Running
from gateway_parts.systems import Command, Setting

from lemnos.errors import LemnosError

Make = Callable[[Setting], Command]
Measure = Callable[[Bench, Running, float], Figures]
Found = dict[str, Figures]
RUNS = ("small", "stream", "open", "failover")
SHORT_S, LONG_S = 5.0, 60.0
WANTED = (
    ("small", "cpu_us", "CPU us/request", 250.0),
    ("small", "requests_per_s", "requests/s", 4000.0),
    ("small", "added_p50_us", "added p50 us at 50/s", 600.0),
    ("small", "added_p99_us", "added p99 us at 50/s", 2000.0),
    ("stream", "chunks_per_s", "chunks/s", 40_000.0),
    ("stream", "relay_p50_us", "relay p50 us, 64 streams", 120.0),
    ("open", "streams", "streams open to the end", 1000.0),
    ("open", "growth_mib", "MiB grown meanwhile", 2.0),
    ("failover", "failed", "failed requests", 0.0),
)
"""Issue 7's: run, figure, its name in the table, what is wanted. More is better of what
``MORE`` names, less of the rest."""
MORE = ("requests_per_s", "chunks_per_s", "streams")


def main() -> None:
    """Measure and print; exit 0 whatever the figures are: they are not a test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="all", choices=[*RUNS, "all"])
    parser.add_argument("--peers", default=",".join(systems.PEERS))
    parser.add_argument(
        "--seconds", type=float, help="of a measurement; 5, and 60 of open and failover"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = [name for name in options.peers.split(",") if name]
    unknown = [name for name in names if name not in systems.PEERS]
    if unknown:
        parser.error(f"there is no peer {unknown[0]}: {', '.join(systems.PEERS)}")
    makes: dict[str, Make] = {"lemnos": systems.lemnos}
    makes |= {name: systems.PEERS[name] for name in names}
    wanted = RUNS if options.run == "all" else (options.run,)
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            runs.bench(Path(directory), secrets.token_hex(32)) as bench,
        ):
            found = _measure(bench, makes, wanted, options.seconds, options.rounds)
    except LemnosError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(_verdicts(found))


def _measure(
    bench: Bench,
    makes: dict[str, Make],
    wanted: tuple[str, ...],
    seconds: float | None,
    rounds: int,
) -> dict[str, Found]:
    """Every run's figures, each system's by its name; tables are printed as they are ready."""
    found: dict[str, Found] = {}
    short, long = seconds or SHORT_S, seconds or LONG_S
    with contextlib.ExitStack() as stack:
        tested = _started(stack, bench, makes)
        direct = Running("direct", bench.engines[0], None)
        for run, measure in (("small", runs.small), ("stream", runs.stream)):
            if run in wanted:
                taken = [
                    _turns(bench, measure, [direct, *tested], short)
                    for _ in range(rounds)
                ]
                best = {
                    name: runs.best([one[name] for one in taken]) for name in taken[0]
                }
                found[run] = _added(best)
                _print(run, found[run])
        if "open" in wanted:
            found["open"] = _turns(bench, runs.open_streams, tested, long)
            _print("open", found["open"])
    if "failover" in wanted:
        found["failover"] = {
            one.name: runs.failover(bench, one.name, makes[one.name], long)
            for one in tested
        }
        _print("failover", found["failover"])
    return found


def _started(
    stack: contextlib.ExitStack, bench: Bench, makes: dict[str, Make]
) -> list[Running]:
    found = []
    for name, make in makes.items():
        try:
            system = runs.running(bench, name, make, bench.engines)
            found.append(stack.enter_context(system))
        except LemnosError as error:
            if name not in systems.PEERS:
                raise
            sys.stdout.write(f"{name} is left out: {error}\n")
            sys.stdout.flush()
    return found


def _turns(
    bench: Bench, measure: Measure, tested: list[Running], seconds: float
) -> Found:
    """One measurement of each system."""
    found: Found = {}
    for system in tested:
        with runs.turn(system):
            found[system.name] = measure(bench, system, seconds)
    return found


def _added(found: Found) -> Found:
    """With the latencies less those of the engine itself."""
    direct = found["direct"]
    for name, figures in found.items():
        for part in ("p50_us", "p99_us"):
            if part in figures and name != "direct":
                figures[f"added_{part}"] = max(0.0, figures[part] - direct[part])
    return found


def _print(run: str, found: Found) -> None:
    columns = COLUMNS[run]
    lines = [f"\n| {run} | " + " | ".join(columns.values()) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, figures in found.items():
        cells = [_cell(column, figures.get(column)) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


COLUMNS = {
    "small": {
        "cpu_us": "CPU us/request",
        "requests_per_s": "requests/s",
        "alone_per_s": "without the noise",
        "added_p50_us": "added p50 us at 50/s",
        "added_p99_us": "added p99 us",
        "p50_us": "p50 us",
        "p99_us": "p99 us",
        "failed": "failed",
        "noise": "noise",
    },
    "stream": {
        "chunks_per_s": "chunks/s, 64,000 offered",
        "cpu_us": "CPU us/chunk",
        "begun": "of 64 begun",
        "relay_p50_us": "relay p50 us, 64 x 50/s",
        "relay_p99_us": "relay p99 us",
        "lost": "streams lost",
        "noise": "noise",
    },
    "open": {
        "streams": "streams open to the end",
        "idle_mib": "MiB before",
        "begin_mib": "MiB after 5 s",
        "end_mib": "MiB at the end",
        "growth_mib": "grown MiB",
    },
    "failover": {
        "answered": "answered",
        "failed": "failed",
        "kills": "kills",
        "p99_ms": "p99 ms",
        "max_ms": "max ms",
    },
}


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if column == "noise":
        return f"{value:.0%}"
    if column.endswith(("_mib", "_ms")) or (column == "cpu_us" and value < 100):
        return f"{value:,.1f}"
    return f"{value:,.0f}"


def _verdicts(found: dict[str, Found]) -> str:
    """lemnos's figures against those that are wanted, and each peer's as a multiple of them."""
    lines = ["\n| lemnos | wanted | got | | peers / lemnos |", "|---|---|---|---|---|"]
    for run, figure, title, want in WANTED:
        if run not in found:
            continue
        got = found[run]["lemnos"].get(figure)
        more = figure in MORE
        met = got is not None and (got >= want if more else got <= want)
        limit = f"{'>=' if more else '<='} {want:,.0f}"
        cells = [title, limit, _cell(figure, got), "met" if met else "MISSED"]
        ratios = _ratios(found[run], figure)
        lines.append("| " + " | ".join([*cells, ratios]) + " |")
    return "\n".join(lines) + "\n"


def _ratios(found: Found, figure: str) -> str:
    own = found["lemnos"].get(figure)
    return ", ".join(
        f"{name} {figures[figure] / own:.2g}"
        for name, figures in found.items()
        if name in systems.PEERS and own and figure in figures
    )


if __name__ == "__main__":
    main()
