"""``lemnos gateway`` and ``lemnos keys``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lemnos.cli.output import Json, err, out, print_json, table

if TYPE_CHECKING:
    from lemnos.gateway.revisions import GatewayFiles, Revision
    from lemnos.spec.targets import ClientKey, Target, TargetTable

app = typer.Typer(
    help="One endpoint before many targets: local ones, deployments, and clouds behind them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
keys_app = typer.Typer(
    help="Clients' keys: models, rates and budgets for each.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(help="The gateway.yaml.")]
Gateway = Annotated[
    str | None,
    typer.Option("--name", help="Which gateway; not needed when there is only one."),
]
TargetName = Annotated[
    str, typer.Argument(metavar="TARGET", help="As `lemnos gateway status` shows it.")
]
KeysFile = Annotated[
    Path | None,
    typer.Option(help="The file of keys; by default the one that is in use."),
]


@app.command("check")
def check(file: File, as_json: Json = False) -> None:
    """Show what a file would do: routes in order, and what to mind. Changes nothing."""
    from lemnos.deployments import gateways

    wanted = gateways.compile_file(file)
    if as_json:
        print_json(_checked(wanted.revision, wanted.warnings))
        return
    _warn(wanted.warnings)
    _show_routes(wanted.revision.table)


@app.command("apply")
def apply(file: File, as_json: Json = False) -> None:
    """Put a file in force; a running gateway has it within a second, and drops no request."""
    from lemnos.deployments import gateways

    files, revision, new = _apply(file)
    if gateways.runs_otherwise(files, gateways.gateway_job(files, revision)):
        _warn(
            (
                "the address, certificate or ledger is another than that of the running "
                f"gateway: `lemnos gateway stop {files.name}`, then run it again",
            )
        )
    if as_json:
        print_json({"revision": revision.number, "new": new})
        return
    out().print(_applied(revision, new), markup=False)


@app.command("run")
def run(
    file: File,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay; Ctrl-C ends it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a file in force and serve it; return when the gateway listens."""
    from lemnos.deployments import gateways

    files, revision, new = _apply(file)
    if foreground:
        err().print(_applied(revision, new), markup=False)
        gateways.stay(files, revision)
    started = gateways.start(files, revision)
    url = f"{revision.listen.url}/v1"
    if as_json:
        print_json({"url": url, "revision": revision.number, "started": started})
        return
    out().print(_applied(revision, new), markup=False)
    out().print(f"{'listens at' if started else 'runs at'} {url}", markup=False)


@app.command("stop")
def stop(
    name: Annotated[str | None, typer.Argument(help="Which gateway.")] = None,
    as_json: Json = False,
) -> None:
    """End a gateway when its open requests are done."""
    from lemnos.deployments import gateways

    files = gateways.resolve(name)
    stopped = gateways.stop(files)
    if as_json:
        print_json({"name": files.name, "stopped": stopped})
        return
    said = "is stopped" if stopped else "did not run"
    out().print(f"gateway {files.name} {said}", markup=False)


@app.command("status")
def status(name: Gateway = None, as_json: Json = False) -> None:
    """Show the gateways, and the routes that are in force."""
    from lemnos.deployments import gateways
    from lemnos.gateway import revisions

    found = [gateways.resolve(name)] if name else revisions.gateways()
    seen = [
        (files, revisions.current(files), gateways.pid_of(files)) for files in found
    ]
    if as_json:
        print_json([_status(*each) for each in seen])
        return
    if not seen:
        err().print("no gateway was applied; `lemnos gateway run FILE`", markup=False)
    for files, revision, pid in seen:
        assert revision is not None
        state = f"runs as process {pid}" if pid else "is stopped"
        out().print(
            f"{files.name} {state}: {revision.listen.url}/v1, revision {revision.number}"
            f" of {revision.source}",
            markup=False,
        )
        _show_routes(revision.table)


