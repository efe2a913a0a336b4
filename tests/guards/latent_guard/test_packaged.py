"""The centres that ship: whole, small, tied to the embedded model, and fitted on data that may ship."""

from __future__ import annotations

import pytest

from corral.core.errors import NotFoundError
from corral.data.self_written import may_train
from corral.guards.latent_guard.centres import CENTRES, PACKAGED, Centres, packaged_centres
from corral.guards.latent_guard.drift import CANARY
from corral.models.embedded import EMBEDDED_MODELS

FOLDERS = sorted(path.parent for path in PACKAGED.glob(f"*/{CENTRES}"))


def test_there_are_centres_of_the_embedded_model():
    assert "smollm2-135m-instruct" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_they_are_tied_to_an_embedded_model(folder):
    record = Centres.load(folder).record
    model = EMBEDDED_MODELS[folder.name]
    assert model.sha256.startswith(record.model_revision)
    assert packaged_centres(record.model_revision, record.template) == folder
    assert packaged_centres(None, record.template) == folder  # for weights that have changed since
    with pytest.raises(NotFoundError):
        packaged_centres("0" * 16, record.template)
    assert [row.text for row in record.canary] == list(CANARY)
    assert record.command.startswith("corral recipes run latent_guard/small")
    assert (folder / "card.md").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_they_are_small_and_fitted_on_data_that_may_ship(folder):
    record = Centres.load(folder).record
    assert (folder / CENTRES).stat().st_size < 600_000
    assert sum(record.data.values()) == record.counts["harmful"] + record.counts["harmless"]
    assert all(map(may_train, record.data))
    assert record.harm_calibration.split
