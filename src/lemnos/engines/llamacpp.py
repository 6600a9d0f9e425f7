"""The embedded engine: llama.cpp's own server, from the ``xllamacpp`` wheel, in a child process."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from lemnos.engines.base import JobFiles, Metrics
from lemnos.engines.environment import reach
from lemnos.engines.logs import EngineFacts, facts_of
from lemnos.errors import LemnosError
from lemnos.spec.facts import Host, ModelFormat
from lemnos.spec.place import OpenPort, Place
from lemnos.spec.plan import Command, Job, Plan

# In the order in which llama.cpp 2026.10 logs them.
_STAGES = (
    (re.compile(r"srv\s+load_model: loading model"), "loading weights"),
    (re.compile(r"load_tensors:"), "loading weights"),
    (re.compile(r"llama_kv_cache|llama_init_from_model"), "making the KV cache"),
    (re.compile(r"threadpool init|warming up"), "warming up"),
    (re.compile(r"srv\s+init: listening on"), "listening"),
)


class LlamaCpp:
    """llama.cpp on the CPU, for GGUF models."""

    name = "llamacpp"
    formats: tuple[ModelFormat, ...] = ("gguf",)
    health = "/health"
    metrics = Metrics(
        running="llamacpp:requests_processing",
        waiting="llamacpp:requests_deferred",
        output_tokens="llamacpp:tokens_predicted_total",
        prompt_tokens="llamacpp:prompt_tokens_total",
    )

    def version(self) -> str:
        """The version of the installed wheel."""
        from importlib.metadata import version

        return version("xllamacpp")

    def refusal(self, host: Host) -> LemnosError | None:
        """The wheel needs AVX2 on x86, and the system's GNU OpenMP everywhere."""
        if host.architecture == "x86_64" and "avx2" not in host.cpu_flags:
            return LemnosError(
                f"this CPU ({host.cpu or 'unknown'}) has no AVX2, which the embedded engine needs",
                where=host.name,
                fix="use a machine made after 2013, or build xllamacpp from source for this one",
            )
        if not host.libgomp:
            return LemnosError(
                "libgomp.so.1 (GNU OpenMP), which the embedded engine needs, is not installed",
                where=host.name,
                fix="install it: 'apt-get install libgomp1' or 'dnf install libgomp'",
            )
        return None

    def jobs(
        self, plan: Plan, index: int, place: Place, files: JobFiles
    ) -> tuple[Job, ...]:
        """One child process that serves the GGUF where the gateway reaches it."""
        assert plan.embedded is not None
        settings = plan.embedded.settings
        argv = (
            *(
                *(plan.program or (sys.executable,)),
                "-m",
                "lemnos.engines.llamacpp_server",
            ),
            *("--model", plan.model.path),
            *("--alias", plan.served_name),
            *("--host", reach(place)),
            *("--port", str(place.port)),
            *("--context", str(settings.context)),
            *("--slots", str(settings.slots)),
            *("--threads", str(settings.threads)),
            *("--key-file", files.key_file),
        )
        # Threads that spin at a barrier collapse the speed tenfold when anything else
        # runs on their cores; waiting threads must sleep (measured, docs/architecture.md).
        env = {
            "OMP_WAIT_POLICY": "passive",
            "OMP_NUM_THREADS": str(settings.threads),
            "GGML_NO_BACKTRACE": "1",  # it would call a debugger, whose words hide the cause
        }
        job = Job(
            deployment=plan.name,
            role="engine",
            index=index,
            command=Command(argv=argv, env=env | plan.spec.engine_env),
            host=place.hosts[0],
            port=place.port,
            log=files.log,
        )
        return (job,)

    def ports(self, plan: Plan, place: Place) -> tuple[OpenPort, ...]:
        """Its API's."""
        return (
            OpenPort(host=place.hosts[0], port=place.port, purpose="API", keyed=True),
        )

    def facts(self, lines: Iterable[str]) -> EngineFacts:
        """What its log says of memory and time."""
        return facts_of(self.name, lines)

    def stage(self, line: str) -> str | None:
        """``loading weights``, ``making the KV cache``, ``warming up``, ``listening``."""
        return next((stage for mark, stage in _STAGES if mark.search(line)), None)
