"""Find the engines' commands among a script's commands: in wrappers, containers, nested shells. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lemnos.lint.expand import Run, runs
from lemnos.lint.shell import read
from lemnos.lint.shell_parts import Trouble
from lemnos.lint.words import UNKNOWN, Word

DEPTH = 4
"""How deep ``ssh host 'srun bash -c "..."'`` is followed."""

MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "sglang.launch_server": "sglang",
    "sglang.srt.server": "sglang",
    "dynamo.frontend": "dynamo.frontend",
    "dynamo.vllm": "dynamo.vllm",
    "dynamo.sglang": "dynamo.sglang",
}
"""What ``python -m`` starts."""

PROGRAMS = {("vllm", "serve"): "vllm", ("sglang", "serve"): "sglang"}

OTHERS = {
    "text-generation-launcher": "TGI",
    "trtllm-serve": "TensorRT-LLM",
    "lmdeploy": "LMDeploy",
    "mlc_llm": "MLC LLM",
    "aphrodite": "Aphrodite",
    "tritonserver": "Triton",
    "ollama": "Ollama",
}
"""Engines that lint knows by name alone."""

WRAPPERS = frozenset(
    """srun mpirun mpiexec jsrun aprun flux prun nohup env time exec sudo command builtin
    numactl taskset timeout nice ionice stdbuf setsid unbuffer chrt nsys torchrun
    conda mamba micromamba uv uvx poetry pixi hatch pipx rye nix
    docker podman nerdctl docker-compose apptainer singularity enroot shifter sarus kubectl oc
    ssh bash sh zsh dash ksh su tmux screen watch xargs parallel pdsh clush ray eval trap
    sbatch salloc qsub bsub systemd-run script at batch accelerate""".split()
)
"""Programs that run what their further words say."""

_CONTAINERS = (
    "docker",
    "podman",
    "nerdctl",
    "apptainer",
    "singularity",
    "srun",
    "sudo",
)
_IMAGE = re.compile(
    r"(?:docker://|dockerd://)?(?:[\w.-]+(?::\d+)?/)*?"
    r"(?P<name>vllm-openai|sglang|vllm-runtime|sglang-runtime|text-generation-inference)"
    r"(?::(?P<tag>[\w.-]+))?(?:@sha256:[0-9a-f]+)?"
)
_IMAGES = {
    "vllm-openai": "vllm",
    "sglang": "sglang",
    "vllm-runtime": "dynamo",
    "sglang-runtime": "dynamo",
}
INSIDE = re.compile(
    r"\bvllm\s+serve\b|\bsglang\s+serve\b|-m\s+(?:vllm\.entrypoints|sglang\.launch|dynamo\.)"
    r"|\bllama-server\b"
)
"""A quick look: whether a text can hold an engine's command at all."""


@dataclass(frozen=True)
class Found:
    """An engine's command: ``head`` is its first word, ``words`` what its own parser gets.

    ``engine`` is "llamacpp", "other:NAME" for what is known by name alone, else as in
    ``lemnos.engines.flags``. ``version`` is what the image's tag says. ``around`` are the words
    of the wrappers before it. ``listed``: the words are items of a YAML list.
    """

    engine: str
    head: Word
    words: tuple[Word, ...]
    env: Mapping[str, Word] = field(default_factory=dict)
    version: str | None = None
    around: tuple[Word, ...] = ()
    listed: bool = False
    contained: bool = False
    """It runs in a container, where what is published decides who reaches it."""
    gpus: int | None = None
    gpu: str | None = None

    @property
    def end(self) -> int:
        """Where its last word ends."""
        return self.words[-1].end if self.words else self.head.end


@dataclass
class Reading:
    """All that was found in a text, in its order."""

    found: list[Found] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    placeholders: list[tuple[int, int]] = field(default_factory=list)

    def add(self, other: Reading) -> None:
        """What another text of the same document holds, after this."""
        self.found += other.found
        self.runs += other.runs
        self.troubles += other.troubles
        self.placeholders += other.placeholders


def search(
    source: Word, env: Mapping[str, Word] | None = None, depth: int = 0
) -> Reading:
    """Read ``source`` as shell text and find what it starts."""
    script = read(source)
    reading = Reading(troubles=script.troubles, placeholders=script.placeholders)
    for run in runs(script, env):
        reading.runs.append(run)
        _look(run, reading, depth)
    return reading


def _look(run: Run, reading: Reading, depth: int) -> None:
    words = _without_prompt(run.words)
    if words:
        reading.add(started(words, run.env, depth))
    if depth >= DEPTH:
        return
    for redirect in run.redirects:
        if redirect.body is not None and _is_script(words, run, redirect.body.text):
            reading.add(search(redirect.body, run.env, depth + 1))


