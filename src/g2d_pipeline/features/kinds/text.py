"""Texts → token ids, by a tokenizer that is learnt on the texts of train alone (byte-pair encoding)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from g2d_pipeline.config import SPLITS, TextFeatures
from g2d_pipeline.errors import SHOWN, data_error
from g2d_pipeline.features.files import Array, Rows, create, with_checksum
from g2d_pipeline.features.kinds.base import ColumnKind, Corruption, first_few, keep_some, spread

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # the ids 0 and 1
MIN_COUNT = 2  # how often a pair is met in train before it becomes a token
BATCH = 4096  # texts in one call: bounds its memory


class Text(ColumnKind):
    """Texts as token ids `[length]`."""

    settings: TextFeatures
    settings_class = TextFeatures
    endings = frozenset({".txt"})
    corruptions: ClassVar = {"tokens dropped": ("{:.0%}", (0.1, 0.3, 0.6))}

    @property
    def bytes_each(self) -> int:
        return 4 * self.settings.length

    def check(self, name: str, table: pd.DataFrame, sample_ids: Sequence[str]) -> None:
        check_texts(name, table.iloc[:, 0], sample_ids)

    def write(
        self, folder: Path, name: str, table: pd.DataFrame, train: Rows, ids: Sequence[str], notes: list[str]
    ) -> dict[str, Any]:
        """Write the token ids `[N, length]` (int32) and the tokenizer (`tokenizers.Tokenizer.from_file` reads
        it, and makes ids as the store has them); notes cut and empty texts.

        Raises DataError where there is no token in all of train."""
        settings = self.settings
        values = table.iloc[:, 0].astype(object).tolist()
        tokenizer = train_tokenizer([values[row] for row in train.tolist()], settings)
        entries = tokenizer.get_vocab_size()
        if entries <= 2:
            headline = f"The texts of modality {name!r} are empty in all of train"
            raise data_error(headline, [], "fill them in the raw data, or leave the modality out.")
        array = create(folder / f"{name}.npy", np.int32, (len(values), settings.length))
        cut = np.zeros(len(values), bool)
        for start in range(0, len(values), BATCH):
            part = slice(start, start + BATCH)
            array[part], cut[part] = token_ids(tokenizer, values[part])
        array.flush()
        file = folder / f"{name}.tokenizer.json"
        file.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8", newline="\n")
        empty = array[:, 0] == 0
        longer = f"longer than {settings.length} tokens, whose end is left out"
        for rows, what in ((np.flatnonzero(cut), longer), (np.flatnonzero(empty), "empty")):
            if len(rows):
                few = first_few([ids[row] for row in rows[: SHOWN + 1]])
                notes.append(
                    f"{name}: {len(rows)} of {len(values)} samples have texts that are {what}: {few}"
                )
                logger.warning(notes[-1])
        tokens, unknown = int(np.count_nonzero(array)), int(np.count_nonzero(array == 1))
        return {
            "shape": [settings.length],
            "dtype": "int32",
            "normaliser": None,
            "vocabulary": entries,
            "tokenizer": with_checksum(file),
            "statistics": {
                "cut": int(cut.sum()),
                "empty": int(empty.sum()),
                "unknown": unknown / max(tokens, 1),  # share of all tokens
            },
        }

    def corrupt(self, values: Array, corruption: Corruption, rng: np.random.Generator) -> Array:
        """Tokens are dropped at random; those behind move up."""
        order, kept = keep_some(values != 0, corruption.strength, rng)
        return np.take_along_axis(values, order, axis=1) * kept

    def encode(self, table: pd.DataFrame, about: Mapping[str, Any], folder: Path) -> Array:
        tokenizer = _tokenizer((folder / about["tokenizer"]["file"]).read_text(encoding="utf-8"))
        return token_ids(tokenizer, table.iloc[:, 0].astype(object).tolist())[0]

    def facts(self, about: Mapping[str, Any], table: pd.DataFrame, split: Array) -> dict[str, Any]:
        """By split the samples, min, median, max of the `characters`, and empty texts."""
        lengths = table.iloc[:, 0].astype(str).str.len().to_numpy()
        splits = {}
        for name in SPLITS:
            in_split = lengths[split == name]
            facts = {"samples": len(in_split), "empty": int((in_split == 0).sum())}
            splits[name] = facts | spread("characters", in_split.tolist())
        return {"splits": splits, "found": about.get("found", {})}


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Array, Array]:
    """(ids `[n, length]` int32, which texts are cut `[n]`)."""
    encodings = tokenizer.encode_batch(texts)
    ids = np.array([encoding.ids for encoding in encodings], np.int32)
    return ids, np.array([bool(encoding.overflowing) for encoding in encodings])


@lru_cache(maxsize=8)
def _tokenizer(description: str) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(description)


def train_tokenizer(texts: Sequence[str], settings: TextFeatures) -> Tokenizer:
    """A tokenizer of at most `vocabulary` tokens that pads and cuts to `length`; the same for equal texts.

    Texts may hold `[PAD]` or any other such word: nothing in a text is taken for a special token. Where train
    has more different characters than there is room for, the most frequent ones are kept."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    plain = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    forms: list[Any] = [normalizers.NFKC(), *([normalizers.Lowercase()] if settings.lowercase else [])]
    plain.normalizer = normalizers.Sequence(forms)
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    room = settings.vocabulary - 2
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        min_frequency=MIN_COUNT,
        special_tokens=[PADDING, UNKNOWN],
        initial_alphabet=_characters(plain, texts)[:room],
        limit_alphabet=room,
        show_progress=False,
    )
    plain.train_from_iterator(texts, trainer)
    description = json.loads(plain.to_str())
    description["added_tokens"] = []  # else a [PAD] that somebody wrote would be padding
    tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.enable_padding(pad_id=0, pad_token=PADDING, length=settings.length)
    tokenizer.enable_truncation(settings.length)
    return tokenizer


def _characters(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The characters of the normalised texts, the most frequent first; the trainer's choice may differ."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    return sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))


def check_texts(name: str, texts: pd.Series[str], sample_ids: Sequence[str]) -> None:
    """Raise DataError, naming samples and rows (from 0), where a cell is no text ("" is one)."""
    values, missing = texts.astype(object).tolist(), texts.isna().tolist()
    if wrong := [row for row, value in enumerate(values) if not isinstance(value, str)]:
        reasons = {row: "there is none" if missing[row] else f"{values[row]!r} is none" for row in wrong}
        named = [f"sample {sample_ids[row]} (row {row}): {what}" for row, what in reasons.items()]
        headline = f"{len(wrong)} of {len(values)} texts of modality {name!r} are missing"
        remedy = "write a text into these cells (an empty one is fine), or drop the rows."
        raise data_error(headline, named, remedy)
