"""``lemnos up``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lemnos.cli import options
from lemnos.cli.output import DownloadBars, Json, err, out, print_json, size, table
from lemnos.errors import UsageError

if TYPE_CHECKING:
    from lemnos.deployments.endpoint import Endpoint
    from lemnos.spec.place import OpenPort
    from lemnos.spec.plan import Embedded, Job, Plan
    from lemnos.spec.status import Status
    from lemnos.spec.unit import Rendered


def up(
    model: options.Model = None,
    name: options.DeploymentName = None,
    port: options.Port = None,
    host: options.Host = None,
    api_key_file: options.KeyFile = None,
    context: options.Context = None,
    concurrency: options.Concurrency = None,
    served_name: options.ServedName = None,
    revision: options.Revision = None,
    file: options.File = None,
    on: options.On = None,
    via: options.Via = None,
    cluster: options.Cluster = None,
    set_: options.Set = None,
    ready_timeout: Annotated[
        float | None, typer.Option(help="Seconds that a start may take.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan and commands; start nothing."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="With --dry-run: write the files of each unit below here."),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", "-d", help="Return as soon as all is on its way."),
    ] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay; Ctrl-C takes it down.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve a model; return when a real completion works."""
    changes: dict[str, Any] = {
        "name": name,
        "port": port,
        "host": host,
        "api_key_file": api_key_file,
        "context": context,
        "concurrency": concurrency,
        "served_name": served_name,
        "revision": revision,
        "file": file,
        "on": on,
        "via": via,
        "ready_timeout_s": ready_timeout,
        "settings": set_ or None,
    }
    import lemnos

    if dry_run:
        made = lemnos.plan(model, cluster=cluster, **changes)
        if output:
            _write(made, output, as_json)
        else:
            show_plan(made, as_json, commands=True)
        return
    if output:
        raise UsageError("--output is for --dry-run")
    # A closed terminal or a `kill` ends a start as Ctrl-C does: nothing is left half-done.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    with DownloadBars() as bars, Stages(bars) as stages:
        endpoint = lemnos.up(
            model,
            progress=bars,
            watch=stages.show,
            wait=not detach,
            cluster=cluster,
            **changes,
        )
    _show_endpoint(endpoint, as_json)
    if foreground:
        _stay(endpoint.name)


class Stages:
    """One line on the terminal that says what is going on while a deployment starts."""

    def __init__(self, bars: DownloadBars | None = None) -> None:
        self._bars = bars
        self._console = err()
        self._live: Any = None
        self._said = ""
        self._planned = False

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, status: Status) -> None:
        """A change of status: the plan's reasons once, then each stage."""
        if not self._planned and status.revision == status.wanted:
            self._planned = True
            if self._bars:  # a terminal has one live display at a time
                self._bars.stop()
            for reason in status.plan.reasons:
                self._console.print(f"  {reason}", style="dim", markup=False)
        text = status.stage or str(status.phase)
        if text == self._said:
            return
        self._said = text
        if not self._console.is_terminal:
            self._console.print(f"{status.name}: {text}", markup=False)
            return
        if self._live is None:
            self._live = self._console.status(text)
            self._live.start()
        self._live.update(f"{status.name}: {text}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stay(name: str) -> None:
    """Wait until the deployment is over or somebody interrupts, and take it down."""
    import lemnos

    # A flag, not an exception: one raised within a destructor or a callback would be lost.
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    err().print("Ctrl-C takes it down.", style="dim")
    while any(s.name == name and not s.phase.over for s in lemnos.status()):
        if asked.wait(0.5):
            break
    if any(status.name == name for status in lemnos.status()):
        lemnos.down(name)


def _show_endpoint(endpoint: Endpoint, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "name": endpoint.name,
                "url": endpoint.url,
                "model": endpoint.model,
                "already_up": endpoint.already_up,
                "record": endpoint.record,
                **endpoint.measured,
            }
        )
        return
    console = out()
    if endpoint.already_up:
        console.print(f"[bold]{endpoint.name}[/] was up already")
    elif not endpoint.measured:
        status = endpoint.status
        new = status.wanted != status.revision
        doing = (
            f"revision {status.wanted}" if new else status.stage or str(status.phase)
        )
        console.print(f"[bold]{endpoint.name}[/] is on its way ({doing}): lemnos ps")
        if endpoint.status.plan.spec.endpoint.cloud:
            console.print("  the cloud answers until it is ready", style="dim")
    else:
        got = endpoint.measured
        pace = got.get("output_tokens_per_s")
        one = f", {pace:.0f} tokens/s for one stream" if pace else ""
        console.print(f"[bold green]ready[/] in {got['ready_s']:.1f} s{one}")
    console.print(f"  model  {endpoint.model}", markup=False)
    console.print(f"  URL    {endpoint.url}", markup=False)
    console.print(
        f"  next   lemnos chat | lemnos ps | lemnos down {endpoint.name}",
        style="dim",
        markup=False,
    )


