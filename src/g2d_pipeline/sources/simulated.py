"""Simulated samples of published layouts, for who has no raw data: always marked SAMPLE.

A layout that can be simulated describes it in `Layout.simulated`, and its folder has a module `simulated`
with `make(root, size, seed)`; equal arguments give equal bytes."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from g2d_pipeline.config import Split
from g2d_pipeline.errors import data_error

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

SAMPLE_TEXT = "SAMPLE.txt"


class Simulated(NamedTuple):
    """`published`: the data set whose layout it has; `content`: what is in it instead; `recipe`: raise it
    when `make` changes what it writes."""

    published: str
    content: str
    recipe: int = 1

    def text(self, module: str, size: Mapping[Split, int] | int, seed: int) -> str:
        """What SAMPLE.txt says; one of another text is made anew. `size`: rows of each split, or clips."""
        if isinstance(size, int):
            counts = f"clips: {size}"
        else:
            counts = f"rows: train {size['train']}, val {size['val']}, test {size['test']}"
        return (
            f"SAMPLE: everything in this folder is simulated by {module}.\n"
            f"It has the layout of {self.published} and none of its data: {self.content} "
            "No number made from it means anything.\n"
            "Delete the folder at will; it is made anew when it is needed.\n"
            f"{counts}; seed: {seed}; recipe: {self.recipe}\n"
        )


def write_video(
    path: Path,
    pictures: "Sequence[Image]",
    order: Sequence[int],
    fps: Fraction,
    options: dict[str, str],
    sound: "tuple[npt.NDArray[np.float32], int] | None" = None,
) -> None:
    """A `.flv` or MPEG-4 `.mp4`: `order` says which of the pictures each frame is; equal arguments give equal
    bytes. `options` of the video codec; `sound`: samples `[n]` in [-1, 1] and hertz, for an AAC track."""
    import av
    import numpy as np

    frames = [av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24") for picture in pictures]
    # bitexact: neither the time nor FFmpeg's version is written
    exact = {"flags": "+bitexact", "threads": "1"}
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        codec = "flv" if path.suffix == ".flv" else "mpeg4"
        video: Any = container.add_stream(codec, rate=fps, options=exact | options)
        video.width, video.height = pictures[0].size
        video.pix_fmt = "yuv420p"
        audio: Any = None
        if sound is not None:
            audio = container.add_stream("aac", rate=sound[1], options=exact | {"aac_coder": "fast"})
            audio.layout, audio.bit_rate = "mono", 14_000
        for i, k in enumerate(order):
            frames[k].pts, frames[k].time_base = i, 1 / fps
            container.mux(video.encode(frames[k]))
        container.mux(video.encode())
        if sound is None:
            return
        wave, rate = sound
        for start in range(0, len(wave), 1024):
            samples = wave[None, start : start + 1024]
            part = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = rate, start, Fraction(1, rate)
            container.mux(audio.encode(part))
        container.mux(audio.encode())


def text_of(root: Path) -> str | None:
    """What SAMPLE.txt in `root` says; None where there is none. DataError where it can not be read."""
    try:
        return (root / SAMPLE_TEXT).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        headline = f"{root / SAMPLE_TEXT} can not be read ({error})"
        raise data_error(headline, [], "delete the folder.") from None
