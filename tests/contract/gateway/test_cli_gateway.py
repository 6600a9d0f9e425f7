"""``lemnos gateway`` and ``lemnos keys``, as people run them, with the real gateway."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from lemnos.deployments import gateways
from lemnos.deployments.files import Files
from lemnos.deployments.targets import write_table
from lemnos.gateway import revisions
from lemnos.gateway.ledger import default_path, sqlite_url
from lemnos.hardware.ports import free_port
from tests import upstream
from tests.command import failing, lemnos, report
from tests.contract.gateway.gateways import BODY, CHAT, table_of
from tests.waiting import until


def write(path: Path, *targets: str, more: str = "", port: int = 5367) -> Path:
    lines = "".join(f"      - {target}\n" for target in targets)
    path.write_text(
        f"listen: {{port: {port}}}\nmodels:\n  m:\n    local:\n{lines}{more}"
    )
    return path


@pytest.fixture
def stopped() -> Iterator[None]:
    """Whatever gateway a test has started is gone after it."""
    yield
    for files in revisions.gateways():
        gateways.stop(files)


def ask(port: int, key: str | None = None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(trust_env=False, timeout=30) as client:
        return client.post(f"http://127.0.0.1:{port}{CHAT}", json=BODY, headers=headers)


def test_check_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "g.yaml", "{url: http://127.0.0.1:8000}", "{deployment: d}")
    done = lemnos("gateway", "check", str(file))
    assert "127.0.0.1:8000" in done.stdout and "replicas of d" in done.stdout
    assert "note: deployment 'd' is not up" in done.stderr
    got = report("gateway", "check", str(file))
    assert got["routes"][0]["model"] == "m" and len(got["warnings"]) == 1
    assert revisions.gateways() == []
    assert report("gateway", "status") == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("    polcy: cheapest\n", "g.yaml:6: models.m.polcy: unknown key 'polcy'. Did you mean 'policy'"),
        ("    cloud: [{provider: openruter}]\n", "g.yaml: models.m.cloud.0.provider: unknown provider 'openruter'\n  -> Did you mean 'openrouter'"),
        ("keys_file: k.yaml\n", "g.yaml: keys_file: has no key"),
        ("name: A\n", "g.yaml:6: name: use 1 to 53"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, more: str, says: str
) -> None:
    file = write(tmp_path / "g.yaml", "{url: http://127.0.0.1:8000}", more=more)
    assert says in failing("gateway", "apply", str(file))
    assert revisions.gateways() == []


def test_applied_rolled_back_drained_and_told(tmp_path: Path) -> None:
    file = write(tmp_path / "g.yaml", "{url: http://127.0.0.1:1, name: one}")
    assert "no gateway was applied" in failing("gateway", "history")
    assert report("gateway", "apply", str(file)) == {"revision": 1, "new": True}
    assert report("gateway", "apply", str(file)) == {"revision": 1, "new": False}
    write(file, "{url: http://127.0.0.1:2, name: two}")
    assert "revision 2 is in force" in lemnos("gateway", "apply", str(file)).stdout
    assert "Did you mean 'two'" in failing("gateway", "drain", "tow")
    assert report("gateway", "drain", "two")["revision"] == 3
    assert "drained" in lemnos("gateway", "status").stdout
    assert "is asked again" in lemnos("gateway", "undrain", "two").stdout
    assert report("gateway", "rollback", "1")["revision"] == 5
    shown = report("gateway", "history")
    assert [r["in_force"] for r in shown] == [False] * 4 + [True]
    assert [r["why"] for r in shown] == [
        "apply g.yaml",
        "apply g.yaml",
        "drain two",
        "undrain two",
        "rollback to 1",
    ]
    assert "5 *" in lemnos("gateway", "history").stdout
    assert "did not run" in lemnos("gateway", "stop").stdout
    other = write(
        tmp_path / "o.yaml", "{url: http://127.0.0.1:1}", more="name: other\n"
    )
    lemnos("gateway", "apply", str(other))
    assert "2 gateways: say which" in failing("gateway", "rollback")
    assert report("gateway", "history", "--name", "other")[0]["revision"] == 1


def test_a_gateway_runs_follows_its_file_and_stops(
    tmp_path: Path, stopped: None
) -> None:
    port = free_port("127.0.0.1")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(upstream.serving(upstream.answer(b'{"by": 1}')))
        second = stack.enter_context(upstream.serving(upstream.answer(b'{"by": 2}')))
        file = write(tmp_path / "g.yaml", f"{{url: {first.url}}}", port=port)
        ran = report("gateway", "run", str(file))
        assert ran == {"url": f"http://127.0.0.1:{port}/v1", "revision": 1, "started": True}  # fmt: skip
        assert ask(port).json() == {"by": 1}
        assert report("gateway", "status")[0]["pid"]
        assert report("gateway", "run", str(file))["started"] is False

        write(file, f"{{url: {second.url}}}", port=port)
        lemnos("gateway", "apply", str(file))
        until(lambda: ask(port).json() == {"by": 2})
        lemnos("gateway", "rollback")
        until(lambda: ask(port).json() == {"by": 1})

        moved = write(tmp_path / "moved.yaml", f"{{url: {first.url}}}", port=5367)
        assert "then run it again" in lemnos("gateway", "apply", str(moved)).stderr
        assert "read at the start" in failing("gateway", "run", str(moved))
        assert "is stopped" in lemnos("gateway", "stop").stdout
    assert report("gateway", "status")[0]["pid"] is None


def test_keys_hold_at_once_where_a_running_gateway_names_them(
    tmp_path: Path, stopped: None
) -> None:
    port, keys = free_port("127.0.0.1"), tmp_path / "keys.yaml"
    assert "say which: --keys-file" in failing("keys", "ls")
    first = lemnos("keys", "add", "ann", "--keys-file", str(keys))
    ann = first.stdout.strip()
    assert ann.startswith("lemnos-") and "nothing that runs" in first.stderr
    with upstream.serving(upstream.answer(b"{}")) as engine:
        more = f"keys_file: {keys.name}\n"
        file = write(
            tmp_path / "g.yaml", f"{{url: {engine.url}}}", more=more, port=port
        )
        lemnos("gateway", "run", str(file))
        assert ask(port).status_code == 401
        assert ask(port, ann).status_code == 200
        words = ("--requests-per-minute", "100", "--models", "m", "--budget-usd", "2.5")
        added = report("keys", "add", "bob", *words, "--days", "7")
        assert added["in_force"] == [f"revision 2 of a gateway on http://127.0.0.1:{port}"]  # fmt: skip
        until(lambda: ask(port, added["key"]).status_code == 200)
        listed = lemnos("keys", "ls").stdout
        assert "2.5 USD in 7 days" in listed and "100" in listed
        assert {"sha256", "key"}.isdisjoint(report("keys", "ls")[0])
        assert "removed ann" in lemnos("keys", "rm", "ann").stdout
        until(lambda: ask(port, ann).status_code == 401)
        assert "Did you mean 'bob'" in failing("keys", "rm", "bobb")
        assert "no key is left" in lemnos("keys", "rm", "bob").stderr
    kept = "".join(
        path.read_text()
        for path in (tmp_path, revisions.gateways()[0].directory)
        for path in path.rglob("*.yaml")
    )
    log = revisions.gateways()[0].log.read_text()
    assert ann not in kept + log and added["key"] not in kept + log


def test_a_budget_without_a_price_is_refused_before_the_key_is_made(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys.yaml"
    lemnos("keys", "add", "ann", "--keys-file", str(keys))
    more = (
        "    cloud: [{provider: openrouter, model: some/new}]\nkeys_file: keys.yaml\n"
    )
    lemnos("gateway", "apply", str(write(tmp_path / "g.yaml", "{url: http://h}", more=more)))  # fmt: skip
    assert "the budget of the key 'bob'" in failing("keys", "add", "bob", "--budget-usd", "1")  # fmt: skip
    assert [key["name"] for key in report("keys", "ls")] == ["ann"]


def test_replicas_of_a_deployment_serve_through_the_gateway(
    tmp_path: Path, stopped: None
) -> None:
    port = free_port("127.0.0.1")
    with upstream.serving(upstream.answer(b'{"by": "replica"}')) as engine:
        write_table(Files.of("glm").targets, table_of(engine.url))
        file = write(tmp_path / "g.yaml", "{deployment: glm}", port=port)
        done = lemnos("gateway", "run", str(file))
        assert "is not up" not in done.stderr
        assert ask(port).json() == {"by": "replica"}
        write_table(Files.of("glm").targets, table_of())
        until(lambda: ask(port).status_code == 503)


def test_in_the_foreground_it_is_the_process_itself(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    file = write(tmp_path / "g.yaml", "{url: http://127.0.0.1:9}", port=port)
    words = [
        sys.executable,
        "-m",
        "lemnos",
        "gateway",
        "run",
        str(file),
        "--foreground",
    ]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        assert report("gateway", "status")[0]["pid"] == process.pid
        assert "runs already" in failing("gateway", "run", str(file), "--foreground")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_gateway_that_cannot_start_says_why(tmp_path: Path, stopped: None) -> None:
    port = free_port("127.0.0.1")
    tls = f"{{port: {port}, tls_cert: c.pem, tls_key: c.key}}"
    file = write(tmp_path / "g.yaml", "{url: http://127.0.0.1:9}")
    file.write_text(file.read_text().replace("{port: 5367}", tls))
    assert "the gateway did not start: " in failing("gateway", "run", str(file))
    with upstream.serving(upstream.answer(b"{}")) as other:
        write(file, "{url: http://127.0.0.1:9}", port=other.port)
        said = failing("gateway", "run", str(file))
    assert f"port {other.port} is taken by" in said


def test_the_ledger_is_the_users_or_where_the_file_says(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "g.yaml", "{url: http://127.0.0.1:9}")
    for more, expected in (
        ("", sqlite_url(default_path())),
        ("ledger: own.db\n", f"sqlite:///{tmp_path / 'own.db'}"),
        ("ledger: env:LEDGER_URL\n", "env:LEDGER_URL"),
    ):
        write(file, "{url: http://127.0.0.1:9}", more=more)
        wanted = gateways.compile_file(file)
        argv = gateways.gateway_job(wanted.files, wanted.revision).command.argv
        assert argv[argv.index("--ledger") + 1] == expected
