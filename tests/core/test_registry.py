import sys
from pathlib import Path

import pytest

from corral.core.errors import ConfigError, MissingDependencyError, NotFoundError
from corral.core.registry import Registry


def test_a_lazy_entry_is_imported_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lazily_registered.py").write_text("THING = object()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    things: Registry[object] = Registry("thing")
    things.register("one", "lazily_registered:THING")
    assert things.names() == ["one"]
    assert "lazily_registered" not in sys.modules
    assert things.get("one") is things.get("one") is sys.modules["lazily_registered"].THING


def test_register_decorates_and_returns_what_it_decorates() -> None:
    makers: Registry[type] = Registry("maker")

    @makers.register("plain")
    class Plain:
        pass

    assert makers.get("plain") is Plain
    assert list(makers) == ["plain"]
    assert "plain" in makers
    assert len(makers) == 1


def test_a_name_is_registered_once() -> None:
    things: Registry[int] = Registry("thing")
    things.register("one", 1)
    with pytest.raises(ConfigError, match="thing `one` is registered twice"):
        things.register("one", 2)
    assert things.get("one") == 1


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    things: Registry[int] = Registry("guard")
    things.register("wildguard", 1)
    with pytest.raises(NotFoundError) as caught:
        things.get("wildgard")
    assert caught.value.message == "no guard is named `wildgard`"
    assert caught.value.hint == "Did you mean `wildguard`?"


@pytest.mark.parametrize("target", ["module", "module:", ":attribute"])
def test_a_lazy_entry_has_to_name_module_and_attribute(target: str) -> None:
    things: Registry[object] = Registry("thing")
    with pytest.raises(ConfigError, match="module:attribute"):
        things.register("one", target)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a name"):
        Registry[int]("thing").register("", 1)


def test_an_entry_whose_package_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_a_package.py").write_text("import a_package_that_is_absent\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    things: Registry[object] = Registry("thing")
    things.register("one", "needs_a_package:THING")
    with pytest.raises(MissingDependencyError) as caught:
        things.get("one")
    assert caught.value.hint == "Install it: `pip install a_package_that_is_absent`"


def test_a_missing_module_of_our_own_is_a_defect_not_a_dependency() -> None:
    things: Registry[object] = Registry("thing")
    things.register("one", "corral.no_such_module:THING")
    with pytest.raises(ModuleNotFoundError):
        things.get("one")
