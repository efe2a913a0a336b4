import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core import key_set
from corral.core.key_set import KeySet


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_it_answers_like_a_set_however_often_it_settles(added: list[str], asked: list[str], settle_at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_set, "_RECENT", settle_at)
        keys = KeySet(added)
        assert len(keys) == len(set(added))
        assert [key in keys for key in added + asked] == [key in set(added) for key in added + asked]


def test_lone_surrogates_are_keys_like_any_other() -> None:
    assert "\ud800" in KeySet(["\ud800"])
    assert "\ud801" not in KeySet(["\ud800"])


def test_digests_that_end_in_zeros_keep_their_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "_RECENT", 1)
    monkeypatch.setattr(key_set, "_digest", lambda key: key.encode().ljust(16, b"\0"))
    keys = KeySet(["a", "ab", ""])
    assert all(key in keys for key in ("a", "ab", ""))
    assert "abc" not in keys


def test_a_settled_key_costs_sixteen_bytes() -> None:
    keys = KeySet(str(i) for i in range(key_set._RECENT))
    assert keys._settled is not None
    assert keys._settled.nbytes == 16 * len(keys)
