"""Rows of the public silicon sample: what was run where, and what was measured.

The sample (aiconfigurator_core/systems/silicon_sample.csv, Apache-2.0) mixes InferenceMAX/X runs
with NVIDIA's own. Its layout columns are not all that they say: where an InferenceMAX run gave
TP 8 and EP 8, the sample writes TP 64 or TP x EP 8 x 8; the row's id keeps what was run
(``_tp8_ep8``). It tells neither whether a run decoded speculatively nor, for most disaggregated
runs, how many workers there were. Both are inputs, and public: InferenceX' configurations
(.github/configs/nvidia-master.yaml, every version), read from a clone of its repository.
"""

from __future__ import annotations

import csv
import datetime as dt
import math
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SWEEPS = ".github/configs/nvidia-master.yaml"
RANGE = 0.9
"""InferenceX draws lengths evenly from 0.8 to 1 of the nominal ones (RANDOM_RANGE_RATIO)."""
PREFIXES = {
    "deepseek-ai/DeepSeek-R1": "dsr1",
    "deepseek-ai/DeepSeek-V3": "dsr1",
    "MiniMaxAI/MiniMax-M2.5": "minimaxm2.5",
    "Qwen/Qwen3.5-397B-A17B": "qwen3.5",
    "moonshotai/Kimi-K2.5": "kimik2.5",
    "openai/gpt-oss-120b": "gptoss",
    "zhipuai/GLM-5": "glm5",
}
"""The sample's models by InferenceX' model-prefix."""


@dataclass(frozen=True)
class Pool:
    """Workers of one kind."""

    gpus: int
    """Of a worker."""
    data: int
    """Attention's data parallelism in it."""
    expert: bool
    workers: float


@dataclass(frozen=True)
class Row:
    """One measurement, or why it cannot be used."""

    model: str
    backend: str
    system: str
    precision: str
    mode: str
    sweep: bool
    """An InferenceMAX/X run: lengths vary, and requests are spread over time."""
    prompt: float
    output: float
    concurrency: float
    batch: float
    """Requests of a rank, as the sample has it; not a number for disaggregated runs."""
    speculative: float
    """0 no, 1 yes, 0.5 where both were run with this configuration."""
    drafts: float
    """Tokens that are drafted in each step, where it is speculative."""
    slots: float
    """Requests that a rank decodes at most; infinite where not told."""
    serve: Pool
    """The engine; the decode pool where disaggregated."""
    prefill: Pool
    ttft: float
    tpot: float
    skipped: str = ""


@dataclass(frozen=True)
class Swept:
    """One entry of InferenceX' configurations."""

    drafts: int
    """Tokens that are drafted in each step; 0: no speculation."""
    slots: float
    """Requests that a rank decodes at most."""
    prefill: Pool | None
    serve: Pool
    image: str
    first: dt.date
    last: dt.date


Sweeps = dict[tuple[object, ...], list[Swept]]


def read_sweeps(repository: Path | None) -> Sweeps:
    """Every entry of every day's version: (model, GPU, precision, backend, lengths, load)."""
    found: dict[tuple[Any, ...], list[dt.date]] = {}
    days: dict[str, str] = {}
    log = _git(
        repository, "log", "--format=%H %cs", "--before=2026-04-28", "--", SWEEPS
    )
    for line in log.splitlines():
        commit, day = line.split()
        days.setdefault(day, commit)
    for day, commit in sorted(days.items()):
        data = yaml.load(
            _git(repository, "show", f"{commit}:{SWEEPS}"), yaml.CSafeLoader
        )
        for entry in data.values():
            for key in _entries(entry):
                date = dt.date.fromisoformat(day)
                found.setdefault(key, [date, date])[1] = date
    sweeps: Sweeps = defaultdict(list)
    for (key, drafts, slots, prefill, serve, image), (first, last) in found.items():
        swept = Swept(drafts, slots, prefill, serve, image, first, last)
        sweeps[key].append(swept)
        if prefill:  # some versions give the load of a worker
            whole = (*key[:-2], key[-2] * serve.workers, key[-1])
            if whole != key:
                sweeps[whole].append(swept)
    return sweeps


