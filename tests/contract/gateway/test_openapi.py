"""Requests made from the gateway's own description of itself, against its real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import beds, upstream
from tests.contract.gateway.gateways import Start
from tests.contract.gateway.hostile import KEY

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method,"
    "allow_header_conformance"
)
WHOLE = {
    "id": "resp_1", "object": "chat.completion", "model": "m", "type": "message",
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "input_tokens": 1},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"},
                 "finish_reason": "stop"}],
}  # fmt: skip


async def honest(writer: upstream.Writer) -> None:
    """An engine that answers whatever it is asked."""
    await upstream.answer(json.dumps(WHOLE).encode())(writer)


def described(said: dict[str, Any], directory: Path) -> str:
    """The gateway's description, of its only model: other names would be 404, and no more."""
    said["components"]["schemas"]["ModelName"] = {"enum": ["m"]}
    path = directory / "openapi.json"
    path.write_text(json.dumps(said))
    return str(path)


def command(url: str, description: str, checks: str, *words: str) -> list[str]:
    """Schemathesis' own command line: it decides what is wrong."""
    return [
        str(Path(sys.executable).with_name("schemathesis")), "run",
        description, "--url", url, "--checks", checks,
        "--max-examples", "10" if beds.ON else "3",
        "--phases", "examples,coverage,fuzzing", "--seed", "1", "--workers", "1",
        "--generation-database", "none", "--no-color", "--warnings", "off",
        "--request-timeout", "10", *words,
    ]  # fmt: skip


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["keyless", "with a key"])
def test_the_gateway_is_as_it_describes_itself(
    start: Start, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    said = [f"--header={name}: {value}" for name, value in headers.items()]
    checks = f"{CHECKS},ignored_auth" if keys else CHECKS
    with upstream.serving(honest) as engine:
        gateway = start(engine.url, keys=keys)
        description = gateway.get("/openapi.json", headers=headers).json()
        done = subprocess.run(
            command(gateway.url, described(description, tmp_path), checks, *said),
            cwd=tmp_path,
            env={**os.environ, "NO_PROXY": "*", "HYPOTHESIS_STORAGE_DIRECTORY": "."},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert gateway.process.poll() is None
        assert engine.asked, "nothing reached the engine"
