"""What every launcher is made with: the deployment, the machine to talk to, and where files go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError
from lemnos.spec.deployment import DeploymentSpec
from lemnos.transport.base import Transport

SHARED = (
    "the state directory must be on a file system that the nodes share; set LEMNOS_HOME"
)
"""What to do where a node does not see ``Site.directory``."""


@dataclass(frozen=True)
class Site:
    """A deployment's place in a machine room. Paths are of the transport's machine."""

    deployment: str
    spec: DeploymentSpec
    transport: Transport
    directory: str
    """Logs and keys of the deployment; below ``units/`` what is written for each unit. Hosts that run
    units of a scheduler must see it under the same path."""
    cache: str
    """Where engines keep what they compiled."""
    key_file: Path
    """The engines' key, on this machine."""
    owner: str
    """Tells this state directory's deployments from those of others that have the same names."""

    def mark(self, unit: str) -> str:
        """What recognises a unit among all that a scheduler knows; ``mark("")`` begins those of
        the deployment."""
        return f"lemnos:{self.owner}:{self.deployment}:{unit}"

    def unit_directory(self, unit: str) -> str:
        """Scripts, settings and registration of a unit."""
        return f"{self.directory}/units/{unit}"

    def files(self, unit: str) -> JobFiles:
        """What the unit's jobs are given."""
        return JobFiles(
            log=f"{self.directory}/{unit}.log",
            key_file=f"{self.directory}/{self.key_file.name}",
            cache=self.cache,
        )

    def hand_over_key(self) -> None:
        """The engines' key to the machine that needs it, where that is another one."""
        there = f"{self.directory}/{self.key_file.name}"
        if there == str(self.key_file) and not self.transport.where:
            return
        try:
            key = self.key_file.read_bytes()
        except OSError as error:
            raise LemnosError(
                f"the engines' key cannot be read ({error.strerror})",
                where=str(self.key_file),
            ) from None
        self.transport.write(there, key, mode=0o600)
