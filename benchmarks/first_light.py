"""The figures of a first start, on one machine in one run: prints JSON and a table.

    uv run python benchmarks/first_light.py [--fresh] [--repeats 5]

- start to ready with the model at hand (median), and its parts;
- tokens/s through lemnos against the same engine called directly (interleaved; medians);
- ``lemnos --help`` against ``python -c "import typer, rich"``, whole processes (medians);
- installed size of the product without the model;
- ``--fresh``: clone this repository, and time sync, download and start to the first
  completion, with the package manager's cache as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print, and exit 0 whatever the figures are: they are not a test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="lemnos-bench-") as scratch:
        home = Path(scratch)
        models = os.environ.get("LEMNOS_MODELS", str(home / "models"))
        env = os.environ | {"LEMNOS_HOME": str(home), "LEMNOS_MODELS": models}
        figures |= help_time(options.repeats * 2, env)
        figures |= start_time(options.repeats, env)
        figures |= relay_speed(options.repeats, env)
        figures |= installed_size(home)
        if options.fresh:
            figures |= fresh_clone(home)
    show(figures)


def help_time(repeats: int, env: dict[str, str]) -> dict[str, float]:
    """``lemnos --help`` and its floor, interleaved; medians of whole processes."""
    lemnos = [str(Path(sys.executable).with_name("lemnos")), "--help"]
    floor = [sys.executable, "-c", "import typer, rich"]
    times: dict[str, list[float]] = {"help": [], "floor": []}
    for _ in range(repeats):
        times["floor"].append(timed(lambda: run(floor, env)))
        times["help"].append(timed(lambda: run(lemnos, env)))
    help_s, floor_s = (statistics.median(times[key]) for key in ("help", "floor"))
    return {
        "help_s": help_s,
        "import_typer_rich_s": floor_s,
        "help_ratio": help_s / floor_s,
    }


def start_time(repeats: int, env: dict[str, str]) -> dict[str, float]:
    """``lemnos up`` with the model at hand: the whole command, and what it measured itself."""
    first = up(env)
    down(env)
    found: list[dict[str, Any]] = []
    for _ in range(repeats):
        began = time.monotonic()
        measured = up(env)
        found.append(measured | {"command_s": time.monotonic() - began})
        down(env)
    return {
        "first_pull_s": first["pull_s"],
        "up_command_s": statistics.median(f["command_s"] for f in found),
        "start_to_ready_s": statistics.median(f["ready_s"] for f in found),
        "of_which_engine_and_gateway_s": statistics.median(f["start_s"] for f in found),
    }


def relay_speed(repeats: int, env: dict[str, str]) -> dict[str, float]:
    """Tokens/s of one stream through the endpoint and from the engine's own port."""
    from gateway_overhead import compare

    up(env)
    try:
        state = Path(env["LEMNOS_HOME"]) / "state" / "deployments"
        (deployment,) = (path for path in state.iterdir() if path.is_dir())
        table = json.loads((deployment / "targets.json").read_text())
        route = table["routes"][0]
        key = Path(route["targets"][0]["key_file"]).read_text()
        ps = json.loads(run_lemnos(["ps", "--json"], env))
        return compare(
            direct=route["targets"][0]["base_url"],
            direct_key=key,
            through=ps[0]["url"],
            model=route["model"],
            repeats=repeats * 2,
        )
    finally:
        down(env)


def installed_size(home: Path) -> dict[str, float]:
    """Bytes of an environment with the product alone, without the model."""
    target = home / "env"
    env = os.environ | {"UV_PROJECT_ENVIRONMENT": str(target)}
    env.pop("VIRTUAL_ENV", None)
    run([uv(), "sync", "-q", "--no-dev", "--no-editable", "--project", str(ROOT)], env)
    size = sum(
        path.stat().st_blocks * 512
        for path in target.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    return {"installed_mb": size / 1e6}


def fresh_clone(home: Path) -> dict[str, float]:
    """Clone to first completion in the steps that ``make up`` takes."""
    clone = home / "clone"
    env = os.environ | {"LEMNOS_HOME": str(home / "fresh")}
    for name in ("VIRTUAL_ENV", "LEMNOS_MODELS"):
        env.pop(name, None)
    clone_s = timed(lambda: run(["git", "clone", "-q", str(ROOT), str(clone)], env))
    sync_s = timed(lambda: run([uv(), "sync", "-q", "--no-dev"], env, cwd=clone))
    lemnos = str(clone / ".venv" / "bin" / "lemnos")
    try:
        measured = json.loads(run([lemnos, "up", "--json"], env))
    finally:
        run([lemnos, "down", "--all", "--now"], env)
    return {
        "fresh_clone_s": clone_s,
        "fresh_sync_s": sync_s,
        "fresh_download_s": measured["pull_s"],
        "fresh_start_s": measured["start_s"],
        "fresh_total_s": clone_s + sync_s + measured["ready_s"],
    }


def up(env: dict[str, str]) -> dict[str, Any]:
    got: dict[str, Any] = json.loads(run_lemnos(["up", "--json"], env))
    return got


def down(env: dict[str, str]) -> None:
    run_lemnos(["down", "--all", "--now"], env)


def run_lemnos(words: list[str], env: dict[str, str]) -> str:
    return run([sys.executable, "-m", "lemnos", *words], env)


def run(command: list[str], env: dict[str, str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def uv() -> str:
    from uv import find_uv_bin

    return shutil.which("uv") or str(find_uv_bin())


def show(figures: dict[str, float]) -> None:
    rounded = {key: round(value, 3) for key, value in figures.items()}
    table = Table("figure", "value")
    for key, value in rounded.items():
        table.add_row(key, f"{value:g}")
    Console(stderr=True).print(table)
    sys.stdout.write(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
