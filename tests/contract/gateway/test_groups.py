"""Prefill/decode groups behind the real smg, which the gateway runs, before stand-ins for
SGLang's engines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from lemnos.deployments import gateways
from lemnos.engines.environments.places import installed
from lemnos.gateway import revisions
from lemnos.hardware.ports import free_port
from tests import upstream
from tests.command import failing, lemnos, report
from tests.contract.gateway import sglang_workers
from tests.contract.gateway.gateways import BODY, CHAT
from tests.contract.gateway.sglang_workers import Worker
from tests.waiting import until

VERSION = "1.13.0"
# Looked for before the tests' own home hides it.
ENVIRONMENT = installed("smg", VERSION)
pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(
        ENVIRONMENT is None,
        reason=f"no real smg: 'lemnos engines install smg=={VERSION}' makes its environment",
    ),
]
KEY = "-the-key-of-the-group's-engines"


@contextlib.contextmanager
def workers(*roles: str) -> Iterator[list[Worker]]:
    with contextlib.ExitStack() as stack:
        serving = sglang_workers.serving
        yield [stack.enter_context(serving(role, KEY)) for role in roles]  # type: ignore[arg-type]


def group(prefill: Worker, decode: Worker, more: str = "") -> str:
    """An entry of ``local``; ``key`` is beside the file."""
    assert ENVIRONMENT
    return (
        f"{{router: smg, program: {ENVIRONMENT.program}, key_file: key, name: pd{more}, "
        f"prefill: [{{url: '{prefill.url}', bootstrap_port: 8998}}], "
        f"decode: [{{url: '{decode.url}/v1'}}]}}"
    )


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Writes gateway.yaml with its local entries; its gateway is gone after the test."""
    port = free_port("127.0.0.1")
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    key.chmod(0o600)

    def _write(*local: str) -> Path:
        lines = "".join(f"      - {each}\n" for each in local)
        file = tmp_path / "g.yaml"
        file.write_text(f"listen: {{port: {port}}}\nmodels:\n  m:\n    local:\n{lines}")
        return file

    yield _write
    for files in revisions.gateways():
        gateways.stop(files)


def run(file: Path) -> str:
    """The base URL of the gateway that serves ``file``."""
    return str(report("gateway", "run", str(file))["url"]).removesuffix("/v1")


def ask(url: str, **more: object) -> httpx2.Response:
    with httpx2.Client(trust_env=False, timeout=30) as client:
        return client.post(url + CHAT, json={**BODY, **more})


def answered(url: str) -> httpx2.Response:
    """The first good answer; smg needs a few seconds to start."""
    return until(
        lambda: (got := ask(url)).status_code == 200 and got or None, within_s=60
    )  # type: ignore[return-value]


def gateway_pid() -> int:
    pid = gateways.pid_of(revisions.gateways()[0])
    assert pid
    return pid


def router_of(gateway: int) -> psutil.Process:
    """The one that runs; one that ended may not have been waited for yet."""
    (child,) = until(lambda: live(psutil.Process(gateway).children()))
    return child


def live(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if not ended(each)]


def ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def log_text() -> str:
    return revisions.gateways()[0].log.read_text()


def test_a_request_is_answered_and_nobody_else_is(write: Callable[..., Path]) -> None:
    with workers("prefill", "decode") as (prefill, decode):
        url = run(write(group(prefill, decode)))
        got = answered(url)
        assert (
            got.json()["choices"][0]["message"]["content"] == f"by decode {decode.port}"
        )
        (read,), (decoded,) = prefill.prompts[-1:], decode.prompts[-1:]
        assert read["bootstrap_room"] == decoded["bootstrap_room"]
        assert read["bootstrap_port"] == 8998 and read["unknown"] == {"x": 1}
        assert prefill.wrong_keys == decode.wrong_keys == []
        router = router_of(gateway_pid())
        ports = {c.laddr for c in router.net_connections("tcp") if c.status == "LISTEN"}
        assert len(ports) == 2, "its API and its metrics"
        assert {address for address, _ in ports} == {"127.0.0.1"}
        others = [ask(f"http://127.0.0.1:{port}").status_code for _, port in ports]
        assert 401 in others and 200 not in others
        assert KEY not in " ".join(router.cmdline())
        assert KEY not in " ".join(f"{k}={v}" for k, v in router.environ().items())
        assert KEY not in log_text()
        with httpx2.Client(trust_env=False, timeout=30) as client:
            body = {"model": "m", "max_tokens": 5, "messages": BODY["messages"]}
            said = client.post(f"{url}/v1/messages", json=body).json()
        assert said["content"][0]["text"] == f"by decode {decode.port}"


def test_a_router_that_is_killed_comes_back_and_others_answer_meanwhile(
    write: Callable[..., Path],
) -> None:
    engine = upstream.serving(upstream.answer(b'{"by": "other"}'))
    with workers("prefill", "decode") as (prefill, decode), engine as other:
        file = write(group(prefill, decode), f"{{url: {other.url}, name: other}}")
        url = run(file)
        until(lambda: ask(url).json().get("id") == "1", within_s=60)
        pid = gateway_pid()
        router = router_of(pid)
        router.kill()
        statuses = {ask(url).status_code for _ in range(50)}
        assert statuses == {200}
        before = len(decode.prompts)
        until(lambda: ask(url).status_code == 200 and len(decode.prompts) > before)
        assert router_of(pid).pid != router.pid
        assert "pd: the router ended" in log_text() and "signal 9" in log_text()


