"""Every packaged profile: it is planned, and no judge in it lacks what it needs to be opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError
from corral.core.recipes import RECIPES, list_recipes, load_profile, read_profile
from corral.core.yaml import parse_yaml
from corral.redteam.loading import check_judges

PROFILES = [f"{name}/{profile}" for name, profiles in list_recipes().items() for profile in profiles]
_STAND_IN = "stand-in"
"""A judge of the tiny profiles."""


def asked_judges(
    config: BaseModel, above: Mapping[str, Any] | None = None
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Judges that settings name at any depth, with the nearest settings of guards and model for judges."""
    known = {**(above or {})}
    for field in ("guard_settings", "judge_model"):
        if hasattr(config, field):
            known[field] = getattr(config, field)
    for field in type(config).model_fields:
        value = getattr(config, field)
        if field == "judges":
            yield list(value), known
        elif isinstance(value, BaseModel):
            yield from asked_judges(value, known)


@pytest.mark.parametrize("name", PROFILES)
def test_a_packaged_profile_is_planned_and_its_judges_can_be_opened(name: str) -> None:
    recipe, config = load_profile(name)
    assert all(recipe.plan(config))
    for judges, known in asked_judges(config):
        check_judges(
            [each for each in judges if each != _STAND_IN],
            model=known.get("judge_model"),
            guard_settings=known.get("guard_settings"),
        )


def test_judges_are_found_where_recipes_keep_them() -> None:
    found = {name: [each for judges, _ in asked_judges(load_profile(name)[1]) for each in judges] for name in PROFILES}
    assert found["defences/paper"] == ["guard:llama-guard", "prefix-list"]
    assert found["mogu/paper"] == ["prefix-list", "guard:default"]
    assert found["egida/small"].count("guard:default") == 2


@pytest.mark.parametrize("name", ["defences/paper", "derta/paper", "egida/paper", "redteam_styles/paper"])
def test_a_profile_whose_judge_lacks_its_model_is_not_loaded(name: str) -> None:
    system = name.partition("/")[0]
    settings = parse_yaml(read_profile(name), where=name)
    del settings["guard_settings"]
    settings_of: type[Config] = RECIPES.get(system).config_class
    with pytest.raises(ConfigError, match="`llama-guard` needs the setting `model`"):
        load_config(settings_of, settings)


@pytest.mark.parametrize("name", ["derta/tiny", "egida/tiny", "redteam_styles/tiny", "mogu/tiny"])
def test_settings_of_a_guard_that_is_not_asked_are_refused(name: str) -> None:
    where = "defences.guard_settings" if name.startswith("mogu") else "guard_settings"
    with pytest.raises(ConfigError, match="`defualt` is set and not asked"):
        load_profile(name, [f"{where}={{defualt: {{dtype: float32}}}}"])


@pytest.mark.parametrize(("name", "where"), [("redteam_styles/tiny", ""), ("derta/tiny", "attacks.")])
def test_a_server_without_the_attacker_that_it_runs_is_refused(name: str, where: str) -> None:
    goals = [] if not where else ["attacks={goals: [advbench]}"]
    with pytest.raises(ConfigError, match="no attacker"):
        load_profile(name, [*goals, f"{where}attacker_server=http://127.0.0.1:1/v1"])
