"""A deployment's whole life, with the real engine, model, gateway and supervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import psutil
import pytest

import lemnos
from lemnos.deployments import deploy
from lemnos.spec.facts import LocalModel
from tests.command import lemnos as run
from tests.command import report
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("embedded")]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def up(port: int, *more: str) -> Any:
    return report(
        "up", "--context", "512", "--concurrency", "2", "--port", str(port), *more
    )


@pytest.fixture
def endpoint(port: int) -> Iterator[Any]:
    """A deployment that is up."""
    yield up(port)
    if lemnos.status():
        run("down", "--all", "--now")


def files_left(home: Path) -> list[str]:
    """What is there beside the databases, verified stamps and logs."""
    state = home / "lemnos" / "state"
    kept = {"lemnos.db", "ledger.db", "verified.json", "id"}
    return [
        str(path.relative_to(state))
        for path in state.rglob("*")
        if path.is_file() and path.name not in kept and path.suffix != ".log"
    ]


def test_up_serves_and_every_verb_works(endpoint: Any, home: Path, port: int) -> None:
    assert endpoint["url"] == f"http://127.0.0.1:{port}/v1"
    assert endpoint["model"] == "smollm2-135m-instruct"
    assert endpoint["ready_s"] > 0 and endpoint["output_tokens_per_s"] > 0

    (shown,) = report("ps")
    assert (shown["phase"], shown["restarts"], shown["why"]) == ("ready", 0, "")
    assert "ready" in run("ps").stdout

    again = up(port)
    assert again["already_up"] and again["url"] == endpoint["url"]
    assert len(report("ps")) == 1

    answer = run(
        "chat", "--prompt", "Say hello.", "--max-tokens", "8", "--temperature", "0"
    )
    assert answer.stdout.strip()
    by_url = run(
        "chat", "--url", endpoint["url"], "--prompt", "Hi", "--max-tokens", "4"
    )
    assert by_url.stdout.strip()

    rows = report("bench", "--quick", "--concurrency", "1,2", "--output-tokens", "6")
    assert [row["error"] for row in rows] == [None, None]
    assert rows[0]["measured"]["output_tokens_mean"] == 6
    assert rows[0]["measured"]["ttft_ms_p50"] > 0

    assert "listening on" in run("logs", "-n", "1000").stdout
    assert "listening on" in run("logs", "--job", "gateway-0").stdout

    run("restart")
    assert report("ps")[0]["restarts"] == 0

    records = report("records", "ls")
    assert [record["kind"] for record in records] == ["up", "bench", "bench"]
    assert records[0]["measured"]["ready_s"] == endpoint["ready_s"]
    assert records[0]["plan"]["embedded"]["settings"]["context"] == 512
    text = run("records", "show", endpoint["record"]).stdout
    assert "output_tokens_per_s" in text
    key = (
        home / "lemnos/state/deployments/smollm2-135m-instruct/engine.key"
    ).read_text()
    assert key not in (home / "lemnos/state/lemnos.db").read_bytes().decode("latin-1")

    assert run("down").stdout == "smollm2-135m-instruct is down\n"
    assert report("ps") == []
    assert files_left(home) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert "listening on" in run("logs", "smollm2-135m-instruct", "-n", "1000").stdout

    again = report("records", "rerun", endpoint["record"])
    assert again["already_up"] is False
    run("down", "--now")


def test_the_real_sdks(endpoint: Any) -> None:
    messages: Any = [{"role": "user", "content": "What is the capital of France?"}]
    model = endpoint["model"]
    with openai.OpenAI(base_url=endpoint["url"], api_key="none") as client:
        answer = client.chat.completions.create(
            model=model, messages=messages, max_tokens=8, temperature=0
        )
        chunks = client.chat.completions.create(
            model=model, messages=messages, max_tokens=8, temperature=0, stream=True
        )
        streamed = "".join(
            c.choices[0].delta.content or "" for c in chunks if c.choices
        )
        assert streamed == answer.choices[0].message.content
        assert client.completions.create(model=model, prompt="a", max_tokens=3).usage
        assert (
            len(client.embeddings.create(model=model, input="x").data[0].embedding)
            == 576
        )
        assert client.responses.create(
            model=model, input="Hi", max_output_tokens=4
        ).output_text
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=messages)
    base = endpoint["url"].removesuffix("/v1")
    with anthropic.Anthropic(base_url=base, api_key="none") as claude:
        message = claude.messages.create(model=model, messages=messages, max_tokens=8)
        assert message.usage.output_tokens == 8
        with claude.messages.stream(
            model=model, messages=messages, max_tokens=8
        ) as stream:
            assert "".join(stream.text_stream)
        assert (
            claude.messages.count_tokens(model=model, messages=messages).input_tokens
            > 5
        )
        with pytest.raises(anthropic.NotFoundError):
            claude.messages.create(model="other", messages=messages, max_tokens=8)


def test_the_python_api(endpoint: Any) -> None:
    same = lemnos.up(
        "smollm2", context=512, concurrency=2, port=int(endpoint["url"][-8:-3])
    )
    assert same.already_up
    with same.client() as client:
        assert client.generate("The capital of France is", max_tokens=4, temperature=0)
        assert client.chat("Hi", max_tokens=3).output_tokens == 3
        assert "".join(client.stream("Hi", max_tokens=3))
    record = lemnos.bench(requests=2, output_tokens=4)
    assert record.measured["requests"] == 2
    assert lemnos.get_record("last") == record
    assert lemnos.restart().url == endpoint["url"]
    assert lemnos.down() == same.name
    assert lemnos.status() == []


def test_a_killed_engine_comes_back_and_ps_says_why(endpoint: Any) -> None:
    (pid,) = report("ps")[0]["engine_pids"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: lemnos.status()[0].phase == "degraded")
    until(lambda: lemnos.status()[0].phase == "ready")
    (shown,) = report("ps")
    assert shown["restarts"] == 1
    assert shown["why"] == "engine-0 was killed by SIGKILL"
    assert shown["engine_pids"] != [pid]
    assert run("chat", "--prompt", "Hi", "--max-tokens", "3").stdout.strip()


def test_the_engines_port_is_not_for_clients(endpoint: Any, home: Path) -> None:
    table = home / "lemnos/state/deployments/smollm2-135m-instruct/targets.json"
    url = json.loads(table.read_text())["routes"][0]["targets"][0]["base_url"]
    body = {"model": endpoint["model"], "prompt": "a", "max_tokens": 1}
    with httpx2.Client(trust_env=False) as client:
        assert client.post(f"{url}/v1/completions", json=body).status_code == 401
    assert table.parent.stat().st_mode & 0o077 == 0, "others can look inside"
    assert (table.parent / "engine.key").stat().st_mode & 0o077 == 0


def test_a_killed_supervisor_is_replaced_and_nothing_stops_serving(
    endpoint: Any, port: int
) -> None:
    (before,) = report("ps")
    os.kill(before["supervisor_pid"], signal.SIGKILL)
    until(lambda: not lemnos.status()[0].supervisor_alive)
    assert "supervisor gone" in run("ps").stdout
    assert run("chat", "--prompt", "Hi", "--max-tokens", "3").stdout.strip()
    assert up(port)["already_up"]
    (after,) = report("ps")
    assert after["supervisor_pid"] != before["supervisor_pid"]
    assert after["engine_pids"] == before["engine_pids"]
    assert (after["restarts"], after["why"]) == (0, ""), "its gateway was found, too"
    os.kill(after["engine_pids"][0], signal.SIGKILL)
    until(
        lambda: lemnos.status()[0].restarts == 1 and lemnos.status()[0].phase == "ready"
    )


def test_down_works_when_everything_was_killed(endpoint: Any, home: Path) -> None:
    (shown,) = report("ps")
    os.kill(shown["supervisor_pid"], signal.SIGKILL)
    os.kill(shown["engine_pids"][0], signal.SIGKILL)
    run("down")
    assert files_left(home) == [] and report("ps") == []


def test_two_ups_at_once_are_one_deployment(port: int) -> None:
    words = (
        "up",
        "--context",
        "512",
        "--concurrency",
        "2",
        "--port",
        str(port),
        "--json",
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "lemnos", *words], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [json.loads(process.communicate(timeout=180)[0]) for process in both]
    assert sorted(one["already_up"] for one in said) == [False, True]
    assert len({one["url"] for one in said}) == 1
    assert len(lemnos.status()) == 1
    run("down", "--now")


def test_a_changed_spec_is_a_new_revision_of_the_same_deployment(
    endpoint: Any, port: int
) -> None:
    changed = report(
        "up", "--context", "1024", "--concurrency", "1", "--port", str(port)
    )
    assert changed["already_up"] is False and changed["url"] == endpoint["url"]
    (shown,) = report("ps")
    assert shown["revision"] == 2


def test_keys_from_a_file(port: int, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef-client-key\n")
    up(port, "--api-key-file", str(keys))
    url = f"http://127.0.0.1:{port}/v1/models"
    with httpx2.Client(trust_env=False) as client:
        assert client.get(url).status_code == 401
        good = {"x-api-key": "0123456789abcdef-client-key"}
        assert client.get(url, headers=good).status_code == 200
    assert run("chat", "--prompt", "Hi", "--max-tokens", "3").stdout.strip()
    run("down", "--now")


@pytest.mark.parametrize(
    "stage", ["suits this machine", "launching", "loading weights"]
)
def test_ctrl_c_at_any_stage_leaves_nothing(stage: str, home: Path, port: int) -> None:
    words = ["up", "--context", "512", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "lemnos", *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    for line in process.stderr:
        if stage in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in rest
    assert lemnos.status() == []
    assert files_left(home) == []
    outcomes = [record.outcome for record in lemnos.list_records()]
    assert outcomes == ["interrupted"] or (
        stage == "suits this machine" and not outcomes
    )


def test_foreground_stays_until_it_is_ended(home: Path, port: int) -> None:
    words = ["up", "--context", "512", "--port", str(port), "--foreground"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lemnos", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if "Ctrl-C takes it down" in line:
            break
    assert lemnos.status()[0].phase == "ready"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert lemnos.status() == [] and files_left(home) == []


def test_a_taken_port_is_named_with_its_holder(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = run("up", "--port", str(port), code=1).stderr
    assert f"port {port} is taken by process {os.getpid()}" in said
    assert psutil.Process().username() in said
    assert lemnos.status() == [] and files_left(home) == []


def test_a_port_lost_between_choice_and_start_is_replaced(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        choices = [taken.getsockname()[1], port]
        monkeypatch.setattr(deploy, "_port", lambda *_: choices.pop(0))
        endpoint = lemnos.up("smollm2", context=512, concurrency=1)
    assert endpoint.url == f"http://127.0.0.1:{port}/v1"
    run("down", "--now")


def test_an_engine_that_cannot_start_says_its_own_words(
    embedded: LocalModel, home: Path, tmp_path: Path, port: int
) -> None:
    # A header that is whole and says something that llama.cpp does not know.
    data = Path(embedded.path).read_bytes()
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(
        data.replace(
            b"\x05\x00\x00\x00\x00\x00\x00\x00llama",
            b"\x05\x00\x00\x00\x00\x00\x00\x00lemma",
        ).replace(b"llama.", b"lemma.")
    )
    said = run("up", str(odd), "--port", str(port), code=1).stderr
    assert "odd did not start" in said
    assert "llama.cpp cannot serve" in said or "unknown model architecture" in said
    assert lemnos.status() == [] and files_left(home) == []
    (record,) = lemnos.list_records()
    assert record.outcome == "failed" and record.engine_log


def test_a_cut_model_is_refused_before_anything_starts(
    embedded: LocalModel, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    with open(embedded.path, "rb") as whole:
        cut.write_bytes(whole.read(50_000_000))
    said = run("up", str(cut), code=1).stderr
    assert "is cut off" in said and "50000000" in said


def test_a_dry_run_starts_nothing(home: Path) -> None:
    said = run("up", "--dry-run").stdout
    assert "lemnos.engines.llamacpp_server" in said and "lemnos.gateway" in said
    assert "OMP_WAIT_POLICY=passive" in said
    data = report("up", "--dry-run")
    assert data["plan"]["embedded"]["memory"]["kv_cache"] == 23040 * 4096 * 4
    assert lemnos.status() == [] and lemnos.list_records() == []
    assert not (home / "lemnos" / "state" / "deployments").exists()