def read_rows(sample: Path, sweeps: Sweeps) -> list[Row]:
    """Every row; those that cannot be used say why."""
    with sample.open(newline="") as file:
        return [_row(record, sweeps) for record in csv.DictReader(file)]


def _git(repository: Path | None, *arguments: str) -> str:
    if repository is None:
        return ""
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _entries(entry: dict[str, Any]) -> list[tuple[Any, ...]]:
    framework, made = str(entry["framework"]), []
    backend = next((b for b in ("sglang", "vllm") if b in framework), "trtllm")
    for lengths in entry.get("seq-len-configs") or []:
        for space in lengths["search-space"]:
            prefill = _swept_pool(space["prefill"]) if "prefill" in space else None
            serve = _swept_pool(space.get("decode") or space)
            for load in _loads(space):
                key = (
                    entry["model-prefix"],
                    str(entry["runner"]).split("-")[0],
                    entry["precision"],
                    backend,
                    lengths["isl"],
                    lengths["osl"],
                    load,
                    prefill is not None,
                )
                drafts, slots = _recipe(space, backend, entry["model-prefix"], serve)
                image = _image(str(entry["image"]))
                made.append((key, drafts, slots, prefill, serve, image))
    return made


def _recipe(
    space: dict[str, Any], backend: str, model: str, serve: Pool
) -> tuple[int, float]:
    """Drafted tokens and slots: names of recipes tell them (..._tep8_batch16_eplb0_mtp3.yaml)."""
    settings = str([space.get(pool, {}) for pool in ("prefill", "decode")])
    batch = re.search(r"_batch(\d+)", settings)
    slots = float(batch.group(1)) if batch else math.inf
    if space.get("spec-decoding", "none") == "none":
        return 0, slots
    named = re.search(r"_mtp([1-9])", settings)
    if named:
        return int(named.group(1)), slots
    # as the scripts of single nodes set it
    if backend == "trtllm":
        return (1 if serve.data > 1 else 3), slots
    return (2 if model == "dsr1" else 3), slots


def _swept_pool(space: dict[str, Any]) -> Pool:
    gpus = int(space.get("tp") or 1)
    data = gpus if space.get("dp-attn") else 1
    return Pool(
        gpus, data, int(space.get("ep") or 1) > 1, int(space.get("num-worker") or 1)
    )


def _loads(space: dict[str, Any]) -> list[int]:
    if "conc-list" in space:
        return list(space["conc-list"])
    if "conc-start" not in space:
        return []
    loads, load = [], int(space["conc-start"])
    while load < space["conc-end"]:
        loads.append(load)
        load *= 2
    return [*loads, int(space["conc-end"])]


def _image(name: str) -> str:
    return name.replace("nvcr.io#", "nvcr.io/")


