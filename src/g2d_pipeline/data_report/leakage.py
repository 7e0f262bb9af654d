"""Data leakage: content in two splits, images that are nearly the same, columns that are the target."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.config import SPLITS
from g2d_pipeline.features.cells import files_of, is_row, row_bytes
from g2d_pipeline.features.files import Array, Floats, Rows

FIRST, NAMES = 10, 5  # findings of a kind and samples of a finding that are listed; the others are counted
BITS = 8  # of 64: the distance of the hashes of two images up to which they are compared
SAME = 0.995  # the correlation of thumbnails from which on two images are nearly the same
MAX_IMAGES = 100_000  # that are compared
HASH, THUMBNAIL = (8, 9), (16, 18)  # rows, columns
BLOCK = 2**22  # pairs of images compared at once
PERFECT = 0.99  # balanced accuracy of a tree on one column
SAME_ORDER = 0.999  # |rank correlation| with a regression's target
LEAST = 20  # samples: of fewer, chance alone may do it
CANDIDATES = 20  # columns that are tried by a tree: those that separate the classes best


# --------------------------------------------------------------------------------------------- equal contents
def cell_digests(cells: Iterable[str], root: Path, hash_of: Callable[[Path], str]) -> list[str]:
    """The hash of each cell's content: of a file, of a folder's images, of a row of an array file.

    `hash_of`: the hash of a file's content."""

    def digest(cell: str) -> str:
        hashes = [] if is_row(cell) else [hash_of(path) for path in files_of(cell, root)]
        if len(hashes) == 1:
            return hashes[0]
        content = row_bytes(cell, root) if is_row(cell) else "".join(hashes).encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    return [digest(cell) for cell in cells]


def row_codes(table: pd.DataFrame) -> Rows:
    """A code a row `[N]`, equal where all cells are; missing ones equal one another."""
    return merge_codes([pd.factorize(table[column])[0] for column in table])


def merge_codes(codes: Sequence[Rows]) -> Rows:
    """Several codes of the same samples `[N]` → one that is equal where all of them are."""
    return np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def find_duplicates(code: Rows, split: Array, sample_ids: Sequence[str]) -> dict[str, Any]:
    """Contents that several samples have: `code` `[N]` is equal where the content is.

    `contents`: the number of those in several splits, `samples`: of samples of val and test whose content is
    in an earlier split, too, `first`: the first ten, with samples by split; `within`: split → repetitions."""
    groups = _repeated(code)
    across = [g for g in groups if len(set(split[g])) > 1]
    repeated = {s: sum(max(0, int((split[g] == s).sum()) - 1) for g in groups) for s in SPLITS}
    return {
        "contents": len(across),
        "samples": sum(int((split[g] != min(split[g], key=SPLITS.index)).sum()) for g in across),
        "first": [_by_split(g, split, sample_ids) for g in across[:FIRST]],
        "within": {s: n for s, n in repeated.items() if n},
    }


def find_conflicts(code: Rows, target: Array, sample_ids: Sequence[str]) -> dict[str, Any]:
    """Contents whose samples differ in the target: their number, and the first ten, samples and targets."""
    groups = [g for g in _repeated(code) if len(set(target[g].tolist())) > 1]
    pairs = [zip(g[:NAMES].tolist(), target[g].tolist(), strict=False) for g in groups[:FIRST]]
    first = [[{"sample": sample_ids[i], "target": value} for i, value in listed] for listed in pairs]
    return {"contents": len(groups), "first": first}


def _repeated(code: Rows) -> list[Rows]:
    """The rows of each content that several samples have, in order of first appearance."""
    rows = pd.Series(code)
    rows = rows[rows.duplicated(keep=False)]
    return [group.index.to_numpy() for _, group in rows.groupby(rows, sort=False)]


def _by_split(rows: Rows, split: Array, sample_ids: Sequence[str]) -> dict[str, Any]:
    """split → the number of samples, and the first five."""
    by_split = {s: [sample_ids[i] for i in rows[split[rows] == s].tolist()] for s in SPLITS}
    return {s: {"samples": len(ids), "first": ids[:NAMES]} for s, ids in by_split.items() if ids}


