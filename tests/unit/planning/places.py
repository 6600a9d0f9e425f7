"""Models, sites and asks that the planner's tests share."""

from __future__ import annotations

from lemnos.hardware.catalogue import cluster_named
from lemnos.models.describe import describe
from lemnos.planning.layouts import Site
from lemnos.planning.options import Variant
from lemnos.planning.search import propose_plans
from lemnos.planning.sites import sites_of
from lemnos.spec.architecture import Architecture
from lemnos.spec.proposal import Ask, Proposals


def model(name: str, quantization: str | None = None) -> Architecture:
    """A known model's architecture."""
    return describe(name, quantization=quantization)[0].architecture


def site(text: str) -> Site:
    """The only site of a cluster such as ``4xH200``."""
    (found,) = sites_of(cluster_named(text))
    return found


def plans(name: str, cluster: str, **asked: object) -> Proposals:
    """What the planner proposes for a known model and its smaller checkpoints."""
    variants = [
        Variant(each.name, each.source, each.architecture, number)
        for number, each in enumerate(describe(name))
    ]
    ask = Ask.model_validate(asked)
    return propose_plans(variants, sites_of(cluster_named(cluster)), ask)
