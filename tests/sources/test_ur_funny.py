"""UR-Funny copies as users really hold them (datasets.md §4.6): each blemish is read, noted or reported."""

from __future__ import annotations

import pickle
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g2d_pipeline.config import IngestSettings, URFunny
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.sources import locate, read_raw, signature
from g2d_pipeline.sources.layout import find_layout
from g2d_pipeline.sources.manifest import Manifest
from g2d_pipeline.sources.ur_funny import readers
from tests.sources.raw_folders import RawCopy, ingest_settings

MODALITIES = ("audio", "visual", "text")
FOLDS = {"train": [10, 11, 12, 13, 14, 15], "dev": [20, 21], "test": [30, 31]}
IDS = [i for ids in FOLDS.values() for i in ids]


@dataclass
class Copy(RawCopy):
    """A raw folder `project / raw`, and what its pickles hold, to be changed before `read`."""

    files: dict[str, Any]
    context: bool = False

    def write(self) -> None:
        self.root.mkdir(exist_ok=True)
        for name, content in self.files.items():
            (self.root / f"{name}.pkl").write_bytes(pickle.dumps(content, 4))

    def settings(self, **changes: Any) -> IngestSettings:
        return ingest_settings(URFunny(raw_dir="raw", context=self.context), MODALITIES, **changes)

    def read(self, **changes: Any) -> Manifest:
        self.write()
        return read_raw(self.settings(**changes), self.project)

    def arrays(self, manifest: Manifest, sample: str) -> dict[str, np.ndarray]:
        """modality → the real steps [L, F] of a sample, as the manifest's cells tell."""
        row = manifest.table.set_index("sample_id").loc[sample]
        arrays = {}
        for modality in MODALITIES:
            file, index = row[modality].split("#")
            array = np.load(self.root / file, allow_pickle=False)[int(index)]
            absent = np.isnan(array).all(axis=1)
            assert not np.isnan(array[~absent]).any()
            assert not absent[: row["steps"]].any()
            assert absent[row["steps"] :].all()
            arrays[modality] = array[~absent]
        return arrays

    def entry(self, modality: str, i: int) -> dict[str, Any]:
        names = {"audio": "covarep_features_sdk", "visual": "openface_features_sdk", "text": "language_sdk"}
        entry: dict[str, Any] = self.files[names[modality]][i]
        return entry


def steps(i: int, n: int, width: int) -> list[list[float]]:
    """`n` steps that tell sample and place: i, step, 1, 1, …"""
    return [[float(i), float(k), *[1.0] * (width - 2)] for k in range(n)]


@pytest.fixture
def sdk(tmp_path: Path) -> Copy:
    """Ten samples of i % 10 + 2 words, with i % 3 sentences of two words before; audio 4, visual 5, text 3
    wide."""
    language: dict[int, Any] = {}
    audio: dict[int, Any] = {}
    face: dict[int, Any] = {}
    for i in IDS:
        n, before = i % 10 + 2, i % 3
        language[i] = {
            "punchline_embedding_indexes": list(range(1, n + 1)),
            "context_embedding_indexes": [[7, 8]] * before,
        }
        for entries, width in ((audio, 4), (face, 5)):
            entries[i] = {
                "punchline_features": steps(i, n, width),
                "context_features": [steps(-i, 2, width) for _ in range(before)],
            }
    vectors = [[0.0, 0.0, 0.0], *[[float(k), 1.0, -1.0] for k in range(1, 100)]]
    files = {
        "data_folds": {name: list(ids) for name, ids in FOLDS.items()},
        "humor_label_sdk": {i: i % 2 for i in IDS},
        "word_embedding_list": vectors,
        "language_sdk": language,
        "covarep_features_sdk": audio,
        "openface_features_sdk": face,
    }
    return Copy(tmp_path, files)


@pytest.fixture
def multibench(tmp_path: Path) -> Copy:
    """The same folds, i % 10 + 2 real steps of 50, at the end."""
    content = {}
    for fold, ids in (("train", FOLDS["train"]), ("valid", FOLDS["dev"]), ("test", FOLDS["test"])):
        part = {
            key: np.zeros((len(ids), 50, width))
            for key, width in (("vision", 371), ("audio", 4), ("text", 3))
        }
        for row, i in enumerate(ids):
            n = i % 10 + 2
            for array in part.values():
                array[row, 50 - n :] = steps(i, n, array.shape[2])
        content[fold] = part | {
            "labels": np.array([i % 2 for i in ids]).reshape(-1, 1),
            "id": np.array(ids).reshape(-1, 1),
        }
    return Copy(tmp_path, {"humor": content})


