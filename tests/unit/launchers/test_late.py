"""Values that only the running job knows: never executed, and right wherever they stand."""

from __future__ import annotations

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.launchers import late
from lemnos.spec.place import INNER_PORTS

HOSTS = ("10.0.0.5", "fe80::1", "n3")
KNOWN = "LEMNOS_HOST_0=10.0.0.5 LEMNOS_HOST_1=fe80::1 LEMNOS_HOST_2=n3 LEMNOS_PORT=4000 LEMNOS_INNER_PORT=4100"
TOKENS = [
    late.host(0),
    late.host(2),
    str(late.PORT),
    str(late.INNER_PORT),
    str(late.INNER_PORT + INNER_PORTS - 1),
]
# Text in which tokens stand among what shells know, and among what looks like tokens.
words = st.lists(
    st.sampled_from([*TOKENS, str(late.INNER_PORT + INNER_PORTS), "@LEMNOS_HOST_", "'", '"', "$(touch x)", "`", "\\", "\n", "1", "${LEMNOS_PORT}"])
    | st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=5),
).map("".join)  # fmt: skip


def spoken(word: str) -> str:
    """What a shell makes of a quoted word."""
    script = f"{KNOWN}; printf %s {word}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    return done.stdout.decode()


@settings(max_examples=60)
@given(words)
def test_a_shell_and_python_agree_on_every_text(text: str) -> None:
    assert spoken(late.quoted(text)) == late.filled(text, HOSTS, 4000, 4100)


def test_tokens_are_known_where_they_stand() -> None:
    url = f"tcp://{late.host(0)}:{late.INNER_PORT + 3}"
    assert late.quoted(url) == 'tcp://"${LEMNOS_HOST_0}":"$((LEMNOS_INNER_PORT + 3))"'
    assert late.filled(url, HOSTS, 1, 4100) == "tcp://10.0.0.5:4103"
    assert late.is_late(url) and not late.is_late("tcp://10.0.0.5:4103")
    assert late.quoted("") == "''"


def test_numbers_that_only_look_like_ports_stay() -> None:
    for text in (f"1{late.PORT}", f"{late.PORT}1", str(late.INNER_PORT + INNER_PORTS)):
        assert not late.is_late(text)
        assert late.filled(text, HOSTS, 1, 2) == text
        assert late.quoted(text) == text


def test_a_host_that_there_is_not_stays_a_token() -> None:
    assert late.filled(late.host(7), HOSTS, 1, 2) == late.host(7)
