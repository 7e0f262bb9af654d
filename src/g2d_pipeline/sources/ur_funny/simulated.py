"""A simulated UR-Funny folder (datasets.md §4.7): six pickles, three weak signals, blemishes of copies."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SPLITS, Split

WORDS, FUNNY = 400, range(1, 25)  # embeddings; the words that hint at humour
AUDIO, VISUAL, TEXT = 81, 371, 300
ENERGY, VOICED, PITCH = [3, 17, 40], 1, 0  # columns of the audio: those that rise, a flag, Hz
SMILE, CONFIDENCE = [341, 346, 365], 2  # columns of the face
LANDMARKS = slice(299, 341)  # in pixels
FACES = 6
HUMOROUS = 0.45
FOLDS = {"train": "train", "val": "dev", "test": "test"}
FILES = ("humor_label_sdk", "language_sdk", "covarep_features_sdk", "openface_features_sdk")  # by id
# which sample of train has a blemish of real copies, where train has that many
BLEMISHES = {
    3: "one word", 5: "sixty words", 7: "no context", 9: "infinite", 11: "no face", 13: "no text",
    15: "a step less",
}  # fmt: skip
MUCH = 20  # samples of train from which on there are blemishes

Numbers = npt.NDArray[Any]


class Sentence(NamedTuple):
    """`words` [n], indexes of embeddings; `audio` [n or n − 1, 81]; `visual` [n, 371]."""

    words: list[int]
    audio: Numbers
    visual: Numbers


def make(folder: Path, rows: Mapping[Split, int], seed: int) -> None:
    """Write the six pickles into the existing folder; equal arguments give equal bytes.

    `rows`: how many samples train, val and test have. Features of the voice are lists of numbers and those of
    the face arrays: copies of either kind exist."""
    rng = np.random.default_rng([seed, 0])
    vectors = rng.normal(0, 0.4, (WORDS, TEXT)).astype(np.float32)
    vectors[list(FUNNY), :20] += 0.5
    vectors[0] = 0
    loadings = rng.normal(0, 0.3, (FACES, VISUAL))
    ids = iter((rng.permutation(5 * sum(rows.values())) + 100).tolist())
    folds: dict[str, list[int]] = {}
    files: dict[str, dict[int, Any]] = {name: {} for name in FILES}
    labels, language, covarep, openface = files.values()
    for k, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, 1 + k])
        blemishes = BLEMISHES if split == "train" and rows[split] >= MUCH else {}
        folds[FOLDS[split]] = [next(ids) for _ in range(rows[split])]
        for position, i in enumerate(folds[FOLDS[split]]):
            # both classes in every fold
            labels[i] = int(rng.uniform() < HUMOROUS) if position > 1 else position
            sentences = _sentences(labels[i], blemishes.get(position, ""), loadings, rng)
            language[i] = _language(sentences)
            voice, *voices = [sentence.audio.tolist() for sentence in sentences]
            covarep[i] = {"punchline_features": voice, "context_features": voices}
            face, *faces = [sentence.visual for sentence in sentences]
            openface[i] = {"punchline_features": face, "context_features": faces}
    others = {"data_folds": folds, "word_embedding_list": vectors.tolist()}
    for name, content in (files | others).items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=4))


def _language(sentences: list[Sentence]) -> dict[str, Any]:
    """An entry of the language file: indexes, texts and times of the words; the punchline comes first."""
    words = [sentence.words for sentence in sentences]
    times = [[[float(k), k + 0.75] for k in range(len(indexes))] for indexes in words]
    texts = [" ".join(f"word{k}" for k in indexes) for indexes in words]
    return {
        "punchline_embedding_indexes": words[0],
        "context_embedding_indexes": words[1:],
        "punchline_sentence": texts[0],
        "context_sentences": texts[1:],
        "punchline_intervals": times[0],
        "context_intervals": times[1:],
    }


def _sentences(humorous: int, blemish: str, loadings: Numbers, rng: np.random.Generator) -> list[Sentence]:
    """The punchline, of 3 to 30 words, then 0 to 5 sentences before it, which know nothing of the label."""
    count = {"one word": 1, "sixty words": 60}.get(blemish, int(rng.integers(3, 31)))
    before = 0 if blemish == "no context" else int(rng.integers(0, 6))
    context = [_sentence(int(rng.integers(3, 9)), 0, loadings, rng) for _ in range(before)]
    punchline = _sentence(count, humorous, loadings, rng)
    if blemish == "no text":
        punchline = punchline._replace(words=[0] * count)
    elif blemish == "infinite":
        punchline.audio[1, 5:9] = -np.inf
    elif blemish == "no face":
        punchline.visual[:] = 0
    elif blemish == "a step less":
        punchline = punchline._replace(audio=punchline.audio[:-1])
    return [punchline, *context]


def _sentence(count: int, humorous: int, loadings: Numbers, rng: np.random.Generator) -> Sentence:
    """`count` words. A funny one has more of the funny words, a rising voice, and a faint smile."""
    words = rng.integers(1, WORDS, count)
    funny = rng.uniform(size=count) < (0.28 if humorous else 0.05)
    words[funny] = rng.choice(FUNNY, int(funny.sum()))
    words[rng.uniform(size=count) < 0.03] = 0  # unknown
    rise = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    audio = rng.normal(0, 1, (count, AUDIO))
    audio[:, ENERGY] += 0.6 * humorous * rise[:, None] + rng.normal(0.35 * humorous, 0.5)
    audio[:, VOICED] = rng.uniform(size=count) < 0.8
    audio[:, PITCH] = 180 + 40 * audio[:, PITCH]
    # few ways: all columns move together
    faces = rng.normal(0, 1, FACES) + rng.normal(0, 0.3, (count, FACES))
    visual = faces @ loadings + rng.normal(0, 0.2, (count, VISUAL))
    visual[:, SMILE] = rng.normal(1.2 * humorous, 1) + rng.normal(0, 0.5, (count, len(SMILE)))
    visual[:, LANDMARKS] = 400 + 100 * visual[:, LANDMARKS]
    visual[:, CONFIDENCE] = 1
    return Sentence(words.tolist(), audio.astype(np.float32), visual.astype(np.float32))