def notes(manifest: Manifest) -> str:
    return "\n".join(manifest.meta["notes"])


# ----------------------------------------------------------------------------------------------- whole copies
def test_the_six_pickles_become_rows_of_arrays(sdk: Copy) -> None:
    manifest = sdk.read()
    table, meta = manifest.table, manifest.meta
    assert list(table["sample_id"]) == [str(i) for i in IDS]
    assert meta["counts"] == {"train": 6, "val": 2, "test": 2}
    assert meta["class_names"] == ["not_humorous", "humorous"]
    assert list(table["target"]) == [i % 2 for i in IDS]
    assert list(table["steps"]) == [i % 10 + 2 for i in IDS]
    assert meta["dropped"] == []
    for i in IDS:
        arrays = sdk.arrays(manifest, str(i))
        n = i % 10 + 2
        np.testing.assert_array_equal(arrays["audio"], steps(i, n, 4))
        np.testing.assert_array_equal(arrays["visual"], steps(i, n, 5))
        np.testing.assert_array_equal(arrays["text"], [[k, 1, -1] for k in range(1, n + 1)])
    assert "the punchline alone" in notes(manifest)
    assert "audio 4, visual 5 (of no published version), text 3" in notes(manifest)
    assert "train 6, val 2, test 2, unlike the published V2 (7,614 / 980 / 994)" in notes(manifest)


def test_multibenchs_padding_is_cut_in_front(multibench: Copy) -> None:
    manifest = multibench.read()
    assert list(manifest.table["sample_id"]) == [str(i) for i in IDS]
    assert list(manifest.table["steps"]) == [i % 10 + 2 for i in IDS]
    for i in IDS:
        arrays = multibench.arrays(manifest, str(i))
        for modality, width in (("audio", 4), ("visual", 371), ("text", 3)):
            np.testing.assert_array_equal(arrays[modality], steps(i, i % 10 + 2, width))
    assert "OpenFace 2, as in UR-Funny V2" in notes(manifest)


def test_the_context_comes_before_the_punchline(sdk: Copy) -> None:
    sdk.context = True
    arrays = sdk.arrays(sdk.read(), "11")
    assert arrays["audio"][:, 0].tolist() == [-11] * 4 + [11] * 3
    assert arrays["text"][:, 0].tolist() == [7, 8, 7, 8, 1, 2, 3]


def test_long_samples_keep_the_end_of_the_punchline(sdk: Copy) -> None:
    sdk.context = True
    long = {"audio": steps(10, 48, 4), "visual": steps(10, 48, 5)}
    for modality, features in long.items():
        sdk.entry(modality, 10)["punchline_features"] = features
        sdk.entry(modality, 10)["context_features"] = [steps(-10, 2, len(features[0]))] * 3
    sdk.entry("text", 10).update(
        punchline_embedding_indexes=list(range(1, 49)), context_embedding_indexes=[[7, 8], [7, 8], [5, 6]]
    )
    manifest = sdk.read()
    arrays = sdk.arrays(manifest, "10")
    assert len(arrays["text"]) == 50
    assert arrays["audio"][:3, 0].tolist() == [-10, -10, 10]
    assert arrays["text"][:, 0].tolist() == [5, 6, *range(1, 49)]
    assert "1 samples are longer than 50 steps" in notes(manifest)


@pytest.mark.parametrize("kind", ["str", "numpy", "arrays", "float"])
def test_ids_and_features_of_any_type_are_the_same_samples(sdk: Copy, kind: str) -> None:
    want = sdk.read()
    change: dict[str, Callable[[int], Any]] = {"str": str, "numpy": np.int64, "arrays": int, "float": float}
    for name in ("humor_label_sdk", "openface_features_sdk"):
        sdk.files[name] = {change[kind](i): entry for i, entry in sdk.files[name].items()}
    if kind == "arrays":
        for i in IDS:
            sdk.entry("visual", i)["punchline_features"] = np.array(
                sdk.entry("visual", i)["punchline_features"]
            )
            audio = sdk.entry("audio", i)["punchline_features"]
            sdk.entry("audio", i)["punchline_features"] = [np.array(row, np.float32) for row in audio]
        sdk.files["word_embedding_list"] = np.array(sdk.files["word_embedding_list"])
        sdk.files["data_folds"]["train"] = np.array(FOLDS["train"])
    again = sdk.read()
    for sample in map(str, IDS):
        for modality, array in sdk.arrays(want, sample).items():
            np.testing.assert_array_equal(sdk.arrays(again, sample)[modality], array)


