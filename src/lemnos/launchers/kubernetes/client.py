"""kubectl, the user's own, through a transport."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lemnos.errors import LemnosError
from lemnos.launchers.kubernetes.names import FIELD_MANAGER
from lemnos.launchers.kubernetes.render import kubectl
from lemnos.launchers.kubernetes.words import refused
from lemnos.spec.clusters import KubernetesSpec
from lemnos.transport.base import Done, Transport

OLDEST = (1, 27)
"""The oldest Kubernetes that has all of what is rendered (unhealthyPodEvictionPolicy in beta)."""
_HIDDEN = re.compile(r'cannot list resource "([^"]+)" in API group "([^"]*)"')
POD_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
"""Where a pod finds its own."""
ANSWER_S = "20s"
"""One request of kubectl to the API server is given up after that; logs are longer."""


class Client:
    """One namespace of one cluster. All methods raise LemnosError in a person's words where kubectl fails."""

    def __init__(self, transport: Transport, spec: KubernetesSpec) -> None:
        self.transport = transport
        self._spec = spec
        self._namespace = spec.namespace or ""
        self._checked = False

    def argv(self, *words: str) -> tuple[str, ...]:
        """kubectl and the cluster that is meant, before ``words``."""
        return (*kubectl(self._spec), *words)

    def run(self, *words: str, stdin: str = "", timeout_s: float = 60.0) -> str:
        """What kubectl prints. ``stdin``: where secrets go, never into words."""
        return self._checked_out(self.ask(*words, stdin=stdin, timeout_s=timeout_s))

    def ask(self, *words: str, stdin: str = "", timeout_s: float = 60.0) -> Done:
        """The same, whose exit code is the caller's to read."""
        limit = f"--request-timeout={ANSWER_S}"
        argv = self.argv(words[0], limit, *words[1:])
        done = self.transport.run(*argv, stdin=stdin.encode(), timeout_s=timeout_s)
        if done.code == 127:
            raise LemnosError(
                "there is no 'kubectl' on the PATH here",
                where=self.transport.where,
                fix="install it, or name a machine that has it with via:",
            )
        return done

    def json(self, *words: str) -> Any:
        """What kubectl prints as JSON."""
        return json.loads(self.run(*words, "--output=json") or "{}")

    def raw(self, path: str) -> Any:
        """The API server's own answer to a GET."""
        return json.loads(self.run("get", "--raw", path))

    def apply(self, text: str, *more: str) -> str:
        """Server-side apply of YAML or JSON documents; what was done to each, a line each."""
        words = ("apply", "--server-side", f"--field-manager={FIELD_MANAGER}", *more)
        return self.run(*words, "--filename=-", stdin=text)

    def about(self, error: LemnosError, files: Mapping[str, str]) -> LemnosError:
        """``error`` of applying ``files``, with the one that it is about: kubectl names none in a conflict."""
        if error.where != "kubernetes" or len(files) < 2:
            return error
        for name, text in files.items():
            try:
                self.apply(text, "--dry-run=server")
            except LemnosError as own:
                own.where = name.removesuffix(".yaml")
                return own
        return error

    def problem(self, done: Done) -> LemnosError:
        """What kubectl said when it failed."""
        return refused(done.err or done.out)

    def namespace(self) -> str:
        """The spec's, the context's own, or in a pod without a kubeconfig the pod's."""
        if not self._namespace:
            path = "jsonpath={.contexts[0].context.namespace}"
            done = self.ask("config", "view", "--minify", f"--output={path}")
            inside = self.transport.read(POD_NAMESPACE) if done.code else None
            if done.code and not inside:
                raise self.problem(done)
            found = inside.decode() if inside else done.out
            self._namespace = found.strip() or "default"
        return self._namespace

    def check(self) -> None:
        """The cluster can be asked, and is not too old. Asked once."""
        if self._checked:
            return
        told = self.json("version").get("serverVersion", {})
        numbers = [re.match(r"\d+", str(told.get(k, ""))) for k in ("major", "minor")]
        version = tuple(int(number[0]) for number in numbers if number)
        if len(version) == 2 and version < OLDEST:
            raise LemnosError(
                f"the cluster is Kubernetes {version[0]}.{version[1]}, and lemnos needs {OLDEST[0]}.{OLDEST[1]}",
                where="kubernetes",
                fix="use a newer cluster; 1.27 is of 2023",
            )
        self._checked = True

    def of_kinds(self, verb: str, kinds: Iterable[str], *words: str) -> str:
        """``kubectl VERB KINDS WORDS``. Kinds that one may not list are left out, as nothing of ours can be there;
        Deployments are not."""
        left = sorted(kinds)
        while True:
            done = self.ask(verb, ",".join(left), *words)
            hidden = {
                ".".join(filter(None, found)) for found in _HIDDEN.findall(done.err)
            }
            if not done.code or not hidden & set(left) or "deployments.apps" in hidden:
                return self._checked_out(done)
            left = [kind for kind in left if kind not in hidden]

    def delete(self, references: Sequence[tuple[str, str]], *more: str) -> None:
        """Remove objects, ``(resource, name)`` each; those that there are not are no error."""
        if not references:
            return
        names = [f"{resource}/{name}" for resource, name in references]
        flags = ("--ignore-not-found", "--wait=false", *more)
        self.run("delete", *flags, *names)

    def resources(self) -> set[str]:
        """What the cluster has in namespaces, as ``deployments.apps``, and can be deleted."""
        words = ("api-resources", "--namespaced", "--verbs=list,delete")
        done = self.ask(*words, "--output=name")
        # Part of it fails where an aggregated API is down: what is told holds.
        if done.code and not done.out:
            raise refused(done.err)
        return set(done.out.split())

    def _checked_out(self, done: Done) -> str:
        if done.code:
            raise self.problem(done)
        return done.out
