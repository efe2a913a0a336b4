"""How vLLM is found and started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from corral.bench.vllm import PYTHON_VARIABLE, fast_libraries, serving_vllm, vllm_environment, vllm_interpreter
from corral.core.errors import NotFoundError


def test_no_variable_is_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    assert vllm_interpreter() is None


def test_a_variable_that_names_nothing_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(NotFoundError, match=PYTHON_VARIABLE):
        vllm_interpreter()


def test_it_is_given_the_cpus_and_chooses_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = vllm_environment(Path(sys.executable), cpus=[1, 3])
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "1,3"
    assert "OMP_NUM_THREADS" not in environment
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_its_environments_own_openmp_is_used(tmp_path: Path) -> None:
    library = tmp_path / "lib" / "libiomp5.so"
    library.parent.mkdir()
    library.touch()
    assert str(library) in fast_libraries(tmp_path / "bin" / "python")


def test_it_serves_until_the_block_ends(fake_vllm: Path, tmp_path: Path) -> None:
    import httpx2

    with serving_vllm(fake_vllm, tmp_path, cpus=[0]) as url:
        version = httpx2.get(f"{url.removesuffix('/v1')}/version", trust_env=False)
        assert version.json() == {"version": "fake"}
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url, trust_env=False)
