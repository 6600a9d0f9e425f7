"""Following a log that only a launcher can read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lemnos.deployments.reading import gained

LINES = st.lists(st.integers().map(str), unique=True, max_size=30)


@given(LINES, st.integers(0, 30), st.integers(1, 30))
def test_each_new_line_comes_once(said: list[str], known: int, window: int) -> None:
    """The log had its first ``known`` lines when it was read before; both times its end was read."""
    before, now = said[:known][-window:], said[-window:]
    missed = len(said) - known > window
    wanted = now if missed else said[known:]
    assert gained(before, now) == wanted


def test_repeated_lines_and_new_files() -> None:
    assert gained([], ["a"]) == ["a"]
    assert gained(["a", "a"], ["a", "a", "a"]) == ["a"]
    assert gained(["x", "y"], ["a", "b"]) == ["a", "b"], "another file, of a restart"
    assert gained(["a", "b"], ["a", "b"]) == []
