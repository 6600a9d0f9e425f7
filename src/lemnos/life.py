"""Living with deployments: the part of the Python API for what is up already."""

from __future__ import annotations

from collections.abc import Iterator

from lemnos.deployments import deploy, reading
from lemnos.deployments import status as looking
from lemnos.deployments.endpoint import Endpoint, endpoint_of
from lemnos.deployments.waiting import Watch
from lemnos.errors import UsageError
from lemnos.spec.status import RevisionSeen, Status


def endpoint(name: str | None = None) -> Endpoint:
    """A deployment that is up already (the only one, if not named)."""
    now = looking.status(looking.resolve_name(name))[0]
    return endpoint_of(now, already_up=True)


def status(name: str | None = None) -> list[Status]:
    """What is deployed, or the deployment called ``name``."""
    return looking.status(name)


def down(name: str | None = None, *, drain: bool = True, forget: bool = False) -> str:
    """Stop a deployment (the only one, if not named) and give its name.

    Open requests finish first, for up to 30 s, unless ``drain`` is false. ``forget``: even where its
    scheduler or hosts cannot be asked any more.
    """
    name = looking.resolve_name(name)
    deploy.take_down(name, drain=drain, forget=forget)
    return name


def restart(name: str | None = None, *, watch: Watch | None = None) -> Endpoint:
    """Restart the engines of a deployment, and return when it is ready again."""
    name = looking.resolve_name(name)
    return endpoint_of(deploy.restart(name, watch or _silent))


def history(name: str | None = None) -> list[RevisionSeen]:
    """Every revision of a deployment, oldest first: what it changed, and what failed in it."""
    return looking.history(name or looking.resolve_name(None))


def rollback(
    name: str | None = None,
    *,
    to: int | None = None,
    watch: Watch | None = None,
    wait: bool = True,
) -> Endpoint:
    """Serve an earlier revision again, replicas and routing together, and return when it does.

    ``to``: its number; the last one that served before this one by default.
    """
    name = looking.resolve_name(name)
    return endpoint_of(deploy.roll_back(name, to, watch or _silent, wait=wait))


def scale(
    replicas: int,
    name: str | None = None,
    *,
    watch: Watch | None = None,
    wait: bool = True,
) -> Endpoint:
    """Serve with so many replicas, and return when they are ready."""
    if replicas < 1:
        raise UsageError(
            "a deployment has at least 1 replica", fix="lemnos down stops it"
        )
    name = looking.resolve_name(name)
    return endpoint_of(deploy.scale(name, replicas, watch or _silent, wait=wait))


def logs(
    name: str | None = None,
    *,
    job: str | None = None,
    role: str | None = None,
    node: str | None = None,
    lines: int = 100,
    follow: bool = False,
    poll_s: float = 0.2,
) -> Iterator[str]:
    """The last lines of a deployment's logs, then, with ``follow``, each new line as it comes.

    ``job``: ``engine-0``, ``gateway-0``, ``supervisor``; ``role``: ``prefill``, ``frontend``; ``node``: a
    host's name. By default those of the first replica that serves. Logs stay after ``down``.
    """
    return reading.read_logs(
        name or looking.resolve_name(None),
        job=job,
        role=role,
        node=node,
        lines=lines,
        follow=follow,
        poll_s=poll_s,
    )


def drift(name: str | None = None) -> dict[str, str]:
    """What others have changed of a deployment in its cluster: a diff for each replica that differs."""
    from lemnos.deployments.drifting import drift_of

    return drift_of(name or looking.resolve_name(None))


def _silent(_: Status) -> None:
    """Nobody watches."""
