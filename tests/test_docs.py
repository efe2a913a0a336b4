"""The documentation: generated pages are current, links lead somewhere, shown commands exist."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import corral

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/*.md")])


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/build_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("build_reference", REPOSITORY / "docs" / "build_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tested_versions() -> None:
    """Skips where Python, typer or pydantic print signatures and help texts in another release's way."""
    pinned = dict(re.findall(r"^(\w+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    written_with = {name: pinned[name] for name in ("typer", "pydantic")}
    if sys.version_info[:2] != (3, 11) or any(version(name) != pin for name, pin in written_with.items()):
        pytest.skip(f"the pages were written with Python 3.11 and {written_with}")


@pytest.mark.usefixtures("tested_versions")
def test_generated_reference_is_current(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for path, text in reference.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: run `make docs`"


def test_every_public_name_says_what_it_is() -> None:
    undocumented = [name for name in corral.__all__ if callable(thing := getattr(corral, name)) and not thing.__doc__]
    assert undocumented == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_fenced_commands_name_verbs_that_exist() -> None:
    from corral.cli.main import VERBS

    for page in PAGES:
        for verb in re.findall(r"^(?:\$ )?corral ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert verb in VERBS, f"{page.name} shows `corral {verb}`"
