"""CREMA-D: WAV files and FLV videos (or images of them) of 91 actors → 6 emotions (datasets.md §1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.config.layouts import CremaD
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.crema_d import clips, lists
from g2d_pipeline.sources.crema_d.clips import AUDIO, IMAGES, MEDIA, SOURCE, VIDEO, Media
from g2d_pipeline.sources.faults import BadRow, few
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.simulated import Simulated

MISSING = {  # modality → what is not there, and what to do
    "audio": (
        f"no {AUDIO}/*.wav",
        f"put the folder {AUDIO} there, from {SOURCE}; the MP3 files are not read.",
    ),
    "visual": (
        f"no {VIDEO}/*.flv and no {IMAGES}/<clip>/",
        f"audio-only redistributions of CREMA-D leave the films out: take the folder {VIDEO} from {SOURCE}; "
        "or train on sound alone: remove 'visual' under `modalities` and set method=unimodal.",
    ),
}


class CremaDLayout(Layout[CremaD]):
    task = "classification"
    modalities = ("audio", "visual")
    simulated = Simulated(
        "CREMA-D (Cao et al., 2014)",
        "the voices are buzzing tones whose\npitch, tempo and loudness tell the emotion, the faces are "
        "drawn.",
    )
    sample_note = "simulated voices and faces in CREMA-D's layout; no number from it means anything."

    def expected(self) -> str:
        return (
            f"put CREMA-D under {self.raw.raw_dir}: AudioWAV/1001_DFA_ANG_XX.wav … and "
            "VideoFlash/1001_DFA_ANG_XX.flv … (or Image-01-FPS/1001_DFA_ANG_XX/00000.jpg …), from "
            f"{SOURCE}; the web page's zip holds LFS pointers only."
        )

    def raw_files(self) -> list[Path]:
        """The media (no videos where there are images of them) and the split's lists; empty without media."""
        audio, videos, images = (
            [f for f in self.files if MEDIA[kind].fullmatch(f)] for kind in (AUDIO, VIDEO, IMAGES)
        )
        media = audio + (images or videos)
        tables = [f for f in self.files if f.rpartition("/")[2] in (*lists.LISTS, lists.CLASSES)]
        return [self.root / f for f in sorted(media + tables)] if media else []

    @property
    def draws_test(self) -> bool:
        return self.raw.split == "speakers"

    def read_samples(self, settings: IngestSettings, columns: Mapping[str, str]) -> Samples:
        """A row a clip of the split: paths of the modalities asked for, the intended emotion, `group` (the
        actor), `sentence` and `level`. Paths lead to a file, or to the folder of a clip's images.

        Clips whose files are missing or broken and rows whose label is wrong are dropped while their share is
        at most `max_bad_fraction`, beside the four of broken video. DataError for all else that is wrong."""
        import pandas as pd

        notes: list[str] = []
        media = self._media(columns, notes)
        listed = self._listed(media)
        notes[:0] = listed.notes
        reasons: dict[str, list[str]] = {}  # clip → what is wrong with its files
        for files in media.values():
            checked = {row.clip.name: files.fault(self.root, row.clip.name) for row in listed.rows}
            faults = {name: fault for name, fault in checked.items() if fault}
            clips.check_pointers(faults, files, len(listed.rows), settings.max_bad_fraction, notes)
            for name, fault in faults.items():
                reasons.setdefault(name, []).append(f"{files.place(name)} {fault}")
        drop = "visual" in columns and self.raw.broken_clips == "drop"
        if known := [row for row in listed.rows if drop and row.clip.name in clips.BROKEN_VIDEO]:
            names = ", ".join(row.clip.name for row in known)
            notes.append(
                f"{len(known)} clips whose video is known to be broken are left out, none of them of the "
                f"published test set: {names} (broken_clips=keep keeps them)."
            )
        rows = [row for row in listed.rows if row not in known]
        bad = [row.bad("; ".join(reasons[row.clip.name])) for row in rows if row.clip.name in reasons]
        total = len(rows) + len(listed.bad)
        dropped = self.drop_or_raise([*listed.bad, *bad], total, settings, "clips", self._remedy(media))
        for row in known:
            reason = f"known to be broken in every copy: {clips.BROKEN_VIDEO[row.clip.name]} ({row.split})"
            dropped.append(BadRow(row.clip.name, None, reason))
        good = [row for row in rows if row.clip.name not in reasons]
        _note(rows, good, media, notes)

        table = pd.DataFrame({"sample_id": [r.clip.name for r in good], "split": [r.split for r in good]})
        table["target"] = pd.Series([row.clip.target for row in good], dtype="int64")
        for modality, files in media.items():
            table[columns[modality]] = [files.place(row.clip.name) for row in good]
        for column, key in (("group", "actor"), ("sentence", "sentence"), ("level", "level")):
            table[column] = [getattr(row.clip, key) for row in good]
        return Samples(table, clips.EMOTIONS, dropped, notes, group_disjoint=self.draws_test)

    def _media(self, columns: Mapping[str, str], notes: list[str]) -> dict[str, Media]:
        """modality → its files; DataError where there are none, or none has a clip's name."""
        media: dict[str, Media] = {}
        for modality in columns:
            if modality == "audio":
                files = clips.find_media(self.files, self.root, AUDIO)
            else:
                files = clips.find_visual(self.files, self.root, notes)
            if files is None:
                what, remedy = MISSING[modality]
                headline = f"Modality {modality!r} has no files: {what} below {self.root}"
                raise data_error(headline, [], remedy)
            media[modality] = files
        for files in media.values():
            clips.check_names(files, self.root, notes)
        return media

    def _listed(self, media: Mapping[str, Media]) -> lists.Lists:
        if self.raw.split == "published":
            return lists.published(self.root, self.files, self.raw.val_fraction, self.raw.seed)
        names = {name for files in media.values() for name in files.files}
        named = [clip for name in names if (clip := clips.Clip.parse(name))]
        return lists.speakers(named, self.raw.val_fraction, self.raw.seed, str(self.root))

    def _remedy(self, media: Mapping[str, Media]) -> str:
        remedy = f"copy or download these files again from {SOURCE}, and correct such rows"
        if others := [f for files in media.values() for f in files.others]:
            remedy += f"; {len(others)} files have no clip's name, perhaps they are it: {few(others)}"
        if self.raw.split == "published":
            remedy += "; or set split=speakers, which uses the clips that are there"
        return remedy


def _note(
    rows: Sequence[lists.Row], good: Sequence[lists.Row], media: Mapping[str, Media], notes: list[str]
) -> None:
    listed = {row.clip.name for row in rows} | set(clips.BROKEN_VIDEO)
    for files in media.values():
        if unlisted := sorted(set(files.files) - listed):
            what = f"{len(unlisted)} clips in {files.folder} are not in the lists and are left out"
            notes.append(f"{what}, e.g. {few(unlisted)}.")
    if lost := sum(row.split == "test" for row in rows) - sum(row.split == "test" for row in good):
        notes.append(f"{lost} test clips are dropped: accuracies are not comparable with published ones.")
    if "audio" in media and clips.SILENT in {row.clip.name for row in good}:
        notes.append(f"{clips.SILENT} is known to be silent.")
