"""What ``qsub`` is asked for: its options as the real one reads them. Pure."""

from __future__ import annotations

import getopt
import re
import socket
from dataclasses import dataclass, field

OPTIONS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:q:r:R:S:u:v:VW:XzP:"  # qsub_sup.c
KNOWN = {
    "ncpus",
    "ngpus",
    "mem",
    "mpiprocs",
    "ompthreads",
    "host",
    "vnode",
    "gpu_model",
}
JOB_WIDE = {"walltime", "select", "place", "software"}
SIZES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


class RefusedError(Exception):
    """What a command says on standard error, and its exit code."""

    def __init__(self, said: str, code: int) -> None:
        super().__init__(said)
        self.said = said
        self.code = code


@dataclass
class Asked:
    """A job as it was submitted."""

    options: dict[str, str]
    resources: dict[str, str]
    chunks: list[tuple[int, dict[str, float]]]
    named: list[dict[str, str]]
    """Of each chunk: resources that are words."""
    walltime_s: float | None
    variables: dict[str, str]
    depends: list[tuple[str, str]]
    """``("after", "12.login")``."""
    argv: list[str]
    """Empty: ``script`` is run."""
    script: str = ""
    arguments: list[str] = field(default_factory=list)


def asked(argv: list[str], env: dict[str, str], cwd: str, stdin: str) -> Asked:
    """Raises RefusedError."""
    words, own = argv, []
    if "--" in argv:
        words, own = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    try:
        pairs, rest = getopt.getopt(words, OPTIONS)
    except getopt.GetoptError as error:
        raise RefusedError(
            f"qsub: {error}\nusage: qsub [-a date_time] ...", 2
        ) from None
    script = stdin
    if not own and rest and rest[0] != "-":
        try:
            with open(rest[0], encoding="utf-8") as handle:
                script = handle.read()
        except OSError:
            raise RefusedError(
                f"qsub: script file:: No such file or directory {rest[0]}", 1
            ) from None
    options: dict[str, str] = {}
    resources: dict[str, str] = {}
    depends: list[tuple[str, str]] = []
    for flag, value in pairs:
        letter = flag[1:]
        if letter == "l":
            resources.update(_listed(value))
        elif letter == "W":
            depends += _attributes(value)
        else:
            options[letter] = value
    _check(options, resources)
    chunks, named = _chunks(resources)
    return Asked(
        options=options,
        resources=resources,
        chunks=chunks,
        named=named,
        walltime_s=_time(resources["walltime"]) if "walltime" in resources else None,
        variables=_from_submitter(env, cwd) | _variables(options.get("v", "")),
        depends=depends,
        argv=own,
        script=script,
        arguments=argv,
    )


def amount(text: str) -> float | None:
    """``16``, ``4gb`` in bytes."""
    match = re.fullmatch(r"(\d+)([kmgtp]?)b?", text.lower())
    return int(match[1]) * 1024.0 ** SIZES[match[2]] if match else None


def _listed(text: str) -> dict[str, str]:
    """``select=1:ncpus=1,walltime=100``."""
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise RefusedError("qsub: illegal -l value", 2)
        found[name] = value
    return found


