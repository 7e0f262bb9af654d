"""Which chunks are on disk: `progress.json`, there only while a store is being written."""

import json
import os
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from g2d_pipeline.features.files import remove
from g2d_pipeline.files import atomic_write

PROGRESS = "progress.json"

Notes = dict[str, dict[int, int]]  # kind of note → position in the chunk → a count


class Chunk(BaseModel):
    """A chunk that is on disk: a digest of what it was made from, and what decoding noticed in it."""

    digest: str
    notes: Notes


Chunks = dict[str, dict[int, Chunk]]  # modality → number of the chunk → chunk
CHUNKS = TypeAdapter(Chunks)


class ChunkJournal:
    """The chunks of each modality that are whole, with a digest of what they were made from.

    `plan` is a digest of settings and samples, `files` the arrays that belong to it. A journal of another
    plan, or a broken one, is not believed: its arrays are removed, and a new one is started."""

    def __init__(self, folder: Path, plan: str, files: list[str]) -> None:
        self.path = folder / PROGRESS
        self.plan, self.files = plan, files
        done, others = _read(self.path, plan)
        self._done = done or {}
        if done is None:
            self.remove()  # before the arrays: no kill leaves it with arrays that are not its own
            for name in {*files, *others}:
                remove(folder / name)
            self._write()

    def has(self, modality: str, number: int, digest: str) -> bool:
        chunk = self._done.get(modality, {}).get(number)
        return chunk is not None and chunk.digest == digest

    def notes(self, modality: str, number: int) -> Notes:
        """What decoding noticed in the chunk."""
        return self._done[modality][number].notes

    def record(self, modality: str, number: int, digest: str, notes: Notes) -> None:
        """To be called when the chunk is on disk; on return, so is the record."""
        self._done.setdefault(modality, {})[number] = Chunk(digest=digest, notes=notes)
        self._write()

    def forget(self, modality: str) -> None:
        """On return no chunk of the modality is recorded on disk: its array may be made anew."""
        if self._done.pop(modality, None):
            self._write()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        with atomic_write(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump({"plan": self.plan, "files": self.files, "done": CHUNKS.dump_python(self._done)}, file)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path, plan: str) -> tuple[Chunks | None, list[str]]:
    """(what is done; None: nothing of this plan, the files of arrays and tokenizers it names)."""
    try:
        content = json.loads(path.read_bytes())
        files = [Path(str(name)).name for name in content["files"]]
        files = [name for name in files if name.endswith((".npy", ".tokenizer.json"))]
        return CHUNKS.validate_python(content["done"]) if content["plan"] == plan else None, files
    except (OSError, ValueError, LookupError, TypeError):
        return None, []