# --------------------------------------------------------------------------------------------- similar images
def thumbnails(images: Array) -> npt.NDArray[np.float32]:
    """uint8 `[n, C, H, W]` → `[n, 16, 18]`: exact means over areas of the middle channel."""
    plane = images[:, images.shape[1] // 2]
    for axis, n in ((1, THUMBNAIL[0]), (2, THUMBNAIL[1])):
        starts = np.arange(n) * plane.shape[axis] // n
        plane = np.add.reduceat(plane, starts, axis=axis, dtype=np.uint32)
    sizes = zip(images.shape[2:], THUMBNAIL, strict=True)  # the pixels of each of n areas:
    heights, widths = (np.maximum(np.diff(np.arange(n + 1) * size // n), 1) for size, n in sizes)
    return np.asarray(plane / (heights[:, None] * widths), np.float32)


def difference_bits(small: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Thumbnails `[n, 16, 18]` → `[n, 64]`: 1 where an area is darker than its right neighbour, else 0."""
    areas = small.reshape(len(small), HASH[0], 2, HASH[1], 2).mean(axis=(2, 4))
    bits = areas[:, :, 1:] > areas[:, :, :-1] + 1.0  # a grey level, so that plain areas have no bits
    return np.asarray(bits.reshape(len(small), 64), np.float32)


def find_similar(images: Array, code: Rows, split: Array, sample_ids: Sequence[str]) -> dict[str, Any]:
    """Images of val and test that nearly equal one of a split before theirs: saved or scaled anew.

    `images`: uint8 `[N, C, H, W]` or `[N, C, T, H, W]` (of a clip its middle frame), memory-mapped; `code`
    `[N]` as in `find_duplicates`, where equal contents are listed. Nearly equal: difference hashes within
    8 of 64 bits, and thumbnails that correlate by 0.995 or more; the most similar earlier one is named.
    Of more than 100,000 images so many, evenly spaced, are compared.

    How many bits differ is the square of their Euclidean distance. scikit-learn's search by brute force takes
    2.4 s and 20 MB for 50,000 images (counting bits of words: 1.5 s, 36 MB), its ball tree minutes."""
    from sklearn.neighbors import NearestNeighbors

    rank = np.array([SPLITS.index(s) for s in split])
    rows = np.sort(np.unique(code * len(SPLITS) + rank, return_index=True)[1])
    total = len(rows)
    if total > MAX_IMAGES:
        rows = rows[np.linspace(0, total - 1, MAX_IMAGES).astype(np.int64)]
    still = () if images.ndim == 4 else (slice(None), images.shape[2] // 2)
    small = np.concatenate([thumbnails(images[part, *still]) for part in _parts(rows, 256)])
    bits, neighbours = difference_bits(small), NearestNeighbors(radius=(BITS + 0.5) ** 0.5, algorithm="brute")
    plain = small.reshape(len(rows), -1)
    plain = plain - plain.mean(axis=1, keepdims=True)
    norm = np.sqrt((plain * plain).sum(axis=1))
    plain /= np.maximum(norm, 1e-6)[:, None]

    pairs: list[tuple[int, int, float]] = []  # later, earlier, correlation
    for later in range(1, len(SPLITS)):
        earlier = np.flatnonzero((rank[rows] < later) & (norm > 0))  # one colour resembles nothing
        later_images = np.flatnonzero((rank[rows] == later) & (norm > 0))
        if not len(earlier):
            continue
        neighbours.fit(bits[earlier])
        for part in _parts(later_images, max(1, BLOCK // len(earlier))):
            near = neighbours.radius_neighbors(bits[part], return_distance=False)
            i, j = np.repeat(np.arange(len(part)), [len(row) for row in near]), np.concatenate(near)
            correlation = _correlations(plain, part[i], earlier[j])
            correlation[code[rows[part[i]]] == code[rows[earlier[j]]]] = 0.0
            alike = np.flatnonzero(correlation >= SAME)
            alike = alike[np.lexsort((j[alike], -correlation[alike], i[alike]))]
            best = alike[np.unique(i[alike], return_index=True)[1]]  # the first of each image
            later_rows, earlier_rows = rows[part[i[best]]].tolist(), rows[earlier[j[best]]].tolist()
            pairs += zip(later_rows, earlier_rows, correlation[best].tolist(), strict=True)
    pairs.sort(key=lambda pair: (-round(pair[2], 4), pair[0]))
    keys = ("sample", "split", "resembles", "of", "correlation")
    named = [(sample_ids[a], split[a], sample_ids[b], split[b], round(r, 4)) for a, b, r in pairs[:FIRST]]
    first = [dict(zip(keys, values, strict=True)) for values in named]
    return {"samples": len(pairs), "compared": len(rows), "of": total, "first": first}


def _correlations(plain: npt.NDArray[np.float32], a: Rows, b: Rows) -> npt.NDArray[np.float32]:
    """The scalar products of rows `a` and `b` of `plain`, a bounded number at once."""
    parts = zip(_parts(a, 2**14), _parts(b, 2**14), strict=True)
    products = [(plain[x] * plain[y]).sum(axis=1) for x, y in parts]
    return np.concatenate(products) if products else np.zeros(0, np.float32)


def _parts(values: Rows, size: int) -> Iterable[Rows]:
    return (values[k : k + size] for k in range(0, len(values), size))


# --------------------------------------------------------------------- columns that predict the target alone
def suspected_leaks(
    table: pd.DataFrame, columns: Sequence[str], target: Array, train: Array, classes: int
) -> list[dict[str, Any]]:
    """The `columns` of `table` (numbers, or texts that are categories) that predict `target` `[N]` alone:
    `column`, `score` and the `measure`, best first.

    `classes`: their number; 0: a regression. Classification: the balanced accuracy over all samples of
    a decision tree with two leaves a class, fitted on the rows of `train`, reaches 0.99. Regression: the rank
    correlation with the target, on train, exceeds 0.999 in size. Blank numbers are the mean of train."""
    if not columns or len(table) < LEAST or train.sum() < 2:
        return []
    values = _as_numbers(table[list(columns)], train)
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # of constant columns: they score nothing
        warnings.simplefilter("ignore")
        if classes:
            least, measure, scores = PERFECT, "balanced accuracy", _by_tree(values, target, train, classes)
        else:
            least, measure, scores = SAME_ORDER, "rank correlation", _by_rank(values[train], target[train])
    leaks = sorted((f for f in scores if scores[f] >= least), key=lambda f: -scores[f])
    return [{"column": columns[f], "score": round(scores[f], 4), "measure": measure} for f in leaks]


def _as_numbers(table: pd.DataFrame, train: Array) -> Floats:
    """`[N, F]`: numbers as they are, blanks the mean of train; texts as codes."""
    numbers = table.apply(lambda c: c if c.dtype.kind in "fiub" else c.astype(str).factorize()[0])
    values = numbers.to_numpy(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column without a value in train
        means = np.nan_to_num(np.nanmean(values[train], axis=0))
    return np.asarray(np.where(np.isnan(values), means, values))


def _by_tree(values: Floats, target: Array, train: Array, classes: int) -> dict[int, float]:
    """Column → balanced accuracy, of the columns with the largest F of an analysis of variance."""
    from sklearn.feature_selection import f_classif
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    separation = np.nan_to_num(f_classif(values[train], target[train])[0], nan=-1.0)
    scores = {}
    for f in np.argsort(-separation, kind="stable")[:CANDIDATES].tolist():
        tree = DecisionTreeClassifier(max_leaf_nodes=2 * classes, random_state=0)
        tree.fit(values[train, f : f + 1], target[train])
        scores[f] = float(balanced_accuracy_score(target, tree.predict(values[:, f : f + 1])))
    return scores


def _by_rank(values: Floats, target: Array) -> dict[int, float]:
    """Column → size of its rank correlation with the target."""
    from sklearn.feature_selection import r_regression

    r = r_regression(pd.DataFrame(values).rank().to_numpy(), pd.Series(target).rank().to_numpy())
    return dict(enumerate(np.abs(np.nan_to_num(r)).tolist()))
