"""What a real OpenPBS 23.06 printed, as values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.launchers.pbs import parse, words
from tests.testbeds.fake_pbs.shown import as_json, as_text

DATA = Path(__file__).parents[3] / "data/pbs"


def read(name: str) -> str:
    return (DATA / name).read_text()


def test_both_formats_tell_the_same_of_a_job() -> None:
    answer = parse.jobs_of_json(read("qstat-f.json"))
    assert answer
    assert parse.jobs_of_text(read("qstat-f-running.txt")).jobs == {
        "6.login": answer.jobs["6.login"]
    }


def test_a_job_that_runs() -> None:
    answer = parse.jobs_of_json(read("qstat-f.json"))
    assert answer and answer.at == 1795228374.0
    job = answer.jobs["6.login"]
    assert (job.state, job.hosts, job.walltime_s, job.runs) == ("R", ("n2",), 100.0, 1)
    assert job.held == {"n2": {"ncpus": 1.0, "ngpus": 2.0}}
    assert job.started_at == 1795228370.0


def test_jobs_that_are_over() -> None:
    answer = parse.jobs_of_json(read("qstat-xf.json"))
    assert answer
    statuses = {name: job.exit_status for name, job in answer.jobs.items()}
    assert statuses == {"0.login": 127, "2.login": 266, "3.login": -29, "4.login": 0}
    assert answer.jobs["0.login"].hosts == ("n1", "n2")
    assert answer.jobs["0.login"].held["n2"]["mem"] == 1024.0**3
    assert answer.jobs["4.login"].runs == 2


def test_the_nodes() -> None:
    nodes = parse.nodes_of(read("pbsnodes.json"))
    assert nodes
    assert [(node.name, node.up) for node in nodes] == [
        ("n1", False),
        ("n2", True),
        ("n3", True),
    ]
    assert nodes[1].used == {"ncpus": "1", "ngpus": "2"}


def test_the_queues() -> None:
    queues = parse.queues_of(read("qstat-Q.json"))
    assert queues and queues["workq"].enabled and queues["workq"].started
    assert queues["workq"].max_walltime_s is None


def test_a_line_may_be_broken_before_a_space() -> None:
    """As a real one printed it."""
    answer = parse.jobs_of_text(
        "Job Id: 15.login\n    job_state = Q\n"
        "    comment = Can Never Run: Insufficient amount of resource: ncpus (R: 1000 A:\n"
        "\t 48 T: 48)\n    etime = Sun Nov 22 00:28:59 2026\n"
    )
    said = words.waiting(answer.jobs["15.login"])
    assert said.startswith("can never run: it asks for 1000 ncpus, and there are 48")


def test_a_euro_sign_breaks_json_and_not_the_text() -> None:
    """qstat shows a byte that it cannot print as ^ and the byte plus 64: a quote, for the first of these."""
    shown = '{"Jobs": {"1.s": {"Variable_List": {"E": "5 ^"^\ufffd^\ufffd", "LEMNOS_JOB": "m"}}}}'
    assert parse.jobs_of_json(shown) is None
    text = 'Job Id: 1.s\n    job_state = R\n    Variable_List = E=5 ^"^\ufffd^\ufffd,LEMNOS_JOB=m\n'
    assert parse.jobs_of_text(text).jobs["1.s"].mark == "m"


@pytest.mark.parametrize("text", ["", "no json", '{"Jobs": {"1": {"a": "\\x"}}}', "[]"])
def test_what_is_no_json_is_none(text: str) -> None:
    assert parse.jobs_of_json(text) is None


def test_control_characters_and_numbers_that_were_names_are_taken() -> None:
    answer = parse.jobs_of_json(
        '{"Jobs": {"1.s": {"Job_Name": 1e5, "job_state": "R", "Variable_List": '
        '{"A": "a\tb\x01", "LEMNOS_JOB": "m"}}}}'
    )
    assert answer and answer.jobs["1.s"].mark == "m"
    assert parse.jobs_of_json('{"timestamp": 1}') == parse.Answer(at=1.0)


@pytest.mark.parametrize(
    ("text", "number"),
    [("16", 16.0), ("1gb", 1024.0**3), ("2kw", 16384.0), ("10b", 10.0), ("h200", None)],
)
def test_amounts(text: str, number: float | None) -> None:
    assert parse.amount(text) == number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("01:30:00", 5400.0), ("90", 90.0), ("2:00:00:00", None), ("abc", None)],
)
def test_times(text: str, seconds: float | None) -> None:
    assert parse.seconds(text) == seconds


printable = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\,=")
)


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,9}", fullmatch=True), printable))
def test_variables_survive_both_formats(variables: dict[str, str]) -> None:
    """Wherever lines are broken; ours is among them."""
    job = {"job_state": "Q", "Variable_List": variables | {"LEMNOS_JOB": "a:b,c"}}
    texts = parse.jobs_of_text(as_text({"1.s": job}, ""))
    json_ = parse.jobs_of_json(as_json("Jobs", {"1.s": job}, ""))
    assert texts.jobs["1.s"].mark == "a:b,c"
    assert json_ and json_.jobs["1.s"].mark == "a:b,c"


@given(st.text())
def test_whatever_is_printed_is_no_crash(text: str) -> None:
    parse.jobs_of_text("Job Id: 1.s\n" + text)
    parse.jobs_of_json(text)
    parse.vnodes(text)
    parse.epoch(text)
