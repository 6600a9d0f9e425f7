"""The table of a deployment: its replicas, the clouds behind them, and who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lemnos.deployments.targets import OWN_KEY, check_endpoint, keys_for, table_for
from lemnos.errors import LemnosError
from lemnos.gateway.keys import add_key, digest
from lemnos.spec.plan import Plan
from lemnos.spec.proposal import Role
from lemnos.spec.targets import DYNAMO_APIS, ENGINE_APIS, GROUP_APIS, TargetTable
from tests import samples
from tests.unit.engines.rendered import glm

CLOUD = {"provider": "openrouter", "model": "openai/gpt-oss-20b"}


def table(**endpoint: Any) -> TargetTable:
    plan = samples.plan(endpoint=endpoint)
    return table_for(
        plan,
        {"engine-0": "http://127.0.0.1:4000", "engine-1": "http://10.0.0.7:4001"},
        revision=3,
        key_file="/k",
        keys=keys_for(plan.spec.endpoint, "own"),
        created=7,
    )


def test_without_more_it_is_keyless_and_local() -> None:
    made = table()
    (route,) = made.routes
    assert (made.revision, made.keys, route.cloud) == (3, (), ())
    assert [t.base_url for t in route.targets] == [
        "http://127.0.0.1:4000",
        "http://10.0.0.7:4001",
    ]
    assert {t.key_file for t in route.targets} == {"/k"}
    assert (route.policy, route.context, route.created) == ("local-first", 4096, 7)


def test_a_group_is_asked_only_for_what_its_router_serves() -> None:
    def apis(plan: Plan) -> tuple[str, ...]:
        made = table_for(plan, {"engine-0": "http://h:1"}, revision=1, key_file="/k", keys=(), created=1)  # fmt: skip
        return made.routes[0].targets[0].apis

    roles = Role(prefill=1, decode=1)
    assert apis(glm("sglang")) == ENGINE_APIS
    assert apis(glm("sglang", roles=roles)) == GROUP_APIS
    assert apis(glm("dynamo", roles=roles)) == DYNAMO_APIS


def test_a_cloud_and_keys_of_both_kinds(tmp_path: Path) -> None:
    plain, kept = tmp_path / "plain", tmp_path / "keys.yaml"
    plain.write_text("a-plain-key-of-a-client\n")
    secret, ann = add_key(kept, "ann", concurrency=2)
    made = table(
        api_key_file=str(plain),
        keys_file=str(kept),
        cloud=[CLOUD],
        policy="local-within",
        within_ms=700,
    )
    (route,) = made.routes
    assert [target.name for target in route.cloud] == ["openrouter/openai/gpt-oss-20b"]
    assert (route.policy, route.within_ms) == ("local-within", 700)
    assert [key.name for key in made.keys] == ["key-1", "ann", OWN_KEY]
    assert made.keys[1] == ann and made.keys[2].sha256 == digest("own")
    text = made.model_dump_json()
    assert secret not in text and "a-plain-key" not in text


@pytest.mark.parametrize(
    ("cloud", "limits", "says"),
    [
        ({"provider": "openruter"}, {}, "endpoint.cloud.0.provider: unknown provider 'openruter'"),
        ({"provider": "zai"}, {}, "endpoint.cloud.0: does not say what Z.ai calls 'smollm2-135m-instruct'"),
        (CLOUD | {"model": "new"}, {"budget_usd": 1.0}, "the budget of the key 'ann' needs it"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_a_download(
    tmp_path: Path, cloud: dict[str, str], limits: dict[str, float], says: str
) -> None:
    keys = tmp_path / "keys.yaml"
    add_key(keys, "ann", **limits)
    spec = samples.spec(endpoint={"keys_file": str(keys), "cloud": [cloud]})
    with pytest.raises(LemnosError, match=says):
        check_endpoint(spec)


def test_a_file_of_keys_without_one_is_refused(tmp_path: Path) -> None:
    spec = samples.spec(endpoint={"keys_file": str(tmp_path / "none.yaml")})
    with pytest.raises(LemnosError, match="none.yaml: has no key"):
        check_endpoint(spec)
    check_endpoint(samples.spec(endpoint={"cloud": [], "policy": "cheapest"}))
