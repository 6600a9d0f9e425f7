"""Real parts that a machine need not have: vLLM, smg, Dynamo, PostgreSQL, sshd, hosts, schedulers.

Tests of them are marked ``bed``; lives of deployments with the embedded engine, ``e2e``. They run
where ``LEMNOS_BEDS=1`` says so, as `.ci/run` does after it has installed the parts, and are
skipped everywhere else: plain runs have unit and contract tests, and the README's snippets.
"""

from __future__ import annotations

import os

MARKS = {"bed", "e2e"}
ON = os.environ.get("LEMNOS_BEDS") == "1"
"""Read once: the tests' own homes hide the variable."""
