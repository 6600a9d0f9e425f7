"""Real parts that a machine need not have: vLLM, smg, Dynamo, PostgreSQL, sshd, hosts, schedulers.

Tests of them are marked ``bed``. They run where ``LEMNOS_BEDS=1`` says so, as `.ci/run` does
after it has installed them, and are skipped everywhere else.
"""

from __future__ import annotations

import os

ON = os.environ.get("LEMNOS_BEDS") == "1"
"""Read once: the tests' own homes hide the variable."""
