"""VGGSound: the published lists and whatever clips could be downloaded → 309 kinds of sound (datasets.md §3)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.errors import SHOWN, ConfigError, DataError, data_error
from g2d_pipeline.sources.faults import BadRow, list_files, media_columns
from g2d_pipeline.sources.simulated import data_dir
from g2d_pipeline.sources.vggsound_clips import Media, find_media, is_film, is_media, paths_of
from g2d_pipeline.sources.vggsound_list import AGAIN, SPLITS, Clip, Lists, class_names, find_lists, read_lists

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings, VGGSound
    from g2d_pipeline.sources.manifest import Manifest

MODALITIES = ("audio", "visual")
TOLD = 10  # missing clips that a message names


def expected(raw: LayoutSettings) -> str:
    return (
        f"put vggsound.csv (github.com/hche11/VGGSound, folder data) into {raw.raw_dir}, and below it, in any folder, "
        "the clips <id>_<start, six digits>.mp4, or audio/{train,test}/<clip>.wav and "
        "video/frames/{train,test}/Image-01-FPS/<clip>/00000.jpg …"
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The lists and all media whose names have the form of a clip's; empty where there is no list."""
    files = list_files(root, skip={"sample"})
    lists = find_lists(files)
    return [root / f for f in sorted([*lists, *filter(is_media, files)])] if lists else []


def read(settings: IngestSettings, root: Path) -> Manifest:
    """A row a clip that is there, in the lists' order: paths of the modalities asked for, the label, `group`
    (the video). Classes are those of the lists, in the order of the 309 published names.

    No validation split is published: `val_fraction` of the train videos are held out, stratified; a video is
    never in both. Clips that are missing or broken and rows that can not be read are dropped while their
    share is at most `max_bad_fraction`; one message sums them up where it is not, or where no clip is there
    at all. Raises DataError for that and for classes without a clip in train, ConfigError for modalities and
    tasks that the data do not have."""
    import pandas as pd

    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.vggsound_films import film_faults

    raw = _of(settings.raw)
    if settings.task != "classification":
        raise ConfigError(f"{settings.dataset}: layout vggsound is a classification, not a {settings.task}.")
    columns = media_columns(settings, MODALITIES)
    files = list_files(root, skip={"sample"})
    lists = read_lists(root, find_lists(files))
    if not lists.clips and not lists.bad:
        raise data_error(f"There is no row in the lists below {root}", find_lists(files), f"{expected(raw)}.")
    media = find_media(files, lists.clips)
    found = [paths_of(clip, media, columns, root) for clip in lists.clips]
    films: dict[str, list[str]] = {}
    for paths, _, _ in found:
        for modality, path in paths.items():
            if is_film(path):
                films.setdefault(path, []).append(modality)
    unfit = film_faults(films, root, settings.options.workers, settings.options.progress)
    there: list[tuple[Clip, dict[str, str]]] = []
    bad = list(lists.bad)
    kinds: Counter[str] = Counter()
    for clip, (paths, fault, reason) in zip(lists.clips, found, strict=True):
        if fault is None and (told := [unfit[path] for path in paths.values() if path in unfit]):
            fault, reason = told[0]
        if fault is None:
            there.append((clip, paths))
        else:
            kinds[fault] += 1
            bad.append(BadRow(clip.file, clip.row, f"{clip.name} ({clip.split}): {reason}"))
    summary = _summary(lists, [clip for clip, _ in there], kinds)
    total = len(lists.clips) + len(lists.bad)
    if not there or len(bad) > settings.max_bad_fraction * total:
        raise _too_many(bad, len(lists.bad), total, summary, settings, root)

    listed = {clip.label for clip in lists.clips}
    names = [name for name in class_names() if name in listed]
    train = [clip for clip, _ in there if clip.split == "train"]
    shown = {clip.label for clip in train}
    if absent := [name for name in names if name not in shown]:
        headline = (
            f"{len(absent)} of the {len(names)} classes in the lists have no clip in train below {root}"
        )
        raise data_error(
            headline, absent, "download clips of them, or take all rows of these classes out of the list."
        )
    val = held_out(train, raw.val_fraction, raw.seed)
    code = {name: number for number, name in enumerate(names)}
    rows = [
        {
            "sample_id": clip.name,
            "split": "val" if clip.split == "train" and clip.video in val else clip.split,
            "target": code[clip.label],
            **{columns[modality]: paths[modality] for modality in columns},
            "group": clip.video,
        }
        for clip, paths in there
    ]
    same = f"Hash of the clips: {hash_of(clip for clip, _ in there)}. Accuracies are comparable only where it is the same."
    notes = [*summary, same, *lists.notes, *_notes(lists.clips, train, val, media, names)]
    if settings.source == "sample":
        notes.insert(0, "SAMPLE: simulated clips in VGGSound's layout; no number from them means anything.")
    return build(
        pd.DataFrame(rows),
        settings,
        raw_dir=data_dir(settings),
        class_names=names,
        dropped=[row.as_dict() for row in bad],
        notes=notes,
    )


