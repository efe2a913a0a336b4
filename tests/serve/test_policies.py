"""Policies by tenant: which applies, reloading, and what clients may add."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.core.errors import NotFoundError, PolicyError
from corral.guards.base import Guard
from corral.guards.composition.specs import parse_spec
from corral.guards.loading import load_guard
from corral.guards.scripted import ScriptedGuard
from corral.serve.policies import PolicyStore, ServePolicy

GUARDS: Mapping[str, Guard] = {
    "scripted": ScriptedGuard(categories={"x": "llama_guard_3/S10"}),
    "second": ScriptedGuard(name="second"),
}


def store(folder: Path | None) -> PolicyStore:
    return PolicyStore(folder, GUARDS, ["scripted"])


def write(path: Path, text: str, *, later: int = 1) -> None:
    """Write, with a time of change that no clock's coarseness hides."""
    path.write_text(text)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later * 10**9))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "default.yaml").write_text("id: everybody\n")
    (tmp_path / "acme.yaml").write_text("id: acme\nmode: shadow\n")
    return tmp_path


def test_a_tenant_has_its_own_policy_or_everybodys(folder: Path) -> None:
    policies = store(folder)
    assert policies.of("acme").id == "acme"
    assert policies.of("unknown").id == "everybody"


def test_without_a_source_the_packaged_policy_blocks(tmp_path: Path) -> None:
    policy = store(None).of("any")
    assert (policy.mode, policy.on_error, policy.stream.mode) == ("enforce", "block", "windows")


def test_a_change_is_noticed_and_has_another_hash(folder: Path) -> None:
    policies = store(folder)
    before = policies.of("acme").hash
    assert policies.reload() == []
    write(folder / "acme.yaml", "id: acme\nmode: enforce\n")
    assert policies.reload() == ["acme"]
    assert policies.of("acme").mode == "enforce"
    assert policies.of("acme").hash != before


@pytest.mark.parametrize(
    "text", ["mode: sometimes\n", "prompt: {threshold: 2}\n", "guards: [unknown]\n", "a: [", "nonsense: 1\n"]
)
def test_a_broken_file_leaves_the_policy_before_it_in_force(folder: Path, text: str) -> None:
    policies = store(folder)
    write(folder / "acme.yaml", text)
    assert policies.reload() == []
    assert policies.of("acme").id == "acme"
    assert "acme.yaml" in policies.problems["acme"]
    write(folder / "acme.yaml", "id: mended\n", later=2)
    assert policies.reload() == ["acme"]
    assert policies.problems == {}


def test_a_removed_file_gives_everybodys_policy(folder: Path) -> None:
    policies = store(folder)
    (folder / "acme.yaml").unlink()
    assert policies.reload() == ["acme"]
    assert policies.of("acme").id == "everybody"
    assert policies.problems == {}


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def emptied(folder: Path) -> None:
    """As a mount point is when the mount is away."""
    renamed(folder)
    folder.mkdir()


@pytest.mark.parametrize("take_away", [renamed, emptied])
def test_while_the_files_are_away_every_policy_stays_and_it_is_said(
    tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "default.yaml").write_text("id: everybody\nmode: shadow\n")
    (folder / "acme.yaml").write_text("id: acme\n")
    policies = store(folder)
    take_away(folder)
    assert policies.reload() == []
    assert (policies.of("acme").id, policies.of("acme").mode) == ("acme", "enforce")
    assert "default.yaml" in policies.problems["default"]
    with pytest.raises(PolicyError, match="any more"):
        policies.save("acme", "id: other\n")
    if folder.exists():
        folder.rmdir()
    folder.with_name("elsewhere").rename(folder)
    assert policies.reload() == []
    assert policies.problems == {}
    assert policies.of("acme").id == "acme"


def test_a_single_file_that_is_away_stays_in_force_and_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("id: mine\n")
    policies = store(file)
    file.rename(tmp_path / "elsewhere.yaml")
    assert policies.reload() == []
    assert policies.of("any").id == "mine"
    assert "no such file" in policies.problems["default"]


