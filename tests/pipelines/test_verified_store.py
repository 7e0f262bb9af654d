"""A store that changed on disk raises before training reads it; an unchanged one is verified once."""

from __future__ import annotations

from pathlib import Path

import pytest

from g2d_pipeline.catalog.features import verify_once
from g2d_pipeline.errors import DataError
from g2d_pipeline.features.store import FeatureStore


class Counted(FeatureStore):
    checks = 0

    def verify(self, modality: str | None = None) -> None:
        type(self).checks += 1
        if (self.path / "audio.npy").read_bytes() != b"whole":
            raise DataError("audio.npy has changed since it was written")


def test_checksums_are_compared_once_for_each_state_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "features-1"
    folder.mkdir()
    (folder / "audio.npy").write_bytes(b"whole")
    store, note = Counted(folder, {}), tmp_path / "features-1.verified.json"
    for _ in range(3):
        verify_once(store, note)
    assert Counted.checks == 1
    (folder / "audio.npy").write_bytes(b"whxle")
    for checks in (2, 3):  # not noted as whole
        with pytest.raises(DataError, match=r"audio\.npy has changed"):
            verify_once(store, note)
        assert Counted.checks == checks
    (folder / "audio.npy").write_bytes(b"whole")
    note.write_text("{cut o")
    verify_once(store, note)
    verify_once(store, note)
    assert Counted.checks == 4
