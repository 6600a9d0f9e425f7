"""``gateway.yaml`` to the table that the gateway routes by. Pure, but for ``missing``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lemnos.errors import UsageError
from lemnos.gateway.providers import Provider, model_at, provider_named
from lemnos.spec.endpoint import PROTOCOLS, CloudSpec, Server, is_loopback
from lemnos.spec.gateway import GatewaySpec, ListenSpec, LocalSpec, ModelRoute
from lemnos.spec.targets import (
    GROUP_APIS,
    ClientKey,
    Policy,
    PrefillWorker,
    Price,
    Route,
    Router,
    Target,
    TargetTable,
)


@dataclass(frozen=True)
class Compiled:
    """A table that may be applied, and what its writer should know."""

    table: TargetTable
    warnings: tuple[str, ...] = ()


def compile_gateway(
    spec: GatewaySpec,
    providers: Mapping[str, Provider],
    keys: tuple[ClientKey, ...],
    *,
    registered: Mapping[str, str],
    programs: Mapping[str | None, str] | None = None,
    created: int = 0,
) -> Compiled:
    """The table of ``spec``; revision 0, which applying it replaces.

    ``registered`` has the table's path of each deployment that the spec names, ``programs`` the
    Python of each of its ``router_programs``. Raises UsageError, with the key's name as its
    place, for what cannot be right.
    """
    if spec.keys_file and not keys:
        raise UsageError(
            f"has no key: {spec.keys_file}",
            where="keys_file",
            fix=f"lemnos keys add NAME --keys-file {spec.keys_file}",
        )
    names = _Names()
    routes = tuple(
        _route(model, route, providers, registered, created, names)
        for model, route in spec.models.items()
    )
    table = TargetTable(
        revision=0,
        routes=routes,
        keys=keys,
        routers=tuple(_routers(spec, routes, programs or {})),
        log_requests=spec.log_requests,
    )
    return Compiled(table, tuple(check(table, spec.listen)))


def router_programs(spec: GatewaySpec) -> set[str | None]:
    """The ``program`` of each group: what ``programs`` has to name."""
    return {
        local.program
        for route in spec.models.values()
        for local in route.local
        if local.router
    }


def check(table: TargetTable, listen: ListenSpec) -> list[str]:
    """Warnings about a table on this address. Raises UsageError where it may not be served."""
    warnings = []
    if not listen.is_loopback and not table.keys:
        raise UsageError(
            f"{listen.host} can be reached by others, and there are no keys",
            where="listen.host",
            fix="set keys_file (lemnos keys add NAME --keys-file FILE), or host 127.0.0.1",
        )
    if not listen.is_loopback and not listen.tls_cert:
        warnings.append(
            f"listen: {listen.host} without TLS: keys and prompts travel in the clear; set tls_cert and tls_key"
        )
    clouds = [target for route in table.routes for target in route.cloud]
    if clouds and not table.keys:
        warnings.append(
            "keys_file: there are no keys, so the cloud is never asked: an endpoint without keys spends no money"
        )
    for route in table.routes:
        where = f"models.{route.model}.cloud"
        warnings += check_prices(table.keys, route.cloud, route.policy, where=where)
    warnings += _about_models(table)
    for target in clouds:
        url = urlsplit(target.base_url)
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            warnings.append(
                f"{target.name}: its key and the prompts travel in the clear to {url.hostname}"
            )
    return warnings


def check_prices(
    keys: tuple[ClientKey, ...],
    cloud: tuple[Target, ...],
    policy: Policy,
    *,
    where: str,
) -> list[str]:
    """Warnings about clouds whose price is not known. Raises UsageError where something
    depends on it: policy ``cheapest``, or the budget of a key."""
    unpriced = [target.name for target in cloud if target.price is None]
    if not unpriced:
        return []
    needs = f"policy {policy}" if policy == "cheapest" else ""
    for key in keys:
        if key.budget_usd is not None:
            needs = needs or f"the budget of the key '{key.name}'"
    if needs:
        raise UsageError(
            f"no price is known for {unpriced[0]}, and {needs} needs it",
            where=where,
            fix="give its price: {input: ..., output: ..., as_of: ...}",
        )
    return [
        f"{name}: no price is known, so its costs are not counted; give price:"
        for name in unpriced
    ]


def missing(table: TargetTable, env: Mapping[str, str]) -> list[str]:
    """Keys that the gateway would not find now, in ``env`` or in their files: each once, with
    the first target that wants it."""
    first: dict[str, str] = {}
    for target in all_targets(table):
        if target.key_env and not env.get(target.key_env):
            first.setdefault(f"{target.key_env} is not set here", target.name)
        for said in _about_file(target.key_file) if target.key_file else ():
            first.setdefault(said, target.name)
    return [f"{name}: {said}" for said, name in first.items()]


def all_targets(table: TargetTable) -> Iterator[Target]:
    """Those that the table itself names, in order."""
    for route in table.routes:
        yield from route.targets
        yield from route.cloud


def cloud_targets(
    written: tuple[CloudSpec, ...],
    providers: Mapping[str, Provider],
    served: str,
    *,
    where: str = "cloud",
    names: _Names | None = None,
) -> tuple[Target, ...]:
    """The targets of a model's ``cloud``, in order; a provider with a URL for each protocol
    becomes a target for each. UsageError as ``compile_gateway``."""
    names = names or _Names()
    return tuple(
        target
        for at, each in enumerate(written)
        for target in _cloud(each, providers, served, f"{where}.{at}", names)
    )


class _Names:
    """Names of targets, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def take(self, name: str) -> str:
        """``name``, or with the first number that is free after it."""
        free, number = name, 2
        while free in self._given:
            free, number = f"{name}-{number}", number + 1
        self._given.add(free)
        return free


