"""Where data lie, and in which pieces."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from g2d_pipeline.config.base import Strict


class StorageSettings(Strict):
    """Never part of a fingerprint: none of it changes a number.

    `shard_rows`: the samples of a modality of files in one file of a feature store (auto: as many as make a
    gigabyte); more are written as `<modality>-00000-of-00004.npy`, …"""

    shard_rows: PositiveInt | Literal["auto"] = "auto"
