"""The specs as files, and which of a directory's specs ``lemnos up DIR`` takes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from lemnos.errors import LemnosError, UsageError, near
from lemnos.importing.notes import Note
from lemnos.paths import replace_file
from lemnos.spec.base import Value
from lemnos.spec.deployment import DeploymentName
from lemnos.spec.document import SPEC_VERSION, load

FOLDER_FILE = "lemnos.yaml"


class Folder(Value):
    """The whole of ``lemnos.yaml``: of a directory with specs."""

    version: Annotated[int, Field(ge=1, le=SPEC_VERSION)] = SPEC_VERSION
    default: DeploymentName
    """``NAME.yaml`` is what ``lemnos up DIR`` starts."""


def default_spec(path: Path) -> Path | None:
    """The spec that a directory's (or its own) ``lemnos.yaml`` names; None where there is none.

    Raises UsageError where it cannot be read, or names a spec that is not there.
    """
    file = path / FOLDER_FILE if path.is_dir() else path
    if file.name != FOLDER_FILE or not file.is_file():
        return None
    name = load(file, Folder).default
    spec = file.with_name(f"{name}.yaml")
    if spec.is_file():
        return spec
    others = [each.stem for each in sorted(file.parent.glob("*.yaml")) if each != file]
    raise UsageError(
        f"default: there is no {spec.name} beside it",
        where=str(file),
        fix=near(name, others) or "name one of the specs there",
    )


def folder_text(default: str) -> str:
    """The text of ``lemnos.yaml``."""
    return f"# What `lemnos up` takes when it is given this directory.\ndefault: {default}\n"


def spec_text(
    data: Mapping[str, Any], at: str, key: str, description: str, notes: Sequence[Note]
) -> str:
    """A spec as text, with what the import said of it as comments. ``at``: the place of the model
    ``key`` in the old configuration."""
    lines = [f"models.{key} of {at}, by lemnos import."]
    lines += [description] if description else []
    gone = [each.key.rpartition(".")[2] for each in notes if each.kind == "gone"]
    lines += [f"- mean nothing any more: {', '.join(gone)}"] if gone else []
    for each in notes:
        if each.kind != "gone":
            said = f" ({each.kind})" if each.kind != "told" else ""
            about = each.key.removeprefix(f"models.{key}.")
            lines.append(f"- {about}{said}: {each.text}")
    head = "".join(f"# {_plain(line)}\n" for line in lines)
    body: str = yaml.safe_dump(
        dict(data), sort_keys=False, allow_unicode=True, width=100
    )
    return head + body


def write(files: Mapping[str, str], directory: Path, *, force: bool = False) -> None:
    """Write ``files`` below ``directory``: all of them, or none.

    Raises UsageError for a file that is there already with another text, unless ``force``;
    LemnosError where the directory cannot be written.
    """
    for name, text in files.items():
        path = directory / name
        if not force and path.exists() and _text(path) != text:
            raise UsageError(
                "is there already, and differs",
                where=str(path),
                fix="give another --output, or --force",
            )
    fresh = [name for name in files if not (directory / name).exists()]
    done: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(directory / name, text.encode())
            done += [directory / name] if name in fresh else []
    except OSError as error:
        for path in done:
            with contextlib.suppress(OSError):
                path.unlink()
        raise LemnosError(
            f"cannot be written ({error.strerror})", where=str(directory)
        ) from None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _plain(line: str) -> str:
    """One line that a YAML reader takes for a comment, whatever people wrote."""
    return "".join(c if c.isprintable() else " " for c in " ".join(line.split()))
