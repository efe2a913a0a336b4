from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from corral.core.errors import DataError
from corral.core.evidence import Claim, Evidence
from corral.core.files import read_json
from corral.core.manifest import describe_machine

KEYS = ["claim", "metric", "baseline", "ours", "n", "ci95", "seeds", "expected", "holds", "toy", "tried"]


def claim(**changes: Any) -> Claim:
    values: dict[str, Any] = {
        "claim": "beats-bag-of-words",
        "metric": "average precision, difference",
        "baseline": 0.5,
        "ours": 0.75,
        "n": 100,
        "ci95": (0.1, 0.4),
        "seeds": (0, 1, 2),
        "expected": "above 0",
        "holds": True,
        "toy": False,
        "tried": (),
    }
    return Claim(**(values | changes))


def evidence(*claims: Claim) -> Evidence:
    return Evidence(
        system="duoguard",
        command="corral recipes run duoguard/small",
        versions={"numpy": "2"},
        date=date(2026, 1, 31),
        machine=describe_machine(),
        claims=claims,
    )


def test_a_claim_is_written_with_every_key_present(tmp_path: Path) -> None:
    written = evidence(claim(ci95=None, baseline=None)).write(tmp_path)
    assert written == tmp_path / "duoguard.json"
    value = read_json(written)
    assert list(value["claims"][0]) == KEYS
    assert value["schema_version"] == 1
    assert Evidence.read(written) == evidence(claim(ci95=None, baseline=None))


@pytest.mark.parametrize("key", KEYS)
def test_no_key_of_a_claim_can_be_left_out(key: str) -> None:
    values = claim().model_dump()
    del values[key]
    with pytest.raises(ValidationError, match="Field required"):
        Claim(**values)


def test_a_claim_that_does_not_hold_says_what_was_tried() -> None:
    with pytest.raises(ValidationError, match="says what was tried"):
        claim(holds=False)
    assert not claim(holds=False, tried=("more data",)).holds


@pytest.mark.parametrize("changes", [{"ci95": (0.4, 0.1)}, {"ours": float("nan")}, {"ci95": (0.1, float("inf"))}])
def test_figures_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        claim(**changes)


def test_a_claim_is_listed_once() -> None:
    with pytest.raises(ValidationError, match="`beats-bag-of-words` is listed twice"):
        evidence(claim(), claim())


def test_a_file_that_is_not_evidence_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"system": "x"}')
    with pytest.raises(DataError, match="not evidence") as caught:
        Evidence.read(path)
    assert caught.value.where == f"{path}: command"
