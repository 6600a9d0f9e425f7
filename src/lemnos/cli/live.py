"""Living with deployments: ``ps``, ``logs``, ``down``, ``restart``, ``chat``."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lemnos.cli import options
from lemnos.cli.output import Json, err, out, print_json, table
from lemnos.cli.up import Stages
from lemnos.errors import UsageError

if TYPE_CHECKING:
    from lemnos.spec.status import Status
    from lemnos.wire.client import Client


def ps(
    name: options.Name = None,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift", help="On Kubernetes: what others have changed, as a diff."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what runs, how often it came back, and why."""
    import lemnos

    if drift:
        _show_drift(lemnos.drift(name), as_json)
        return
    found = [each for each in lemnos.status() if name in (None, each.name)]
    if name and not found:
        raise UsageError(f"there is no deployment '{name}'", fix="lemnos ps shows all")
    if as_json:
        print_json([_as_dict(status) for status in found])
        return
    if not found:
        err().print("nothing is deployed; `lemnos up` starts a model", markup=False)
        return
    grid = table(
        "name",
        "model",
        "state",
        "replicas",
        "URL",
        "up for",
        "restarts",
        "last problem",
    )
    for status in found:
        grid.add_row(
            status.name,
            status.model,
            _state(status),
            f"{status.replicas_ready}/{status.replicas}",
            status.base_url,
            _since(status.ready_at),
            str(status.restarts),
            status.why or "-",
        )
    out().print(grid)


def _show_drift(found: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for name, diff in found.items():
        out().print(f"{name} is otherwise in the cluster:", markup=False)
        out().print(diff.rstrip(), markup=False, highlight=False, soft_wrap=True)
    if not found:
        out().print("everything is as lemnos declared it", markup=False)


def logs(
    name: options.Name = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as the log grows.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="How many at first.")
    ] = 100,
    job: Annotated[
        str | None, typer.Option(help="engine-0, engine-0.1, gateway-0 or supervisor.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="Jobs of one role: prefill, decode, frontend.")
    ] = None,
    node: Annotated[str | None, typer.Option(help="Jobs on one host.")] = None,
) -> None:
    """Print a deployment's log (also after `down`): the first replica's that serves."""
    import lemnos

    found = lemnos.logs(name, job=job, role=role, node=node, lines=lines, follow=follow)
    for line in found:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def down(
    name: options.Name = None,
    all_: Annotated[bool, typer.Option("--all", help="Every deployment.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for open requests.")
    ] = False,
    forget: Annotated[
        bool,
        typer.Option(help="Even if its scheduler or hosts cannot be asked any more."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Stop a deployment; nothing of it is left but logs and records."""
    import lemnos

    names = [s.name for s in lemnos.status()] if all_ else [name]
    stopped = [lemnos.down(one, drain=not now, forget=forget) for one in names]
    if as_json:
        print_json({"stopped": stopped})
        return
    for one in stopped:
        out().print(f"{one} is down", markup=False)


def restart(name: options.Name = None, as_json: Json = False) -> None:
    """Restart a deployment's engines, and wait until it is ready again."""
    import lemnos

    with Stages() as stages:
        endpoint = lemnos.restart(name, watch=stages.show)
    if as_json:
        print_json(_as_dict(endpoint.status))
        return
    out().print(f"{endpoint.name} is ready again at {endpoint.url}", markup=False)


def history(name: options.Name = None, as_json: Json = False) -> None:
    """Show a deployment's revisions: what each changed, and what failed (also after `down`)."""
    import lemnos

    found = lemnos.history(name)
    if as_json:
        print_json(found)
        return
    console = out()
    for each in found:
        copied = f", revision {each.copy_of} again" if each.copy_of else ""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.created))
        console.print(
            f"[bold]{each.revision}[/]  {when}  {each.model} on {each.engine}, "
            f"{each.on}{copied}: {each.state}",
            highlight=False,
        )
        for change in each.changes:
            console.print(f"     {change}", markup=False, style="dim")
        for failure in each.failures:
            at = time.strftime("%H:%M:%S", time.localtime(failure.at))
            console.print(f"     {at} {failure.job} {failure.why}", markup=False)
            for line in failure.lines:
                console.print(f"       | {line}", markup=False, style="dim")


def rollback(
    name: options.Name = None,
    to: Annotated[
        int | None,
        typer.Option(help="A revision; the last one that served before by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve an earlier revision again, replicas and routing together."""
    import lemnos

    with Stages() as stages:
        endpoint = lemnos.rollback(name, to=to, watch=stages.show)
    _tell_serving(endpoint.status, as_json)


def scale(
    replicas: Annotated[int, typer.Argument(help="How many.", min=1)],
    name: options.Name = None,
    as_json: Json = False,
) -> None:
    """Change the number of replicas, and wait until they are ready."""
    import lemnos

    with Stages() as stages:
        endpoint = lemnos.scale(replicas, name, watch=stages.show)
    _tell_serving(endpoint.status, as_json)


def _tell_serving(status: Status, as_json: bool) -> None:
    if as_json:
        print_json(_as_dict(status))
        return
    out().print(
        f"{status.name} serves revision {status.revision} with "
        f"{status.replicas_ready} replica{'s' * (status.replicas_ready != 1)} at {status.base_url}",
        markup=False,
    )


def chat(
    name: options.Name = None,
    prompt: Annotated[
        str | None, typer.Option(help="Ask this, print the answer, and leave.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Any OpenAI-compatible URL.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask for.")] = None,
    api_key_file: options.KeyFile = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens an answer may have.")] = 512,
    temperature: Annotated[float | None, typer.Option(min=0.0)] = None,
) -> None:
    """Talk to a model: one prompt, or a conversation."""
    options_: dict[str, Any] = {"max_tokens": max_tokens}
    if temperature is not None:
        options_["temperature"] = temperature
    with _client(name, url, model, api_key_file) as client:
        if prompt is not None:
            _answer(client, [{"role": "user", "content": prompt}], options_)
            return
        err().print("Ctrl-D or an empty line ends it.", style="dim")
        messages: list[dict[str, str]] = []
        while line := _ask():
            messages.append({"role": "user", "content": line})
            text = _answer(client, messages, options_)
            messages.append({"role": "assistant", "content": text})


def _client(
    name: str | None, url: str | None, model: str | None, api_key_file: str | None
) -> Client:
    from pathlib import Path

    import lemnos

    if url is not None:
        key = None
        if api_key_file:
            key = Path(api_key_file).expanduser().read_text().split()[0]
        return lemnos.Client(url, model=model, api_key=key)
    return lemnos.endpoint(name).client(**({"model": model} if model else {}))


def _answer(
    client: Client, messages: list[dict[str, str]], options_: dict[str, Any]
) -> str:
    pieces = []
    for piece in client.stream(messages, **options_):
        pieces.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(pieces)


def _ask() -> str:
    """A line from the person; empty at the end of input."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def _state(status: Status) -> str:
    if not status.phase.over and not status.supervisor_alive:
        return f"{status.phase}, supervisor gone (`lemnos up` takes over)"
    return f"{status.phase}: {status.stage}" if status.stage else str(status.phase)


def _since(ready_at: float | None) -> str:
    if ready_at is None:
        return "-"
    seconds = int(time.time() - ready_at)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _as_dict(status: Status) -> dict[str, Any]:
    """For programs: the status without its plan (that is in the record)."""
    import lemnos.deployments.status as looking

    data = status.model_dump(exclude={"plan"})
    return data | {
        "base_url": status.base_url,
        "engine_pids": looking.engine_pids(status.name),
    }