def show_plan(made: Plan, as_json: bool, *, commands: bool) -> None:
    """A plan, and the commands of its jobs."""
    from rich.markup import escape

    import lemnos

    jobs = lemnos.jobs(made) if commands else []
    if as_json:
        print_json({"plan": made, "jobs": jobs} if commands else made)
        return
    console = out()
    console.print(
        f"[bold]{escape(made.served_name)}[/] on {made.engine} {made.engine_version}, {_where(made)}"
    )
    for reason in made.reasons:
        console.print(f"  {reason}", markup=False)
    if made.embedded:
        _show_memory(made.embedded)
    for rejected in made.rejected:
        console.print(f"  not {rejected.option}: {rejected.reason}", markup=False)
    if commands:
        _show_units(made)
        _show_ports(lemnos.ports(made))


def _write(made: Plan, directory: Path, as_json: bool) -> None:
    """The files of each unit, as starting would write them, and the commands, in ``run.txt``;
    objects of Kubernetes together, as a base for ``kubectl apply -k``."""
    import lemnos

    found = {}
    rendered = lemnos.rendered(made)
    base = _base_of(made, rendered)
    for name, unit in rendered.items():
        files = {**unit.files, "run.txt": _lines(unit.commands)}
        home = directory / name
        if base and unit.files.keys() <= base.keys():
            files, home = base, directory
        for file, text in files.items():
            path = home / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            found[str(path)] = text
        for note in unit.notes:
            err().print(f"{name}: {note}", markup=False)
    if as_json:
        print_json(found)
        return
    for name in found:
        out().print(name, markup=False)


def _base_of(made: Plan, rendered: dict[str, Rendered]) -> dict[str, str]:
    """All objects of a deployment on Kubernetes, and the command that applies them."""
    if made.spec.on != "kubernetes":
        return {}
    from lemnos.launchers.kubernetes.render import apply_base, kustomize

    return kustomize(rendered) | {"run.txt": _lines([apply_base(made.spec.kubernetes)])}


def _lines(commands: Iterable[Sequence[str]]) -> str:
    import shlex

    return "".join(f"{shlex.join(words)}\n" for words in commands)


def _where(made: Plan) -> str:
    if made.proposal is None:
        return "this machine"
    return f"{made.proposal.divided} on {made.proposal.gpus} x {made.proposal.gpu}"


def _show_memory(embedded: Embedded) -> None:
    memory, settings = embedded.memory, embedded.settings
    grid = table("memory", "bytes", "")
    for label, count in (
        ("weights", memory.weights),
        (f"KV cache, {settings.slots} x {settings.context} tokens", memory.kv_cache),
        ("compute", memory.compute),
        ("total", memory.total),
        ("free on this machine", memory.free),
    ):
        grid.add_row(label, str(count), size(count))
    out().print(grid)


def _show_units(made: Plan) -> None:
    """Each unit's files, and the commands that would start it."""
    import shlex

    import lemnos

    console = out()
    jobs = {job.id.rpartition("/")[2]: job for job in lemnos.jobs(made)}
    for name, unit in lemnos.rendered(made).items():
        for file, text in unit.files.items():
            job = jobs.get(file.removesuffix(".sh"))
            title = f"{name}: {file}"
            if job:
                title = file.removesuffix(".sh") + (
                    f" ({job.part})" if job.part else ""
                )
                title += f" on {_place(job)}"
            console.print(f"\n[bold]{title}[/]", highlight=False)
            body = text.removeprefix("#!/bin/sh\n").rstrip()
            console.print(body, markup=False, highlight=False, soft_wrap=True)
        if unit.commands and made.spec.on != "local":
            console.print(f"\n[bold]{name}[/] is started by", highlight=False)
            for words in unit.commands:
                console.print(f"  {shlex.join(words)}", markup=False, soft_wrap=True)
        for note in unit.notes:
            console.print(f"  note: {note}", markup=False)


def _place(job: Job) -> str:
    """Where a job runs; for what only the running job will know, in words."""
    from lemnos.launchers import late

    rank = late.rank_of(job.host)
    host = job.host if rank is None else f"node {rank} of its job"
    if not job.port:
        return host
    return f"{host}, a free port" if job.port >= late.PORT else f"{host}:{job.port}"


def _show_ports(ports: list[OpenPort]) -> None:
    """Those that others must reach, or must not."""
    from lemnos.launchers import late

    open_ports = [port for port in ports if not port.keyed]
    if not open_ports:
        return
    out().print("\n[bold]ports that take no key[/]: for the replica's hosts alone")
    for each in open_ports:
        rank = late.rank_of(each.host)
        host = each.host if rank is None else f"node {rank} of its job"
        known = 0 < each.port < late.PORT
        number = each.port if known else "chosen at the start"
        out().print(f"  {host} {number}: {each.purpose}", markup=False)