def test_the_projects_misspelt_language_file_is_accepted(sdk: Copy) -> None:
    sdk.files["langauge_sdk"] = sdk.files.pop("language_sdk")
    assert sdk.read().meta["counts"]["train"] == 6


def test_pickles_of_python_2_are_read(sdk: Copy) -> None:
    sdk.write()
    for name, content in sdk.files.items():
        (sdk.root / f"{name}.pkl").write_bytes(pickle.dumps(content, 0))
    assert read_raw(sdk.settings(), sdk.project).meta["counts"]["train"] == 6


def test_one_modality_alone(sdk: Copy) -> None:
    table = sdk.read(columns={"text": ["words"]}).table
    assert list(table.columns) == ["sample_id", "split", "target", "words", "steps"]


# ------------------------------------------------------------------------------------------------- conversion
def test_the_pickles_are_read_once_and_raw_files_stay_the_same(
    sdk: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sdk.read()
    raw = sdk.settings().raw
    files = find_layout(raw, sdk.root).raw_files()
    assert [f.name for f in files] == sorted(f"{name}.pkl" for name in sdk.files)
    before = signature(raw, "raw", sdk.root)
    monkeypatch.setitem(readers.READERS, "sdk", None)
    again = read_raw(sdk.settings(), sdk.project)
    assert again.table.equals(first.table)
    assert again.meta == first.meta
    assert signature(raw, "raw", sdk.root) == before
    assert locate(raw, "auto", sdk.project) == ("raw", sdk.root)
    assert not [f for f in sdk.root.iterdir() if f.name.startswith(".")]


def test_other_files_and_other_settings_give_another_folder(sdk: Copy) -> None:
    cells = {sdk.read().table["audio"][0]}
    sdk.entry("audio", 10)["punchline_features"][0][2] = 5.0
    cells.add(sdk.read().table["audio"][0])
    sdk.context = True
    cells.add(sdk.read().table["audio"][0])
    assert len(cells) == 3


@pytest.mark.parametrize("damage", ["record", "missing", "truncated", "empty"])
def test_a_folder_that_is_not_whole_is_made_anew(sdk: Copy, damage: str) -> None:
    first = sdk.read()
    folder = sdk.root / first.table["audio"][0].split("/")[0]
    want = {path.name: path.read_bytes() for path in folder.iterdir()}
    if damage == "record":
        (folder / "samples.json").write_text("{}")
    elif damage == "missing":
        (folder / "text.npy").unlink()
    else:
        (folder / "text.npy").write_bytes(want["text.npy"][:200] if damage == "truncated" else b"")
    again = read_raw(sdk.settings(), sdk.project)
    assert again.meta == first.meta
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == want


def test_no_room_is_reported_and_leaves_nothing(sdk: Copy) -> None:
    sdk.write()
    before = sorted(sdk.root.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(DataError, match=r"can not be converted into .*converted-.* \(File too large\)"):
            read_raw(sdk.settings(), sdk.project)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(sdk.root.iterdir()) == before


def test_links_to_a_folder_that_can_not_be_written_do(sdk: Copy) -> None:
    sdk.write()
    away = sdk.project / "away"
    sdk.root.rename(away)
    sdk.root.mkdir()
    for path in away.iterdir():
        (sdk.root / path.name).symlink_to(path)
    manifest = read_raw(sdk.settings(), sdk.project)
    assert len(sdk.arrays(manifest, "10")["text"]) == 2
    assert len(list(away.iterdir())) == 6


# ------------------------------------------------------------------------------------ read, noted, or dropped
def infinite(c: Copy) -> None:
    c.entry("audio", 12)["punchline_features"][1][2:4] = [float("-inf"), float("nan")]
    c.entry("audio", 13)["punchline_features"][0][3] = 1e300


def no_face(c: Copy) -> None:
    c.entry("visual", 12)["punchline_features"] = np.zeros((4, 5))


def lengths(modality: str, less: int) -> Callable[[Copy], None]:
    def damage(c: Copy) -> None:
        del c.entry(modality, 15)["punchline_features"][7 - less :]

    return damage


def no_words(c: Copy) -> None:
    for modality in ("audio", "visual"):
        c.entry(modality, 15)["punchline_features"] = np.zeros(0)
    c.entry("text", 15)["punchline_embedding_indexes"] = []


def set_text(i: int, words: Any) -> Callable[[Copy], None]:
    return lambda c: c.entry("text", i).update(punchline_embedding_indexes=words)


def set_label(i: int, label: Any) -> Callable[[Copy], None]:
    return lambda c: c.files["humor_label_sdk"].update({i: label})


def all_labels(c: Copy) -> None:
    c.files["humor_label_sdk"] = {i: np.array([[2 * (i % 2) - 1]]) for i in IDS}


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (infinite, "audio: 3 values in 2 samples are NaN or infinite, and become 0"),
        (no_face, "1 samples are all zero in visual"),
        (lengths("audio", 1), "1 samples whose modalities differ by one or two steps"),
        (lengths("visual", 2), "1 samples whose modalities differ by one or two steps"),
        (all_labels, "5 labels are neither 0 nor 1"),
        (set_text(15, [0, 0, 3, 0, 3, 3, 0]), None),
        (lambda c: c.entry("audio", 10).pop("context_features"), None),
        (lambda c: c.files["openface_features_sdk"].update({99: {}}), "openface_features_sdk.pkl: 1 ids"),
    ],
)
def test_what_can_be_read_is_read_and_noted(
    sdk: Copy, damage: Callable[[Copy], Any], note: str | None
) -> None:
    damage(sdk)
    manifest = sdk.read()
    assert list(manifest.table["target"]) == [i % 2 for i in IDS]
    for i in IDS:
        arrays = sdk.arrays(manifest, str(i))
        assert len({len(array) for array in arrays.values()}) == 1
    assert note is None or note in notes(manifest)


