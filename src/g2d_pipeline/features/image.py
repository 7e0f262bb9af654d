"""A picture → bytes `[C, H, W]`, or floats where a row of an array file holds floats; and AV-MNIST's way of
making pictures poor: a share of their principal components."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from g2d_pipeline.errors import data_error
from g2d_pipeline.features.cells import read_row, split_cell
from g2d_pipeline.features.faults import MediaError, check_file

ROUNDING = 1e-9  # of a cumulative share of variance


def read_image(
    cell: str, root: Path, channels: Literal[1, 3], height_width: tuple[int, int] | None = None
) -> Tensor:
    """Decode one cell of the manifest: uint8 `[C, H, W]`, RGB (3) or grey (1, ITU-R 601 luma).

    Turned upright as its EXIF says; CMYK, palette, alpha (which is left out) and 16-bit grey (its high byte)
    are converted; of several frames the first. A row of an array file is uint8 `[H, W]`, `[H, W, 1|3]`,
    `[1|3, H, W]`, or flat: `[H · W]` of the given `height_width`. Raises MediaError where the file is
    missing, empty, a Git-LFS pointer, a web page, no picture, truncated, or so large that it looks like a
    decompression bomb (above 179 megapixels, Pillow's limit)."""
    file, row = split_cell(cell)
    path = root / file
    picture = (
        _decode(path) if row is None else _from_array(_square(read_row(path, row), height_width), root / cell)
    )
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("I", "F"):
        raise MediaError(
            root / cell, f"has 32-bit pixels (mode {picture.mode}), whose range is unknown: save 8 bits"
        )
    pixels = np.array(picture.convert("RGB" if channels == 3 else "L"))
    return (
        torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        if channels == 3
        else torch.from_numpy(pixels)[None]
    )


def read_floats(cell: str, root: Path, channels: Literal[1, 3], height_width: tuple[int, int]) -> Tensor:
    """A row of an array file of floats (AV-MNIST's centred pictures, datasets.md §2.2): float32 `[C, H',
    W']`.

    The row is as of `read_image`; its values are kept as they are. Raises MediaError where it holds no
    floats, another number of channels, or values that are not finite."""
    file, row = split_cell(cell)
    if row is None:
        raise MediaError(root / cell, "is a file, while the modality's first picture is a row of floats")
    values = _square(read_row(root / file, row), height_width)
    if values.dtype.kind != "f":
        raise MediaError(root / cell, f"is {values.dtype}, while the modality's first picture holds floats")
    if values.ndim == 3 and values.shape[2] == channels and values.shape[0] != channels:
        values = values.transpose(2, 0, 1)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or len(values) != channels or 0 in values.shape:
        raise MediaError(
            root / cell, f"has shape {list(values.shape)}, not that of {channels} channels of floats"
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise MediaError(
            root / cell, f"holds {bad} values that are not finite (NaN, infinite, or above 3.4e38)"
        )
    return torch.from_numpy(values)


def _square(row: npt.NDArray[Any], height_width: tuple[int, int] | None) -> npt.NDArray[Any]:
    """A flat row of H · W values as `[H, W]`; any other as it is."""
    flat = height_width is not None and row.shape == (height_width[0] * height_width[1],)
    return row.reshape(height_width) if flat else row


def _decode(path: Path) -> Image.Image:
    check_file(path)
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except Image.DecompressionBombError as error:
        raise MediaError(path, f"is too large, perhaps a decompression bomb ({error})") from error
    except Exception as error:  # decoders of broken files raise almost anything
        what = "is truncated" if "truncated" in str(error) else "can not be decoded"
        raise MediaError(path, f"{what} ({str(error) or type(error).__name__})") from error


def _from_array(row: npt.NDArray[Any], where: Path) -> Image.Image:
    if row.dtype != np.uint8:
        raise MediaError(where, f"is {row.dtype}; pictures in array files are bytes (uint8, 0 to 255)")
    if row.ndim == 3 and row.shape[0] in (1, 3) and row.shape[2] not in (1, 3):
        row = row.transpose(1, 2, 0)
    if row.ndim == 3 and row.shape[2] == 1:
        row = row[..., 0]
    if row.ndim not in (2, 3) or (row.ndim == 3 and row.shape[2] != 3) or 0 in row.shape:
        raise MediaError(where, f"has shape {list(row.shape)}, not [H, W], [H, W, 1 or 3] or [1 or 3, H, W]")
    return Image.fromarray(np.ascontiguousarray(row))


def resize(image: Tensor, height_width: tuple[int, int]) -> Tensor:
    """`[…, C, H', W']` → `[…, C, H, W]` of the same type, ignoring the aspect ratio (bilinear, antialiased)."""
    if tuple(image.shape[-2:]) == height_width:
        return image
    resized: Tensor = transforms.resize(image, list(height_width), InterpolationMode.BILINEAR, antialias=True)
    return resized


@dataclass(frozen=True)
class LowEnergy:
    """The first principal components of the train pictures. `mean` `[P]`, `components` `[K, P]`, float64.

    `energy`: the share of the train pictures' variance that the K components hold.
    """

    mean: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]
    energy: float

    @classmethod
    def fit(cls, train: npt.NDArray[np.floating[Any]], energy: float) -> Self:
        """Fit on `[N, P]`: full SVD in float64, one thread, so that the bytes do not depend on the machine's
        cores.

        K is the largest count whose cumulative share of variance is at most `energy` (but for rounding,
        1e-9), at least one (AV-MNIST, datasets.md §2.1). Raises DataError where the pictures are all alike.
        """
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        train = np.asarray(train, np.float64)
        if len(train) < 2 or (train == train[0]).all():
            headline = f"The principal components of {len(train)} train pictures, all alike, do not exist"
            raise data_error(headline, [], "look at the pictures of train, or leave pca_energy out.")
        with threadpool_limits(1):
            pca = PCA(svd_solver="full").fit(train)
        cumulative = np.cumsum(pca.explained_variance_ratio_)
        count = max(1, int(np.searchsorted(cumulative, energy + ROUNDING, side="right")))
        return cls(pca.mean_, pca.components_[:count], float(cumulative[count - 1]))

    def apply(self, images: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Project `[N, P]` onto the components, back to pixels; the train mean is subtracted and *not* added
        back."""
        centred = np.asarray(images, np.float64) - self.mean
        return ((centred @ self.components.T) @ self.components).astype(np.float32)


def low_energy(
    images: npt.NDArray[np.floating[Any]], energy: float, fit_on: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Pictures `[N, P]` with pixels in [0, 1] → float32 `[N, P]` of `LowEnergy`, fitted on the rows `fit_on`
    alone."""
    return LowEnergy.fit(images[fit_on], energy).apply(images)
