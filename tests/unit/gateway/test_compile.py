"""gateway.yaml to a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lemnos.engines import smg
from lemnos.errors import UsageError
from lemnos.gateway.compile import Compiled, compile_gateway, missing
from lemnos.gateway.providers import providers
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import load, parse, validated
from lemnos.spec.gateway import GatewaySpec
from lemnos.spec.targets import ENGINE_APIS, GROUP_APIS, ClientKey, TargetTable

KEY = ClientKey(name="ann", sha256="a" * 64)
LOCAL = {"url": "http://127.0.0.1:8000"}
ZAI = {"provider": "zai"}


def compiled(spec: dict[str, Any], keys: tuple[ClientKey, ...] = (KEY,)) -> Compiled:
    return compile_gateway(
        validated(GatewaySpec, spec),
        providers(),
        keys,
        registered={"glm": "/state/glm/targets.json"},
        programs={None: "/smg/bin/python"},
        created=7,
    )


def of(route: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"models": {"glm-4.6": route}, **more}


def refused(spec: dict[str, Any], keys: tuple[ClientKey, ...] = (KEY,)) -> str:
    with pytest.raises(UsageError) as error:
        compiled(spec, keys)
    return str(error.value)


def test_local_targets() -> None:
    route = {
        "local": [
            LOCAL,
            {**LOCAL, "model": "x", "key_env": "K", "apis": ["embeddings"], "dimensions": [768, 256], "idle_s": 9},
            {"deployment": "glm"},
        ],
        "aliases": ["b"],
        "context": 4096,
    }  # fmt: skip
    made = compiled(of(route)).table.routes[0]
    plain, told = made.targets
    assert (plain.name, told.name) == ("127.0.0.1:8000", "127.0.0.1:8000-2")
    assert (plain.kind, plain.apis, plain.price) == ("replica", ENGINE_APIS, None)
    assert (told.model, told.key_env, told.apis) == ("x", "K", ("embeddings",))
    assert (told.dimensions, told.idle_s, told.connect_s) == ((768, 256), 9, 5)
    assert made.registered == ("/state/glm/targets.json",)
    assert (made.aliases, made.context, made.created) == (("b",), 4096, 7)


def test_a_provider_is_a_target_for_each_of_its_urls() -> None:
    route = {"cloud": [{"provider": "novita"}, {"provider": "anthropic", "model": "claude-sonnet-5-5", "key_file": "/k"}]}  # fmt: skip
    chat, messages, claude = compiled(of(route)).table.routes[0].cloud
    assert chat.name == "novita/zai-org/glm-4.6"
    assert chat.base_url == "https://api.novita.ai/openai"
    assert (chat.apis, chat.model) == (("chat", "completions"), "zai-org/glm-4.6")
    assert (messages.base_url, messages.apis) == (
        "https://api.novita.ai/anthropic",
        ("messages",),
    )
    assert chat.key_env == messages.key_env == "NOVITA_API_KEY"
    assert chat.price and chat.price.input == 0.55
    assert (claude.key_header, claude.key_env, claude.key_file) == (
        "x-api-key",
        None,
        "/k",
    )
    assert claude.headers == {"anthropic-version": "2023-06-01"}


def test_a_cloud_by_url_and_what_its_writer_says_of_it() -> None:
    price = {"input": 1, "output": 2, "as_of": "2026-11-21"}
    route = {
        "cloud": [
            {"url": "https://c.example/x/v1", "protocol": "messages", "key_env": "C", "price": price, "name": "c", "first_byte_s": 30},
            {**ZAI, "price": price, "apis": ["messages"], "headers": {"X-Team": "a"}},
        ]
    }  # fmt: skip
    first, second = compiled(of(route)).table.routes[0].cloud
    assert (first.name, first.base_url, first.apis) == (
        "c",
        "https://c.example/x",
        ("messages",),
    )
    assert (first.model, first.first_byte_s, first.key_env) == (None, 30, "C")
    assert second.price and second.price.output == 2 and first.price == second.price
    assert second.headers == {"X-Team": "a"}


GROUP = {
    "router": "smg",
    "prefill": [{"url": "http://10.0.0.1:8000/v1", "bootstrap_port": 9000}, {"url": "http://10.0.0.2:8000"}],
    "decode": [{"url": "http://10.0.0.3:8000"}],
    "key_file": "/k",
}  # fmt: skip


def test_a_group_is_one_target_and_its_router() -> None:
    local = [LOCAL, GROUP, {"deployment": "glm"}, {**GROUP, "policy": "random", "idle_s": 9}]  # fmt: skip
    table = compiled(of({"local": local})).table
    _, first, second = table.routes[0].targets
    assert (first.name, first.key_file, first.apis) == ("smg", "/k", GROUP_APIS)
    assert (second.name, second.idle_s) == ("smg-2", 9)
    one, two = table.routers
    assert (one.target, two.target) == ("smg", "smg-2")
    assert (one.policy, two.policy) == ("cache_aware", "random")
    assert [(w.url, w.bootstrap_port) for w in one.prefill] == [
        ("http://10.0.0.1:8000", 9000),
        ("http://10.0.0.2:8000", 8998),
    ]
    assert one.decode == ("http://10.0.0.3:8000",) and one.program == "/smg/bin/python"
    words = smg.arguments(one, 1, 2)
    assert words.count("--prefill") == 2 and words.count("--decode") == 1
    at = words.index("--prefill")
    assert words[at : at + 3] == ["--prefill", "http://10.0.0.1:8000", "9000"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decode": []}, "router smg needs prefill and decode"),
        ({"key_file": None}, "router smg needs key_file or key_env"),
        ({"key_header": "x-api-key"}, "takes its key as authorization"),
        ({"router": None}, "give a url, the name of a deployment, or a router"),
        ({"url": "http://127.0.0.1:1"}, "give a url, the name of a deployment, or a router"),
        ({"policy": "best"}, "'cache_aware'"),
    ],
)  # fmt: skip
def test_what_is_no_group(change: dict[str, Any], says: str) -> None:
    written = {k: v for k, v in {**GROUP, **change}.items() if v is not None}
    assert says in refused(of({"local": [written]}))
    assert "policy is for a group" in refused(of({"local": [{**LOCAL, "policy": "random"}]}))  # fmt: skip


def test_tables_come_back_from_json() -> None:
    table = compiled(of({"local": [LOCAL, GROUP], "cloud": [ZAI]})).table
    assert TargetTable.model_validate_json(table.model_dump_json()) == table


def test_names_of_targets_are_unique_in_a_table() -> None:
    spec = {
        "models": {
            "glm-4.6": {"cloud": [ZAI, ZAI]},
            "GLM-4.6": {"cloud": [ZAI], "local": [LOCAL]},
        }
    }
    table = compiled(spec).table
    names = [t.name for r in table.routes for t in (*r.targets, *r.cloud)]
    assert len(names) == len(set(names)) == 7


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (of({"cloud": [{"provider": "opnai", "model": "x"}]}), "models.glm-4.6.cloud.0.provider: unknown provider 'opnai'"),
        (of({"cloud": [ZAI, {"provider": "openai"}]}), "models.glm-4.6.cloud.1: does not say what OpenAI calls 'glm-4.6'"),
        (of({"cloud": [{"provider": "openrouter", "model": "new"}], "policy": "cheapest"}), "models.glm-4.6.cloud: no price is known for openrouter/new, and policy cheapest needs it"),
    ],
)  # fmt: skip
def test_refusals_name_the_key(spec: dict[str, Any], says: str) -> None:
    assert says in refused(spec)


def test_others_need_keys_and_keys_need_a_file_with_some() -> None:
    spec = of({"local": [LOCAL]}, listen={"host": "0.0.0.0"})
    assert "listen.host: 0.0.0.0 can be reached by others" in refused(spec, ())
    assert "keys_file: has no key: k" in refused(of({"local": [LOCAL]}, keys_file="k"), ())  # fmt: skip
    warnings = compiled(spec).warnings
    assert len(warnings) == 1 and "without TLS" in warnings[0]
    spec["listen"] |= {"tls_cert": "c", "tls_key": "k"}
    assert compiled(spec).warnings == ()


def test_an_endpoint_without_keys_may_name_a_cloud_but_is_told() -> None:
    made = compiled(of({"local": [LOCAL], "cloud": [ZAI]}), ())
    assert made.table.routes[0].cloud
    assert "the cloud is never asked" in made.warnings[0]


def test_a_budget_needs_prices() -> None:
    spec = of({"cloud": [{"provider": "openrouter", "model": "new"}]})
    assert "costs are not counted" in compiled(spec).warnings[0]
    budget = KEY.model_copy(update={"budget_usd": 5.0})
    assert "the budget of the key 'ann' needs it" in refused(spec, (budget,))


def test_what_else_is_told() -> None:
    plain = {"url": "http://cloud.example", "protocol": "chat"}
    keys = (KEY.model_copy(update={"models": ("glm-4.6", "gone")}),)
    said = " ".join(compiled(of({"cloud": [plain]}), keys).warnings)
    assert "travel in the clear to cloud.example" in said
    assert "may use 'gone', which is not served here" in said


def test_keys_that_are_missing_are_told_once(tmp_path: Path) -> None:
    open_file = tmp_path / "open"
    open_file.write_text("k")
    open_file.chmod(0o644)
    closed = tmp_path / "closed"
    closed.write_text("k")
    closed.chmod(0o600)
    none = tmp_path / "none"
    local = [{**LOCAL, "key_file": str(path)} for path in (open_file, closed, none)]
    table = compiled(of({"local": local, "cloud": [{"provider": "novita"}]})).table
    said = missing(table, {})
    assert [line.partition(": ")[2].split(str(tmp_path))[0] for line in said] == [
        "its key can be read by others: chmod 600 ",
        "its key cannot be read (No such file or directory): ",
        "NOVITA_API_KEY is not set here",
    ]
    assert len(missing(table, os.environ | {"NOVITA_API_KEY": "x"})) == 2


def test_the_examples_compile() -> None:
    examples = Path(__file__).parents[3] / "examples" / "gateway"
    for path in (examples / "gateway.yaml", examples / "cheapest-gateway.yaml"):
        spec = parse(path.read_text(), GatewaySpec, where=str(path))
        names = [x.deployment for r in spec.models.values() for x in r.local if x.deployment]  # fmt: skip
        registered = dict.fromkeys(names, "/t")
        made = compile_gateway(spec, providers(), (KEY,), registered=registered)
        assert made.table.routes and made.warnings == (), path
    load(examples / "deployment.yaml", DeploymentSpec)