def test_infinite_values_become_zero_and_a_shorter_modality_cuts_the_others(sdk: Copy) -> None:
    infinite(sdk)
    lengths("audio", 2)(sdk)
    manifest = sdk.read()
    assert sdk.arrays(manifest, "12")["audio"][1].tolist() == [12, 1, 0, 0]
    assert sdk.arrays(manifest, "13")["audio"][0].tolist() == [13, 0, 1, 0]
    assert sdk.arrays(manifest, "15")["text"][:, 0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("damage", [no_words, set_text(15, [0] * 7)])
@pytest.mark.parametrize("context", [False, True])
def test_samples_without_text_are_left_out_as_published(
    sdk: Copy, damage: Callable[[Copy], None], context: bool
) -> None:
    damage(sdk)
    sdk.context = context
    manifest = sdk.read()
    assert manifest.meta["counts"]["train"] == 5
    assert "15" not in list(manifest.table["sample_id"])
    (dropped,) = manifest.meta["dropped"]
    assert dropped["file"] == "language_sdk.pkl"
    assert "id 15: the punchline has no text" in dropped["reason"]
    assert "1 samples without text are left out, as published" in notes(manifest)


def test_where_no_sample_has_text_there_is_nothing_to_learn(sdk: Copy) -> None:
    for i in IDS:
        for modality in ("audio", "visual"):
            sdk.entry(modality, i)["punchline_features"] = []
        sdk.entry("text", i)["punchline_embedding_indexes"] = []
    with pytest.raises(
        DataError, match=r"holds no usable sample:\n  - language_sdk.pkl: id 10: the punchline has no text"
    ):
        sdk.read()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c.files["covarep_features_sdk"].pop(12), "covarep_features_sdk.pkl: id 12: it is missing"),
        (lambda c: c.files["humor_label_sdk"].pop(12), "humor_label_sdk.pkl: id 12: it is missing"),
        (set_label(12, None), "id 12: its label is None, not a number"),
        (set_label(12, float("nan")), "id 12: its label is nan"),
        (set_label(12, "funny"), "id 12: its label is 'funny'"),
        (
            lengths("audio", 3),
            "id 15: the steps of a sentence differ by more than 2: text 7, audio 4, visual 7",
        ),
        (lengths("visual", 7), "id 15: the steps of a sentence differ by more than 2"),
        (
            set_text(12, [1, 100, 2, 3]),
            "id 12: word index 100 is outside the 100 words of word_embedding_list.pkl",
        ),
        (set_text(12, [1, -1, 2, 3]), "id 12: word index -1 is outside"),
        (set_text(12, [1.5, 1, 2, 3]), "id 12: word indexes are not all whole numbers"),
        (set_text(12, "text"), "id 12: word indexes are a str, not a list"),
        (lambda c: c.entry("text", 12).clear(), "id 12: it has no 'punchline_embedding_indexes'"),
        (lambda c: c.entry("audio", 12)["punchline_features"][2].pop(), "id 12: steps of 3, 4 numbers"),
        (
            lambda c: [r.pop() for r in c.entry("audio", 12)["punchline_features"]],
            "audio has steps of 3 numbers",
        ),
        (
            lambda c: c.entry("audio", 12)["punchline_features"][2].append("x"),
            "id 12: step 2 is not a list of numbers",
        ),
        (lambda c: c.entry("audio", 12).update(punchline_features=[[10**400] * 4]), "more than 300 digits"),
        (
            lambda c: c.entry("audio", 12).update(punchline_features=[1.0, 2.0]),
            "step 0 is not a list of numbers",
        ),
        (lambda c: c.entry("audio", 12).update(punchline_features=np.ones(4)), "features of shape [4]"),
        (lambda c: c.entry("audio", 12).update(punchline_features=None), "features are a NoneType"),
    ],
)
def test_bad_samples_are_reported_or_dropped_within_the_limit(
    sdk: Copy, damage: Callable[[Copy], Any], words: str
) -> None:
    damage(sdk)
    with pytest.raises(DataError) as caught:
        sdk.read()
    message = str(caught.value)
    assert words in message
    assert "1 of 10 samples can not be used (10.00%; max_bad_fraction allows 0.00%)" in message
    assert "set max_bad_fraction" in message
    assert not list(sdk.root.glob("converted-*"))
    manifest = sdk.read(max_bad_fraction=0.1)
    assert manifest.meta["counts"]["train"] == 5
    assert [words in f"{d['file']}: {d['reason']}" for d in manifest.meta["dropped"]] == [True]
    with pytest.raises(DataError, match="max_bad_fraction allows 5"):
        read_raw(sdk.settings(max_bad_fraction=0.05), sdk.project)


