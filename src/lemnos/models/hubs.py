"""What a hub has: the files of a repository at a commit, with sizes and hashes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from lemnos.errors import LemnosError, UsageError, near
from lemnos.models.config import shown
from lemnos.models.download import RemoteFile
from lemnos.models.sources import Source
from lemnos.spec.facts import ModelFormat

MODELSCOPE = "https://modelscope.cn"

# Other formats and frameworks of the same weights, and what is there for people to read.
_SKIPPED = re.compile(
    r"\.(bin|pth|pt|ckpt|h5|msgpack|onnx|onnx_data|ot|gguf|tflite|mlmodel|nemo)$"
    r"|^(original|onnx|openvino|metal|coreml|\.cache)/"
    r"|\.(png|jpe?g|gif|webp|mp4|svg|pdf)$|^\.git"
)
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    source: Source
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Choice:
    """The files that make one model."""

    format: ModelFormat
    files: tuple[RemoteFile, ...]
    main: str
    """The file that an engine is given; empty: the directory."""


def list_files(source: Source, revision: str | None) -> Listing:
    """Ask the source's hub. Raises LemnosError: unknown, gated, no token, no network."""
    if source.kind == "hf":
        return _list_huggingface(source, revision)
    return _list_modelscope(source, revision)


def choose(listing: Listing, wanted: str | None) -> Choice:
    """Pure: the files of the model in a repository; ``wanted`` names one of several GGUFs."""
    by_path = {file.path: file for file in listing.files}
    ggufs = sorted(path for path in by_path if path.endswith(".gguf"))
    if wanted is not None:
        if wanted not in by_path:
            raise UsageError(
                f"{listing.source} has no file '{wanted}'",
                fix=near(wanted, ggufs or list(by_path)),
            )
        return _gguf(by_path, wanted)
    if any(path.endswith(".safetensors") for path in by_path):
        files = tuple(f for f in listing.files if not _SKIPPED.search(f.path))
        return Choice("safetensors", files, "")
    first_parts = [p for p in ggufs if not (m := _SPLIT.search(p)) or int(m[1]) == 1]
    if len(first_parts) == 1:
        return _gguf(by_path, first_parts[0])
    if not ggufs:
        raise LemnosError(
            f"{listing.source} has neither safetensors nor GGUF files",
            fix="choose a repository that has weights in one of these formats",
        )
    raise UsageError(
        f"{listing.source} has {len(first_parts)} GGUF files: say which with --file",
        fix="\n     ".join(first_parts),
    )