def test_a_new_tenant_appears(folder: Path) -> None:
    policies = store(folder)
    (folder / "new.yaml").write_text("id: new\n")
    assert policies.reload() == ["new"]
    assert policies.of("new").id == "new"


def test_a_server_does_not_start_on_a_broken_or_missing_policy(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"default\.yaml"):
        store(tmp_path)
    (tmp_path / "default.yaml").write_text("promt: 1\n")
    with pytest.raises(PolicyError, match="promt"):
        store(tmp_path)
    with pytest.raises(NotFoundError):
        store(tmp_path / "nothing.yaml")


def test_saving_checks_first_and_writes_the_file(folder: Path) -> None:
    policies = store(folder)
    with pytest.raises(PolicyError):
        policies.save("acme", "id: [")
    assert (folder / "acme.yaml").read_text() == "id: acme\nmode: shadow\n"
    policies.save("acme", "id: other\n")
    assert policies.of("acme").id == "other"
    assert policies.reload() == []
    with pytest.raises(PolicyError, match="tenant's name"):
        policies.save("../evil", "id: x\n")


def test_a_policy_that_asks_for_another_composition_of_a_loaded_name_is_refused(folder: Path) -> None:
    big = "{guard: scripted, name: big, settings: {words: [BIG]}}"
    loaded = {"decode": {"guard": "scripted", "name": "big", "settings": {"words": ["BIG"]}}, "name": "two"}
    policies = PolicyStore(folder, {"two": load_guard(loaded)}, ["two"], {"two": parse_spec(loaded)})
    policies.save("acme", f"id: same\nguards: [{{decode: {big}, name: two}}]\n")
    assert policies.guards_of(policies.of("acme")) == ("two",)
    with pytest.raises(PolicyError, match="asks for another guard than the `two`"):
        policies.save("acme", "id: other\nguards: [{decode: scripted, name: two}]\n")
    write(folder / "acme.yaml", "id: other\nguards: [{decode: scripted, name: two}]\n", later=2)
    assert policies.reload() == []
    assert policies.of("acme").id == "same"
    assert "another guard" in policies.problems["acme"]


def test_clients_add_guards_and_never_remove_one(folder: Path) -> None:
    policies = store(folder)
    policy = policies.of("unknown")
    assert policies.guards_of(policy, ["second"]) == ("scripted", "second")
    assert policies.guards_of(policy, []) == ("scripted",)
    named = ServePolicy(guards=("second",))
    assert policies.guards_of(named, ["second"]) == ("second",)
    with pytest.raises(NotFoundError):
        policies.guards_of(policy, ["third"])


def test_an_overlap_as_large_as_the_window_is_refused(folder: Path) -> None:
    with pytest.raises(PolicyError, match="overlap"):
        store(folder).save("acme", "stream: {window_chars: 100, overlap_chars: 100}\n")


def test_readiness_metrics_and_log_tell_of_policies_that_are_away(
    start: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = start(policies={"default": "id: everybody\n", "acme": "id: acme\n"})
    assert running.client.get("/readyz").json() == {"status": "ready"}
    folder = tmp_path / "state" / "policies"
    folder.rename(tmp_path / "elsewhere")
    logger = logging.getLogger("corral.serve")
    logger.addHandler(caplog.handler)
    running.client.portal.call(running.server.refresh)
    logger.removeHandler(caplog.handler)
    answer = running.client.get("/readyz")
    # The last good set is in force: requests are answered as before.
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "policies": "stale"})
    assert running.metric("policies_stale") == 1
    assert "policy_refused" in caplog.messages
    (tmp_path / "elsewhere").rename(folder)
    running.client.portal.call(running.server.refresh)
    assert running.client.get("/readyz").json() == {"status": "ready"}
    assert running.metric("policies_stale") == 0
