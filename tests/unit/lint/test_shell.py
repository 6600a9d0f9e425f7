"""The shell reader: words, variables, and what a shell would trip over."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.lint.documents import read_document
from lemnos.lint.expand import runs
from lemnos.lint.find import search
from lemnos.lint.linting import lint
from lemnos.lint.shell import read
from lemnos.lint.words import UNKNOWN, aligned, joined, plain


def words(text: str) -> list[list[str]]:
    """The words of each command, unknown parts as ?."""
    found = (run.words for run in runs(read(plain(text))))
    return [[w.text.replace(UNKNOWN, "?") for w in one] for one in found if one]


def troubles(text: str) -> list[tuple[str, str]]:
    """(rule, what is written there) of each trouble."""
    return [(t.code, text[t.start : t.end]) for t in read(plain(text)).troubles]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b  c", [["a", "b", "c"]]),
        ("a 'b c' \"d e\" f\\ g", [["a", "b c", "d e", "f g"]]),
        ("a --x='b c'd", [["a", "--x=b cd"]]),
        ("a $'x\\ty\\'' $\"z\"", [["a", "x\ty'", "z"]]),
        ('a "b\\"c\\$d\\e"', [["a", 'b"c$d\\e']]),
        ('a "b\\\nc"', [["a", "bc"]]),
        ("a ''", [["a", ""]]),
        ("a \\\n  b\\\nc", [["a", "bc"]]),
        ("a # b\nc#d e", [["a"], ["c#d", "e"]]),
        ("a; b && c || d | e & f", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]),
        ("(a b); { c; }", [["a", "b"], ["c"], ["}"]]),
        ("a > f 2>&1 b < g", [["a", "b"]]),
        ("a &> f b", [["a", "b"]]),
        ("a $(b c) `d e`", [["b", "c"], ["d", "e"], ["a", "?", "?"]]),
        ('a "x$(b "c d")y"', [["b", "c d"], ["a", "x?y"]]),
        ("a $((1 + 2)) $5 $@ $$ $", [["a", "?", "?", "?", "?", "$"]]),
        ("a <(b c) d", [["b", "c"], ["a", "d"]]),
        ("a <NODE_IP>:1 --x=<N>", [["a", "?:1", "--x=?"]]),
        ("cat <<E\nx y\nE\nb", [["cat"], ["b"]]),
        ("cat <<-'E' > f\n\tx\n\tE\nb", [["cat"], ["b"]]),
        ("cat <<A <<B\n1\nA\n2\nB\nb", [["cat"], ["b"]]),
        ("cat <<<word b", [["cat", "b"]]),
        ("case $x in a) b;; c|d) e;; esac", [["case", "?", "in", "a"], ["b"], ["c"], ["d"], ["e"], ["esac"]]),
        ("f() { a b; }", [["f"], ["a", "b"], ["}"]]),
        ("a `b", [["a", "?b"]]),
        ("a ${b", [["a", "?b"]]),
    ],
)  # fmt: skip
def test_words_are_what_a_shell_makes_of_them(
    text: str, expected: list[list[str]]
) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("M=x\na $M ${M} ${M:-y}", ["a", "x", "x", "x"]),
        ("a ${M:-y} ${N-z} ${O:=w}", ["a", "y", "z", "w"]),
        ("a $M ${M%x} ${#M} ${M:+y}", ["a", "?", "?", "?", "?"]),
        ("E='--b 1 --c'\na $E", ["a", "--b", "1", "--c"]),
        ("E='--b 1'\na \"$E\"", ["a", "--b 1"]),
        ("E=\na $E b", ["a", "b"]),
        ("E=\na \"$E\"", ["a", ""]),
        ("A=(--b 'c d' # no\n --e)\na \"${A[@]}\"", ["a", "--b", "c d", "--e"]),
        ("A=(--b)\nA+=(--c)\na ${A[*]}", ["a", "--b", "--c"]),
        ("A+=(--c)\na ${A[@]}", ["a", "--c"]),
        ("A=()\na \"${A[@]}\" b", ["a", "b"]),
        ("A=(x \\\n y)\na $A", ["a", "x"]),
        ("M=x\nM+=y\na $M", ["a", "xy"]),
        ("M+=y\na $M", ["a", "?"]),
        ("M=$(x)\na $M", ["a", "?"]),
        ("M=1\nif x; then M=2; fi\na $M", ["a", "?"]),
        ("M=1\nif x; then y; fi\na $M", ["a", "1"]),
        ("for M in 1 2; do a $M; done", ["a", "?"]),
        ("if x; then M=2; a $M; fi", ["a", "2"]),
        ("M=1; if x; then M=2; else a $M; fi", ["a", "1"]),
        ("M=1; case x in a) M=2;; b) a $M;; esac", ["a", "1"]),
        ("export M=1; a $M", ["a", "1"]),
        ("M=1; read M; a $M", ["a", "?"]),
        ("M=1; unset M; a $M", ["a", "?"]),
        ("M=1 a $M", ["a", "?"]),
        ("declare -x M=3; a $M", ["a", "3"]),
    ],
)  # fmt: skip
def test_variables_that_the_text_assigns_are_put_in(
    text: str, expected: list[str]
) -> None:
    assert next(one for one in words(text) if one[0] == "a") == expected


def test_what_is_exported_reaches_the_command() -> None:
    text = "A=1\nB=2\nexport B C=3\nD=4 vllm serve x"
    env = search(plain(text)).found[0].env
    assert {name: word.text for name, word in env.items()} == {
        "B": "2",
        "C": "3",
        "D": "4",
    }


def test_a_word_out_of_a_variable_points_at_its_assignment() -> None:
    text = "E='--swap-space 16'\nvllm serve x $E"
    word = search(plain(text)).found[0].words[1]
    assert text[word.start : word.end] == word.text == "--swap-space"
    assert word.start == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a --b 1 \\   # c\n  --d", [("ends-early", "   # c")]),
        ("a --b 1 \\  \n  --d", [("ends-early", "  ")]),
        ("a --b \\\n  # c \\\n  --d", [("comment-in-command", "  # c \\\n")]),
        ("a --b # c\n  --d", [("comment-in-command", " # c")]),
        ("a --b\n  --d", [("missing-continuation", "")]),
        ("a --b\n# c\n--d", [("missing-continuation", ""), ("comment-in-command", "# c\n")]),
        ("a 'b\nc", [("unbalanced-quote", "'")]),
        ('a "b\nc', [("unbalanced-quote", '"')]),
        ("a `b", [("unbalanced-quote", "`")]),
        ("a ${b", [("unbalanced-quote", "${")]),
        ("a <<E\nb", [("unended-heredoc", "<<E")]),
        ("a \\\r\n  --b", [("carriage-return", "\r")]),
        ("a --b \\\n  --d # c\ne", []),
        ("a --b\n\n--d", []),
        ("a # c", []),
    ],
)  # fmt: skip
def test_what_a_shell_trips_over_is_said(
    text: str, expected: list[tuple[str, str]]
) -> None:
    assert troubles(text) == expected
    if expected and "--d" in text:
        assert words(text)[0][-1] == "--d"  # and the command is read as it was meant


def test_the_rest_is_read_after_an_open_quote() -> None:
    assert words('vllm serve "x --y 3\nvllm serve b')[-1] == ["vllm", "serve", "b"]


def test_folded_and_quoted_yaml_keeps_its_places() -> None:
    word = aligned("a b c", '"a\n  b c"', 10)
    assert (word.at[0], word.at[2], word.at[4]) == (11, 15, 17)
    assert aligned("xyz", "", 3).at == (3, 3, 3)
    assert joined([plain("a"), plain(UNKNOWN)]) == "a ..."
    assert plain("abc").span(2, 2) == (0, 0)


SAFE = st.text("abcXYZ019-_=./:@%+,", min_size=1, max_size=8).filter(
    lambda text: "=" not in text
)


@given(
    st.lists(st.one_of(SAFE, st.text(" 'ab\"\\$`#;&|<>(){}*", max_size=6)), min_size=1)
)
@settings(deadline=None, max_examples=150)
def test_quoted_words_come_back_as_they_were(argv: list[str]) -> None:
    line = "x " + shlex.join(argv)
    assert words(line) == [["x", *argv]]


PIECES = st.sampled_from(
    ["vllm serve", " --tp 2", "\\", "\n", "'", '"', "$", "${", "}", "$(", ")", "`", "<<E", "E",
     "\nE\n", "#", " ", "A=(", "A=", "${A[@]}", "if", "; then", "fi", "for x in", "case", ";;", "esac",
     "bash -c", "srun ", "docker run vllm/vllm-openai:v0.15.0", "<", ">", "&", "|", "\r\n", "\t", "ray://x:6379",
     "NCCL_DEBUG=INFO", "curl http://x:8000 -d '{\"model\": \"y\"}'", "```bash\n", "```\n", "`--swap-space 1`",
     "command: [vllm, serve, x]", "- ", "services:", "$((", "))", "\x00", "é", "\ufffc", "-", "--", "=", "x"]
)  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=30).map("".join))
@settings(deadline=None, max_examples=250)
def test_no_text_ends_in_a_traceback(text: str) -> None:
    for kind in ("command", "script", "prose", "manifest"):
        report = lint(text, "x", kind)
        for finding in report.findings:
            assert 0 <= finding.start <= finding.end <= len(text) + 1
            for edit in finding.edits:
                assert 0 <= edit.start <= edit.end <= len(text)


def test_deep_nesting_comes_to_an_end() -> None:
    assert read(plain("$(" * 3000))
    assert read(plain("`" * 999))
    assert read_document("- " * 5000 + "x", "manifest")
    assert read(plain('a "' + "${x:-" * 500))


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
@given(
    st.lists(
        st.sampled_from(["a", "b ", "'", '"', "\\", "$V", "${V}", "${N:-d}", " ", "\\\n", "#", "--x=", "${A[@]}", "$'\\t'"]),
        max_size=9,
    ).map("".join)
)  # fmt: skip
@settings(max_examples=60)
def test_bash_makes_the_same_words(text: str) -> None:
    before = "V='v w'\nA=(p 'q r')\n"
    script = f"{before}printf '%s\\0' x {text}\n"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, env={}
    )
    found = read(plain(script))
    early = re.search(r"\\[ \t]+(#|\n|\Z)|[$]\S*\\\n", script)  # or inside a name
    if done.returncode or done.stderr or found.troubles or early:
        return  # bash refuses, or lint says more than bash does
    run = list(runs(found))[-1]
    if not all(word.known for word in run.words):
        return  # $Va: not assigned here
    assert [word.text for word in run.words[2:]] == done.stdout.split("\0")[:-1]