def _row(record: dict[str, str], sweeps: Sweeps) -> Row:
    identity, source = record["id"], record["silicon_data_source"]
    swept = identity.startswith("2026_")
    dump = source.startswith("db-dump")
    load = re.search(r"silicon_concurrency=(\d+)", source)
    split = record["mode"] == "disagg"
    serve = _pool(record, "decode_" if split else "", identity, swept, dump)
    prefill = _pool(record, "prefill_", identity, swept, dump) if split else serve
    concurrency = float(load.group(1)) if load else math.nan
    if not load:
        size = _number(record, "decode_batch_size" if split else "batch_size")
        concurrency = size * serve.data * (serve.workers if split else 1)
    speculative, drafts, slots, skipped = 0.0, 2.0, math.inf, ""
    if (swept or dump) and load:
        found = _candidates(record, source, sweeps, serve, prefill, concurrency)
        kinds = {entry.drafts > 0 for entry in found}
        drafts = max((entry.drafts for entry in found), default=0) or drafts
        # the dump holds what was run without speculation
        speculative = sum(kinds) / len(kinds) if kinds and not dump else 0.0
        if split and swept and found:
            first = min(found, key=lambda entry: entry.drafts > 0)
            serve, prefill = first.serve, first.prefill or prefill
            slots = _slots(found, concurrency / serve.workers / serve.data)
    if not split and serve.gpus > 8:
        skipped = (
            "more GPUs than one engine: an early disaggregated run, layout not told"
        )
    elif split and math.isnan(serve.workers):
        same = serve == prefill and serve.gpus >= 12
        skipped = (
            "only GPUs in all are told" if same else "numbers of workers are not told"
        )
    scale = RANGE if swept or dump else 1.0
    return Row(
        record["model_path"],
        record["backend"],
        record["system"],
        record["precision"] or "bf16",
        record["mode"],
        swept or dump,
        scale * float(record["isl"]),
        scale * float(record["osl"]),
        concurrency,
        math.nan if split else _number(record, "batch_size"),
        speculative,
        drafts,
        slots,
        serve,
        prefill,
        float(record["silicon_ttft_ms"]),
        float(record["silicon_tpot_ms"]),
        skipped,
    )


def _slots(found: list[Swept], asked: float) -> float:
    """Requests a rank decodes at most; a recipe with room for under half is another load's."""
    return max((e.slots for e in found if 2 * e.slots >= asked), default=math.inf)


def _number(record: dict[str, str], key: str) -> float:
    return float(record[key]) if record[key] else math.nan


def _pool(
    record: dict[str, str], prefix: str, identity: str, swept: bool, dump: bool
) -> Pool:
    """The layout that was run, out of columns that multiply TP and EP."""
    tensor, data, slices, experts = (
        max(1, int(float(record[prefix + key] or 1)))
        for key in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    )
    workers = _number(record, prefix + "num_workers") if prefix else 1.0
    named = re.search(r"_tp(\d+)(?:_0)?_ep", identity)
    expert = experts > 1
    if not (swept or dump):
        gpus = max(tensor * data, slices * experts)
        return Pool(gpus, gpus // tensor, expert, workers)
    if prefix:
        return Pool(tensor * data if dump else tensor, data, expert, workers)
    if swept and named:
        gpus = int(named.group(1))
    elif tensor in (16, 64) or data in (16, 64):
        gpus = math.isqrt(max(tensor, data))
    else:
        gpus = max(tensor, data)
    return Pool(gpus, gpus if data > 1 else 1, expert, workers)


def _candidates(
    record: dict[str, str],
    source: str,
    sweeps: Sweeps,
    serve: Pool,
    prefill: Pool,
    concurrency: float,
) -> list[Swept]:
    """The configurations that this row may have been run with."""
    split = record["mode"] == "disagg"
    key = (
        PREFIXES.get(record["model_path"]),
        record["system"].split("_")[0],
        record["precision"],
        record["backend"],
        int(record["isl"]),
        int(record["osl"]),
        int(concurrency),
        split,
    )
    found = [e for e in sweeps.get(key, []) if e.serve.gpus == serve.gpus]
    if split:
        found = [e for e in found if e.prefill and e.prefill.gpus == prefill.gpus]
    else:
        found = [e for e in found if e.serve.expert == serve.expert]
    when = re.search(r"measured=(\d{4}-\d\d-\d\d)", source)
    if when:
        date = dt.date.fromisoformat(when.group(1))
        early, late = dt.timedelta(days=4), dt.timedelta(days=21)
        found = [e for e in found if e.first - early <= date <= e.last + late] or found
    image = re.search(r"(?:image=|workflow_run_id=\d+; )(\S+)$", source)
    if image:
        name = _image(image.group(1))
        found = [e for e in found if e.image == name] or found
    return found