@app.command("history")
def history(name: Gateway = None, as_json: Json = False) -> None:
    """List what was applied, when, and why."""
    from lemnos.deployments import gateways
    from lemnos.gateway import revisions

    files = gateways.resolve(name)
    done, now = revisions.history(files), revisions.current(files)
    if as_json:
        print_json([{"in_force": r == now, **_told(r)} for r in done])
        return
    grid = table("revision", "when", "what", "models", "targets", "keys")
    for r in done:
        told = _told(r)
        grid.add_row(
            f"{r.number}{' *' if r == now else ''}",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(r.at)),
            r.why,
            *(str(told[key]) for key in ("models", "targets", "keys")),
        )
    out().print(grid)


@app.command("rollback")
def rollback(
    revision: Annotated[
        int | None, typer.Argument(help="Which; the one before by default.")
    ] = None,
    name: Gateway = None,
    as_json: Json = False,
) -> None:
    """Put an earlier revision in force again, as a new one. Keys stay those of now."""
    from lemnos.deployments import gateways
    from lemnos.gateway import revisions

    made = revisions.rollback(gateways.resolve(name), revision)
    if as_json:
        print_json({"revision": made.number, "why": made.why})
        return
    out().print(f"revision {made.number}: {made.why}", markup=False)


@app.command("drain")
def drain(target: TargetName, name: Gateway = None, as_json: Json = False) -> None:
    """Send a target nothing new; what it serves goes on."""
    _drain(target, name, True, as_json)


@app.command("undrain")
def undrain(target: TargetName, name: Gateway = None, as_json: Json = False) -> None:
    """Send a target requests again."""
    _drain(target, name, False, as_json)


@keys_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Whose key; for the ledger too.")],
    models: Annotated[
        str | None, typer.Option(help="The models it may ask for (commas between).")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests at the same time.")
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option(min=0, help="US dollars that it may spend ...")
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="... in so many days (30 by default).")
    ] = None,
    keys_file: KeysFile = None,
    as_json: Json = False,
) -> None:
    """Make a key, and print it this once: only its digest is kept."""
    from lemnos.deployments import gateways
    from lemnos.gateway import keys
    from lemnos.spec.targets import ClientKey

    path = (keys_file or gateways.default_keys_file()).expanduser().absolute()
    limits = {
        "models": [m.strip() for m in models.split(",") if m.strip()]
        if models
        else None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrency": concurrency,
        "budget_usd": budget_usd,
        "budget_days": days,
    }
    trial = ClientKey(name=name, sha256="0" * 64, budget_usd=budget_usd)
    gateways.check_key(path, trial)
    secret, made = keys.add_key(path, name, **limits)
    where = gateways.spread_keys(path, f"key {name} added")
    if as_json:
        print_json({"key": secret, "in_force": where, **_key(made)})
        return
    sys.stdout.write(secret + "\n")
    err().print(f"{name}: kept as a digest in {path}; shown this once", markup=False)
    _say_where(where)


@keys_app.command("ls")
def ls(keys_file: KeysFile = None, as_json: Json = False) -> None:
    """List the keys and their limits."""
    from lemnos.deployments import gateways
    from lemnos.gateway import keys

    path = (keys_file or gateways.default_keys_file()).expanduser()
    found = keys.read_keys(path)
    if as_json:
        print_json([_key(key) for key in found])
        return
    grid = table("name", "models", "requests/min", "tokens/min", "at once", "budget")
    for key in found:
        grid.add_row(
            key.name,
            ", ".join(key.models) if key.models is not None else "all",
            str(key.requests_per_minute or "-"),
            str(key.tokens_per_minute or "-"),
            str(key.concurrency or "-"),
            _budget(key),
        )
    out().print(grid)


