"""Edits, places, and how a report is printed; the engine's own word; data against its sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.lint import exact, printing
from lemnos.lint.data import families, known_models, variables
from lemnos.lint.findings import Checked, Edit, Finding, Lines, Report, fixed
from lemnos.lint.linting import Asked, lint
from tests.unit.lint.by_path import module_at

lint_models = module_at("scripts/lint_models.py")


def finding(*edits: tuple[int, int, str], rule: str = "removed-flag") -> Finding:
    made = tuple(Edit(*edit) for edit in edits)
    return Finding(rule, edits[0][0], edits[0][1], "x", edits=made)


@pytest.mark.parametrize(
    ("edits", "result", "done"),
    [
        ([[(1, 3, "")]], "adef", 1),
        ([[(1, 3, "")], [(2, 4, "")]], "aef", 2),
        ([[(1, 5, "")], [(2, 3, "")]], "af", 2),
        ([[(2, 3, "")], [(1, 5, "")]], "af", 2),
        ([[(1, 3, "X")], [(2, 4, "")]], "aXdef", 1),
        ([[(1, 3, "X")], [(1, 3, "X")]], "aXdef", 2),
        ([[(1, 3, "X")], [(3, 4, "Y")]], "aXYef", 2),
        ([[(6, 6, "X")], [(6, 6, "Y")]], "abcdefXY", 2),
        ([[(0, 1, "X"), (5, 6, "Y")]], "XbcdeY", 1),
        ([[(0, 1, "X")], [(0, 1, "Z"), (5, 6, "Y")]], "Xbcdef", 1),
    ],
)
def test_edits_are_made_whole_or_not(
    edits: list[list[tuple[int, int, str]]], result: str, done: int
) -> None:
    text, made = fixed("abcdef", [finding(*one) for one in edits])
    assert sorted(text) == sorted(result) and len(made) == done
    assert text == result or edits[0][0][0] == 6


def test_nothing_changes_without_edits() -> None:
    one = Finding("memory", 0, 1, "x")
    assert fixed("a\r\nb", [one]) == ("a\r\nb", [])


def test_places_are_counted_from_one() -> None:
    lines = Lines("ab\ncd\n")
    assert (lines.at(0), lines.at(4), lines.at(6)) == ((1, 1), (2, 2), (3, 1))
    place = lines.place(1, 4)
    assert (place.line, place.column, place.end_line, place.end_column) == (1, 2, 2, 2)


TEXT = "vllm serve zai-org/GLM-4.6 \\\n  --swap-space 4 \\\n  --host 0.0.0.0\n"


@pytest.fixture(scope="module")
def report() -> Report:
    return lint(TEXT, "dir/a b.sh", asked=Asked(version="0.32.0"))


def test_text_for_people(report: Report) -> None:
    text = printing.as_text(report)
    assert text.startswith("dir/a b.sh:2:3: error LMN202: vllm 0.32.0 has no")
    assert "    why: " in text and "    fix: " in text
    assert "\x1b[1;31merror\x1b[0m" in printing.as_text(report, colour=True)
    assert printing.summary([report]) == "1 engine command: 1 error, 1 warning\n"
    assert printing.summary([Report("", "")]) == "0 engine commands: nothing to say\n"


def test_what_could_act_on_a_terminal_is_not_printed() -> None:
    bad = lint("vllm serve m --\x1b]0;x\x07 \x1b[2J --a\x1bb", "a\x1bb.sh")
    assert "\x1b" not in printing.as_text(bad)


def test_json(report: Report) -> None:
    data = printing.as_json([report])
    assert orjson.loads(orjson.dumps(data)) == data
    assert data["errors"] == 1
    [file] = data["files"]
    assert file["commands"][0]["version"] == "0.32.0"
    first = file["findings"][0]
    assert (first["code"], first["line"], first["column"]) == ("LMN202", 2, 3)
    assert first["edits"] and first["command"] == 0


def test_sarif_has_what_its_schema_requires(report: Report) -> None:
    data = printing.as_sarif([report], "1.2")
    assert data["version"] == "2.1.0" and data["$schema"].endswith("sarif-2.1.0.json")
    [run] = data["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] and driver["version"] == "1.2"
    for rule in driver["rules"]:
        assert rule["id"] and rule["shortDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    assert len(run["results"]) == 2
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"] and result["level"] in ("error", "warning")
        [place] = result["locations"]
        physical = place["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == "dir/a%20b.sh"
        _region(physical["region"])
        for fix in result["fixes"]:
            [change] = fix["artifactChanges"]
            assert change["artifactLocation"]["uri"]
            for one in change["replacements"]:
                _region(one["deletedRegion"])
                assert "text" in one["insertedContent"]


def _region(region: dict[str, Any]) -> None:
    assert min(region.values()) >= 1
    assert (region["startLine"], region["startColumn"]) <= (
        region["endLine"],
        region["endColumn"],
    )


def _python(tmp_path: Path, answer: str) -> str:
    """An interpreter that answers so, whatever it is asked."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{answer}\n")
    path.chmod(0o755)
    return str(path)


