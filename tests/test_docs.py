"""The documentation: generated pages are current, links lead somewhere, shown commands exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

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


def fenced_commands(text: str) -> Iterator[list[str]]:
    """The words of each ``corral`` command in a fenced block, from the verb on; continued lines joined."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for command in re.findall(r"^(?:\$ )?corral (.+)", block.replace("\\\n", " "), re.MULTILINE):
            yield shlex.split(command, comments=True)


@cache
def options() -> dict[str, set[str]]:
    """The options of each verb, and of each command below one (``runs ls``, ``serve keys ls``)."""
    from typer.main import get_command

    from corral.cli.main import VERBS

    commands: dict[str, Any] = {name: get_command(verb.load()) for name, verb in VERBS.items()}
    for name in (names := list(commands)):  # grows while it is walked
        inner = {f"{name} {word}": found for word, found in getattr(commands[name], "commands", {}).items()}
        commands |= inner
        names += inner
    return {
        name: {"--help", "--debug"} | {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        for name, command in commands.items()
    }


def unknown_options(text: str) -> list[str]:
    """Options that a page shows and no command has: in fenced commands, and named in running text."""
    wrong = []
    for words in fenced_commands(text):
        named = (options().get(" ".join(words[:count])) for count in (3, 2, 1))
        known = next(filter(None, named), {"--help", "--version"})
        wrong += [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    anywhere = {"--version"}.union(*options().values())
    return wrong + [option for option in re.findall(r"`(--[a-z-]+)[^`\n]*`", text) if option not in anywhere]


def test_fenced_commands_name_verbs_that_exist() -> None:
    from corral.cli.main import VERBS

    for page in PAGES:
        for words in fenced_commands(page.read_text(encoding="utf-8")):
            assert words[0] in VERBS or words[0].startswith("--"), f"{page.name} shows `corral {words[0]}`"


def test_an_option_that_does_not_exist_is_found() -> None:
    command = "corral eval moderation --data=x --guard scripted --top 3  # --this-is-a-remark"
    assert unknown_options(f"```\n{command}\n```\nor `--dta x`, and `--guard`") == ["--data=x", "--top", "--dta"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_options_that_a_page_shows_exist(page: Path) -> None:
    assert unknown_options(page.read_text(encoding="utf-8")) == []


def test_the_table_of_systems_says_what_the_evidence_shows(reference: ModuleType) -> None:
    from corral.core.recipes import list_recipes

    assert len(reference.PUBLISHED) == 19
    assert set(list_recipes()) <= {*reference.PUBLISHED, *reference.OWN}
    rows = dict(line.strip("| ").split(" | ", 1) for line in reference.systems_table().splitlines()[2:])
    assert len(rows) == 19 + len(reference.OWN)
    aligned = next(states for name, states in rows.items() if "aligned_smollm2.md" in name)
    holds, fails = aligned.split(" | ")
    assert "`answers_benign`" in holds
    assert fails == "`refuses_harmful`"


def test_a_system_without_evidence_is_said_to_have_none(reference: ModuleType, tmp_path: Path) -> None:
    table = reference.systems_table(tmp_path)
    assert (
        "[DuoGuard: a small classifier in several languages](systems/duoguard.md) | built, no evidence yet |" in table
    )
    assert "| WhisperInject: attacks hidden in audio | not built yet |" in table
