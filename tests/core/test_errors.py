import pytest

from corral.core.errors import ConfigError, CorralError, RunError, UserError, suggest


def test_an_error_shows_where_what_and_what_to_do_next() -> None:
    error = ConfigError("unknown setting `a`", where="file.yaml: a", hint="Did you mean `b`?")
    assert str(error) == "file.yaml: a: unknown setting `a`\nDid you mean `b`?"
    assert str(CorralError("what")) == "what"


@pytest.mark.parametrize(("kind", "code"), [(CorralError, 1), (RunError, 1), (UserError, 2), (ConfigError, 2)])
def test_only_the_users_own_mistakes_exit_with_2(kind: type[CorralError], code: int) -> None:
    assert kind("x").exit_code == code


def test_suggest_names_near_words_or_lists_what_is_known() -> None:
    assert suggest("learing_rate", ["learning_rate", "seed"]) == "Did you mean `learning_rate`?"
    assert suggest("xyzzy", ["b", "a"]) == "Known: `a`, `b`."
    assert suggest("x", []) == "There are none."
    assert suggest("q", [f"name-{i:02d}" for i in range(30)]).endswith("`name-19`, ....")
