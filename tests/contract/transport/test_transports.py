"""What every transport does: here, and over a real sshd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.transport.base import Done, Transport, checked, url_of
from lemnos.transport.here import Here
from lemnos.transport.ssh import Ssh
from tests import sshd

EVIL = "a b'\"$(touch canary)`id`;\n%n !! \\ \\\\ é *\t~ -x"
BYTES = bytes(range(256)) * 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.serving(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture(params=["here", pytest.param("ssh", marks=pytest.mark.bed)])
def there(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "here":
        yield Here()
        return
    if sshd.SSHD is None:
        pytest.skip("sshd is not installed (Debian: apt-get install openssh-server)")
    ssh = Ssh("box", request.getfixturevalue("server").config)
    yield ssh
    ssh.close()


def test_words_arrive_as_they_are(there: Transport) -> None:
    argv = ("printf", "%s|", EVIL, "", "-n", "--", "x=$HOME", "$'a'")
    done = there.run(*argv)
    assert done == Done(0, "".join(f"{word}|" for word in argv[2:]), "")


def test_codes_are_told_and_are_no_errors(there: Transport) -> None:
    for code in (1, 44, 126, 127, 255):
        done = there.run("sh", "-c", f"echo out; echo err >&2; exit {code}")
        assert done == Done(code, "out\n", "err\n")
    with pytest.raises(LemnosError, match="it fails: err"):
        checked(done, "it fails")
    assert checked(there.run("echo", "fine"), "it fails") == "fine\n"


def test_input_is_whole(there: Transport) -> None:
    assert there.run("wc", "-c", stdin=BYTES).out.strip() == str(len(BYTES))
    assert there.run("cat").out == ""


def test_what_is_not_there_cannot_be_started(there: Transport) -> None:
    with pytest.raises(LemnosError, match="there is no 'no-such -x' on the PATH") as e:
        there.run("no-such -x", "y")
    assert e.value.fix
    assert e.value.where == there.where


def test_what_is_too_long_is_a_sentence(there: Transport) -> None:
    with pytest.raises(LemnosError, match="'printf' cannot be run .*too long"):
        there.run("printf", "x" * 200_000)


def test_what_takes_too_long_is_given_up(there: Transport) -> None:
    with pytest.raises(LemnosError, match="'sleep' did not answer in 0 s"):
        there.run("sleep", "1000", timeout_s=0.3)


def test_files_are_written_whole_and_read(there: Transport, tmp_path: Path) -> None:
    path = tmp_path / "not there" / f"{EVIL.replace('/', '')}.txt"
    assert there.read(str(path)) is None
    there.write(str(path), BYTES)
    assert path.read_bytes() == BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert there.read(str(path)) == BYTES
    assert there.read(str(path), last=10) == BYTES[-10:]
    there.write(str(path), b"", mode=0o755)
    assert there.read(str(path)) == b""
    assert path.stat().st_mode & 0o777 == 0o755
    assert os.listdir(path.parent) == [path.name], "nothing half-written is left"


def test_removing_takes_all_and_minds_nothing(there: Transport, tmp_path: Path) -> None:
    directory = tmp_path / "a b"
    there.write(str(directory / "below/file"), b"x")
    there.write(str(tmp_path / "kept"), b"x")
    (directory / "link").symlink_to(tmp_path / "kept")
    there.remove(str(directory))
    there.remove(str(directory))
    assert os.listdir(tmp_path) == ["kept"]
    there.remove(str(tmp_path / "kept"))
    assert os.listdir(tmp_path) == []


def test_files_that_cannot_be_are_sentences(there: Transport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LemnosError, match="cannot be written") as raised:
        there.write(str(tmp_path / "file/below"), b"x")
    assert str(tmp_path / "file/below") in raised.value.where
    with pytest.raises(LemnosError, match=r"cannot be written \(.*irectory"):
        there.write(str(tmp_path), b"x")
    with pytest.raises(LemnosError, match=r"cannot be read \(.*irectory"):
        there.read(str(tmp_path))
    full = Path("/dev/full")
    if full.exists() and there.where:  # a full disk, as cat sees it
        assert there.run("sh", "-c", "echo x > /dev/full").code


def test_the_home_is_known(there: Transport) -> None:
    assert Path(there.home()).is_absolute()


def test_urls_have_brackets_for_ipv6() -> None:
    assert url_of("10.0.0.1", 80) == "http://10.0.0.1:80"
    assert url_of("fe80::1", 80) == "http://[fe80::1]:80"
    assert Here().forward("n1", 5) == "http://n1:5"