def test_a_context_that_does_not_fit_is_reported_only_where_it_is_asked_for(sdk: Copy) -> None:
    sdk.entry("audio", 11)["context_features"] = [steps(-11, 2, 4)]
    sdk.entry("visual", 12)["context_features"] = None
    assert sdk.read().meta["counts"]["train"] == 6
    sdk.context = True
    with pytest.raises(DataError) as caught:
        sdk.read()
    assert "id 11: the numbers of sentences differ: text 3, audio 2, visual 3" in str(caught.value)
    assert "id 12: 'context_features' is a NoneType, not a list of sentences" in str(caught.value)


# --------------------------------------------------------------------------------------------------- reported
def twice(c: Copy) -> None:
    c.files["data_folds"]["test"].append(10)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c.files.pop("data_folds"), "is incomplete; missing:\n  - data_folds.pkl"),
        (lambda c: c.files.pop("openface_features_sdk"), "linked from github.com/ROC-HCI/UR-FUNNY"),
        (
            lambda c: c.files.update(word_embedding_indexes_sdk=c.files.pop("language_sdk")),
            "word_embedding_indexes_sdk.pkl belongs to UR-Funny V1",
        ),
        (
            lambda c: c.files.update(Language_sdk=c.files.pop("language_sdk")),
            "Did you mean 'Language_sdk.pkl'?",
        ),
        (lambda c: c.files.update(langauge_sdk={}), "the same file under two names"),
        (lambda c: c.files.update(humor={}), "holds both forms"),
        (twice, "ids more than once:\n  - id 10 in train and in test"),
        (
            lambda c: c.files["data_folds"].pop("dev"),
            "data_folds.pkl has no val part; it has 'train', 'test'",
        ),
        (lambda c: c.files.update(data_folds=[1, 2]), "data_folds.pkl holds a list, not a dict"),
        (lambda c: c.files["data_folds"].update(dev=5), "fold 'dev' is a int, not a list of ids"),
        (lambda c: c.files["data_folds"].update(dev=[1.5]), "neither a whole number nor text: 1.5"),
        (lambda c: c.files["data_folds"].update(dev=[None]), "neither a whole number nor text: None"),
        (
            lambda c: c.files.update(humor_label_sdk=[0, 1]),
            "humor_label_sdk.pkl holds a list, not a dict of ids",
        ),
        (lambda c: c.files["humor_label_sdk"].update({"10": 1}), "ids both as numbers and as text:\n  - 10"),
        (
            lambda c: c.files["word_embedding_list"].append([1.0]),
            "word_embedding_list.pkl: words of 1, 3 numbers",
        ),
        (lambda c: c.files.update(word_embedding_list=[]), "word_embedding_list.pkl holds no word"),
        (lambda c: c.files["language_sdk"].update({10: eval}), "language_sdk.pkl asks for builtins.eval"),
        (lambda c: c.files["data_folds"].update(test=[]), "splits without a sample"),
    ],
)
def test_files_of_another_layout_are_reported(sdk: Copy, damage: Callable[[Copy], Any], words: str) -> None:
    damage(sdk)
    with pytest.raises(DataError) as caught:
        sdk.read()
    assert words in str(caught.value)
    assert "What to do: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "openface_features_sdk.pkl is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "openface_features_sdk.pkl is a Git-LFS pointer",
        ),
        (b"<html>Quota exceeded", "openface_features_sdk.pkl is a web page"),
        (b"\x80\x04}", "openface_features_sdk.pkl is truncated"),
    ],
)
def test_broken_files_are_reported(sdk: Copy, content: bytes, words: str) -> None:
    sdk.write()
    (sdk.root / "openface_features_sdk.pkl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_raw(sdk.settings(), sdk.project)
    assert words in str(caught.value)


def test_an_empty_folder_and_one_too_deep_say_what_is_expected(sdk: Copy) -> None:
    raw = sdk.settings().raw
    assert locate(raw, "auto", sdk.project) == ("sample", sdk.project / "raw/sample")
    with pytest.raises(
        DataError, match=r"put the six pickles of UR-Funny V2 \(data_folds.pkl, .* or MultiBench's"
    ):
        locate(raw, "raw", sdk.project)
    sdk.write()
    (sdk.project / "inner").mkdir()
    sdk.root.rename(sdk.project / "inner/UR-FUNNY")
    (sdk.project / "inner").rename(sdk.root)
    with pytest.raises(DataError, match="one folder deeper: set raw_dir to raw/UR-FUNNY"):
        locate(raw, "raw", sdk.project)


def test_settings_that_the_layout_does_not_have(sdk: Copy) -> None:
    with pytest.raises(ConfigError, match=r"no modality 'txt'.*'text'.*It has audio, text, visual"):
        sdk.read(columns={"txt": ["txt"]})
    with pytest.raises(ConfigError, match="is a classification"):
        sdk.read(task="regression")


# ------------------------------------------------------------------------------------------ MultiBench's file
def part(c: Copy, fold: str = "train") -> dict[str, Any]:
    content: dict[str, Any] = c.files["humor"][fold]
    return content


def padded_behind(c: Copy) -> None:
    for key in ("vision", "audio", "text"):
        part(c)[key] = np.roll(part(c)[key], -10, axis=1)


def holes(c: Copy) -> None:
    part(c)["text"][3, 47] = 0
    part(c)["audio"][:, :] = np.where(part(c)["text"].any(-1, keepdims=True), part(c)["audio"], 0)


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (padded_behind, "6 samples are padded behind"),
        (holes, None),
        (
            lambda c: part(c).update(labels=(2.0 * part(c)["labels"] - 1)[:, None]),
            "3 labels are neither 0 nor 1",
        ),
        (lambda c: part(c).update(id=part(c)["id"].astype(str)), None),
        (lambda c: part(c).update(id=part(c)["id"].astype(object)), None),
        (lambda c: part(c).update(id=part(c)["id"].ravel().tolist()), None),
        (lambda c: part(c).update(vision=part(c)["vision"].astype(">f4")), None),
        (lambda c: c.files["humor"].update(dev=c.files["humor"].pop("valid")), None),
    ],
)
def test_padding_labels_and_ids_of_any_kind(
    multibench: Copy, damage: Callable[[Copy], Any], note: str | None
) -> None:
    damage(multibench)
    manifest = multibench.read()
    assert list(manifest.table["sample_id"]) == [str(i) for i in IDS]
    assert list(manifest.table["target"]) == [i % 2 for i in IDS]
    assert list(manifest.table["steps"]) == [i % 10 + 2 for i in IDS]
    assert note is None or note in notes(manifest)


