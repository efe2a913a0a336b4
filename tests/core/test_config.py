from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from corral.core.config import Config, config_hash, load_config
from corral.core.errors import ConfigError, NotFoundError


class Optimiser(Config):
    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)


class Arm(Config):
    name: str
    seed: int = 0


class Settings(Config):
    model_name: str = "tiny"
    optimiser: Optimiser = Optimiser()
    other: Optimiser | None = None
    arms: tuple[Arm, ...] = ()
    languages: tuple[str, ...] = ("en",)
    mode: Literal["fast", "slow"] = "fast"


def test_settings_come_from_a_file_with_overrides_on_top(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("model_name: big\noptimiser: {learning_rate: 1e-4}\narms: [{name: a}, {name: b}]\n")
    settings = load_config(
        Settings, path, ["optimiser.betas=[0.8, 0.9]", "arms.1.seed=7", "languages=[en, no]", "other.learning_rate=2"]
    )
    assert settings == Settings(
        model_name="big",
        optimiser=Optimiser(learning_rate=1e-4, betas=(0.8, 0.9)),
        other=Optimiser(learning_rate=2),
        arms=(Arm(name="a"), Arm(name="b", seed=7)),
        languages=("en", "no"),
    )


def test_overrides_may_be_a_mapping_and_later_ones_win() -> None:
    assert load_config(Settings, {}, {"optimiser.learning_rate": 0.5}).optimiser.learning_rate == 0.5
    assert load_config(Settings, {}, ["model_name=a", "model_name=b"]).model_name == "b"


def test_overrides_do_not_reach_into_the_callers_values() -> None:
    source: dict[str, Any] = {"optimiser": {"learning_rate": 0.1}, "arms": [{"name": "a"}]}
    load_config(Settings, source, ["optimiser.learning_rate=0.2", "arms.0.name=b"])
    assert source == {"optimiser": {"learning_rate": 0.1}, "arms": [{"name": "a"}]}


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing here\n")
    assert load_config(Settings, path) == Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().model_name = "other"


@pytest.mark.parametrize(
    ("overrides", "where", "message", "hint"),
    [
        (["modle_name=x"], "modle_name", "unknown setting `modle_name`", "Did you mean `model_name`?"),
        (
            ["optimiser.lerning_rate=1"],
            "optimiser.lerning_rate",
            "unknown setting `lerning_rate`",
            "Did you mean `learning_rate`?",
        ),
        (["other.bettas=1"], "other.bettas", "unknown setting `bettas`", "Did you mean `betas`?"),
        (["arms=[{name: a, sed: 1}]"], "arms.0.sed", "unknown setting `sed`", "Did you mean `seed`?"),
        (["arms=[{seed: 1}]"], "arms.0.name", "is required", None),
        (["optimiser.learning_rate=-1"], "optimiser.learning_rate", "greater than 0, got `-1`", None),
        (["optimiser.learning_rate=.nan"], "optimiser.learning_rate", "finite number", None),
        (["mode=medium"], "mode", "'fast' or 'slow', got `medium`", None),
        (["model_name.deeper=1"], "model_name.deeper", "`model_name` is `x` and holds no `deeper`", None),
        (["arms.3.seed=1"], "arms.3", "`3` is not an index into a list of 0", None),
        (["model_name"], None, "`model_name` is not of the form `key=value`", "For example `--set train.seed=3`."),
        (["arms=[1"], "arms:1", "cannot be read as YAML", None),
    ],
)
def test_an_error_names_field_problem_and_next_step(
    overrides: list[str], where: str | None, message: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Settings, {"model_name": "x", "arms": []}, overrides)
    assert message in caught.value.message
    assert (caught.value.where, caught.value.hint) == (where, hint)


def test_every_problem_is_listed_and_the_file_named(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("mode: other\nmodel_name: []\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Settings, path)
    assert caught.value.where == f"{path}: model_name"
    assert "mode: Input should be" in caught.value.message


def test_a_file_that_is_no_mapping_or_absent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected `key: value` lines, got list"):
        load_config(Settings, tmp_path / "list.yaml")
    with pytest.raises(NotFoundError):
        load_config(Settings, tmp_path / "absent.yaml")


def test_one_override_given_as_text_is_not_read_letter_by_letter() -> None:
    with pytest.raises(ConfigError, match="expected a list of `key=value`"):
        load_config(Settings, {}, "seed=1")


@given(st.floats(min_value=1e-9, max_value=1.0), st.floats(min_value=1e-9, max_value=1.0))
def test_the_hash_follows_the_values_and_nothing_else(first: float, second: float) -> None:
    a = Settings(optimiser=Optimiser(learning_rate=first))
    b = load_config(Settings, {"mode": "fast", "optimiser": {"learning_rate": second}})
    assert (config_hash(a) == config_hash(b)) == (first == second)
    assert len(config_hash(a)) == 16
