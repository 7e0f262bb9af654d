"""CREMA-D: WAV files and FLV films (or pictures extracted from them) of 91 actors → 6 emotions (datasets.md
§1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.errors import SHOWN, ConfigError, data_error
from g2d_pipeline.sources import crema_d_clips as clips
from g2d_pipeline.sources.crema_d_clips import Media
from g2d_pipeline.sources.faults import BadRow, drop_or_raise, list_files, media_columns
from g2d_pipeline.sources.simulated import data_dir

if TYPE_CHECKING:
    from g2d_pipeline.config import CremaD, IngestSettings, LayoutSettings
    from g2d_pipeline.sources.crema_d_lists import Lists, Row
    from g2d_pipeline.sources.manifest import Manifest

MODALITIES = {"audio": ".wav", "visual": ".flv"}


def expected(raw: LayoutSettings) -> str:
    return (
        f"put CREMA-D under {raw.raw_dir}: AudioWAV/1001_DFA_ANG_XX.wav … and VideoFlash/1001_DFA_ANG_XX.flv … (or "
        f"Image-01-FPS/1001_DFA_ANG_XX/00000.jpg …), from {clips.SOURCE}; the web page's zip holds LFS pointers only."
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The media (no films where there are pictures of them) and the lists of the split; empty without any
    media."""
    from g2d_pipeline.sources.crema_d_lists import CLASSES, LISTS

    files = list_files(root, skip={"sample"})
    media = [f for f in files if clips.is_picture(f)]
    media += [
        f for f in files if clips.is_media(f, clips.AUDIO) or (not media and clips.is_media(f, clips.VIDEO))
    ]
    lists = [f for f in files if f.rpartition("/")[2] in (*LISTS, CLASSES)]
    return [root / f for f in sorted([*media, *lists])] if media else []


def read(settings: IngestSettings, root: Path) -> Manifest:
    """A row a clip of the split: paths of the modalities asked for, the intended emotion, `group` (the
    actor), `sentence` and `level`. Paths lead to a file, or to the folder of a clip's pictures.

    Clips whose files are missing or broken and rows whose label is wrong are dropped while their share is at
    most `max_bad_fraction`; the four whose video is known to be broken are dropped beside, and said so.
    Raises DataError for everything else that is wrong, ConfigError for modalities and tasks that the data do
    not have."""
    import pandas as pd

    from g2d_pipeline.sources.manifest import build

    raw = _of(settings.raw)
    if settings.task != "classification":
        raise ConfigError(f"{settings.dataset}: layout crema_d is a classification, not a {settings.task}.")
    columns = media_columns(settings, MODALITIES)
    files = list_files(root, skip={"sample"})
    notes: list[str] = []
    media = _media(files, root, columns, notes)
    lists = _lists(files, root, media, raw)
    notes[:0] = lists.notes
    faults: dict[str, dict[str, str]] = {}
    for modality, of in media.items():
        told = {row.clip.name: of.fault(root, row.clip.name) for row in lists.rows}
        faults[modality] = {name: fault for name, fault in told.items() if fault}
        clips.check_pointers(faults[modality], of, len(lists.rows), settings.max_bad_fraction, notes)
    rows, known = _without_known(lists.rows, "visual" in columns and raw.broken_clips == "drop", notes)
    bad = [*lists.bad, *_bad_rows(rows, media, faults)]
    dropped = drop_or_raise(
        bad, len(rows) + len(lists.bad), settings.max_bad_fraction, "clips", _remedy(settings, root, media)
    )
    good = [row for row in rows if not any(row.clip.name in of for of in faults.values())]
    _note(rows, good, media, notes)

    table = pd.DataFrame({"sample_id": [row.clip.name for row in good], "split": [row.split for row in good]})
    table["target"] = pd.Series([row.clip.target for row in good], dtype="int64")
    for modality, of in media.items():
        table[columns[modality]] = [of.cell(row.clip.name) for row in good]
    for column, key in (("group", "actor"), ("sentence", "sentence"), ("level", "level")):
        table[column] = [getattr(row.clip, key) for row in good]
    if settings.source == "sample":
        notes.insert(
            0, "SAMPLE: simulated voices and faces in CREMA-D's layout; no number from it means anything."
        )
    return build(
        table,
        settings,
        raw_dir=data_dir(settings),
        class_names=list(clips.EMOTIONS),
        group_disjoint=raw.split == "speakers",
        dropped=[*dropped, *(row.as_dict() for row in known)],
        notes=notes,
    )