def test_samples_without_ids_are_numbered_and_context_is_reported(multibench: Copy) -> None:
    del part(multibench)["id"]
    multibench.context = True
    manifest = multibench.read()
    assert list(manifest.table["sample_id"][:2]) == ["train-0", "train-1"]
    assert "context: true changes nothing" in notes(manifest)


def test_a_sample_of_zeros_is_left_out(multibench: Copy) -> None:
    for key in ("vision", "audio", "text"):
        part(multibench)[key][2] = 0
    manifest = multibench.read()
    assert manifest.meta["dropped"][0]["file"] == "humor.pkl, train"
    assert manifest.meta["dropped"][0]["row"] == 2
    assert manifest.meta["counts"]["train"] == 5


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda c: part(c).update(Vision=part(c).pop("vision")),
            "'train' lacks:\n  - 'vision' Did you mean 'Vision'?",
        ),
        (lambda c: part(c).pop("labels"), "'train' lacks:\n  - 'labels'"),
        (lambda c: part(c).update(audio=part(c)["audio"][:, :40]), "different numbers of samples or steps"),
        (lambda c: part(c).update(audio=part(c)["audio"][:5]), "audio: float64 [5, 50, 4]"),
        (lambda c: part(c).update(audio=part(c)["audio"].astype(str)), "audio: <U32 [6, 50, 4]"),
        (lambda c: part(c).update(audio=part(c)["audio"].tolist()), "audio: a list"),
        (lambda c: part(c).update(labels=np.zeros((6, 2))), "labels: float64 [6, 2]"),
        (lambda c: part(c).update(id=np.arange(4)), "has not one id for each of its 6 samples"),
        (lambda c: part(c).update(id=np.zeros((6, 1))), "Ids that are not unique:\n  - 0: humor.pkl, train"),
        (
            lambda c: c.files["humor"].update(train=[(1, 2)]),
            "'train' holds a list, not a dict of audio, vision",
        ),
        (lambda c: c.files["humor"].pop("valid"), "humor.pkl has no val part"),
        (
            lambda c: part(c).update(labels=np.full((6, 1), np.nan)),
            "humor.pkl, train, row 0: id 10: its label is",
        ),
    ],
)
def test_multibench_files_of_another_layout_are_reported(
    multibench: Copy, damage: Callable[[Copy], Any], words: str
) -> None:
    damage(multibench)
    with pytest.raises(DataError) as caught:
        multibench.read()
    assert words in str(caught.value)


# ------------------------------------------------------------------------------------------------- the sample
def test_the_simulated_sample_goes_through(tmp_path: Path) -> None:
    copy = Copy(tmp_path, {})
    raw = URFunny(raw_dir="raw", sample_rows={"train": 24, "val": 6, "test": 6})
    manifest = read_raw(copy.settings(source="sample", raw=raw), tmp_path)
    assert manifest.meta["counts"] == {"train": 23, "val": 6, "test": 6}
    assert manifest.meta["raw_dir"] == "raw/sample"
    assert manifest.meta["source"] == "sample"
    assert notes(manifest).startswith("SAMPLE")
    for words in (
        "1 samples without text",
        "audio: 4 values",
        "one or two steps",
        "longer than 50",
        "all zero in visual",
    ):
        assert words in notes(manifest)
    shutil.move(tmp_path / "raw/sample", tmp_path / "all")
    shutil.rmtree(tmp_path / "raw")
    (tmp_path / "all").rename(tmp_path / "raw")
    assert len(copy.arrays(manifest, manifest.table["sample_id"][3])["visual"]) == 1
    assert manifest.table["steps"].max() == 50
