"""What stands around an engine's command: Ray, requirements, variables, moved names, requests. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lemnos.lint.command import Command, Use, inserted, quoted, replaced, rewritten
from lemnos.lint.data import variables
from lemnos.lint.expand import Run
from lemnos.lint.facts import moved
from lemnos.lint.findings import Edit, Finding
from lemnos.lint.modelling import model_word
from lemnos.lint.words import Word

GCS_PORT = 6379
DASHBOARD_PORT = 8265

_RAY_CLIENT = re.compile(rf"ray://(?P<host>[^\s\"'`/]+?):{GCS_PORT}\b")
_MOVED = re.compile(
    r"(?<![\w./-])(?:(?<=huggingface\.co/)|(?<!/))THUDM/[\w.-]*\w|(?<=co/)THUDM/[\w.-]*\w"
)
_INSTALLERS = ("pip", "pip3", "uv", "conda", "mamba", "poetry")
_REQUEST = re.compile(r'"model"\s*:\s*"(?P<name>[^"]+)"')
_PORT = re.compile(r":(?P<port>\d{2,5})(?=/|$)")
_LOCAL = re.compile(r"(?:^|//)(?:localhost|127\.0\.0\.1|\[::1\])(?=[:/]|$)")
_SWITCHED_ON = ("1", "true", "True")


@dataclass(frozen=True)
class Request:
    """A curl that asks for a model: its name as written, the port asked, and from where."""

    model: Word
    port: int | None
    local: bool
    """It asks this very machine."""


def run_findings(run: Run, text: str) -> Iterator[Finding]:
    """What is wrong with a command that is no engine's."""
    words = run.words
    head = words[0].text.rpartition("/")[2] if words else ""
    following = words[1].text if len(words) > 1 else ""
    yield from _requirement(run, head, text)
    if head == "ray" and following in ("exec", "dashboard", "attach", "submit"):
        yield from _ray_cluster(words, text)
    if head == "ray" and following == "start":
        yield from _dashboard(words)
    if head == "huggingface-cli":
        yield Finding(
            "gone-command",
            words[0].start,
            words[0].end,
            "huggingface-cli is called hf",
            "huggingface_hub 1.0 removed the old name; hf is in 0.34 and later",
            "write hf",
            rewritten(words[0], "hf"),
        )
    yield from _variables(run, text)


