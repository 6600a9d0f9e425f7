"""No value gains a setting, a specifier, a variable or a second command, whatever is in it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.launchers.systemd import quoting, render
from tests.unit.launchers.systemd import reader, units

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"])
    | st.sampled_from("%$\\\"';#[]= \t@-:+!|{}hnit"),
    max_size=40,
)
HOSTILE = (
    "a\nExecStartPost=/bin/touch /canary",
    "a\rUser=root",
    "a\\",
    "%n %h %% $HOME ${HOME} $$",
    '" ; /bin/touch "/canary',
    "[Service]",
    "# no comment",
    " b ",
    "\x00",
    "$(touch /canary)",
    "\\n\\x41",
    "400%",
)


def hostile(check: Callable[[str], None]) -> Callable[[], None]:
    """Tries ``check`` with any text, and surely with those."""
    for text in HOSTILE:
        check = example(text)(check)
    return given(TEXT | st.sampled_from(HOSTILE))(check)


@hostile
def test_a_line_is_one_value(text: str) -> None:
    try:
        line = quoting.line(text)
    except UsageError:
        return
    [(_, _, value)] = reader.settings(f"[Service]\nKey={line}")
    assert reader.expanded(value) == text


@hostile
def test_a_word_is_one_word(text: str) -> None:
    try:
        word = quoting.word(text)
    except UsageError:
        return
    found = reader.settings(f"[Service]\nKey={word} {word}\nNext=1")
    assert [key for _, key, _ in found] == ["Key", "Next"]
    assert reader.words(found[0][2]) == [text, text]


@hostile
def test_a_command_has_the_words_that_it_was_given(text: str) -> None:
    try:
        command = quoting.command(["/bin/sh", text, text])
    except UsageError:
        return
    [(_, _, value)] = reader.settings(f"[Service]\nExecStart={command}")
    assert reader.command(value) == ["/bin/sh", text, text]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x00", "\x1b[0m", "\ud800"])
def test_control_characters_are_refused_in_a_sentence(text: str) -> None:
    for quote in (quoting.line, quoting.word, quoting.arg):
        with pytest.raises(UsageError, match="line breaks or control characters"):
            quote(text)


def test_a_number_of_per_cent_is_no_specifier() -> None:
    assert quoting.line("400%") == "400%"
    assert quoting.line("400%h") == "400%%h"


@given(TEXT, TEXT, st.dictionaries(st.sampled_from(["Nice", "CPUWeight"]), TEXT))
@example("a b", "%n", {"Nice": "5\\"})
def test_a_service_has_the_settings_of_its_template_only(
    directory: str, cache: str, free: dict[str, str]
) -> None:
    base, cache = f"/srv/{directory}/d", f"/srv/{cache}/c"
    unit = units.process(base)
    plain = render.parts_of(
        units.process("/d"),
        units.ground(
            "/d", "/c", systemd={"scope": "system", "units": dict.fromkeys(free, 1)}
        ),
    )
    try:
        ground = units.ground(base, cache, systemd={"scope": "system", "units": free})
        [part] = render.parts_of(unit, ground)
    except UsageError:
        return
    found = reader.settings(part.files[part.service])
    expected = reader.settings(plain[0].files[part.service])
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    by_key = {key: value for _, key, value in found}
    script = f"{base}/units/engine-0/engine-0.sh"
    assert reader.command(by_key["ExecStart"]) == ["/bin/sh", script]
    assert reader.expanded(by_key["StandardOutput"]) == f"append:{base}/engine-0.log"
    writable = [
        reader.words(value) for _, key, value in found if key == "ReadWritePaths"
    ]
    assert writable == [[f"-{base}"], [f"-{cache}"]]
    for key, value in free.items():
        assert reader.expanded(by_key[key]) == value


@given(
    st.lists(
        TEXT | st.sampled_from(HOSTILE).filter(lambda t: "\0" not in t), max_size=3
    )
)
def test_words_and_variables_of_a_job_are_not_in_the_unit_file_at_all(
    words: list[str],
) -> None:
    unit = units.process(argv=("/bin/echo", *words), env={"MODEL_ARGS": "".join(words)})
    [part] = render.parts_of(unit, units.ground())
    [plain] = render.parts_of(units.process(argv=("/bin/echo",)), units.ground())
    assert part.files[part.service] == plain.files[plain.service]


def test_scripts_execute_nothing_of_their_values(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    words = [
        text.replace("/canary", str(canary)) for text in HOSTILE if "\0" not in text
    ]
    unit = units.process(
        argv=("/usr/bin/printf", "%s\\0", *words), env={"X": words[-2]}
    )
    [part] = render.parts_of(unit, units.ground())
    script = tmp_path / "job.sh"
    script.write_bytes(part.files["engine-0.sh"].encode())
    done = subprocess.run(["/bin/sh", str(script)], capture_output=True, check=True)
    opening, _, printed = done.stdout.partition(b"\n")
    assert opening.startswith(b"--- lemnos starts chat/engine-0 at 2")
    assert printed.decode().split("\0")[:-1] == words
    assert not canary.exists()