def _check(options: dict[str, str], resources: dict[str, str]) -> None:
    if {"nodes", "gpus", "ppn"} & set(resources):
        raise RefusedError("qsub: node(s) specification error", 241)
    for name in resources:
        if name not in KNOWN | JOB_WIDE:
            raise RefusedError(f"qsub: Unknown resource Resource_List.{name}", 187)
    if "walltime" in resources and _time(resources["walltime"]) is None:
        raise RefusedError(
            "qsub: Illegal attribute or resource value Resource_List.walltime", 166
        )
    if "place" in resources and "select" not in resources:
        raise RefusedError('qsub: Cannot have "place" without "select"', 7)
    place = r"(free|pack|scatter|vscatter)?(:?(excl|exclhost|shared|group=\w+))?"
    if not re.fullmatch(place, resources.get("place", "free")):
        raise RefusedError(
            "qsub: Illegal attribute or resource value Resource_List.place", 166
        )
    name = options.get("N", "a")
    if len(name) > 230:
        raise RefusedError("qsub: Job name is too long ", 2)
    if not re.fullmatch(r"[A-Za-z0-9_+.-]+", name):
        raise RefusedError("qsub: illegal -N value", 2)
    for letter in "oe":
        if not _is_path(options.get(letter, "/x")):
            raise RefusedError(f"qsub: illegal -{letter} value", 2)
    allowed = {
        "r": "[yn]",
        "j": "oe|eo|n",
        "k": "n|d?[oe]{1,2}d?",
        "m": "n|j?[abe]+",
        "p": "-?[0-9]+",
    }
    for letter, pattern in allowed.items():
        if letter in options and not re.fullmatch(pattern, options[letter]):
            raise RefusedError(f"qsub: illegal -{letter} value", 2)


def _is_path(text: str) -> bool:
    """prepare_path.c: an optional host, and printable characters (of ASCII, in its locale)."""
    path = text.lstrip()
    if ":" in path:
        host = re.match(r"[A-Za-z0-9.-]*", path)
        assert host
        after = path[host.end() :]
        if not after.startswith((":", "/")):
            return False
        path = after[1:] if after.startswith(":") else path
    return bool(path) and bool(re.fullmatch(r"[ -~]+", path))


def _chunks(
    resources: dict[str, str],
) -> tuple[list[tuple[int, dict[str, float]]], list[dict[str, str]]]:
    text = resources.setdefault("select", "1:ncpus=1")
    chunks, named = [], []
    for part in text.split("+"):
        first, *rest = part.split(":")
        if first.isdigit():
            count, pairs = int(first), rest
        else:
            count, pairs = 1, [first, *rest]
        numbers, words = {"ncpus": 1.0}, {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if name not in KNOWN:
                raise RefusedError(f"qsub: Unknown resource: {name}", 187)
            if not equals or not value:
                raise RefusedError(
                    "qsub: Illegal attribute or resource value Resource_List.select",
                    166,
                )
            number = amount(value)
            if number is None:
                words[name] = value
            else:
                numbers[name] = number
        chunks.append((count, numbers))
        named.append(words)
    return chunks, named


def _attributes(text: str) -> list[tuple[str, str]]:
    """``-W depend=after:12.login``; others are taken as they are."""
    name, _, value = text.partition("=")
    if name != "depend":
        return []
    found = []
    for part in value.split(","):
        kind, *ids = part.split(":")
        kinds = ("after", "afterok", "afternotok", "afterany", "before")
        if kind not in kinds or not ids or not all(ids):
            raise RefusedError("qsub: illegal -W value", 2)
        found += [(kind, _whole(id_)) for id_ in ids]
    return found


def _whole(number: str) -> str:
    return number if "." in number else f"{number}.login"


def _time(text: str) -> float | None:
    if not re.fullmatch(r"\d+(:\d{1,2}){0,2}", text):
        return None
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total


def _variables(text: str) -> dict[str, str]:
    """``a=1,b='2,3'``: commas within quotes or after a backslash belong to the value (qsub.c)."""
    found = {}
    for part in re.findall(
        r"(?:[^,'\"\\]|\\.|'[^']*'|\"[^\"]*\")+", text.replace("\\", "/")
    ):
        name, _, value = part.partition("=")
        found[name] = re.sub(r"'([^']*)'|\"([^\"]*)\"", r"\1\2", value)
    return found


def _from_submitter(env: dict[str, str], cwd: str) -> dict[str, str]:
    found = {
        f"PBS_O_{name}": env[name]
        for name in ("HOME", "LANG", "LOGNAME", "PATH", "MAIL", "SHELL", "TZ")
        if name in env
    }
    return found | {
        "PBS_O_WORKDIR": cwd,
        "PBS_O_SYSTEM": "Linux",
        "PBS_O_QUEUE": "workq",
        "PBS_O_HOST": socket.gethostname(),
    }