def _gguf(by_path: dict[str, RemoteFile], path: str) -> Choice:
    """A GGUF, with its other parts if it is split."""
    match = _SPLIT.search(path)
    if match is None:
        return Choice("gguf", (by_path[path],), path)
    stem, count = path[: match.start()], int(match[2])
    parts = [f"{stem}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1)]
    missing = [part for part in parts if part not in by_path]
    if missing:
        raise LemnosError(f"the hub lacks {missing[0]}, a part of {path}")
    return Choice("gguf", tuple(by_path[part] for part in parts), parts[0])


def _list_huggingface(source: Source, revision: str | None) -> Listing:
    """Through huggingface_hub: its tokens, proxies, CAs and HF_ENDPOINT are honoured."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        info = api.model_info(source.name, revision=revision, files_metadata=True)
    except Exception as error:
        raise _hf_problem(error, source, revision) from None
    headers = build_hf_headers()
    commit = str(info.sha)
    files = [
        RemoteFile(
            path=sibling.rfilename,
            size=sibling.size or 0,
            url=hf_hub_url(
                source.name, sibling.rfilename, revision=commit, endpoint=api.endpoint
            ),
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_oid=None if sibling.lfs else sibling.blob_id,
            headers=headers,
        )
        for sibling in info.siblings or []
    ]
    return Listing(source, commit, _plain(files, source))


def _hf_problem(error: Exception, source: Source, revision: str | None) -> LemnosError:
    from huggingface_hub import errors as hf

    where = str(source)
    if isinstance(error, hf.GatedRepoError):
        return LemnosError(
            "the model is gated",
            where=where,
            fix="accept its licence on its page, and set HF_TOKEN to a token that may read it",
        )
    if isinstance(error, hf.RevisionNotFoundError):
        return UsageError(f"has no revision '{revision}'", where=where)
    if isinstance(error, hf.OfflineModeIsEnabled):
        return LemnosError(
            "is not here, and HF_HUB_OFFLINE forbids to fetch it",
            where=where,
            fix="unset HF_HUB_OFFLINE, or give the path of a copy",
        )
    if isinstance(error, hf.HFValidationError):
        return UsageError(f"is no repository's name: {error}", where=where)
    code = error.response.status_code if isinstance(error, hf.HfHubHTTPError) else 0
    return hub_problem(code, error, where, "HF_TOKEN")


def _list_modelscope(source: Source, revision: str | None) -> Listing:
    """ModelScope's REST API, as its own client (modelscope-hub 0.5) calls it."""
    endpoint = os.environ.get("MODELSCOPE_DOMAIN", MODELSCOPE)
    if "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    base = f"{endpoint}/api/v1/models/{source.name}/repo"
    token = os.environ.get("MODELSCOPE_API_TOKEN")
    headers = {"Cookie": f"m_session_id={token}"} if token else {}
    commit = revision or "master"
    try:
        answer = httpx2.get(
            f"{base}/files",
            params={"Revision": commit, "Recursive": "true"},
            headers=headers,
            follow_redirects=True,
            timeout=30.0,
        )
        answer.raise_for_status()
        entries: list[dict[str, Any]] = answer.json()["Data"]["Files"]
        files = [
            RemoteFile(
                path=str(entry["Path"]),
                size=int(entry["Size"]),
                url=f"{base}?Revision={quote(commit)}&FilePath={quote(str(entry['Path']))}",
                sha256=entry.get("Sha256") or None,
                headers=headers,
            )
            for entry in entries
            if entry.get("Type") != "tree"
        ]
    except httpx2.HTTPStatusError as error:
        code = error.response.status_code
        raise hub_problem(code, error, str(source), "MODELSCOPE_API_TOKEN") from None
    except httpx2.HTTPError as error:
        raise hub_problem(0, error, str(source), "") from None
    except (ValueError, KeyError, TypeError):
        raise LemnosError("the hub's answer cannot be read", where=endpoint) from None
    return Listing(source, commit, _plain(files, source))


def hub_problem(code: int, error: Exception, where: str, token: str) -> LemnosError:
    """The sentence for an answer's status, or (``code`` 0) for no answer."""
    if code in (401, 404):
        return UsageError(
            "the hub has no such model, or it is private",
            where=where,
            fix=f"check the spelling; for a private model set {token}",
        )
    if code == 403:
        return LemnosError(
            "the hub forbids it",
            where=where,
            fix=f"set {token} to a token that may read it",
        )
    if code == 429:
        return LemnosError(
            "the hub says: too many requests",
            where=where,
            fix=f"wait a while, or set {token}",
        )
    if code:
        return LemnosError(
            f"the hub answered {code}", where=where, fix="try again later"
        )
    reason = str(error) or type(error).__name__
    return LemnosError(
        f"the hub cannot be reached ({reason})",
        where=where,
        fix="check the network and HTTPS_PROXY; without internet, copy the model here and give its path",
    )


def _plain(files: list[RemoteFile], source: Source) -> tuple[RemoteFile, ...]:
    """The files, if none would be written outside of the model's directory, or act on a terminal."""
    for file in files:
        outside = file.path.startswith("/") or ".." in file.path.split("/")
        if outside or not file.path.isprintable():
            what = f"the hub names a file '{shown(file.path)}'"
            raise LemnosError(what, where=str(source), fix="choose another repository")
    return tuple(files)
