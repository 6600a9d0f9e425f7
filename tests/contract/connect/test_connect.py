"""``lemnos connect`` as people run it: real files, a real shell, and back again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lemnos.connect import backup
from lemnos.errors import LemnosError
from tests.command import failing, lemnos
from tests.unit.connect.configurations import HEPHAESTUS, SETTINGS

KEY = "a-key-that-nobody-may-see"
TO = ("--url", "http://127.0.0.1:5366/v1", "--model", "glm-4.6")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n")
    return ("--key-file", str(path))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hephaestus_config.yaml"
    path.write_text(HEPHAESTUS)
    path.chmod(0o640)
    return path


@pytest.fixture
def settings(home: Path) -> Path:
    """Claude Code's, where they always are; not there yet."""
    return home / ".claude" / "settings.json"


def kept(home: Path) -> list[Path]:
    """Everything that lemnos keeps for an undo."""
    root = home / "lemnos/state/connect"
    return [path for path in root.rglob("*") if path.is_file()]


def test_hephaestus_there_and_back(
    config: Path, keys: tuple[str, str], home: Path
) -> None:
    words = ("connect", "hephaestus", "--config", str(config), *TO, *keys)
    done = lemnos(*words)
    llm = yaml.safe_load(config.read_text())["llm"]
    assert llm["providers"]["openrouter"]["base_url"] == "http://127.0.0.1:5366/v1"
    assert "# Watches the agents" in config.read_text()
    assert (
        "tmux" in done.stderr and "agents.cli_model: GLM-4.6 -> sonnet" in done.stderr
    )
    assert KEY not in done.stdout + done.stderr + config.read_text()
    assert not any(KEY in path.read_text() for path in kept(home))

    shown = (
        'printf "%s " "$OPENROUTER_API_KEY" "$ANTHROPIC_BASE_URL" "$ANTHROPIC_API_KEY"'
    )
    said = subprocess.run(
        ["sh", "-c", f"{done.stdout}\n{shown}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == [KEY, "http://127.0.0.1:5366", KEY]

    assert lemnos(*words).stdout == done.stdout
    lemnos("connect", "hephaestus", "--undo")
    assert config.read_bytes() == HEPHAESTUS.encode()
    assert config.stat().st_mode & 0o777 == 0o640
    assert kept(home) == []


def test_claude_code_there_and_back(
    settings: Path, keys: tuple[str, str], home: Path
) -> None:
    lemnos("connect", "claude-code", *TO, *keys)
    made = json.loads(settings.read_text())
    helper = subprocess.run(
        ["sh", "-c", made["apiKeyHelper"]], capture_output=True, text=True, check=True
    )
    assert helper.stdout.strip() == KEY and KEY not in settings.read_text()
    assert settings.stat().st_mode & 0o077 == 0
    lemnos("connect", "claude-code", "--undo")
    assert not settings.parent.exists(), "it was not there before"

    settings.parent.mkdir()
    settings.write_text(SETTINGS)
    done = lemnos("connect", "claude-code", *TO)
    assert "sk-ant-of-mine" not in done.stdout + done.stderr
    lemnos("connect", "claude-code", *TO, *keys)
    lemnos("connect", "--undo")
    assert settings.read_text() == SETTINGS


def test_a_project_has_settings_of_its_own(
    tmp_path: Path, settings: Path, keys: tuple[str, str]
) -> None:
    words = ("connect", "claude-code", "--project", str(tmp_path))
    assert "trust" in lemnos(*words, *TO, *keys).stderr
    local = tmp_path / ".claude/settings.local.json"
    assert local.exists() and not settings.exists()
    lemnos(*words, "--undo")
    assert not local.parent.exists()


def test_a_link_stays_a_link(settings: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text(SETTINGS)
    settings.parent.mkdir()
    settings.symlink_to(real)
    lemnos("connect", "claude-code", *TO)
    assert settings.is_symlink() and "5366" in real.read_text()
    lemnos("connect", "claude-code", "--undo")
    assert settings.is_symlink() and real.read_text() == SETTINGS


def test_what_others_wrote_since_stays(settings: Path) -> None:
    settings.parent.mkdir()
    settings.write_text(SETTINGS)
    lemnos("connect", "claude-code", *TO)
    theirs = json.loads(settings.read_text()) | {"theme": "dark"}
    theirs["env"]["ANTHROPIC_DEFAULT_OPUS_MODEL"] = "mine"
    settings.write_text(json.dumps(theirs))
    done = lemnos("connect", "claude-code", "--undo")
    assert "but for env.ANTHROPIC_DEFAULT_OPUS_MODEL, changed since" in done.stdout
    want: Any = json.loads(SETTINGS) | {"theme": "dark"}
    want["env"]["ANTHROPIC_DEFAULT_OPUS_MODEL"] = "mine"
    assert json.loads(settings.read_text()) == want


def test_connecting_again_takes_what_others_wrote_as_there_before(
    settings: Path,
) -> None:
    lemnos("connect", "claude-code", *TO)
    theirs = json.loads(settings.read_text()) | {"theme": "dark"}
    settings.write_text(json.dumps(theirs))
    lemnos("connect", "claude-code", *TO)
    lemnos("connect", "claude-code", "--undo")
    assert json.loads(settings.read_text()) == {"theme": "dark"}


def test_a_file_that_was_deleted_since_comes_back(config: Path) -> None:
    words = ("connect", "hephaestus", "--config", str(config))
    lemnos(*words, *TO)
    config.unlink()
    lemnos(*words, "--undo")
    assert config.read_bytes() == HEPHAESTUS.encode()


def test_a_file_that_was_broken_since_is_not_touched(
    settings: Path, home: Path
) -> None:
    settings.parent.mkdir()
    settings.write_text(SETTINGS)
    lemnos("connect", "claude-code", *TO)
    settings.write_text('{"half')
    said = failing("connect", "claude-code", "--undo")
    assert "was changed since `lemnos connect`, and is not valid JSON" in said
    assert settings.read_text() == '{"half'
    (copy,) = [path for path in kept(home) if path.read_text() == SETTINGS]
    assert str(copy) in said, "it says where the original is"
    settings.write_text(SETTINGS)
    lemnos("connect", "claude-code", "--undo")
    assert settings.read_text() == SETTINGS


def test_a_damaged_copy_changes_nothing(config: Path, home: Path) -> None:
    lemnos("connect", "hephaestus", "--config", str(config), *TO)
    now = config.read_bytes()
    (copy,) = [path for path in kept(home) if path.read_text() == HEPHAESTUS]
    copy.write_text(HEPHAESTUS[:-1])
    assert "gone or damaged, so nothing was changed" in failing("connect", "--undo")
    assert config.read_bytes() == now
    copy.write_text(HEPHAESTUS)
    lemnos("connect", "--undo")
    assert config.read_bytes() == HEPHAESTUS.encode()


def test_a_connect_that_was_broken_off_is_undone(config: Path, home: Path) -> None:
    """The copy is written before the file: if nothing came after it, an undo changes nothing."""

    def edit(text: str) -> str:
        return text.replace("8000", "9000")

    backup.apply("hephaestus", config, "yaml", edit, url="u", model="m", key_file=None)
    config.write_text(HEPHAESTUS)  # as if the last step had not happened
    (entry,) = backup.entries()
    assert not backup.undo(entry).kept
    assert config.read_text() == HEPHAESTUS and kept(home) == []


def test_copies_are_for_their_owner_alone(config: Path, home: Path) -> None:
    lemnos("connect", "hephaestus", "--config", str(config), *TO)
    assert len(kept(home)) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept(home))
    assert (home / "lemnos/state/connect").stat().st_mode & 0o077 == 0


def test_an_env_file_there_and_back(tmp_path: Path, keys: tuple[str, str]) -> None:
    env = tmp_path / ".env"
    before = "# mine\nOPENAI_API_KEY='sk-old'\nOTHER=1"
    env.write_text(before)
    env.chmod(0o644)
    done = lemnos("connect", "openai", "--write", str(env), *TO, *keys)
    assert KEY not in done.stdout + done.stderr and "sk-old" not in done.stderr
    text = env.read_text()
    assert text.startswith(f"# mine\nOPENAI_API_KEY={KEY}\nOTHER=1\n")
    assert env.stat().st_mode & 0o077 == 0, "there is a key in it now"
    lemnos("connect", "openai", "--undo", "--write", str(env))
    assert env.read_text() == before and env.stat().st_mode & 0o777 == 0o644


def test_sdks_are_told_what_to_export() -> None:
    done = lemnos("connect", "langchain", *TO, "--embedding-model", "e")
    assert done.stdout.splitlines() == [
        "export OPENAI_BASE_URL=http://127.0.0.1:5366/v1",
        "export OPENAI_API_KEY=lemnos",
        "export OPENAI_API_BASE=http://127.0.0.1:5366/v1",
    ]
    assert "check_embedding_ctx_length=False" in done.stderr
    report = json.loads(lemnos("connect", "openai", *TO, "--json").stdout)
    assert report["exports"] and report["file"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("hephaestus", "--config", "nowhere.yaml", *TO), "nowhere.yaml: is not there"),
        (("hephaestus", "--config", ".", *TO), "cannot be read (Is a directory)"),
        (("hephaestus", "--project", ".", *TO), "--project is for claude-code"),
        (("openai", "--config", "x", *TO), "--config is for hephaestus"),
        (("claude-code", "--key-file", "nowhere", *TO), "cannot be read"),
        (TO, "which client?"),
        (("openai",), "nothing is deployed"),
        (("--undo",), "nothing is connected"),
        (("openai", "--undo"), "nothing is connected: openai"),
        (("--undo", "--check"), "--undo and --check are two things"),
        (("openai", "--url", "http://127.0.0.1:9"), "nothing answers"),
        (("openai", "--url", "127.0.0.1:9", "--model", "m"), "is not a URL"),
    ],
)
def test_mistakes_are_sentences(words: tuple[str, ...], says: str) -> None:
    assert says in failing("connect", *words)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("llm: [1\n", ":2:1: is not valid YAML"),
        ("", "has no 'llm' section"),
        ("llm: {model_assignments: 3}\n", "'llm.model_assignments' is not a mapping"),
        ("llm: {providers: [openrouter]}\n", "'llm.providers' is not a mapping"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_broken_configuration_is_a_sentence_and_stays(
    config: Path, content: str | bytes, says: str, home: Path
) -> None:
    data = content.encode() if isinstance(content, str) else content
    config.write_bytes(data)
    said = failing("connect", "hephaestus", "--config", str(config), *TO)
    assert says in said and str(config) in said
    assert config.read_bytes() == data and kept(home) == []


def test_entries_name_what_is_connected(config: Path) -> None:
    lemnos("connect", "hephaestus", "--config", str(config), *TO)
    (entry,) = backup.entries("hephaestus", config)
    assert (entry.url, entry.model) == ("http://127.0.0.1:5366", "glm-4.6")
    assert backup.entries("openai") == []
    assert list(config.parent.iterdir()) == [config], "nothing is kept beside the file"


def test_a_damaged_entry_is_a_sentence(config: Path, home: Path) -> None:
    lemnos("connect", "hephaestus", "--config", str(config), *TO)
    (entry,) = [path for path in kept(home) if path.name == "entry.json"]
    entry.write_text("{")
    with pytest.raises(LemnosError, match="is damaged"):
        backup.entries()
