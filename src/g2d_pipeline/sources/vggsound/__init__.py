"""VGGSound: the published lists and whatever clips there are → 309 kinds of sound (datasets.md §3)."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.config.layouts import VGGSound
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import BadRow, few
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.simulated import Simulated
from g2d_pipeline.sources.vggsound import lists as listing
from g2d_pipeline.sources.vggsound.clips import Fault, Media, match_clips, media_of
from g2d_pipeline.sources.vggsound.lists import SPLITS, Clip, Lists, class_names, find_lists


class VGGSoundLayout(Layout[VGGSound]):
    """A row a usable clip, in the lists' order: paths, the label, `group` (the video). Classes are those of
    the lists, in the order of the 309 published names.

    No validation split is published: `val_fraction` of the train videos are held out, stratified; a video is
    never in both. Clips that are missing or broken and rows that can not be read are dropped while their
    share is at most `max_bad_fraction`; else one message sums them up."""

    task = "classification"
    modalities = ("audio", "visual")
    simulated = Simulated(
        "VGGSound (Chen et al., ICASSP 2020)",
        "ids are random, sounds are\nchords with a beat, pictures are moving shapes.",
        recipe=2,
    )
    sample_note = "simulated clips in VGGSound's layout; no number from them means anything."

    def expected(self) -> str:
        return (
            f"put vggsound.csv (github.com/hche11/VGGSound, folder data) into {self.raw.raw_dir}, and below "
            "it, in any folder, the clips <id>_<start, six digits>.mp4, or audio/{train,test}/<clip>.wav and "
            "video/frames/{train,test}/Image-01-FPS/<clip>/00000.jpg …"
        )

    def raw_files(self) -> list[Path]:
        """The lists and all media whose names have the form of a clip's; empty where there is no list."""
        files = self.files
        lists = find_lists(files)
        return [self.root / f for f in sorted([*lists, *filter(media_of, files)])] if lists else []

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """Raises DataError where a list can not be read, and where too few clips are usable."""
        import pandas as pd

        files = find_lists(self.files)
        lists = listing.read_lists(self.root, files)
        if not lists.clips and not lists.bad:
            headline = f"There is no row in the lists below {self.root}"
            raise data_error(headline, files, f"{self.expected()}.")
        media = Media(self.files, lists.clips)
        matches = match_clips(lists.clips, media, columns, self.root, settings.options)
        usable = {clip: match for clip, match in matches.items() if not isinstance(match, Fault)}
        faults = {clip: match for clip, match in matches.items() if isinstance(match, Fault)}
        missing = [BadRow(c.file, c.row, f"{c.name} ({c.split}): {f.reason}") for c, f in faults.items()]
        bad = lists.bad + missing
        summary = _summary(lists, usable, Counter(fault.kind for fault in faults.values()))
        self._check_share(bad, lists, summary, settings)
        labels = {clip.label for clip in lists.clips}
        names = [name for name in class_names() if name in labels]
        train = [clip for clip in usable if clip.split == "train"]
        val = held_out(train, self.raw.val_fraction, self.raw.seed)
        in_val = [clip.split == "train" and clip.video in val for clip in usable]
        content: dict[str, Any] = {
            "sample_id": [clip.name for clip in usable],
            "split": ["val" if held else clip.split for clip, held in zip(usable, in_val, strict=True)],
            "target": pd.Categorical([clip.label for clip in usable], names).codes.astype("int64"),
        }
        content |= {c: [paths[modality] for paths in usable.values()] for modality, c in columns.items()}
        content["group"] = [clip.video for clip in usable]
        same = f"Hash of the clips: {hash_of(usable)}. Accuracies are comparable only where it is the same."
        held = (
            f"No validation split is published: {sum(in_val):,} of the {len(train):,} train clips "
            f"({len(val):,} whole videos) are held out as val."
        )
        notes = [*summary, same, *lists.notes, held, *_notes(lists.clips, media, names)]
        return Samples(pd.DataFrame(content), names, bad, notes)

    def _check_share(
        self, bad: Sequence[BadRow], lists: Lists, summary: Sequence[str], settings: IngestSettings
    ) -> None:
        """DataError where no clip is usable, or more are `bad` than `max_bad_fraction` allows."""
        total, allowed = len(lists.clips) + len(lists.bad), settings.max_bad_fraction
        if len(bad) < total and len(bad) <= allowed * total:
            return
        remedy = (
            f"put the clips below {self.root}, in any folder, as <id>_<start, six digits>.mp4: ten seconds "
            "of each video, from the authors, a mirror of their archives, or cut from YouTube (ids begin "
            "with dashes: give them to command-line tools after `--`). Where they are gone for good, set "
            "max_bad_fraction to go on without."
        )
        if settings.source == "sample":
            remedy = f"delete {self.root}: the sample is made anew."
        elif lists.bad:
            remedy = f"{listing.COPY_AGAIN} {remedy[0].upper()}{remedy[1:]}"
        share = f"{len(bad) / total:.2%}; max_bad_fraction allows {allowed:.2%}"
        headline = f"{len(bad):,} of the {total:,} clips in the lists can not be used ({share})."
        if len(bad) == total:
            headline = f"None of the {total:,} clips in the lists can be used."
        raise data_error(" ".join([headline, *summary]).rstrip("."), bad, remedy)