# ----------------------------------------------------------------------------------------------------- pieces
def _of(raw: LayoutSettings) -> CremaD:
    from g2d_pipeline.config import CremaD

    assert isinstance(raw, CremaD)
    return raw


def _media(
    files: Sequence[str], root: Path, columns: Mapping[str, str], notes: list[str]
) -> dict[str, Media]:
    """modality → its files; DataError naming the folders where there are none, or none with a clip's name."""
    found = {
        modality: clips.find_audio(files, root)
        if modality == "audio"
        else clips.find_visual(files, root, notes)
        for modality in columns
    }
    if found.get("audio", True) is None:
        remedy = f"put the folder {clips.AUDIO} there, from {clips.SOURCE}; the MP3 files are not read."
        raise data_error(f"Modality 'audio' has no files: no {clips.AUDIO}/*.wav below {root}", [], remedy)
    if found.get("visual", True) is None:
        headline = f"Modality 'visual' has no files: no {clips.VIDEO}/*.flv and no {clips.PICTURES}/<clip>/ below {root}"
        remedy = (
            f"audio-only redistributions of CREMA-D leave the films out: take the folder {clips.VIDEO} from "
            f"{clips.SOURCE}; or train on sound alone: remove 'visual' under `modalities` and set method=unimodal."
        )
        raise data_error(headline, [], remedy)
    media = {modality: of for modality, of in found.items() if of is not None}
    for of in media.values():
        clips.check_names(of, root)
        clips.note_names(of, notes)
    return media


def _lists(files: Sequence[str], root: Path, media: Mapping[str, Media], raw: CremaD) -> Lists:
    from g2d_pipeline.sources import crema_d_lists as lists

    if raw.split == "published":
        return lists.published(root, files, raw.val_fraction, raw.seed)
    names = {name for of in media.values() for name in of.files}
    found = [clip for name in names if (clip := clips.Clip.of(name))]
    return lists.speakers(found, raw.val_fraction, raw.seed, str(root))


def _without_known(rows: Sequence[Row], drop: bool, notes: list[str]) -> tuple[list[Row], list[BadRow]]:
    """The rows without the clips whose video is known to be broken, and these."""
    known = [row for row in rows if drop and row.clip.name in clips.BROKEN_VIDEO]
    if known:
        notes.append(
            f"{len(known)} clips whose video is known to be broken are left out, none of them of the published test "
            f"set: {', '.join(row.clip.name for row in known)} (broken_clips=keep keeps them)."
        )
    told = "known to be broken in every copy:"
    bad = [BadRow(r.clip.name, None, f"{told} {clips.BROKEN_VIDEO[r.clip.name]} ({r.split})") for r in known]
    return [row for row in rows if row not in known], bad


def _bad_rows(
    rows: Sequence[Row], media: Mapping[str, Media], faults: Mapping[str, Mapping[str, str]]
) -> list[BadRow]:
    bad = []
    for row in rows:
        name = row.clip.name
        told = [
            f"{of.place(name, MODALITIES[m])} {faults[m][name]}"
            for m, of in media.items()
            if name in faults[m]
        ]
        if told and row.row is not None:
            bad.append(BadRow(row.file, row.row, "; ".join(told)))
        elif told:
            bad.append(BadRow(name, None, f"{'; '.join(told)} ({row.split})"))
    return bad


def _remedy(settings: IngestSettings, root: Path, media: Mapping[str, Media]) -> str:
    if settings.source == "sample":
        return f"delete {root}: the sample is made anew"
    remedy = f"copy or download these files again from {clips.SOURCE}, and correct such rows"
    if others := [f for of in media.values() for f in of.others]:
        remedy += (
            f"; {len(others)} files have no clip's name, perhaps they are it: {', '.join(others[:SHOWN])}"
        )
    if _of(settings.raw).split == "published":
        remedy += "; or set split=speakers, which uses the clips that are there"
    return remedy


def _note(rows: Sequence[Row], good: Sequence[Row], media: Mapping[str, Media], notes: list[str]) -> None:
    listed = {row.clip.name for row in rows} | set(clips.BROKEN_VIDEO)
    for of in media.values():
        if left := sorted(set(of.files) - listed):
            shown = ", ".join(left[:SHOWN])
            notes.append(
                f"{len(left)} clips in {of.folder} are not in the lists and are left out, e.g. {shown}."
            )
    if lost := sum(row.split == "test" for row in rows) - sum(row.split == "test" for row in good):
        notes.append(f"{lost} test clips are dropped: accuracies are not comparable with published ones.")
    if "audio" in media and clips.SILENT in {row.clip.name for row in good}:
        notes.append(f"{clips.SILENT} is known to be silent.")
