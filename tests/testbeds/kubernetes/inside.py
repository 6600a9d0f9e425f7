"""What a container has: its command, variables and volumes, from its pod and what that refers to."""

from __future__ import annotations

import base64
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.testbeds.kubernetes.store import Json, ProblemError, Store, at

BASE_ENV = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "LD_LIBRARY_PATH": "",
}


class CannotRunError(Exception):
    """A container's reason and message while it waits."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass
class Inside:
    """Of the pods whose files are below ``directory``."""

    store: Store
    directory: Path

    def words(self, pod: Json, ip: str, each: Json) -> Json:
        """What ``contain.py`` is told. Raises CannotRunError."""
        env = dict(BASE_ENV)
        for source in each.get("envFrom", []):
            for kind, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):  # fmt: skip
                if kind in source:
                    optional = source[kind].get("optional", False)
                    env |= self._data(pod, plural, source[kind]["name"], optional)
        for entry in each.get("env", []):
            value = entry.get("value", "")  # an API server drops what is empty
            if "valueFrom" in entry:
                value = self._from(pod, ip, entry["valueFrom"])
            if value is not None:
                env[entry["name"]] = expanded(str(value), env)
        argv = [
            *(each.get("command") or []),
            *(each.get("args") or []),
        ]
        if not argv:
            raise CannotRunError("CreateContainerError", "no command specified")
        argv = [expanded(str(word), env) for word in argv]
        # Whole words, and in the text of a shell's line.
        argv = [re.sub(r"(?<![\d.])0\.0\.0\.0(?![\d.])", ip, word) for word in argv]
        mounts = self._mounts(pod, each)
        hidden = self.directory / pod["metadata"]["uid"] / "root" / each["name"]
        return {"argv": argv, "env": env, "mounts": mounts, "hidden": str(hidden)}

    def _mounts(self, pod: Json, each: Json) -> list[tuple[str, str]]:
        """(source, target) of what is not there already."""
        volumes = {v["name"]: v for v in pod["spec"].get("volumes", [])}
        found = [(str(self.directory / "hosts"), "/etc/hosts")]
        for mount in each.get("volumeMounts", []):
            source = self.volume(pod, volumes[mount["name"]])
            if sub := mount.get("subPath"):
                source = source / sub
                if not source.exists():
                    source.mkdir(parents=True)
            target = mount["mountPath"].rstrip("/")
            if Path(target).is_relative_to(self.directory.parent.parent):
                # Where the test looks for it, too.
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                if source.is_file():
                    Path(target).write_bytes(source.read_bytes())
                    Path(target).chmod(source.stat().st_mode & 0o777)
                    continue
            if str(source) != target and target != "/dev/shm":
                found.append((str(source), target))
        return found

    def volume(self, pod: Json, volume: Json) -> Path:
        """Where its files are, as they are now."""
        uid = str(pod["metadata"]["uid"])
        path = self.directory / uid / "volumes" / str(volume["name"])
        if host := volume.get("hostPath"):
            source = Path(host["path"])
            if host.get("type") == "DirectoryOrCreate":
                source.mkdir(parents=True, exist_ok=True)
            if not source.exists():
                raise CannotRunError("ContainerCreating", f"hostPath {source} is no directory")  # fmt: skip
            return source
        if claim := volume.get("persistentVolumeClaim"):
            path = (
                self.directory
                / "claims"
                / pod["metadata"]["namespace"]
                / claim["claimName"]
            )
        path.mkdir(parents=True, exist_ok=True)
        for kind, plural, name in (
            ("secret", "secrets", "secretName"),
            ("configMap", "configmaps", "name"),
        ):
            if source_ := volume.get(kind):
                data = self._data(pod, plural, source_[name], source_.get("optional", False))  # fmt: skip
                items = source_.get("items") or [{"key": k, "path": k} for k in data]
                for item in items:
                    if item["key"] not in data:
                        message = f"references non-existent {kind} key: {item['key']}"
                        raise CannotRunError("ContainerCreating", message)
                    file = path / item["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    new = file.with_name(f".{file.name}.new")
                    new.write_text(data[item["key"]])
                    new.chmod(item.get("mode") or source_.get("defaultMode") or 0o644)
                    new.replace(file)
        return path

    def _from(self, pod: Json, ip: str, source: Json) -> str | None:
        for kind, plural in (
            ("secretKeyRef", "secrets"),
            ("configMapKeyRef", "configmaps"),
        ):
            if ref := source.get(kind):
                data = self._data(pod, plural, ref["name"], ref.get("optional", False))
                if ref["key"] not in data and not ref.get("optional"):
                    what = plural.removesuffix("s")
                    raise CannotRunError("CreateContainerConfigError", f"couldn't find key {ref['key']} in {what} {ref['name']}")  # fmt: skip
                return data.get(ref["key"])
        if ref := source.get("fieldRef"):
            path = ref["fieldPath"]
            own = {"status.podIP": ip, "status.hostIP": "127.0.0.1", "spec.nodeName": pod["spec"]["nodeName"]}  # fmt: skip
            if path in own:
                return str(own[path])
            if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
                return str(pod["metadata"].get(found[1], {}).get(found[2], ""))
            return str(at(pod, tuple(path.split("."))))
        return ""

    def _data(
        self, pod: Json, plural: str, name: str, optional: bool = False
    ) -> dict[str, str]:
        try:
            obj = self.store.get(plural, pod["metadata"]["namespace"], name)
        except ProblemError:
            if optional:
                return {}
            what = plural.removesuffix("s")
            raise CannotRunError("CreateContainerConfigError", f'{what} "{name}" not found') from None  # fmt: skip
        data = dict(obj.get("data") or {})
        if plural == "secrets":
            data = {k: base64.b64decode(v).decode() for k, v in data.items()}
        return data | dict(obj.get("stringData") or {})


def expanded(text: str, env: dict[str, str]) -> str:
    """``$(NAME)`` of known names, and ``$$`` for a dollar, as the API says."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return env.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_.-][\w.-]*)\)", value, text)