def held_out(train: Sequence[Clip], fraction: float, seed: int) -> set[str]:
    """The videos of `train` that become val: `fraction` of each class's, by largest remainders, one at least
    in all.

    Every class keeps a video in train; videos with clips of several classes stay there. Raises DataError
    where no class has two videos."""
    import numpy as np

    labels: dict[str, set[str]] = {}
    for clip in train:
        labels.setdefault(clip.video, set()).add(clip.label)
    videos: dict[str, list[str]] = {}
    for video in sorted(labels):
        if len(labels[video]) == 1:
            videos.setdefault(next(iter(labels[video])), []).append(video)
    names = sorted(videos)
    exact = {name: len(videos[name]) * fraction for name in names}
    count = {name: min(int(exact[name]), len(videos[name]) - 1) for name in names}
    rest = max(1, round(sum(exact.values()))) - sum(count.values())
    for name in sorted(names, key=lambda n: (count[n] - exact[n], n)):
        if rest > 0 and count[name] < len(videos[name]) - 1:
            count[name] += 1
            rest -= 1
    if not any(count.values()):
        raise data_error(
            "No class has two videos in train: none can be held out for val", [], "add clips to train."
        )
    number = {name: i for i, name in enumerate(class_names())}
    drawn = {
        n: np.random.default_rng([seed, number[n]]).permutation(len(videos[n]))[: count[n]] for n in names
    }
    return {videos[name][i] for name in names for i in drawn[name].tolist()}


# ----------------------------------------------------------------------------------------------- what is told
def _summary(lists: Lists, there: Sequence[Clip], kinds: Counter[str]) -> list[str]:
    """Found of expected per split, and what the others lack."""
    wanted, found = (Counter(clip.split for clip in clips) for clips in (lists.clips, there))
    lines = [
        "Clips found: "
        + ", ".join(f"{split} {found[split]:,} of {wanted[split]:,}" for split in SPLITS)
        + "."
    ]
    if kinds or lists.bad:
        told = [f"{kind} {count:,}" for kind, count in kinds.most_common()]
        told += [f"rows of the lists that can not be read {len(lists.bad):,}"] if lists.bad else []
        lines.append(f"Clips left out: {', '.join(told)}.")
    return lines


def hash_of(clips: Iterable[Clip]) -> str:
    """16 hex digits over splits and names, whatever the order: what comparable results share (§3.5)."""
    text = "\n".join(sorted(f"{clip.split} {clip.name}" for clip in clips))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _too_many(
    bad: Sequence[BadRow],
    unread: int,
    total: int,
    summary: Sequence[str],
    settings: IngestSettings,
    root: Path,
) -> DataError:
    allowed = f"max_bad_fraction allows {settings.max_bad_fraction:.2%}"
    more = [f"  … and {len(bad) - TOLD:,} more, {len(bad):,} in all"] if len(bad) > TOLD else []
    if settings.source == "sample":
        remedy = f"delete {root}: the sample is made anew."
    else:
        remedy = (
            f"put the clips below {root}, in any folder, as <id>_<start, six digits>.mp4: ten seconds of each video, "
            "from the authors, from a mirror of their archives, or cut from YouTube (ids begin with dashes: give them "
            "to command-line tools after `--`). Where they are gone for good, set max_bad_fraction to go on without."
        )
        if unread:
            remedy = f"{AGAIN} {remedy[0].upper()}{remedy[1:]}"
    headline = f"{len(bad):,} of the {total:,} clips in the lists can not be used ({len(bad) / max(total, 1):.2%}; {allowed}):"
    if len(bad) == total:
        headline = f"None of the {total:,} clips in the lists can be used:"
    lines = [headline, *(f"  {line}" for line in summary), *(f"  - {row}" for row in bad[:TOLD]), *more]
    return DataError("\n".join([*lines, f"What to do: {remedy}"]))


def _notes(
    listed: Sequence[Clip], train: Sequence[Clip], val: set[str], media: Media, names: Sequence[str]
) -> list[str]:
    held = sum(clip.video in val for clip in train)
    notes = [
        f"No validation split is published: {held:,} of the {len(train):,} train clips ({len(val):,} whole videos) "
        "are held out as val."
    ]
    videos = {split: {clip.video for clip in listed if clip.split == split} for split in SPLITS}
    if both := sorted(videos["train"] & videos["test"]):
        notes.append(
            f"{len(both):,} videos have clips in both train and test of the lists, e.g. {_some(both)}."
        )
    if len(names) < len(class_names()):
        notes.append(f"The lists have {len(names)} of the {len(class_names())} classes.")
    notes.append(
        "Names found: " + ", ".join(f"{form} {count:,}" for form, count in media.forms.most_common()) + "."
    )
    if media.again:
        notes.append(f"{media.again:,} media files are of a clip that has one already, and are not used.")
    if media.unlisted:
        notes.append(
            f"{len(media.unlisted):,} media files are of no clip in the lists: {_some(media.unlisted)}."
        )
    return notes


def _some(things: Sequence[Any]) -> str:
    return ", ".join(map(str, things[:SHOWN])) + (" …" if len(things) > SHOWN else "")


def _of(raw: LayoutSettings) -> VGGSound:
    from g2d_pipeline.config import VGGSound

    assert isinstance(raw, VGGSound)
    return raw
