"""Options that several verbs share, so that one word means one thing everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[
    str | None,
    typer.Argument(help="A deployment's name; not needed when there is only one."),
]
Model = Annotated[
    str | None,
    typer.Argument(
        help="A model (catalogue name, org/name, hf://, modelscope://, pypi://, a path) "
        "or a deployment.yaml; the one that suits this machine by default."
    ),
]
DeploymentName = Annotated[
    str | None, typer.Option("--name", help="The deployment's name.")
]
Port = Annotated[
    int | None,
    typer.Option(help="The endpoint's port (5366, or a free one, by default)."),
]
Host = Annotated[
    str | None,
    typer.Option(help="The address to listen on; beyond loopback needs keys."),
]
KeyFile = Annotated[
    str | None,
    typer.Option("--api-key-file", help="A file with one API key a line."),
]
Context = Annotated[int | None, typer.Option(min=1, help="Tokens a request may use.")]
Concurrency = Annotated[
    int | None, typer.Option(min=1, help="Requests served at the same time.")
]
ServedName = Annotated[str | None, typer.Option(help="The name that clients ask for.")]
Revision = Annotated[str | None, typer.Option(help="The hub's branch, tag or commit.")]
File = Annotated[
    str | None, typer.Option(help="Which file, where a repository has several GGUFs.")
]
On = Annotated[
    str | None,
    typer.Option(
        "--on", help="The launcher: local, systemd, slurm, pbs, or one of a plugin."
    ),
]
Via = Annotated[
    str | None,
    typer.Option("--via", help="The login node with the scheduler, reached by SSH."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster", help="The hardware, 4xH200 or a cluster.yaml, to plan for."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of the spec: slurm.partition=gpu, engine_args.seed=1.",
    ),
]
