"""``lemnos bench`` and ``lemnos records``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from lemnos.cli.output import DownloadBars, Json, err, out, print_json, table
from lemnos.cli.up import Stages

if TYPE_CHECKING:
    from lemnos.spec.record import Record

records = typer.Typer(
    help="What ran, what it measured, and running it again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def bench(
    target: Annotated[
        str | None, typer.Argument(help="A deployment's name or a URL.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few short requests: about 10 s on a CPU.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="The model to ask for.")] = None,
    concurrency: Annotated[
        str,
        typer.Option(help="Requests at the same time; several, with commas, sweep."),
    ] = "1,4",
    requests: Annotated[
        int | None, typer.Option(help="Requests at each concurrency.")
    ] = None,
    input_tokens: Annotated[int, typer.Option(min=1)] = 64,
    output_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Json = False,
) -> None:
    """Measure an endpoint: TTFT, TPOT, ITL and throughput. Each row is a record."""
    import lemnos

    made = [
        lemnos.bench(
            target,
            model=model,
            concurrency=level,
            requests=requests or (4 if quick else 16) * level,
            input_tokens=input_tokens,
            output_tokens=output_tokens or (24 if quick else 128),
        )
        for level in _levels(concurrency)
    ]
    if as_json:
        print_json(made)
        return
    grid = table(
        "concurrency",
        "requests",
        "failed",
        "TTFT ms p50",
        "p95",
        "TPOT ms p50",
        "tokens/s",
        "record",
    )
    for record in made:
        got = record.measured
        grid.add_row(
            str(record.spec.model_dump()["concurrency"]),
            f"{got['requests']:.0f}",
            f"{got['failed']:.0f}",
            *(
                _figure(got, key)
                for key in ("ttft_ms_p50", "ttft_ms_p95", "tpot_ms_p50")
            ),
            _figure(got, "output_tokens_per_s"),
            record.id,
        )
    out().print(grid)
    for record in made:
        if record.error:
            err().print(record.error["what"], markup=False)


@records.command("ls")
def records_ls(
    kind: Annotated[str | None, typer.Option(help="up or bench.")] = None,
    as_json: Json = False,
) -> None:
    """List the records, oldest first."""
    import lemnos

    found = lemnos.list_records(kind)
    if as_json:
        print_json(found)
        return
    grid = table("id", "kind", "what", "outcome", "measured")
    for record in found:
        grid.add_row(
            record.id, record.kind, _what(record), record.outcome, _short(record)
        )
    out().print(grid)


@records.command("show")
def records_show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="An id, its beginning, or 'last'.")
    ],
    as_json: Json = False,
) -> None:
    """Show one record whole."""
    import lemnos

    record = lemnos.get_record(id_)
    if as_json:
        print_json(record)
        return
    console = out()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    console.print(f"[bold]{record.kind}[/] {record.id}, {when}: {record.outcome}")
    if record.error:
        console.print(
            "  " + " ".join(filter(None, record.error.values())), markup=False
        )
    import yaml

    parts = {
        "spec": record.spec.model_dump(exclude_defaults=True),
        "measured": record.measured,
        "predicted": record.predicted,
        "settings": _settings(record),
    }
    shown = {key: value for key, value in parts.items() if value}
    console.print(yaml.safe_dump(shown, sort_keys=False).rstrip(), markup=False)
    for line in record.engine_log:
        console.print(f"  | {line}", markup=False, style="dim")


@records.command("rerun")
def records_rerun(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="An id, its beginning, or 'last'.")
    ],
    as_json: Json = False,
) -> None:
    """Do again what a record says was done."""
    import lemnos

    with DownloadBars() as bars, Stages(bars) as stages:
        again = lemnos.rerun(id_, progress=bars, watch=stages.show)
    record_id = getattr(again, "record", None) or getattr(again, "id", None)
    if as_json:
        print_json(again)
        return
    out().print(f"done: record {record_id or '(it was up already)'}", markup=False)


def _levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = [0]
    if min(levels) < 1:
        raise typer.BadParameter(f"'{text}' is not a list of numbers such as 1,4,16")
    return levels


def _figure(got: dict[str, float], key: str) -> str:
    return f"{got[key]:.1f}" if key in got else "-"


def _what(record: Record) -> str:
    data = record.spec.model_dump()
    if record.kind == "bench":
        return f"{data['target']} x{data['concurrency']}"
    return str(data["model"]["source"])


def _short(record: Record) -> str:
    keys = ("ready_s", "ttft_ms_p50", "tpot_ms_p50", "output_tokens_per_s")
    got = record.measured
    return ", ".join(f"{key} {got[key]:.1f}" for key in keys if key in got) or "-"


def _settings(record: Record) -> dict[str, object]:
    if not record.plan:
        return {}
    made = record.plan.embedded or record.plan.proposal
    return made.settings.model_dump() if made else {}
