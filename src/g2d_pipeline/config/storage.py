"""Where data lie, and in which pieces."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from g2d_pipeline.config.base import Strict

SECRET = re.compile(r"secret|token|passw|(^|_)key(_id)?$", re.IGNORECASE)


REMEDY = (
    "remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or name a profile "
    "(storage.options.profile)"
)


class StorageSettings(Strict):
    """Never part of a fingerprint: none of it changes a number, but a `cache_gb` that is smaller than the
    feature store that is trained from: then `model.json` says by which windows it is shuffled.

    `shard_rows`: the samples of a modality of files in one file of a feature store (auto: as many as make a
    gigabyte); more are written as `<modality>-00000-of-00004.npy`, …

    `artefacts`: a URL where finished artefacts (manifests, feature stores, models, reports) are uploaded, and
    looked for before they are made; None: they stay in the project.

    Of raw folders and artefacts behind a URL (`s3://…`): `options` of their file system (`endpoint_url`,
    `profile`, `anon`, …), never a secret; `cache_folder`, where raw files are kept when they were read (None:
    `data/.cache`), and `cache_gb`, how many of each raw folder and feature store, those used last."""

    shard_rows: PositiveInt | Literal["auto"] = "auto"
    artefacts: Annotated[str, Field(pattern=r"^[a-z0-9]+://\S+$")] | None = None
    options: dict[str, Any] = {}
    cache_folder: str | None = None
    cache_gb: PositiveFloat = 50.0

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, value: Any) -> Any:
        refuse_secrets(value, "storage")
        return value


def refuse_secrets(value: Any, where: str) -> None:
    """Raise an error, without the value, where a key of settings names a secret or an address has one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if SECRET.search(str(key)):
                raise PydanticCustomError("secret", f"{where}.{key} would put a secret into a file: {REMEDY}")
            refuse_secrets(inner, f"{where}.{key}")
    elif isinstance(value, str) and re.search(r"://[^/]*@", value):
        raise PydanticCustomError("secret", f"{where} has a user or a secret before its @: {REMEDY}")
