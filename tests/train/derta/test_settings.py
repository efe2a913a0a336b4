"""DeRTa's settings: what is not set follows the released code or the paper, and what cannot be done is refused."""

from __future__ import annotations

import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError
from corral.train.derta.settings import DertaConfig


def test_the_share_of_places_is_the_released_one_of_lora_or_of_full_training_unless_it_is_set() -> None:
    assert DertaConfig().rto.keep_rate == 1.0
    assert load_config(DertaConfig, {}, ["full=true"]).rto.keep_rate == 0.05
    assert load_config(DertaConfig, {"rto": {"weight": 2.0}}, ["full=true"]).rto.keep_rate == 0.05
    assert load_config(DertaConfig, {}, ["full=true", "rto.keep_rate=0.5"]).rto.keep_rate == 0.5
    assert load_config(DertaConfig, DertaConfig(full=True).model_dump()).rto.keep_rate == 0.05


def test_by_tokens_no_row_is_without_prefix_beside_those_that_are_drawn_so() -> None:
    assert DertaConfig.model_validate({"prefix": {"granularity": "word"}}).prefix.p_zero == 1 / 3
    assert DertaConfig.model_validate({"prefix": {"granularity": "token"}}).prefix.p_zero == 0.0
    assert DertaConfig.model_validate({"prefix": {"granularity": "token", "p_zero": 0.2}}).prefix.p_zero == 0.2


def test_arm_dpo_is_refused_the_released_template() -> None:
    with pytest.raises(ConfigError, match="chat template"):
        load_config(DertaConfig, {}, ["arm=dpo", "template=released"])
    assert load_config(DertaConfig, {}, ["arm=derta", "template=released"]).template == "released"