def held_out(train: Sequence[Clip], fraction: float, seed: int) -> set[str]:
    """The videos of `train` that become val: `fraction` of each class's, by largest remainders, at least one.

    Every class keeps a video in train; videos of several classes stay there. DataError: no class has two."""
    import numpy as np

    labels = sorted({(clip.video, clip.label) for clip in train})
    several = Counter(video for video, _ in labels)
    videos: dict[str, list[str]] = {}
    for video, label in labels:
        if several[video] == 1:
            videos.setdefault(label, []).append(video)
    exact = {name: len(videos[name]) * fraction for name in sorted(videos)}
    count = {name: min(int(share), len(videos[name]) - 1) for name, share in exact.items()}
    rest = max(1, round(sum(exact.values()))) - sum(count.values())
    spare = [name for name in count if count[name] < len(videos[name]) - 1]
    for name in sorted(spare, key=lambda n: (count[n] - exact[n], n))[:rest]:
        count[name] += 1
    val: set[str] = set()
    for number, name in enumerate(class_names()):
        if count.get(name):
            order = np.random.default_rng([seed, number]).permutation(len(videos[name]))
            val.update(videos[name][i] for i in order[: count[name]])
    if not val:
        headline = "No class has two videos in train: none can be held out for val"
        raise data_error(headline, [], "add clips to train.")
    return val


def _summary(lists: Lists, usable: Iterable[Clip], kinds: Counter[str]) -> list[str]:
    """The clips found of those listed, by split, and what the others lack."""
    total, present = (Counter(clip.split for clip in clips) for clips in (lists.clips, usable))
    counts = ", ".join(f"{split} {present[split]:,} of {total[split]:,}" for split in SPLITS)
    lacking = [f"{kind} {count:,}" for kind, count in kinds.most_common()]
    if lists.bad:
        lacking.append(f"rows of the lists that can not be read {len(lists.bad):,}")
    return [f"Clips found: {counts}.", *([f"Clips left out: {', '.join(lacking)}."] if lacking else [])]


def hash_of(clips: Iterable[Clip]) -> str:
    """16 hex digits over splits and names, whatever the order: what comparable results share (§3.5)."""
    text = "\n".join(sorted(f"{clip.split} {clip.name}" for clip in clips))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _notes(listed: Sequence[Clip], media: Media, names: Sequence[str]) -> list[str]:
    notes: list[str] = []
    train, test = ({clip.video for clip in listed if clip.split == split} for split in SPLITS)
    if both := sorted(train & test):
        examples = few(both, " …")
        notes.append(f"{len(both):,} videos have clips in both train and test of the lists, e.g. {examples}.")
    if len(names) < len(class_names()):
        notes.append(f"The lists have {len(names)} of the {len(class_names())} classes.")
    forms = ", ".join(f"{form} {count:,}" for form, count in media.forms.most_common())
    notes.append(f"Names found: {forms}.")
    if count := media.repeated:
        notes.append(f"{count:,} media files are of a clip that has one already, and are not used.")
    if unlisted := media.unlisted:
        notes.append(f"{len(unlisted):,} media files are of no clip in the lists: {few(unlisted, ' …')}.")
    return notes