def started(words: Sequence[Word], env: Mapping[str, Word], depth: int = 0) -> Reading:
    """The engines that a command of these words starts."""
    reading = Reading()
    head = words[0]
    begins = _begin(words, 0)
    if begins:
        engine, skip = begins
        reading.found.append(Found(engine, head, tuple(words[skip:]), env))
        return reading
    if _base(head) not in WRAPPERS and UNKNOWN not in head.text:
        return reading
    image, place, version = _image(words)
    env = {**env, **_given(words[: place or len(words)])}
    for number in range(1, len(words)):
        if begins := _begin(words, number):
            engine, skip = begins
            argv, around = tuple(words[number + skip :]), tuple(words[:number])
            own = version if image and engine.startswith(image) else None
            reading.found.append(Found(engine, words[number], argv, env, own, around))
            return reading
        if depth < DEPTH and (nested := _script_in(words[number])):
            inner = search(nested, env, depth + 1)
            if inner.found:
                around = tuple(words[:number])
                inner.found = [_inside(one, version, around) for one in inner.found]
                reading.add(inner)
                return reading
            if _base(head) in ("ray", "ssh", "bash", "sh"):
                reading.add(inner)
    after = words[place + 1 :] if place is not None else ()
    if image == "vllm" and _entered(words[: place or 0]) and _runs_image(words):
        around = tuple(words[: place or 0])
        reading.found.append(
            Found("vllm", words[place or 0], tuple(after), env, version, around)
        )
    return reading


def image_of(text: str) -> tuple[str | None, str | None]:
    """(engine, version) of a container image; None for what it does not say."""
    found = _IMAGE.fullmatch(text)
    if not found:
        return None, None
    tag = found["tag"] or ""
    version = tag if re.match(r"v?\d+\.\d+", tag) else None
    return _IMAGES.get(found["name"]), version.removeprefix("v") if version else None


def _inside(found: Found, version: str | None, around: tuple[Word, ...]) -> Found:
    return Found(
        found.engine,
        found.head,
        found.words,
        found.env,
        found.version or version,
        (*around, *found.around),
    )


def _begin(words: Sequence[Word], place: int) -> tuple[str, int] | None:
    """(engine, how many words name it) where an engine's command begins at ``place``."""
    base = _base(words[place])
    following = words[place + 1].text if place + 1 < len(words) else ""
    if engine := PROGRAMS.get((base, following)):
        return engine, 2
    if base == "llama-server":
        return "llamacpp", 1
    if base in OTHERS and place + 1 < len(words):
        return f"other:{OTHERS[base]}", 1
    if not (base.startswith("python") or words[place].text == UNKNOWN):
        return None
    for number in range(place + 1, min(place + 6, len(words) - 1)):
        if words[number].text != "-m":
            if not words[number].text.startswith("-"):
                return None
            continue
        module = words[number + 1].text
        if module in MODULES:
            return MODULES[module], number + 2 - place
        if module == "vllm.entrypoints.cli.main" and number + 2 < len(words):
            return "vllm", number + 3 - place
        if module in ("mlc_llm", "fastchat.serve.vllm_worker"):
            return f"other:{module}", number + 2 - place
        return None
    return None


def _base(word: Word) -> str:
    return word.text.rpartition("/")[2]


def _without_prompt(words: Sequence[Word]) -> Sequence[Word]:
    """Without the ``$`` of a console's transcript."""
    return words[1:] if words and words[0].text in ("$", "%") else words


def _script_in(word: Word) -> Word | None:
    """The word, or what follows its ``--wrap=``, if it can be a command of its own."""
    if not re.search(r"\s", word.text):
        return None
    if found := re.match(r"--[\w-]+=", word.text):
        return word.part(found.end(), len(word.text))
    return word


def _image(words: Sequence[Word]) -> tuple[str | None, int | None, str | None]:
    """(engine, place, version) of the container image among the words."""
    if _base(words[0]) not in _CONTAINERS:
        return None, None, None
    for place, word in enumerate(words):
        text = word.text.removeprefix("--container-image=").replace("#", "/")
        engine, version = image_of(text)
        if engine:
            return engine, place, version
    return None, None, None


def _runs_image(words: Sequence[Word]) -> bool:
    return any(word.text in ("run", "create") for word in words[1:3])


def _entered(words: Sequence[Word]) -> bool:
    """Whether the image's own entry point stays."""
    return not any(word.text.startswith("--entrypoint") for word in words)


def _given(words: Iterable[Word]) -> dict[str, Word]:
    """``-e NAME=value``, ``--env=NAME=value`` and ``env NAME=value`` of a wrapper."""
    found = {}
    for word in words:
        match = re.match(r"(?:--env=|-e)?([A-Z_][A-Z0-9_]*)=", word.text)
        if match:
            found[match[1]] = word.part(match.end(), len(word.text))
    return found


def _is_script(words: Sequence[Word], run: Run, body: str) -> bool:
    """Whether a heredoc is fed to a shell, or written to a file as a script."""
    shells = ("bash", "sh", "zsh", "ssh", "sbatch", "qsub", "srun", "sudo")
    if words and _base(words[0]) in shells:
        return True
    if body.lstrip().startswith("#!"):
        return bool(re.match(r"\s*#!.*\b(ba|z|da|k)?sh\b", body))
    files = [r.target for r in run.redirects if r.operator in (">", ">>") and r.target]
    names = ["".join(piece.text for piece in file.pieces) for file in files]
    return any(re.search(r"\.(sh|bash|sbatch|slurm|pbs)$", name) for name in names)
