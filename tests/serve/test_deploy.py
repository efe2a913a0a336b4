"""The Dockerfile and the systemd unit name files, extras, commands, variables and routes that exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.serve.access import PUBLIC
from corral.serve.settings import is_loopback

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
UNIT = ROOT / "deploy" / "corral.service"
OF_OTHERS = {"PATH", "PYTHONUNBUFFERED", "HF_HUB_OFFLINE"}


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines()) if name]


def of(name: str) -> list[str]:
    """The instructions of one name."""
    return [rest for found, rest in instructions() if found == name]


@pytest.fixture
def unit() -> Any:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names have capitals
    parser.read(UNIT, encoding="utf-8")
    return parser["Service"]


def parse_command(words: list[str]) -> dict[str, Any]:
    """The parameters of a ``corral`` command, read as the program reads them; a mistake raises."""
    from typer.main import get_command

    from corral.cli.main import VERBS

    command: Any = get_command(VERBS[words[0]].load())
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    parameters: dict[str, Any] = command.make_context(words[0], list(rest)).params
    return parameters


def test_every_file_that_is_copied_is_there_and_reaches_the_build() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    sources = [word for line in of("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in let_in), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"]} <= set(sources)  # a build needs them


def test_what_is_installed_exists_and_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    installs = [shlex.split(each) for line in of("RUN") for each in line.split("&&") if "pip install" in each]
    (own,) = (word for words in installs for word in words if word.startswith(".["))
    assert set(own[2:-1].split(",")) <= set(project["optional-dependencies"])
    for words in installs:
        assert words[words.index("--constraint") + 1] == "constraints.txt"
        if words[-1] != own:
            assert re.search(rf"^{words[-1]}==", pinned, re.MULTILINE), words[-1]
    (image,) = {line.split()[0] for line in of("FROM")}
    version = tuple(map(int, re.findall(r"python:(\d+)\.(\d+)", image)[0]))
    assert version >= (3, 11)


def test_the_container_runs_as_a_user_of_its_own_and_asks_a_public_route_whether_it_is_ready() -> None:
    order = [name for name, _ in instructions()]
    assert of("USER") == ["corral"]
    assert order.index("USER") < order.index("CMD")
    assert "useradd --system --uid 10001" in of("RUN")[1]
    (check,) = of("HEALTHCHECK")
    asked = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    defaults = parse_command(["serve"])
    assert asked == [(str(defaults["port"]), "/readyz")]
    assert asked[0][1] in PUBLIC
    assert of("EXPOSE") == [asked[0][0]]
    compile(json.loads(check[check.index("CMD ") + 4 :])[-1], "HEALTHCHECK", "exec")


def test_every_command_is_one_that_the_program_reads(unit: Any) -> None:
    (command,) = of("CMD")
    program, *words = json.loads(command)
    assert program == "corral"
    assert not is_loopback(parse_command(words)["host"])  # a container's port is reached from outside of it
    started = [shlex.split(line.partition(">")[0]) for line in of("RUN") if line.startswith("corral ")]
    for _, *words in started:
        parse_command(words)
    assert started
    shown = re.findall(r"corral (corral serve .*)", DOCKERFILE.read_text(encoding="utf-8"))
    assert len(shown) == 1
    parse_command(shlex.split(shown[0])[1:])
    path, *words = shlex.split(unit["ExecStart"])
    assert path == "/opt/corral/bin/corral"
    assert is_loopback(parse_command(words)["host"])


def test_variables_are_ones_that_are_read(unit: Any) -> None:
    named = re.findall(r"(\w+)=", " ".join(of("ENV"))) + re.findall(r"(\w+)=", unit["Environment"])
    commented = re.findall(r"CORRAL_\w+", UNIT.read_text(encoding="utf-8"))
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "corral").rglob("*.py"))
    for name in {*named, *commented} - OF_OTHERS:
        assert f'"{name}"' in code, name


def test_state_and_cache_may_be_written(unit: Any) -> None:
    made = next(line for line in of("RUN") if "useradd" in line)
    for name in ("CORRAL_STATE", "CORRAL_CACHE"):
        (folder,) = re.findall(rf"{name}=(\S+)", " ".join(of("ENV")))
        assert folder in made
        assert folder in unit["Environment"]
    assert unit["User"] not in ("", "root")
    assert (unit["StateDirectory"], unit["CacheDirectory"]) == ("corral", "corral")  # below /var/lib and /var/cache
    assert of("VOLUME") == ["/var/lib/corral"]


def test_a_stop_leaves_the_time_to_answer_what_was_let_in(unit: Any) -> None:
    from corral.serve import run, server

    longest = run._DRAIN_SECONDS + server._DRAIN_SECONDS
    assert int(unit["TimeoutStopSec"]) > longest
