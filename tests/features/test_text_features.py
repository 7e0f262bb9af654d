"""Texts: what the tokenizer learns and from whom, which ids are stored, and that a store of texts can be
trained on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from g2d_pipeline.artefacts import TrainedFolder, write_trained
from g2d_pipeline.config import MLP, Bag, TargetSettings, TextFeatures, Transformer
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import open_store
from g2d_pipeline.features.kinds.text import Text, check_texts, train_tokenizer
from g2d_pipeline.training import Data, train_student, train_teacher
from tests.conftest import recipe

Contents = Callable[[Path], dict[str, str]]
TEXT = TextFeatures(vocabulary=60, length=6)
ROWS = [
    "The cat sat, the cat slept.", "the DOG sat!", "a cat and a dog and", "dog dog dog", "the cat",
    "a dog sat", "The cat sat and sat and sat on the dog", "",
]  # fmt: skip


def written(
    folder: Path, texts: list[Any], train: int, of: TextFeatures = TEXT
) -> tuple[np.ndarray, Any, list[str]]:
    """(ids, what meta.json says, notes) of texts of which the first `train` are train."""
    folder.mkdir(exist_ok=True)
    notes: list[str] = []
    ids = [f"s{i}" for i in range(len(texts))]
    table = pd.DataFrame({"review": pd.Series(texts, dtype=object)})
    about = Text(of).write(folder, "review", table, np.arange(train), ids, notes)
    return np.load(folder / "review.npy"), about, notes


# ---------------------------------------------------------------------------------------------------- the ids
def test_a_text_is_the_ids_of_its_tokens_padded_with_0_or_cut(tmp_path: Path) -> None:
    ids, about, notes = written(tmp_path, ROWS, 6)
    assert ids.dtype == np.int32
    assert ids.shape == (8, 6)
    tokenizer = Tokenizer.from_file(str(tmp_path / "review.tokenizer.json"))
    names = [[tokenizer.id_to_token(i) for i in row] for row in ids.tolist()]
    pad = "[PAD]"
    assert names[4] == ["the", "cat", pad, pad, pad, pad]
    assert names[3] == ["dog", "dog", "dog", pad, pad, pad]
    assert names[1][:3] == ["the", "dog", "sat"]
    assert names[6] == ["the", "cat", "sat", "and", "sat", "and"]  # cut
    assert ids[7].tolist() == [0] * 6
    assert {"shape": [6], "dtype": "int32", "normaliser": None}.items() <= about.items()
    assert about["vocabulary"] == tokenizer.get_vocab_size() <= 60
    assert about["statistics"] == {"cut": 2, "empty": 1, "unknown": 0.0}
    assert notes == [
        "review: 2 of 8 samples have texts that are longer than 6 tokens, whose end is left out: s0, s6",
        "review: 1 of 8 samples have texts that are empty: s7",
    ]


def test_the_tokenizer_of_the_store_makes_the_ids_of_the_store(tmp_path: Path) -> None:
    ids, _, _ = written(tmp_path, ROWS, 6)
    tokenizer = Tokenizer.from_file(str(tmp_path / "review.tokenizer.json"))
    assert [tokenizer.encode(text).ids for text in ROWS] == ids.tolist()


def test_the_tokenizer_is_learnt_on_train_alone(tmp_path: Path) -> None:
    written(tmp_path / "a", [*ROWS, "giraffe giraffe giraffe", "ξ"], 6)
    ids, about, _ = written(tmp_path / "b", [*ROWS[:6], "giraffe", "cat", "ξξ ξ the", "ξ"], 6)
    a, b = (tmp_path / folder / "review.tokenizer.json" for folder in "ab")
    assert a.read_bytes() == b.read_bytes()
    assert "giraffe" not in Tokenizer.from_file(str(b)).get_vocab()
    assert ids[8, :2].tolist() == [1, 1]  # a letter that train does not have is unknown
    assert about["statistics"]["unknown"] > 0


SPECIAL = ["[PAD] cat [UNK] cat", "[PAD]", "cat [CLS]"]


def test_nothing_in_a_text_is_taken_for_padding(tmp_path: Path) -> None:
    ids, about, _ = written(tmp_path, SPECIAL, 3)
    assert not (ids == 1).any()
    assert ids[1, 0] != 0
    for row in ids:  # zeros stand behind, nowhere else
        assert not row[np.argmax(row == 0) :].any() or row.all()
    assert about["statistics"]["empty"] == 0


def test_letters_and_forms_are_made_equal_where_asked_for() -> None:
    lower = train_tokenizer(ROWS, TEXT)
    assert lower.encode("THE ｃａｔ").ids == lower.encode("the cat").ids
    kept = train_tokenizer(ROWS, TEXT.model_copy(update={"lowercase": False}))
    assert kept.encode("The").ids != kept.encode("the").ids


@settings(max_examples=60)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1), st.integers(3, 12)
)
def test_any_texts(texts: list[str], vocabulary: int) -> None:
    of = TextFeatures(vocabulary=vocabulary, length=5)
    tokenizer, again = train_tokenizer(texts, of), train_tokenizer(texts, of)
    assert tokenizer.to_str() == again.to_str()
    assert tokenizer.get_vocab_size() <= vocabulary
    assert {"[PAD]": 0, "[UNK]": 1}.items() <= tokenizer.get_vocab().items()
    for encoding in tokenizer.encode_batch(texts):
        ids = np.array(encoding.ids)
        assert len(ids) == 5
        assert ids.max() < vocabulary
        real = ids != 0
        assert not real[np.count_nonzero(real) :].any()  # padding stands behind


def test_the_most_frequent_characters_are_kept_where_there_is_no_room_for_all() -> None:
    texts = ["a" * 9 + "b" * 5 + "".join(map(chr, range(0x4E00, 0x4F00)))]
    assert set(train_tokenizer(texts, TextFeatures(vocabulary=5)).get_vocab()) >= {
        "[PAD]",
        "[UNK]",
        "a",
        "b",
        "一",
    }


ELSEWHERE = """
import hashlib, json, socket, sys
def refuse(*_): raise AssertionError("the network is used")
socket.socket.connect = socket.getaddrinfo = refuse
from g2d_pipeline.config import TextFeatures
from g2d_pipeline.features.kinds.text import train_tokenizer
assert "tokenizers" not in sys.modules
texts = json.loads(sys.stdin.read())
print(hashlib.sha256(train_tokenizer(texts, TextFeatures(vocabulary=90)).to_str().encode()).hexdigest())
others = {"huggingface_hub", "httpx2", "hf_xet", "torch"}
assert not others & set(sys.modules), "only tokenizers itself is needed"
"""


def test_other_processes_learn_the_same_without_the_network() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdeé漢字"), rng.integers(1, 7))) for _ in range(200)]
    texts = [" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(400)]
    found = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            input=json.dumps(texts),
            env=os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("0", "1"), ("7", "3"))
    }
    assert len(found) == 1


# --------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("missing", "told"), [(None, "there is none"), (np.nan, "there is none"), (3.5, "3.5 is none")]
)
def test_a_missing_text_is_named_by_sample_and_row_and_an_empty_one_is_fine(
    missing: object, told: str
) -> None:
    texts = pd.Series(["a", "", missing, "b"], dtype=object)
    said = rf"(?s)1 of 4 texts of modality 'review' are missing.*sample s2 \(row 2\): {told}.*write a text"
    with pytest.raises(DataError, match=said):
        check_texts("review", texts, [f"s{i}" for i in range(4)])
    check_texts("review", pd.Series(["a", ""]), ["s0", "s1"])


def test_a_missing_text_is_told_before_anything_is_decoded(
    make_raw: Callable[..., Any], tmp_path: Path
) -> None:
    raw = make_raw(8, review=TEXT)
    raw.table["review"] = pd.Series(["a"] * 5 + [None] * 3, dtype="str")
    with pytest.raises(DataError, match=r"sample s005 \(row 5\): there is none"):
        raw.write(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_train_split_without_a_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The texts of modality 'review' are empty in all of train"):
        written(tmp_path, ["", "  \n", "words at last"], 2)


# -------------------------------------------------------------------------------------------------- the store
@pytest.fixture
def raw(make_raw: Callable[..., Any]) -> Any:
    """Twelve samples with a table and a text."""
    made = make_raw(12, review=TEXT, only=["table", "review"])
    made.table["review"] = (ROWS * 2)[:12]
    return made


def test_the_tokenizer_belongs_to_the_store(raw: Any, tmp_path: Path, contents: Contents) -> None:
    store = open_store(raw.write(tmp_path / "store"))
    assert sorted(f.name for f in store.path.iterdir()) == [
        "index.parquet", "meta.json", "review.npy", "review.tokenizer.json", "table.npy",
    ]  # fmt: skip
    assert contents(raw.write(tmp_path / "again")) == contents(store.path)
    store.verify()
    file = store.path / "review.tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"cat", b"cut"))
    with pytest.raises(DataError, match=r"review\.tokenizer\.json has changed"):
        store.verify()
    file.unlink()
    with pytest.raises(DataError, match=r"review\.tokenizer\.json is missing"):
        open_store(store.path)


def test_what_a_killed_run_left_of_another_text_is_removed(
    raw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Contents
) -> None:
    from g2d_pipeline.features import writing

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            raw.write(tmp_path / "store")
    assert (tmp_path / "store" / "review.tokenizer.json").exists()
    raw.modalities = {"table": raw.modalities["table"]}
    assert contents(raw.write(tmp_path / "store")) == contents(raw.write(tmp_path / "fresh"))


# --------------------------------------------------------------------------------------------------- training
GOOD, BAD = "I love it, it is great and good", "I hate it, it is bad and awful"


def test_text_and_table_train_teachers_and_a_student(make_raw: Callable[..., Any], tmp_path: Path) -> None:
    made = make_raw(60, review=TextFeatures(length=12), only=["table", "review"])
    label = np.arange(60) % 2
    made.table["target"] = label
    made.table["split"] = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    words = [(GOOD if y else BAD).split()[i % 8 :] or ["it"] for i, y in enumerate(label)]
    made.table["review"] = [" ".join(w) for w in words]
    store = open_store(made.write(tmp_path / "store"))
    data = Data.from_store(store, TargetSettings())
    assert data.vocabulary == {"review": store.meta["modalities"]["review"]["vocabulary"]}

    encoders = {"table": MLP(widths=[8], dropout=[]), "review": Bag(width=8, widths=[8])}
    shared = {"training": recipe(1, lr=0.5), "device": "cpu", "progress": False}
    teachers = {m: train_teacher(data, m, encoders[m], **shared) for m in encoders}  # type: ignore[arg-type]
    assert teachers["review"].outputs["feature/review"].shape == (60, 8)
    student = train_student(data, encoders, teachers, method="joint", **shared)  # type: ignore[arg-type]
    assert np.isfinite(student.predictions["confidence"]).all()
    assert student.history["epoch"].tolist() == [1]

    folder = tmp_path / "student"
    folder.mkdir()
    write_trained(folder, student)
    again = TrainedFolder(folder).model()
    batch = {m: torch.from_numpy(np.array(store.arrays[m][-10:])) for m in encoders}
    with torch.no_grad():
        torch.testing.assert_close(again(batch).logits, student.model.eval()(batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("encoder", [Bag(width=16), Transformer(width=16, layers=1, heads=2, feedforward=32)])
def test_a_teacher_learns_what_a_text_says(encoder: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 120)
    texts = [" ".join(rng.permutation((GOOD if y else BAD).split())[:6]) for y in label]
    ids, about, _ = written(tmp_path, texts, 80, TextFeatures(length=10))
    split = ["train"] * 80 + ["val"] * 20 + ["test"] * 20
    data = Data.from_arrays({"review": ids}, label, split, vocabulary={"review": about["vocabulary"]})
    teacher = train_teacher(data, "review", encoder, training=recipe(4, lr=0.1), device="cpu", progress=False)
    of = teacher.predictions.query("split == 'test'")
    assert (of["prediction"] == of["target"]).mean() > 0.95


@pytest.mark.parametrize("ids", [np.array([[0.0]] * 6), np.array([[-1]] * 6), np.array([[9]] * 6)])
def test_ids_outside_the_vocabulary_are_refused(ids: np.ndarray) -> None:
    split = ["train"] * 4 + ["val", "test"]
    with pytest.raises(ValueError, match="review does not hold token ids, integers from 0 to 8"):
        Data.from_arrays({"review": ids}, [0, 1] * 3, split, vocabulary={"review": 9})
