"""The child process: llama.cpp's server with what `llamacpp.py` has written into one JSON argument.

The key comes by the environment (INFERENCE_ENGINE_KEY). It runs until it gets a signal, and imports nothing of ours.
"""

import json
import os
import signal
import sys
from typing import Any

NOT_INSTALLED, NOT_STARTED = 3, 4


def main(config: dict[str, Any], api_key: str) -> int:
    try:
        import xllamacpp
    except ImportError as error:
        sys.stderr.write(f"cannot import xllamacpp: {error}\n")
        return NOT_INSTALLED
    try:
        server = xllamacpp.Server(_params(xllamacpp.CommonParams(), config, api_key))
    except RuntimeError as error:  # the cause stands in llama.cpp's log above
        sys.stderr.write(f"llama.cpp did not start: {error}\n")
        return NOT_STARTED
    while server is not None:
        signal.pause()
    return 0


def _params(params: Any, config: dict[str, Any], api_key: str) -> Any:
    params.model.path = config["model_file"]
    params.model_alias = {config["alias"]}
    params.hostnames = [config.get("host") or config["socket"]]
    params.port = config.get("port", params.port)
    params.api_keys = [api_key]
    params.n_ctx = config["context_tokens"]
    params.n_parallel = config["slots"]
    params.cpuparams.n_threads = config["threads"]
    params.cpuparams_batch.n_threads = config["threads"]
    params.cache_ram_mib = config["prompt_cache_mib"]  # its default is 8 GiB
    params.fit_params = False  # take the context as asked, or fail; its search loads the model twice
    params.warmup = True
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    params.cors_origins = "http://localhost.invalid"  # its default allows every page of the web, with credentials
    params.cors_credentials = False
    return params


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), os.environ.pop("INFERENCE_ENGINE_KEY")))
