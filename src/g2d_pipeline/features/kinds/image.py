"""An image → bytes `[C, H, W]`, or floats where a row of an array file holds floats; and AV-MNIST's way of
degrading images: a share of their principal components."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from g2d_pipeline.config import ImageFeatures
from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.features.cells import IMAGES, is_row, open_cell
from g2d_pipeline.features.faults import MediaError, check_file, decoding
from g2d_pipeline.features.files import FITTED, Array, Floats, Rows, create, mapped, rows_in_file
from g2d_pipeline.features.kinds.base import ArraySpec, PictureKind, Values
from g2d_pipeline.features.kinds.vector import all_finite
from g2d_pipeline.features.statistics import OVERFLOW, infinite_rows, summed_errors, to_half
from g2d_pipeline.files import release_pages

Range = Sequence[float] | None  # the values that become 0 and 255
ROUNDING = 1e-9  # of a cumulative share of variance
BITS, PHOTOMETRIC = 258, 262  # tags of a TIFF; the second is 0 where white is zero
FEW = 64  # values of the high byte, of at least four times as many: most of a picture is lost
NARROW = "of 16 bits of which the high byte, which is kept, has few values"


class Image(PictureKind):
    """Images `[C, H, W]`: bytes, or floats."""

    settings: ImageFeatures
    settings_class = ImageFeatures
    plural = "pictures"
    notes: ClassVar[dict[str, str]] = {
        "constant": "that are of one colour",
        "narrow": f"{NARROW}: give `value_range` (of grey ones, the lowest and the highest value)",
    }
    endings = frozenset(IMAGES)
    keep_bytes = 2**62  # one image at a time is in memory

    @property
    def decoded(self) -> str:  # type: ignore[override]
        return "pixels" if self.settings.pca_energy is not None else ""

    def spec(self, cells: Sequence[str], root: Path) -> ArraySpec:
        dtype = "uint8"
        if _holds_floats(cells, root):
            dtype = "float32" if self.decoded else self.settings.dtype  # rounded after the components
        return ArraySpec((self.settings.channels, *self.settings.height_width), dtype)

    def check_spec(self, name: str, spec: ArraySpec) -> None:
        if self.settings.dtype != "float32" and not self.decoded and spec.dtype == "uint8":
            raise ConfigError(
                f"modalities.{name}.dtype={self.settings.dtype}: its pictures are bytes, which take less "
                "room still. Leave dtype out; it is for floats (spectrograms, sequences, vectors, principal "
                "components)."
            )

    def read(self, cell: str, root: Path, spec: ArraySpec, content: bytes | None) -> Values:
        channels, size, notes = self.settings.channels, self.settings.height_width, dict[str, int]()
        if spec.exact == "float32":
            pixels = read_floats(cell, root, channels, size)
        else:
            pixels = read_image(cell, root, channels, size, content, self.settings.value_range, notes)
        return resize(pixels, size).numpy(), notes

    def stored_spec(self, about: Mapping[str, Any]) -> ArraySpec:
        return ArraySpec(tuple(about["shape"]), about.get("decoded") or about["dtype"])

    def reusable(self, spec: ArraySpec) -> bool:
        return not self.decoded and spec.dtype == "uint8"

    def bytes_each(self, spec: ArraySpec) -> int:
        stored = np.dtype(self.settings.dtype).itemsize * int(np.prod(spec.shape)) if self.decoded else 0
        return spec.bytes + stored

    def header(self, path: Path) -> dict[str, float]:
        return image_header(path)

    def transform(
        self, path: Path, decoded: Array, rows: Rows, train: Rows, sample_ids: Sequence[str]
    ) -> tuple[Array, dict[str, Any], Floats | None]:
        """Replace images by the share `pca_energy` of their principal components, fitted on train."""
        energy = self.settings.pca_energy or 1.0
        components = LowEnergy.fit(_unit_pixels(decoded[rows[train]]), energy)
        fitted = np.vstack([components.mean, components.components])
        np.save(path.with_name(f"{path.stem}.{FITTED}.npy"), fitted)
        array = create(path, self.settings.dtype, (len(rows), *decoded.shape[1:]), rows_in_file(decoded))
        errors = []
        with threadpool_limits(1):
            for start in range(0, len(rows), self.chunk):
                part = decoded[rows[start : start + self.chunk]]
                values: Array = components.apply(_unit_pixels(part)).reshape(part.shape)
                if self.settings.dtype == "float16":
                    values, error = to_half(values)
                    if len(over := infinite_rows(values)):
                        named = [f"sample {sample_ids[rows[start + k]]} {OVERFLOW}" for k in over.tolist()]
                        headline = f"Pictures of {path.stem!r} can not be stored"
                        raise data_error(headline, named, "set dtype to float32.")
                    errors.append(summed_errors(error))
                array[start : start + self.chunk] = values
                release_pages(decoded)
                release_pages(array)
        array.flush()
        statistics = {"components": len(components.components), "energy": components.energy}
        return array, statistics, np.stack(errors) if errors else None

    def encode(self, decoded: Array, about: Mapping[str, Any], folder: Path) -> Array:
        if not self.decoded:
            return decoded
        mean, *components = mapped(folder / about[FITTED]["file"])
        low_energy = LowEnergy(mean, np.stack(components), about["statistics"]["energy"])
        with threadpool_limits(1):
            return low_energy.apply(_unit_pixels(decoded)).reshape(decoded.shape)


def _unit_pixels(decoded: Array) -> Array:
    """`[n, C, H, W]` → `[n, P]` in units of [0, 1], of bytes; floats as they are."""
    pixels: Array = decoded.reshape(len(decoded), -1) / (255 if decoded.dtype == np.uint8 else 1)
    return pixels


def image_header(path: Path) -> dict[str, float]:
    """Width and height."""
    with PILImage.open(path) as image:
        return {"width": float(image.width), "height": float(image.height)}


def _holds_floats(cells: Sequence[str], root: Path) -> bool:
    """Whether the first image that can be opened is a row of floats; a file is not."""
    for cell in cells:
        if not is_row(cell):
            return False
        with suppress(MediaError):  # reported with its sample when it is decoded
            return open_cell(cell, root).dtype.kind == "f"
    return False


def read_image(
    cell: str,
    root: Path,
    channels: Literal[1, 3],
    height_width: tuple[int, int] | None = None,
    content: bytes | None = None,
    value_range: Range = None,
    notes: dict[str, int] | None = None,
) -> Tensor:
    """Decode one cell of the manifest: uint8 `[C, H, W]`, RGB (3) or grey (1, ITU-R 601 luma).

    Turned upright as its EXIF says; CMYK, palette, CIELAB, alpha (which is left out) and 16-bit grey are
    converted; of several frames the first. A row of an array file is uint8 `[H, W]`, `[H, W, 1|3]`,
    `[1|3, H, W]`, or flat: `[H · W]` of the given `height_width`. `content`: the file's bytes, where they
    have been read already.

    `value_range`: which values of 16- and 32-bit grey become 0 and 255; None: the high byte of 16 bits is
    kept, and `narrow` is added to `notes` where that has few values. Raises MediaError where the file is
    missing, empty, a Git-LFS pointer, a web page, no image, truncated, perhaps a decompression bomb (above
    179 megapixels, Pillow's limit), or of 32 bits whose range is not known."""
    if is_row(cell):
        picture = _from_array(_square(open_cell(cell, root), height_width), root / cell)
    else:
        picture = _decode(root / cell, content, value_range, {} if notes is None else notes)
    pixels = np.array(picture.convert("RGB" if channels == 3 else "L"))
    tensor = torch.from_numpy(pixels)
    return tensor.permute(2, 0, 1).contiguous() if channels == 3 else tensor[None]


def read_floats(cell: str, root: Path, channels: Literal[1, 3], height_width: tuple[int, int]) -> Tensor:
    """A row of floats (AV-MNIST's centred pictures, datasets.md §2.2): float32 `[C, H', W']`.

    The row is as of `read_image`; its values are kept as they are. Raises MediaError where it holds no
    floats, another number of channels, or values that are not finite."""
    if not is_row(cell):
        raise MediaError(root / cell, "is a file, while the modality's first picture is a row of floats")
    values = _square(open_cell(cell, root), height_width)
    if values.dtype.kind != "f":
        raise MediaError(root / cell, f"is {values.dtype}, while the modality's first picture holds floats")
    if values.ndim == 3 and values.shape[2] == channels and values.shape[0] != channels:
        values = values.transpose(2, 0, 1)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or len(values) != channels or 0 in values.shape:
        reason = f"has shape {list(values.shape)}, not that of {channels} channels of floats"
        raise MediaError(root / cell, reason)
    return torch.from_numpy(np.ascontiguousarray(all_finite(values, root / cell)))


def _square(row: Array, height_width: tuple[int, int] | None) -> Array:
    """A flat row of H · W values as `[H, W]`; any other as it is."""
    flat = height_width is not None and row.shape == (height_width[0] * height_width[1],)
    return row.reshape(height_width) if flat else row


def _decode(path: Path, content: bytes | None, value_range: Range, notes: dict[str, int]) -> PILImage.Image:
    """Upright, in a mode that can be converted to RGB and to grey."""
    if content is None:
        try:
            content = path.read_bytes()
        except OSError:
            check_file(path)
            raise
    check_file(path, content)
    with decoding(path):
        try:
            file = PILImage.open(io.BytesIO(content))
        except PILImage.DecompressionBombError as error:
            raise MediaError(path, f"is too large, perhaps a decompression bomb ({error})") from error
        except UnidentifiedImageError as error:
            reason = f"can not be decoded (cannot identify image file {str(path)!r})"
            raise MediaError(path, reason) from error
        with file:
            tags, deep = getattr(file, "tag_v2", {}), ";16" in str(file.tile)
            of_16_bits = file.format == "PPM"
            picture = ImageOps.exif_transpose(file)
        if picture.mode == "LAB":
            return picture.convert("RGB")  # there is no way to grey
        if picture.mode == "P" and "transparency" in picture.info:
            return picture.convert("RGBA")
        if picture.mode in ("I", "F") and value_range is None and not of_16_bits:
            what = f"has 32-bit pixels (mode {picture.mode}), whose range is unknown"
            raise MediaError(path, f"{what}: give `value_range`, or save 8 bits")
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            return _to_bytes(path, np.asarray(picture), tags, value_range, notes)
        if deep and 0 < np.max(np.asarray(picture.convert("RGB"))) < FEW:  # Pillow has kept the high byte
            notes["narrow"] = notes.get("narrow", 0) + 1
    return picture


def _to_bytes(
    path: Path, values: Array, tags: Mapping[int, Any], value_range: Range, notes: dict[str, int]
) -> PILImage.Image:
    """Grey of more than 8 bits, of a TIFF with `tags`, as 8 bits; see `read_image`."""
    if value_range is None:
        pixels = (values.astype(np.uint16) >> tags.get(BITS, (16,))[0] - 8).astype(np.uint8)
        kept, held = len(np.unique(pixels)), np.count_nonzero(np.bincount(values.ravel()))
        if kept <= FEW and held >= 4 * kept:
            notes["narrow"] = notes.get("narrow", 0) + 1
    elif bad := int(np.count_nonzero(~np.isfinite(values))):
        raise MediaError(path, f"has {bad} pixels that are not finite")
    else:
        low, high = value_range
        pixels = np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255)
        pixels = pixels.astype(np.uint8)
    inverted = tags.get(PHOTOMETRIC) == 0  # white is zero; Pillow minds it in 8 bits only
    return PILImage.fromarray(255 - pixels if inverted else pixels)


