"""Cloud providers by name (``providers.yaml``): where they are, what they speak and what they ask."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field

from lemnos.errors import UsageError, near
from lemnos.spec.base import Value
from lemnos.spec.document import parse
from lemnos.spec.endpoint import BaseUrl, Day
from lemnos.spec.targets import Api, Price


class Base(Value):
    """A URL of a provider, and what is served there."""

    url: BaseUrl
    root: str = "/v1"
    apis: tuple[Api, ...]


class Offer(Value):
    """A model of a provider: US dollars per million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached_input: Annotated[float, Field(ge=0)] | None = None
    context: int | None = None
    apis: tuple[Api, ...] | None = None
    """All that the provider serves by default."""


class Provider(Value):
    """A cloud that sells tokens."""

    title: str
    key_env: str
    """The variable that its own documentation uses for the key."""
    key_header: Literal["authorization", "x-api-key"] = "authorization"
    headers: dict[str, str] = {}
    bases: tuple[Base, ...]
    as_of: Day
    """The day of what the prices were read from."""
    read_from: str
    models: dict[str, Offer]

    def price(self, model: str) -> Price | None:
        """What ``model`` costs, or None where that is not known."""
        offer = self.models.get(model)
        if offer is None:
            return None
        return Price(
            input=offer.input,
            output=offer.output,
            cached_input=offer.cached_input,
            as_of=self.as_of,
        )

    def bases_for(self, model: str) -> list[Base]:
        """Where ``model`` is served: each base with the APIs that it has there."""
        offer = self.models.get(model)
        allowed = offer.apis if offer and offer.apis else None
        found = []
        for base in self.bases:
            apis = tuple(a for a in base.apis if allowed is None or a in allowed)
            if apis:
                found.append(base.model_copy(update={"apis": apis}))
        return found


class ProvidersFile(Value):
    """The whole of ``providers.yaml``."""

    providers: dict[str, Provider]


@functools.cache
def providers() -> Mapping[str, Provider]:
    """Every preset, by name."""
    text = resources.files("lemnos.gateway").joinpath("providers.yaml").read_text()
    return parse(text, ProvidersFile, where="providers.yaml").providers


def provider_named(
    name: str, known: Mapping[str, Provider], *, where: str = ""
) -> Provider:
    """The preset called ``name``; UsageError with the nearest names where there is none."""
    if name in known:
        return known[name]
    raise UsageError(
        f"unknown provider '{name}'",
        where=where,
        fix=near(name, list(known))
        or f"known: {', '.join(known)}; or give a url and its protocol",
    )


def model_at(provider: Provider, served: str, *, where: str = "") -> str:
    """What ``provider`` calls the model that clients call ``served``: the same but for its
    owner's name and the case. UsageError where it has none of that name."""
    wanted = _short(served)
    found = [model for model in provider.models if _short(model) == wanted]
    if len(found) == 1:
        return found[0]
    known = {_short(model): model for model in provider.models}
    hint = near(wanted, list(known))
    for short, model in known.items():
        hint = hint.replace(f"'{short}'", f"'{model}'")
    raise UsageError(
        f"does not say what {provider.title} calls '{served}'",
        where=where,
        fix=f"add model:. {hint}".strip(),
    )


def _short(model: str) -> str:
    return model.rpartition("/")[2].lower()
