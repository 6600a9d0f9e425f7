"""The child process that llama.cpp's server runs in: ``python -m lemnos.engines.llamacpp_server``.

A process of its own, because a setting that llama.cpp does not like aborts the whole
process. It imports nothing else of lemnos.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

BATCH = 512
"""Tokens computed at once; also the most that one embedding's input may have."""


HTTP_THREADS = 64


def main() -> None:
    """Serve until SIGTERM or SIGINT; exit code 1 and one line on stderr if it cannot start."""
    options = _parser().parse_args()
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # before llama.cpp makes its threads
    try:
        server = _serve(options)
    except RuntimeError as error:
        sys.exit(f"error: llama.cpp cannot serve {options.model}: {error}")
    except ImportError as error:
        sys.exit(f"error: the embedded engine cannot be loaded: {error}")
    signal.sigwait(stop)
    del server
    os._exit(0)  # without waiting for requests in flight: the gateway drained already


def _serve(options: argparse.Namespace) -> object:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.api_keys = [Path(options.key_file).read_text().strip()]
    params.n_parallel = options.slots
    params.n_ctx = (
        options.context * options.slots
    )  # llama.cpp divides it among the slots
    # Mean pooling shares a batch out evenly: llama.cpp 2026.10 aborts where that leaves a rest.
    params.n_batch = params.n_ubatch = max(BATCH - BATCH % options.slots, options.slots)
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    # A thread serves a connection, also while that is idle: too few, and new ones wait.
    params.n_threads_http = HTTP_THREADS
    params.fit_params = False  # the plan decides what fits, not the engine
    params.endpoint_metrics = True
    params.ui = False
    # Embeddings from the same server: the mean over the tokens, as sentence encoders do.
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lemnos.engines.llamacpp_server")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--alias", required=True, help="the name clients ask for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens a slot")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--key-file", required=True)
    return parser


if __name__ == "__main__":
    main()
