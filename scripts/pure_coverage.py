"""The coverage of the modules that decide and do no I/O: over 95 %, from the last test run."""

from __future__ import annotations

import subprocess
import sys

PURE = (
    "src/lemnos/spec/*",
    "src/lemnos/wire/errors.py",
    "src/lemnos/wire/sse.py",
    "src/lemnos/models/sources.py",
    "src/lemnos/models/catalogue.py",
    "src/lemnos/models/agreement.py",
    "src/lemnos/models/architecture.py",
    "src/lemnos/models/blocks.py",
    "src/lemnos/models/checkpoint.py",
    "src/lemnos/models/config.py",
    "src/lemnos/models/encoders.py",
    "src/lemnos/models/families.py",
    "src/lemnos/models/from_headers.py",
    "src/lemnos/models/from_shapes.py",
    "src/lemnos/models/headers.py",
    "src/lemnos/models/hints.py",
    "src/lemnos/models/known.py",
    "src/lemnos/models/naming.py",
    "src/lemnos/models/quantization.py",
    "src/lemnos/hardware/catalogue.py",
    "src/lemnos/hardware/network.py",
    "src/lemnos/hardware/read.py",
    "src/lemnos/hardware/topology.py",
    "src/lemnos/planning/*",
    "src/lemnos/engines/base.py",
    "src/lemnos/engines/flags/*",
    "src/lemnos/engines/llamacpp.py",
    "src/lemnos/lint/around.py",
    "src/lemnos/lint/batch.py",
    "src/lemnos/lint/command.py",
    "src/lemnos/lint/data.py",
    "src/lemnos/lint/documents.py",
    "src/lemnos/lint/expand.py",
    "src/lemnos/lint/facts.py",
    "src/lemnos/lint/find.py",
    "src/lemnos/lint/findings.py",
    "src/lemnos/lint/flagging.py",
    "src/lemnos/lint/linting.py",
    "src/lemnos/lint/manifests.py",
    "src/lemnos/lint/memory.py",
    "src/lemnos/lint/modelling.py",
    "src/lemnos/lint/printing.py",
    "src/lemnos/lint/rules.py",
    "src/lemnos/lint/security.py",
    "src/lemnos/lint/shell.py",
    "src/lemnos/lint/shell_parts.py",
    "src/lemnos/lint/shell_words.py",
    "src/lemnos/lint/versions.py",
    "src/lemnos/lint/words.py",
    "src/lemnos/wire/usage.py",
    "src/lemnos/wire/translate/*",
    "src/lemnos/gateway/affinity.py",
    "src/lemnos/gateway/answers.py",
    "src/lemnos/gateway/ask.py",
    "src/lemnos/gateway/breaker.py",
    "src/lemnos/gateway/compile.py",
    "src/lemnos/gateway/desk.py",
    "src/lemnos/gateway/limits.py",
    "src/lemnos/gateway/prompts.py",
    "src/lemnos/gateway/routing.py",
    "src/lemnos/gateway/window.py",
    "src/lemnos/benchmark/report.py",
    "src/lemnos/benchmark/workload.py",
    "src/lemnos/deployments/lifecycle.py",
)


def main() -> None:
    """Print the report of the pure modules; exit 2 if they are not covered."""
    command = [sys.executable, "-m", "coverage", "report", "--fail-under=95"]
    done = subprocess.run([*command, f"--include={','.join(PURE)}"], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