def text_findings(text: str, taken: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    """Addresses and names that are wrong wherever they stand; ``taken``: said already."""
    for found in _RAY_CLIENT.finditer(text):
        start, end = found.span()
        if any(a <= start < b for a, b in taken):
            continue
        yield Finding(
            "ray-address",
            start,
            end,
            f"{found.group()} is the GCS port in a client address",
            "ray:// is spoken on Ray's client port (10001); the GCS listens on 6379, and a "
            "program on a node of the cluster joins by that",
            f"write {found['host']}:{GCS_PORT}",
            (Edit(start, start + len("ray://"), ""),),
        )
    for found in _MOVED.finditer(text):
        start, end = found.span()
        now, why = moved(found.group())
        if not now or any(a <= start < b for a, b in taken):
            continue
        what = f"{found.group()} is published as {now}"
        yield Finding(
            "moved-model",
            start,
            end,
            what,
            why,
            f"write {now}",
            (Edit(start, end, now),),
        )


def setting_findings(settings: Sequence[tuple[str, Word]]) -> Iterator[Finding]:
    """``nccl:`` sections of configuration files, whose keys become variables."""
    for key, value in settings:
        name = f"NCCL_{key.upper()}"
        for rule, what, why, _ in _wrong(name, value):
            start = max(0, value.start - len(key) - 2)
            yield Finding(rule, start, value.end, what, why)


def command_findings(command: Command) -> Iterator[Finding]:
    """The environment that belongs to an engine's command."""
    word = command.found.env.get("NCCL_IB_DISABLE")
    spans = (command.number_of("--nnodes") or 1) > 1
    spans = spans or command.value("--distributed-executor-backend") == "ray"
    if word and word.text in _SWITCHED_ON and spans:
        yield Finding(
            "no-infiniband",
            word.start,
            word.end,
            "NCCL_IB_DISABLE=1 sends the traffic between nodes over TCP",
            "each layer's all-reduce crosses the network twice a token",
            "leave it out, and choose the adapter with NCCL_IB_HCA if there are several",
            (),
            command.number,
        )


def requests_in(runs: Sequence[Run]) -> list[Request]:
    """The models that the document's curls ask for."""
    found = []
    for run in runs:
        if not run.words or run.words[0].text.rpartition("/")[2] != "curl":
            continue
        port, local = None, False
        for word in run.words[1:]:
            local = local or bool(_LOCAL.search(word.text))
            if match := _PORT.search(word.text):
                port = port or int(match["port"])
        for word in run.words[1:]:
            if match := _REQUEST.search(word.text):
                found.append(Request(word.part(*match.span("name")), port, local))
    return found


def downloads_in(runs: Sequence[Run]) -> dict[str, str]:
    """Directories that the document fills: ``hf download NAME --local-dir DIRECTORY``."""
    found = {}
    for run in runs:
        texts = [word.text for word in run.words]
        if texts[1:2] != ["download"] or "--local-dir" not in texts[:-1]:
            continue
        place = texts[texts.index("--local-dir") + 1]
        names = [text for text in texts[2:] if re.fullmatch(r"[\w.-]+/[\w.-]+", text)]
        if names and names[0] != place:
            found[place.rstrip("/")] = names[0]
    return found


def served_findings(
    commands: Sequence[Command], requests: Sequence[Request]
) -> Iterator[Finding]:
    """Requests for a model by a name that no command on their port serves."""
    for request in requests:
        asked = [one for one in commands if _asks(request, one)]
        if request.model.known and not any(_serves(one, request) for one in asked):
            for command in asked:
                yield _unserved(command, request)


def _asks(request: Request, command: Command) -> bool:
    port = command.number_of("--port") if command.use("--port") else 8000
    if command.engine != "vllm":
        return False
    return request.port in (None, port)


def _serves(command: Command, request: Request) -> bool:
    if command.open_ended():
        return True  # it may
    names = _names(command, command.use("--served-model-name"))
    if not names:
        word = model_word(command)
        return word is None or not word.known or word.text == request.model.text
    return request.model.text in names


def _unserved(command: Command, request: Request) -> Finding:
    names = _names(command, command.use("--served-model-name"))
    name = request.model.text
    word = model_word(command)
    shown = ", ".join(names) or f"{word.text if word else 'it'}, word for word"
    if names:
        instead, edits = f"ask for {names[0]}", rewritten(request.model, names[0])
    else:
        instead = f"add --served-model-name {quoted(name)}"
        edits = inserted(command, ["--served-model-name", name])
    return Finding(
        "served-name",
        request.model.start,
        request.model.end,
        f"the request asks for {name}, and the engine serves {shown}",
        "the engine answers 404 to a name that it does not serve",
        instead,
        edits,
        command.number,
    )


def _names(command: Command, use: Use | None) -> list[str]:
    """All names after ``--served-model-name``, which takes several."""
    if use is None or use.value is None:
        return []
    names = [use.value.text]
    for word in command.words[use.stop :]:
        if word.text.startswith("-"):
            break
        names.append(word.text)
    return names


def _requirement(run: Run, head: str, text: str) -> Iterator[Finding]:
    """``pip install vllm>=0.15.0``: the shell writes a file called ``=0.15.0``."""
    for redirect in run.redirects:
        words = [word for word in run.words if word.end == redirect.start]
        target = redirect.target
        if not words or target is None or redirect.operator not in (">", "<", ">>"):
            continue
        written = text[target.start : target.end]
        if not written.startswith("=") or target.start != redirect.start + 1:
            continue
        word = words[0]
        requirement = text[word.start : redirect.end]
        alone = len(run.words) == 1
        if (
            not alone
            and head not in _INSTALLERS
            and "pip" not in [w.text for w in run.words]
        ):
            continue
        rule = "requirement-as-command" if alone else "requirement-redirects"
        before = 'pip install "' if alone else '"'
        what = (
            f"the shell runs {word.text} and writes its output to a file called {written}"
            if alone
            else f"the shell installs {word.text} of any release, and writes a file called {written}"
        )
        yield Finding(
            rule,
            word.start,
            redirect.end,
            what,
            "> is a redirection where it is not quoted",
            f'write {before}{requirement}"',
            (
                Edit(word.start, word.start, before),
                Edit(redirect.end, redirect.end, '"'),
            ),
        )


def _ray_cluster(words: Sequence[Word], text: str) -> Iterator[Finding]:
    """``ray exec`` and its like want a cluster's YAML file."""
    verb = words[1].text
    target = next((word for word in words[2:] if not word.text.startswith("-")), None)
    if target is None:
        if verb != "dashboard":
            return
        yield Finding(
            "ray-exec",
            words[0].start,
            words[1].end,
            "ray dashboard wants a cluster's YAML file, and opens a tunnel to it",
            "a cluster that ray start made by hand has none",
            f"open http://HEAD:{DASHBOARD_PORT}, or ssh -L {DASHBOARD_PORT}:localhost:"
            f"{DASHBOARD_PORT} HEAD",
        )
        return
    written = text[target.start : target.end]
    address = re.fullmatch(r"[\"']?(?:ray://)?(?P<host>[^\s/:\"']+):\d+[\"']?", written)
    if not address:
        return
    edits: tuple[Edit, ...] = ()
    submit = f"job submit --address http://{address['host']}:{DASHBOARD_PORT} --"
    last = words[-1]
    if verb == "exec" and last is not target and last is words[words.index(target) + 1]:
        edits = (Edit(words[1].start, last.end, f"{submit} {last.text}"),)
    yield Finding(
        "ray-exec",
        words[0].start,
        last.end,
        f"ray {verb} takes a cluster's YAML file, and {written} is an address",
        "it reads the file to log in to the head node; a cluster that ray start made has none",
        f"write ray {submit} COMMAND",
        edits,
    )


def _dashboard(words: Sequence[Word]) -> Iterator[Finding]:
    for number, word in enumerate(words):
        name, _, value = word.text.partition("=")
        if name != "--dashboard-host":
            continue
        edits: tuple[Edit, ...] = ()
        if value:
            edits = replaced(word, len(name) + 1, len(word.text), "127.0.0.1")
        elif number + 1 < len(words):
            value = words[number + 1].text
            edits = rewritten(words[number + 1], "127.0.0.1")
        if value in ("0.0.0.0", "::"):
            yield Finding(
                "ray-dashboard-open",
                word.start,
                word.end,
                f"Ray's dashboard listens on every interface ({value})",
                "it has no password, and its job API runs any command that it is sent",
                "write 127.0.0.1, and reach it over ssh -L",
                edits,
            )


def _variables(run: Run, text: str) -> Iterator[Finding]:
    named = [(name, value, start, end) for name, value, start, end in run.assigned]
    for word in run.words:
        if match := re.match(r"(?:--env=|-e)?((?:NCCL|CUDA)_[A-Z0-9_]+)=", word.text):
            part = word.part(match.end(), len(word.text))
            named.append((match[1], part, word.start, word.end))
    for name, value, start, end in named:
        for rule, what, why, new in _wrong(name, value):
            edits: tuple[Edit, ...] = ()
            place = text.find(name, start, end)
            if new and place >= 0:
                edits = (Edit(place, place + len(name), new),)
            elif rule == "unknown-variable" and name in variables()["gone"]:
                edits = _whole_line(text, start, end)
            instead = f"write {new}" if new else "leave it out"
            if rule == "variable-value":
                instead = ""
            yield Finding(rule, start, end, what, why, instead, edits)


def _wrong(name: str, value: Word | None) -> Iterator[tuple[str, str, str, str]]:
    """(rule, what, why, the right name) of a variable."""
    known = variables()
    if name in known["gone"]:
        new, why = known["gone"][name]
        rule = "renamed-variable" if new else "unknown-variable"
        what = f"{name} is called {new}" if new else f"nothing reads {name}"
        yield rule, what, why, new
        return
    if not name.startswith("NCCL_"):
        return
    short = name.removeprefix("NCCL_")
    if short not in known["nccl"]:
        import difflib  # slow to import

        close = difflib.get_close_matches(short, known["nccl"], n=1, cutoff=0.85)
        hint = f"; did you mean NCCL_{close[0]}?" if close else ""
        yield (
            "unknown-variable",
            f"{name} is not in NCCL's list of variables{hint}",
            "",
            "",
        )
        return
    allowed = known["values"].get(name)
    if allowed and value and value.known and value.text and value.text not in allowed:
        if value.text.upper() in allowed and name == "NCCL_DEBUG":
            return
        choices = ", ".join(allowed)
        yield "variable-value", f"{name}={value.text}: it takes {choices}", "", ""


def _whole_line(text: str, start: int, end: int) -> tuple[Edit, ...]:
    begin = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop + 1
    line = text[begin:start] + text[end:stop]
    if re.fullmatch(r"\s*(?:export\s+)?(?:#[^\n]*)?\s*", line):
        return (Edit(begin, stop, ""),)
    return ()
