"""vLLM on the CPU as a peer: a server in an environment of its own, set up to be as fast as it can be.

vLLM's pins exclude ours, so it is installed elsewhere and ``CORRAL_VLLM_PYTHON`` names that environment's interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from typing import Final

from corral.bench.server import free_port, running_server
from corral.core.errors import NotFoundError

PYTHON_VARIABLE: Final = "CORRAL_VLLM_PYTHON"
SERVED_NAME: Final = "model"
# Room for the longest prompt, and no more: vLLM sizes its batches by it.
CONTEXT: Final = 2048
# The first start compiles the model, which takes minutes; later ones find it in vLLM's cache.
START_SECONDS: Final = 600.0
# 23 kB a token of SmolLM2 in bfloat16: one GiB holds 46,000 tokens, and a round of 64 requests has 6,000 beside the
# policy.
_CACHE_GIB: Final = 1


def vllm_interpreter() -> Path | None:
    """The interpreter that ``CORRAL_VLLM_PYTHON`` names; ``None`` when it is not set.

    Raises:
        NotFoundError: there is no such file.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if not named:
        return None
    python = Path(named)
    if not python.is_file():
        raise NotFoundError(
            "there is no such file", where=f"{PYTHON_VARIABLE}={named}", hint="Name the interpreter, or unset it."
        )
    return python


@contextmanager
def serving_vllm(python: Path, model: Path, *, cpus: list[int]) -> Iterator[str]:
    """Serve a model directory for the length of the block; gives the base URL of its API.

    Args:
        python: interpreter of an environment with vllm.
        model: directory with weights and tokenizer.
        cpus: that it may compute on.

    Raises:
        CorralError: the server did not start.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = vllm_command(python, model, port=port)
    environment = vllm_environment(python, cpus=cpus)
    with running_server(command, environment=environment, ready=f"{url}/health", timeout=START_SECONDS):
        yield f"{url}/v1"


def vllm_command(python: Path, model: Path, *, port: int) -> list[str]:
    """The line that starts the server: bfloat16, prefix caching on, vLLM's own compilation and batch sizes."""
    return [
        str(python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        *("--model", str(model)),
        *("--served-model-name", SERVED_NAME),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--dtype", "bfloat16"),
        *("--max-model-len", str(CONTEXT)),
        *("--generation-config", "vllm"),
        "--enable-prefix-caching",
    ]


def vllm_environment(python: Path, *, cpus: list[int]) -> dict[str, str]:
    """This process's environment with what vLLM needs to use the given CPUs, and nothing to reach the network for."""
    # Numbers of threads are left to vLLM, which binds its own; a LD_PRELOAD of the user's stays.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    asked = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
        "VLLM_CPU_KVCACHE_SPACE": str(_CACHE_GIB),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return {"LD_PRELOAD": ":".join(fast_libraries(python))} | kept | asked


def fast_libraries(python: Path) -> list[str]:
    """Intel's OpenMP of the environment and the system's tcmalloc, where they are: vLLM asks for both on x86."""
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    return [*([str(openmp)] if openmp.is_file() else []), *filter(None, [find_library("tcmalloc_minimal")])]