@keys_app.command("rm")
def rm(
    name: Annotated[str, typer.Argument(help="Whose key.")],
    keys_file: KeysFile = None,
    as_json: Json = False,
) -> None:
    """Remove a key: it opens nothing from now on."""
    from lemnos.deployments import gateways
    from lemnos.gateway import keys

    path = (keys_file or gateways.default_keys_file()).expanduser().absolute()
    left = keys.remove_key(path, name)
    where = gateways.spread_keys(path, f"key {name} removed")
    if as_json:
        print_json({"removed": name, "left": len(left), "in_force": where})
        return
    out().print(f"removed {name}", markup=False)
    _say_where(where)
    if not left and where:
        err().print(
            "no key is left: only your own processes on this machine are served, and no cloud is asked",
            markup=False,
        )


def _apply(file: Path) -> tuple[GatewayFiles, Revision, bool]:
    from lemnos.deployments import gateways
    from lemnos.gateway import revisions

    wanted = gateways.compile_file(file)
    _warn(wanted.warnings)
    return (wanted.files, *revisions.apply(wanted.files, wanted.revision))


def _applied(revision: Revision, new: bool) -> str:
    said = "is in force" if new else "says the same already"
    return f"revision {revision.number} {said}"


def _drain(target: str, name: str | None, drained: bool, as_json: bool) -> None:
    from lemnos.deployments import gateways
    from lemnos.gateway import revisions

    files = gateways.resolve(name)
    made, new = revisions.drain(files, target, drained=drained)
    if as_json:
        print_json({"revision": made.number, "new": new})
        return
    what = "gets nothing new" if drained else "is asked again"
    out().print(f"{target} {what} (revision {made.number})", markup=False)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        err().print(f"note: {warning}", markup=False)


def _say_where(where: list[str]) -> None:
    said = "; ".join(where) or "nothing that runs names this file yet"
    err().print(f"in force: {said}", markup=False)


def _show_routes(shown: TargetTable) -> None:
    grid = table("model", "policy", "target", "as", "speaks", "USD in/out per M", "")
    for route in shown.routes:
        names = ", ".join((route.model, *route.aliases))
        policy = route.policy + (f" {route.within_ms:g} ms" if route.within_ms else "")
        for target in route.targets:
            grid.add_row(names, policy, *_cells(target, shown.drained))
        for path in route.registered:
            whose = f"replicas of {Path(path).parent.name}"
            grid.add_row(names, policy, whose, "", "", "-", "")
        for target in route.cloud:
            grid.add_row(names, policy, *_cells(target, shown.drained))
    out().print(grid)


def _cells(target: Target, drained: tuple[str, ...]) -> tuple[str, ...]:
    price = target.price
    asked = f"{price.input:g}/{price.output:g} ({price.as_of})" if price else "-"
    speaks = ", ".join(target.apis) if target.kind == "cloud" else "what it has"
    state = "drained" if target.name in drained else ""
    return target.name, target.model or "", speaks, asked, state


def _checked(revision: Revision, warnings: tuple[str, ...]) -> dict[str, Any]:
    shown = revision.table.model_dump(mode="json", exclude={"keys", "revision"})
    return {"warnings": warnings, "keys": len(revision.table.keys), **shown}


def _told(revision: Revision) -> dict[str, Any]:
    from lemnos.gateway.compile import all_targets

    return {
        "revision": revision.number,
        "at": revision.at,
        "why": revision.why,
        "source": revision.source,
        "models": len(revision.table.routes),
        "targets": len(list(all_targets(revision.table))),
        "keys": len(revision.table.keys),
    }


def _status(
    files: GatewayFiles, revision: Revision | None, pid: int | None
) -> dict[str, Any]:
    assert revision is not None
    url = f"{revision.listen.url}/v1"
    routes = revision.table.model_dump(mode="json")["routes"]
    return {"name": files.name, "pid": pid, "url": url, "log": str(files.log)} | {
        **_told(revision),
        "routes": routes,
    }


def _budget(key: ClientKey) -> str:
    if key.budget_usd is None:
        return "-"
    return f"{key.budget_usd:g} USD in {key.budget_days:g} days"


def _key(key: ClientKey) -> dict[str, Any]:
    """A key for programs: without its digest, which is nobody's concern."""
    return key.model_dump(mode="json", exclude={"sha256"})
