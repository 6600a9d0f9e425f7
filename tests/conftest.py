"""Every test runs in a home of its own and reaches no network but loopback.

pytest-socket (see ``addopts``) refuses other hosts to this process; children get an
environment whose proxies point at a closed port, so that only what a fixture allows
(uv, asking the package index for the embedded model) gets out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LEAKY = ("HF_", "HUGGINGFACE_", "MODELSCOPE_", "XDG_", "LEMNOS_")


@pytest.fixture(autouse=True)
def home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A home directory of the test's own; nothing of the real one is seen or touched."""
    import os

    directory = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(LEAKY):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("LEMNOS_HOME", str(directory / "lemnos"))
    monkeypatch.setenv("HF_HOME", str(directory / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return directory