SAYS = "print('noise'); print('{%s}')"


def _asked(tmp_path: Path, answer: str) -> list[Finding]:
    report = lint("vllm serve m --port 1", "", "command", Asked(version="0.32.0"))
    return exact.exact_findings(report, _python(tmp_path, answer))


def test_the_engines_own_word(tmp_path: Path) -> None:
    fine = SAYS % '"parsed": true, "message": "", "checked": true'
    assert _asked(tmp_path, fine) == []
    no = SAYS % '"parsed": false, "message": "unrecognized  arguments: --x"'
    [one] = _asked(tmp_path, no)
    assert "own parser refuses: unrecognized arguments: --x" in one.what
    refused = SAYS % '"parsed": true, "refused": true, "message": "too long"'
    [one] = _asked(tmp_path, refused)
    assert "configuration check refuses: too long" in one.what


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (SAYS % '"parsed": false, "broken": true, "message": "no vllm"', "no vllm"),
        ("print('no json')", "it said nothing"),
        ("import sys; sys.exit('gone')", "gone"),
    ],
)
def test_engines_that_cannot_be_asked(tmp_path: Path, answer: str, said: str) -> None:
    with pytest.raises(LemnosError, match=said):
        _asked(tmp_path, answer)


def test_an_engine_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "TIMEOUT_S", 0.2)
    with pytest.raises(LemnosError, match="did not answer"):
        _asked(tmp_path, "import time; time.sleep(9)")
    with pytest.raises(UsageError, match="cannot be run"):
        exact.ask(str(tmp_path / "none"), "vllm", ())


def test_what_is_not_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMNOS_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    command = Checked("vllm", "0.26.0", 0, 1, "vllm serve m", ("m",))
    with pytest.raises(UsageError) as caught:
        exact.program_of(command)
    assert "lemnos engines install vllm==0.26.0" in str(caught.value)


def test_unknown_parts_and_other_engines_are_not_asked_about(tmp_path: Path) -> None:
    never = _python(tmp_path, "raise SystemExit(1)")
    for text in ("vllm serve $M", "llama-server -m x"):
        assert exact.exact_findings(lint(text, "", "command"), never) == []


def test_the_models_table_is_what_the_script_writes() -> None:
    written = orjson.loads(lint_models.OUT.read_bytes())["models"]
    now = lint_models.table()["models"]
    assert written == now, "run scripts/lint_models.py"


def test_data_files_are_whole() -> None:
    assert {"parsers", "moved", "stored"} <= set(families())
    assert "DEBUG" in variables()["nccl"]
    assert not {name.removeprefix("NCCL_") for name in variables()["values"]} - set(
        variables()["nccl"]
    )
    assert known_models()["glm-4.6"]["context"] == 202752