def test_without_another_target_a_killed_router_is_a_clean_error(
    write: Callable[..., Path],
) -> None:
    with workers("prefill", "decode") as (prefill, decode):
        url = run(write(group(prefill, decode)))
        answered(url)
        router_of(gateway_pid()).kill()
        seen: set[int] = set()
        while (got := ask(url)).status_code != 200 or not seen:
            if got.status_code != 200:
                assert got.json()["error"]["message"]
                seen.add(got.status_code)
        assert seen <= {502, 503}


def test_a_group_that_changes_is_replaced_and_open_streams_end(
    write: Callable[..., Path],
) -> None:
    with workers("prefill", "decode", "decode") as (prefill, first, second):
        url = run(write(group(prefill, first)))
        answered(url)
        pid = gateway_pid()
        before = router_of(pid)
        body = {**BODY, "stream": True}
        with (
            httpx2.Client(trust_env=False, timeout=60) as client,
            client.stream("POST", url + CHAT, json=body) as stream,
        ):
            lines = stream.iter_lines()
            assert "one" in next(line for line in lines if line)
            assert report("gateway", "apply", str(write(group(prefill, second))))["new"]
            answers = set()

            def moved() -> bool:
                got = ask(url)
                answers.add(got.status_code)
                return f"decode {second.port}" in got.text

            until(moved, within_s=60)
            assert answers == {200}
            first.may_end.set()
            rest = [line for line in lines if line]
            assert any("two" in line for line in rest) and rest[-1] == "data: [DONE]"
        until(lambda: ended(before))
        now = router_of(pid)
        # What does not change the command leaves the router alone.
        lemnos("gateway", "drain", "pd")
        until(lambda: ask(url).status_code == 503)
        lemnos("gateway", "undrain", "pd")
        answered(url)
        assert router_of(pid).pid == now.pid


def test_a_key_that_is_replaced_is_taken_up(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    with workers("prefill", "decode") as (prefill, decode):
        url = run(write(group(prefill, decode)))
        answered(url)
        prefill.key = decode.key = "another-key"
        new = tmp_path / "key.new"
        new.write_text("another-key")
        new.replace(tmp_path / "key")
        answered(url)


def test_engines_that_are_not_up_are_waited_for_and_come_back(
    write: Callable[..., Path],
) -> None:
    port = free_port("127.0.0.1")
    absent = Worker("decode", KEY, port)
    with workers("prefill") as (prefill,):
        url = run(write(group(prefill, absent)))
        until(lambda: "/health" in log_text(), within_s=60)  # smg misses it
        got = ask(url)
        assert got.status_code == 503
        assert "no replica that is ready" in got.json()["error"]["message"]
        for _ in range(2):
            with sglang_workers.serving("decode", KEY, port):
                answered(url)
            until(lambda: ask(url).status_code in (502, 503))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_router_ends_with_its_gateway(
    write: Callable[..., Path], how: signal.Signals
) -> None:
    with workers("prefill", "decode") as (prefill, decode):
        answered(run(write(group(prefill, decode))))
        pid = gateway_pid()
        router = router_of(pid)
        os.kill(pid, how)
        router.wait(30)
        assert not psutil.pid_exists(router.pid)


def test_removed_from_the_file_it_ends(write: Callable[..., Path]) -> None:
    engine = upstream.serving(upstream.answer(b'{"by": "other"}'))
    with workers("prefill", "decode") as (prefill, decode), engine as other:
        url = run(write(group(prefill, decode)))
        answered(url)
        router = router_of(gateway_pid())
        lemnos("gateway", "apply", str(write(f"{{url: {other.url}}}")))
        until(lambda: ask(url).json() == {"by": "other"})
        until(lambda: ended(router))


def test_a_program_that_is_not_smg_is_a_sentence(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    with workers("prefill", "decode") as (prefill, decode):
        entry = group(prefill, decode)
        assert ENVIRONMENT
        missing = entry.replace(ENVIRONMENT.program, "./nowhere/smg")
        assert "there is no program" in failing("gateway", "check", str(write(missing)))
        # This test's own Python has no smg.
        wrong = entry.replace(ENVIRONMENT.program, sys.executable)
        told = failing("gateway", "apply", str(write(wrong)))
        assert f"smg cannot be imported by {sys.executable}" in told
        assert f"lemnos engines install smg=={VERSION}" in told
        command = Path(ENVIRONMENT.program).with_name("smg")
        link = tmp_path / "smg-on-path"
        link.symlink_to(command)
        linked = entry.replace(ENVIRONMENT.program, "./smg-on-path")
        found = report("gateway", "check", str(write(linked)))
        (router,) = found["routers"]
        assert router["program"] == str(command.resolve().with_name("python"))
        done = subprocess.run(
            [router["program"], "-I", "-c", "import smg"], check=False
        )
        assert done.returncode == 0