def _from_array(row: Array, where: Path) -> PILImage.Image:
    if row.dtype != np.uint8:
        raise MediaError(where, f"is {row.dtype}; pictures in array files are bytes (uint8, 0 to 255)")
    if row.ndim == 3 and row.shape[0] in (1, 3) and row.shape[2] not in (1, 3):
        row = row.transpose(1, 2, 0)
    if row.ndim == 3 and row.shape[2] == 1:
        row = row[..., 0]
    if row.ndim not in (2, 3) or (row.ndim == 3 and row.shape[2] != 3) or 0 in row.shape:
        raise MediaError(where, f"has shape {list(row.shape)}, not [H, W], [H, W, 1 or 3] or [1 or 3, H, W]")
    return PILImage.fromarray(np.ascontiguousarray(row))


def resize(image: Tensor, height_width: tuple[int, int]) -> Tensor:
    """`[…, C, H', W']` → `[…, C, H, W]`, ignoring the aspect ratio (bilinear, antialiased)."""
    if tuple(image.shape[-2:]) == height_width:
        return image
    resized: Tensor = transforms.resize(image, list(height_width), InterpolationMode.BILINEAR, antialias=True)
    return resized


@dataclass(frozen=True)
class LowEnergy:
    """The first principal components of the train pictures: `mean` `[P]`, `components` `[K, P]`, float64;
    `energy`: the share of variance that they hold."""

    mean: Floats
    components: Floats
    energy: float

    @classmethod
    def fit(cls, train: npt.NDArray[np.floating[Any]], energy: float) -> Self:
        """Fit on `[N, P]`: full SVD in float64, on one thread, so that the bytes are the same on any machine.

        K is the largest count whose cumulative share of variance is at most `energy` (but for rounding,
        1e-9), at least one (AV-MNIST, datasets.md §2.1). Raises DataError where pictures are all alike."""
        from sklearn.decomposition import PCA

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
        """Project `[N, P]` onto the components, back to pixels; the train mean is *not* added back."""
        centred = np.asarray(images, np.float64) - self.mean
        return ((centred @ self.components.T) @ self.components).astype(np.float32)