def _route(
    model: str,
    route: ModelRoute,
    providers: Mapping[str, Provider],
    registered: Mapping[str, str],
    created: int,
    names: _Names,
) -> Route:
    where = f"models.{model}"
    cloud = cloud_targets(
        route.cloud, providers, model, where=f"{where}.cloud", names=names
    )
    return Route(
        model=model,
        aliases=route.aliases,
        targets=tuple(_local(each, names) for each in _standing(route)),
        registered=tuple(
            registered[each.deployment] for each in route.local if each.deployment
        ),
        cloud=cloud,
        policy=route.policy,
        within_ms=route.within_ms,
        created=created,
        context=route.context,
        drop_billing_line=route.drop_billing_line,
        compare=route.compare.price() if route.compare else None,
    )


def _standing(route: ModelRoute) -> list[LocalSpec]:
    """Those of ``local`` that become targets of the table itself, in order."""
    return [each for each in route.local if not each.deployment]


def _local(written: LocalSpec, names: _Names) -> Target:
    if written.url is None:  # a group: its port is chosen when its router starts
        said = {"apis": GROUP_APIS, **_said(written)}
        name = names.take(written.name or "smg")
        return Target(name=name, base_url="http://127.0.0.1:0", **said)
    return Target(
        name=names.take(written.name or _host(written.url)),
        base_url=written.url,
        dimensions=written.dimensions,
        **_said(written),
    )


def _routers(
    spec: GatewaySpec,
    routes: tuple[Route, ...],
    programs: Mapping[str | None, str],
) -> Iterator[Router]:
    for route, made in zip(spec.models.values(), routes, strict=True):
        for written, target in zip(_standing(route), made.targets, strict=True):
            if written.router:
                yield Router(
                    target=target.name,
                    kind=written.router,
                    program=programs[written.program],
                    prefill=tuple(
                        PrefillWorker(url=each.url, bootstrap_port=each.bootstrap_port)
                        for each in written.prefill
                    ),
                    decode=tuple(each.url for each in written.decode),
                    policy=written.policy or "cache_aware",
                )


def _cloud(
    written: CloudSpec,
    providers: Mapping[str, Provider],
    served: str,
    where: str,
    names: _Names,
) -> Iterator[Target]:
    given = written.price.price() if written.price else None
    if written.url:
        said = {"apis": PROTOCOLS.get(written.protocol or ""), **_said(written)}
        name = written.name or _host(written.url)
        yield _cloud_target(names.take(name), written.url, said, given)
        return
    assert written.provider is not None
    preset = provider_named(written.provider, providers, where=f"{where}.provider")
    model = written.model or model_at(preset, served, where=where)
    keyed = {} if written.key_file else {"key_env": preset.key_env}
    for base in preset.bases_for(model):
        apis = tuple(a for a in base.apis if not written.apis or a in written.apis)
        if not apis:
            continue
        said = {
            "key_header": preset.key_header,
            **keyed,
            **_said(written),
            "model": model,
            "apis": apis,
            "root": base.root,
            "headers": preset.headers | written.headers,
        }
        name = written.name or f"{written.provider}/{model}"
        if base.apis[0] != preset.bases[0].apis[0]:
            name += f" ({base.apis[0]})"
        price = given or preset.price(model)
        yield _cloud_target(names.take(name), base.url, said, price)


def _cloud_target(
    name: str, url: str, said: dict[str, Any], price: Price | None
) -> Target:
    return Target(name=name, kind="cloud", base_url=url, price=price, **said)


def _said(written: Server) -> dict[str, Any]:
    """What the writer gave of a target's own keys, and nothing for the rest."""
    keys = set(Server.model_fields) - {"name"}
    data = written.model_dump(include=keys)
    return {key: value for key, value in data.items() if value not in (None, {})}


def _host(url: str) -> str:
    """``10.0.0.5:8000``: what a target is called by default."""
    return urlsplit(url).netloc


def _about_models(table: TargetTable) -> Iterator[str]:
    """Keys for models that are not served here."""
    served = {name for route in table.routes for name in (route.model, *route.aliases)}
    for key in table.keys:
        for model in key.models or ():
            if model not in served:
                yield f"keys: '{key.name}' may use '{model}', which is not served here"


def _about_file(name: str) -> Iterator[str]:
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield f"its key cannot be read ({error.strerror}): {name}"
        return
    if not os.access(path, os.R_OK):
        yield f"its key cannot be read: {name}"
    if mode & 0o077:
        yield f"its key can be read by others: chmod 600 {name}"
