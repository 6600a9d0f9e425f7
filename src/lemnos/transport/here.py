"""This machine as a transport."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lemnos.errors import LemnosError
from lemnos.paths import replace_file
from lemnos.transport.base import Done, url_of


class Here:
    """Commands and files of this machine."""

    where = ""

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        """As the protocol says."""
        try:
            done = subprocess.run(
                argv,
                input=b"" if stdin is None else stdin,
                capture_output=True,
                check=False,
                timeout=timeout_s,
            )
        except FileNotFoundError:
            raise LemnosError(
                f"there is no '{argv[0]}' on the PATH here",
                fix="load its module, or name a machine that has it with via:",
            ) from None
        except subprocess.TimeoutExpired:
            raise LemnosError(
                f"'{argv[0]}' did not answer in {timeout_s:.0f} s"
            ) from None
        except OSError as error:
            raise LemnosError(f"'{argv[0]}' cannot be run ({error.strerror})") from None
        return Done(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """As the protocol says."""
        with _explained(path, "cannot be written"):
            Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(Path(path), data, mode=mode)

    def read(self, path: str, *, last: int | None = None) -> bytes | None:
        """As the protocol says."""
        try:
            with _explained(path, "cannot be read"), Path(path).open("rb") as handle:
                if last is not None:
                    handle.seek(max(0, Path(path).stat().st_size - last))
                return handle.read()
        except FileNotFoundError:
            return None

    def remove(self, path: str) -> None:
        """As the protocol says."""
        with (
            contextlib.suppress(FileNotFoundError),
            _explained(path, "cannot be removed"),
        ):
            if Path(path).is_dir() and not Path(path).is_symlink():
                shutil.rmtree(path)
            else:
                Path(path).unlink()

    def home(self) -> str:
        """As the protocol says."""
        return str(Path.home())

    def forward(self, host: str, port: int) -> str:
        """As the protocol says: nothing stands between."""
        return url_of(host, port)


@contextlib.contextmanager
def _explained(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LemnosError(f"{what} ({error.strerror or error})", where=path) from None
