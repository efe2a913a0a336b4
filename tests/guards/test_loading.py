"""Guards are found by name, and settings they do not have are refused."""

import pytest

from corral.core.errors import ConfigError, NotFoundError
from corral.guards.loading import GUARDS, load_guard


def test_names():
    assert GUARDS.names() == ["default", "duoguard", "scripted"]


def test_settings_reach_the_guard():
    assert load_guard("scripted", words=["BAD"]).words == ("BAD",)


def test_an_unknown_guard_is_suggested():
    with pytest.raises(NotFoundError, match="scripted"):
        load_guard("scriptd")


def test_an_unknown_setting_is_suggested():
    with pytest.raises(ConfigError, match="words"):
        load_guard("scripted", word=["BAD"])


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match=r"--set duoguard\.model"):
        load_guard("duoguard")
