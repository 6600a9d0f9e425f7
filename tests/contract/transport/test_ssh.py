"""Commands and models on another host, over a real sshd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos import paths
from lemnos.errors import LemnosError, UsageError
from lemnos.models import store
from lemnos.models.hosts import copy_to_host
from lemnos.models.progress import Silent
from lemnos.models.sources import Source
from lemnos.transport.ssh import Ssh
from tests import sshd, tiny_models

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(
        sshd.SSHD is None or (os.getuid() == 0 and not os.access("/run", os.W_OK)),
        reason="sshd is not installed (Debian: apt-get install openssh-server)",
    ),
]

EVIL = "a b'\"$(touch /tmp/lemnos-never)`id`;\nnext"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[sshd.Server]:
    with sshd.serving(tmp_path) as made:
        yield made


def test_every_word_arrives_as_it_was(server: sshd.Server) -> None:
    host = Ssh("box", server.config)
    assert host.output("printf", "%s", EVIL) == EVIL
    assert not Path("/tmp/lemnos-never").exists()


def test_failures_are_sentences(server: sshd.Server) -> None:
    host = Ssh("box", server.config)
    with pytest.raises(LemnosError, match="exit code 3: oops"):
        host.shell("echo oops >&2; exit 3")
    with pytest.raises(LemnosError, match="exit code 127"):
        host.output("no-such-command")
    with pytest.raises(LemnosError, match="nothing listens for SSH there"):
        Ssh("nowhere", server.config).run("true")
    (server.directory / "authorized").write_text("")
    with pytest.raises(LemnosError, match="does not let you in"):
        host.run("true")
    (server.directory / "known").write_text("")
    with pytest.raises(LemnosError, match="key is not known here"):
        host.run("true")


def test_a_changed_host_key_is_said(server: sshd.Server) -> None:
    known = server.directory / "known"
    other = (server.directory / "user.pub").read_text().split()[1]
    where, kind, _ = known.read_text().split()
    known.write_text(f"{where} {kind} {other}\n")
    with pytest.raises(LemnosError, match="the host's key has changed"):
        Ssh("box", server.config).run("true")


def test_hosts_that_are_no_names() -> None:
    for name in ("", "-oProxyCommand=id", "a b"):
        with pytest.raises(UsageError, match="is no host's name"):
            Ssh(name)


def test_without_an_ssh_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LemnosError, match="there is no ssh here"):
        Ssh("box").run("true")


def test_models_are_copied_resumed_and_verified(server: sshd.Server) -> None:
    data = tiny_models.gguf(tensors={"w": 50_000})
    source = Source("hf", "org/it's one", "c1", "my model.gguf")
    home = store.home_of(source, "c1", source.file)
    with store.being_filled(home) as directory:
        (directory / "my model.gguf").write_bytes(data)
        manifest = store.manifest_of(
            directory, source, "c1", "gguf", "my model.gguf", name="my model"
        )
        store.write_manifest(directory, manifest)
    host = Ssh("box", server.config)
    there = (
        server.directory / "remote" / "models" / home.relative_to(paths.models_dir())
    )
    # an earlier copy that was interrupted
    part = there.with_name(there.name + ".partial") / "my model.gguf.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:1000])
    assert copy_to_host(home, host, Silent()) == f"box:{there}"
    assert (there / "my model.gguf").read_bytes() == data
    assert sorted(p.name for p in there.iterdir()) == ["lemnos.json", "my model.gguf"]
    assert not part.parent.exists()
    assert copy_to_host(home, host, Silent()) == f"box:{there}"


def test_a_copy_that_arrives_wrong_is_refused(server: sshd.Server) -> None:
    data = tiny_models.gguf()
    source = Source("hf", "org/x", "c1")
    home = store.home_of(source, "c1", None)
    with store.being_filled(home) as directory:
        (directory / "x.gguf").write_bytes(data)
        made = store.manifest_of(directory, source, "c1", "gguf", "x.gguf", name="x")
        store.write_manifest(directory, made)
    there = (
        server.directory / "remote" / "models" / home.relative_to(paths.models_dir())
    )
    part = there.with_name(there.name + ".partial") / "x.gguf.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 100)
    host = Ssh("box", server.config)
    with pytest.raises(LemnosError, match="arrived with the wrong content"):
        copy_to_host(home, host, Silent())
    assert not there.exists()
    assert copy_to_host(home, host, Silent())
    assert (there / "x.gguf").read_bytes() == data
