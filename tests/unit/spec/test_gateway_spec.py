"""gateway.yaml: what may be written, and the sentence for what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemnos.errors import UsageError
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import parse
from lemnos.spec.endpoint import CloudSpec
from lemnos.spec.gateway import GatewaySpec, KeysFile, ListenSpec, from_directory
from tests import samples

WHOLE = """
name: team
listen: {host: 0.0.0.0, port: 8443, tls_cert: tls/cert.pem, tls_key: tls/key.pem}
models:
  glm-4.6:
    aliases: [claude-sonnet-4-5]
    local:
      - deployment: glm
      - {url: http://10.0.0.5:8000/v1/, key_file: vllm.key, apis: [chat, completions]}
    cloud:
      - {provider: openrouter, model: z-ai/glm-4.6, key_env: OPENROUTER_API_KEY}
      - url: https://api.example.org/openai
        protocol: chat
        key_file: ~/example.key
        price: {input: 0.5, output: 2, as_of: 2026-11-21}
    policy: local-within
    within_ms: 1500
    context: 200000
keys_file: keys.yaml
ledger: ledger.db
log_requests: none
"""


def refused(text: str, kind: type[GatewaySpec | KeysFile] = GatewaySpec) -> str:
    with pytest.raises(UsageError) as error:
        parse(text, kind, where="g.yaml")
    return str(error.value)


def test_a_whole_file() -> None:
    spec = parse(WHOLE, GatewaySpec, where="g.yaml")
    route = spec.models["glm-4.6"]
    assert route.local[1].url == "http://10.0.0.5:8000"
    assert route.cloud[1].price and route.cloud[1].price.as_of == "2026-11-21"
    assert route.cloud[1].price.price().cost(1_000_000, 1_000_000) == 2.5
    assert spec.listen.url == "https://127.0.0.1:8443"
    assert ListenSpec(host="::1").url == "http://[::1]:5367"


def test_paths_are_taken_from_the_files_directory(home: Path) -> None:
    spec = from_directory(parse(WHOLE, GatewaySpec, where="g"), Path("/etc/lemnos"))
    route = spec.models["glm-4.6"]
    assert route.local[1].key_file == "/etc/lemnos/vllm.key"
    assert route.local[0].key_file is None
    assert route.cloud[1].key_file == str(home / "example.key")
    assert spec.listen.tls_key == "/etc/lemnos/tls/key.pem"
    assert (spec.keys_file, spec.ledger) == (
        "/etc/lemnos/keys.yaml",
        "/etc/lemnos/ledger.db",
    )
    for ledger in ("env:LEDGER_URL", "postgresql://db/lemnos"):
        same = spec.model_copy(update={"ledger": ledger})
        assert from_directory(same, Path("/x")).ledger == ledger


M = "models:\n  m:\n    "
LOCAL = "local: [{url: http://h}]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "g.yaml:1: models: Field required"),
        ("models: {}", "g.yaml:1: models: Dictionary should have at least 1 item"),
        (M + "aliases: [a]", "g.yaml:2: models.m: needs local or cloud targets"),
        (M + "locl: []", "g.yaml:3: models.m.locl: unknown key 'locl'. Did you mean 'local'"),
        (M + "local: [{key_env: K}]", "models.m.local.0: give a url"),
        (M + "local: [{url: http://h, deployment: d}]", "give a url"),
        (M + "local: [{deployment: d, model: x}]", "a deployment knows its model itself: drop model"),
        (M + "local: [{deployment: D}]", "use 1 to 53 lower-case"),
        (M + "local: [{url: 10.0.0.5:8000}]", "write a URL such as"),
        (M + "local: [{url: http://u:secret@h}]", "holds a user or a password"),
        (M + "local: [{url: 'http://h?key=1'}]", "a base URL has no '?'"),
        (M + "local: [{url: http://h, key_env: A, key_file: B}]", "key_file or key_env, not both"),
        (M + "local: [{url: http://h, headers: {X-Api-Key: s}}]", "headers may not hold x-api-key"),
        (M + "cloud: [{model: x}]", "models.m.cloud.0: give a provider, or a url"),
        (M + "cloud: [{url: https://h}]", "a url needs its protocol: chat or messages"),
        (M + "cloud: [{provider: zai, protocol: chat}]", "drop protocol"),
        (M + "cloud: [{provider: zai, price: {input: 1, output: 2}}]", "price.as_of: Field required"),
        (M + "cloud: [{provider: zai, price: {input: 1, output: 2, as_of: May}}]", "price.as_of: String should match"),
        (M + LOCAL + "\n    policy: local-within", "policy local-within needs within_ms"),
        (M + LOCAL + "\n    policy: local-within\n    within_ms: 5", "needs local targets and cloud"),
        (M + LOCAL + "\n    within_ms: 5", "within_ms is for policy local-within, not local-first"),
        (M + LOCAL + "\n    policy: cloud-first", "policy cloud-first needs cloud"),
        (M + LOCAL + "\n    policy: cheap", "models.m.policy: Input should be 'local-first'"),
        (M + LOCAL + "\n    aliases: [b, b]", "'b' (an alias of m) is given twice"),
        (M + LOCAL + "\n    aliases: [m]", "'m' (an alias of m) is given twice"),
        (M + LOCAL + "\nlisten: {tls_cert: c}", "TLS needs both"),
        (M + LOCAL + "\nlisten: {prot: 1}", "Did you mean 'port'"),
        (M + LOCAL + "\nledger: postgresql://u:secret@h/db", "put the URL into a variable and write env:ITS_NAME"),
        (M + LOCAL + "\nledger: 'env:A B'", "after 'env:' comes a variable's name"),
        (M + LOCAL + "\nlog_requests: all", "log_requests: Input should be 'none'"),
        (M + LOCAL + "\nversion: 2", "is written for a newer lemnos"),
    ],
)  # fmt: skip
def test_what_may_not_be_written(text: str, says: str) -> None:
    said = refused(text)
    assert says in said
    assert "secret" not in said


def test_keys_are_given_once() -> None:
    one = "{name: a, sha256: " + "a" * 64 + "}"
    other = "{name: b, sha256: " + "a" * 64 + "}"
    assert "same name: a" in refused(f"keys: [{one}, {one}]", KeysFile)
    assert "same sha256" in refused(f"keys: [{one}, {other}]", KeysFile)
    assert "String should match" in refused("keys: [{name: a, sha256: x}]", KeysFile)


def test_a_deployments_endpoint_has_clouds_too() -> None:
    text = (
        "model: a\nendpoint:\n  keys_file: k.yaml\n  cloud: [{provider: zai}]\n"
        "  policy: local-within\n  within_ms: 900\n"
    )
    endpoint = parse(text, DeploymentSpec, where="d").endpoint
    assert endpoint.cloud == (CloudSpec(provider="zai"),)
    assert endpoint.within_ms == 900
    assert samples.spec(endpoint={"host": "0.0.0.0", "keys_file": "k"})
    for written, says in (
        ("cloud: [{provider: zai}]", "without keys no money is spent"),
        ("policy: cloud-first", "policy cloud-first needs cloud"),
        ("host: 0.0.0.0", "can be reached by others"),
    ):
        with pytest.raises(UsageError, match=says):
            parse(f"model: a\nendpoint: {{{written}}}", DeploymentSpec, where="d")
