"""Guards are found by name, and settings they do not have are refused."""

import pytest

from corral.core.errors import ConfigError, NotFoundError
from corral.data.messages import Conversation
from corral.guards.loading import GUARDS, load_guard


def test_names():
    names = ["cultureguard", "default", "duoguard", "english", "latent-guard", "llama-guard"]
    names += ["moderation-api", "multilingual", "perplexity-filter", "scripted", "self-examination", "wildguard"]
    assert GUARDS.names() == names


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


@pytest.mark.parametrize(
    ("guard", "setting", "value"),
    [
        ("scripted", "words", 5),
        ("scripted", "words", [5]),
        ("scripted", "faults", 5),
        ("scripted", "faults", {"BOOM": "explode"}),
        ("scripted", "max_chars", "abc"),
        ("scripted", "max_chars", 0),
        ("scripted", "max_chars", True),
        ("scripted", "rule", 5),
        ("scripted", "delay", -1),
        ("scripted", "delay", float("nan")),
        ("default", "tokens_per_batch", "x"),
        ("default", "dtype", "float17"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_before_anything_is_loaded(guard, setting, value):
    with pytest.raises(ConfigError) as caught:
        load_guard(guard, **{setting: value})
    assert caught.value.where == f"{guard}.{setting}"


def test_values_that_fit_are_not_converted():
    guard = load_guard("scripted", words="BAD", rule=lambda text, target: 0.7, faults={"BOOM": "error"}, delay=0)
    (verdict,) = guard.classify([Conversation.user("hello")])
    assert (guard.words, verdict.p_harm) == (("BAD",), 0.7)


def test_annotations_that_only_a_type_checker_can_read_are_left_to_the_guard(monkeypatch):
    class Loader:
        @classmethod
        def load(cls, *, device: "NotImportedHere" = None):  # noqa: F821
            return device

    monkeypatch.setitem(GUARDS._entries, "scripted", Loader)
    assert load_guard("scripted", device=3) == 3
