"""Folders behind a URL (`s3://…`, by fsspec) as local folders, whose files are fetched when they are read.

An *unfetched* file is the placeholder of a remote one: sparse, of that file's size, with a time that encodes
its version, and read-only (fetched files are writable). So whatever lists files, or asks for their sizes and
times, works as on a disk; whoever reads them calls `fetch` first. The folder holds `.remote.json`: the URL,
its options, and the size and version (ETag) of each file. fsspec is imported for such folders alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from g2d_pipeline.errors import ConfigError, DataError, G2DError
from g2d_pipeline.files import atomic_write, content_hash

LISTING, CACHE = ".remote.json", "data/.cache"
# Read by many readers in many ways: fetched at once, and never evicted.
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".xlsx", ".xls", ".txt", ".pkl")
SHARD = re.compile(r".+-(?P<number>[0-9]{5,})-of-(?P<count>[0-9]{5,})\.npy")  # see `features.files`
IN_USE = 60  # seconds after its last use in which a file is not evicted
LISTED = "G2D_LISTED"  # environment variable: a line `process time URL` for each listing, for child processes
FRESH = 30  # seconds in which a listing is not made again in one process
BATCH = 64  # files that are fetched at once
VERSIONS = ("ETag", "mtime", "created", "LastModified")  # by which file systems tell versions
RETRIES = {"retries": {"mode": "standard", "max_attempts": 4}, "connect_timeout": 10, "read_timeout": 60}

Files = dict[str, tuple[int, str]]  # relative path → size, version
_attached: dict[str, Remote] = {}  # absolute folder, with a slash → what is behind it
_ahead: dict[str, Future[None]] = {}  # path → what fetches it ahead of its use
_eviction = threading.Lock()
_pool = ThreadPoolExecutor(1, thread_name_prefix="fetch-ahead")


def is_remote(place: str) -> bool:
    return "://" in place


def local_folder(project: Path, place: str) -> Path:
    """The folder of `place`: a path relative to the project, or a URL, whose folder is in `CACHE`."""
    if not is_remote(place):
        return project / Path(place).expanduser()
    protocol, _, path = place.partition("://")
    return project / CACHE / protocol / path.strip("/")


def joined(place: str, start: str) -> str:
    """A folder below a path or URL."""
    if is_remote(place):
        return place.rstrip("/") if start in ("", ".") else f"{place.rstrip('/')}/{start}"
    return str(PurePosixPath(place) / start)


@dataclass
class Remote:
    """What is behind a local `folder`. `limit`: bytes of fetched files that it may keep. `named_by_hash`: an
    artefact, whose versions are hashes of the content and part of the objects' names. The shards of a feature
    store never exceed the limit; those that `keep` names are evicted last."""

    folder: Path
    url: str
    options: Mapping[str, Any]
    limit: float
    files: Files
    named_by_hash: bool = False
    keep: frozenset[str] = field(default=frozenset(), init=False)
    _unseen: float = field(default=float("inf"), init=False)  # bytes fetched since they were last counted

    @cached_property
    def fs(self) -> Any:
        return filesystem(self.url, self.options)

    @cached_property
    def in_shards(self) -> bool:
        """Whether it is a feature store in shards."""
        return self.named_by_hash and any(map(SHARD.fullmatch, self.files))

    @classmethod
    def read(cls, folder: Path) -> Remote | None:
        """What `save` wrote into a folder, if it did."""
        try:
            about = json.loads((folder / LISTING).read_bytes())
            about["files"] = {name: (size, version) for name, (size, version) in about["files"].items()}
            return cls(folder.absolute(), **about)
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def save(self) -> None:
        keys = ("url", "options", "limit", "files", "named_by_hash")
        with atomic_write(self.folder / LISTING) as path:
            path.write_text(json.dumps({key: getattr(self, key) for key in keys}), encoding="utf-8")

    def fetch(self, names: list[str]) -> None:
        """Fetch files, whole or not at all. Raises DataError."""
        if not self.in_shards:
            self._fetch(names)
            return
        from filelock import FileLock

        with writing_cache(self.folder):
            lock = FileLock(self.folder / ".fetching.lock").acquire()
        with lock:  # one at a time, threads and processes, so that there is room for each
            self._fetch([name for name in names if is_unfetched(self.folder / name)])

    def _fetch(self, names: list[str]) -> None:
        base, token = self.fs._strip_protocol(self.url).rstrip("/"), f"{os.getpid()}-{threading.get_ident()}"
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            made = {name: (self.folder / name).with_name(f".{Path(name).name}.{token}.tmp") for name in part}
            try:
                with writing_cache(self.folder), talking_to(self.url):
                    if self.in_shards:
                        self._make_room(sum(self.files[name][0] for name in part))
                    hashes = [f".{self.files[name][1]}" if self.named_by_hash else "" for name in part]
                    objects = [f"{base}/{name}{version}" for name, version in zip(part, hashes, strict=True)]
                    self.fs.get(objects, [str(path) for path in made.values()])
                    for name, path in made.items():
                        self._put(name, path)
            finally:
                for path in made.values():
                    path.unlink(missing_ok=True)
        self._unseen += sum(self.files[name][0] for name in names)
        if self._unseen > 0.05 * self.limit and not self.in_shards:
            with _eviction:
                self._make_room()

    def _put(self, name: str, path: Path) -> None:
        size, version = self.files[name]
        if path.stat().st_size != size or (self.named_by_hash and content_hash(path) != version):
            raise DataError(f"{self.url}/{name} has changed since it was listed. Run again.")
        os.utime(path, ns=(time.time_ns(), _time_of(version)))
        path.replace(self.folder / name)

    def _make_room(self, coming: int = 0) -> None:
        """Evict fetched files beyond the limit, the least recently used first. Shards go at once where others
        are `coming` (bytes): who reads one that is gone fetches it again."""
        known = []
        for name in self.files:
            with suppress(FileNotFoundError):
                state = os.stat(self.folder / name)  # noqa: PTH116 - there are many
                if state.st_mode & stat.S_IWUSR:
                    known.append((name in self.keep, state.st_atime, state.st_size, name))
        total, now = sum(size for _, _, size, _ in known) + coming, time.time()
        self._unseen = 0
        for _, used, size, name in sorted(known):
            if total <= self.limit:
                break
            at_once = self.in_shards and SHARD.fullmatch(name)
            if (at_once or now - used >= IN_USE) and not name.lower().endswith(TABLES):
                make_unfetched(self.folder / name, *self.files[name])
                total -= size


def connect(
    url: str, folder: Path, options: Mapping[str, Any], limit: float, keep: Path | None = None
) -> None:
    """List what is behind `url` (once a run) and make `folder` look like it; fetch its tables.

    `keep`: where the files really lie (`folder` becomes a link to it); None: there. Raises DataError where
    there is nothing, or no access, or where the folder can not be written."""
    with writing_cache(folder):
        if keep is not None and not folder.exists():
            keep.mkdir(parents=True, exist_ok=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(keep.absolute(), target_is_directory=True)
        folder.mkdir(parents=True, exist_ok=True)
        known = Remote.read(folder)
        files = known.files if known else {}
        if not files or not _is_listed(url):
            with talking_to(url):
                new = list_remote(url, options)
            if not new:
                raise DataError(f"There are no files in {url}.")
            make_tree(folder, new, files)
            Remote(folder, url.rstrip("/"), dict(options), limit, files := new).save()
            os.environ[LISTED] = f"{os.environ.get(LISTED, '')}\n{os.getpid()} {time.monotonic()} {url}"
            _attached.pop(f"{folder.absolute()}/", None)
    attach(folder)
    fetch(str(folder / name) for name in files if name.lower().endswith(TABLES))


def _is_listed(url: str) -> bool:
    """Whether the listing is this run's: a process above this one made it, or this one has just made it."""
    listings = [line.split(" ", 2) for line in os.environ.get(LISTED, "").splitlines() if line]
    fresh, process = time.monotonic() - FRESH, str(os.getpid())
    return any(place == url and (pid != process or float(at) > fresh) for pid, at, place in listings)


def object_name(name: str, version: str) -> str:
    return f"{name}.{version}"


def list_remote(url: str, options: Mapping[str, Any]) -> Files:
    """Every file behind a URL."""
    fs = filesystem(url, options)
    fs.invalidate_cache()
    base = fs._strip_protocol(url).rstrip("/")
    files: Files = {}
    for path, about in sorted(fs.find(base, detail=True).items()):
        name = path.removeprefix(base).lstrip("/")
        if about.get("type", "file") != "file" or not name or name.endswith("/"):
            continue
        version = next((about[key] for key in VERSIONS if key in about), "")
        files[name] = int(about["size"]), str(version).strip('"')
    return files


def make_tree(folder: Path, files: Files, before: Files = {}) -> None:  # noqa: B006
    """Make files that are new or have changed unfetched, and remove those that are gone. Raises DataError for
    names that lead out of the folder, or into a file."""
    for name in files:
        parts, above = name.split("/"), map(str, PurePosixPath(name).parents)
        if not parts[0] or ".." in parts or "\\" in name or any(place in files for place in above):
            raise DataError(f"{name!r} can not be a file in {folder}. Rename it where it lies.")
    for name in before.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    for name, state in files.items():
        if before.get(name) != state or not (folder / name).exists():
            make_unfetched(folder / name, *state)


def make_unfetched(path: Path, size: int, version: str) -> None:
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            file.truncate(size)
        temporary.chmod(0o444)
        os.utime(temporary, ns=(0, _time_of(version)))


def is_unfetched(path: Path | str) -> bool:
    """Whether a file below a folder of ours has not been fetched."""
    return find_remote(path) is not None and not os.stat(path).st_mode & stat.S_IWUSR  # noqa: PTH116


def attach(folder: Path) -> None:
    """Let `fetch` know of the folder, or of the one above it that `connect` has made, in this process too."""
    for place in (folder, *folder.parents):
        if (key := f"{place.absolute()}/") in _attached:
            return
        if (remote := Remote.read(place)) is not None:
            _attached[key] = remote
            return


def fetch(paths: Iterable[Path | str]) -> None:
    """Fetch those of these files that are unfetched; the others are marked as used. Raises DataError."""
    names = list(dict.fromkeys(map(str, paths))) if _attached else []
    missing = _missing(names)
    if missing and not threading.current_thread().name.startswith("fetch-ahead"):
        wait_for({future for name in names if (future := _ahead.get(name))})  # errors are raised below
        missing = _missing(names)
    for remote, files in missing.values():
        remote.fetch(files)


def fetch_folder(folder: Path, but: Callable[[str], bool] = lambda name: False) -> None:
    """Fetch the files of a folder that `connect` or a mirror has made, except those of names `but`."""
    attach(folder)
    if (remote := _attached.get(f"{folder.absolute()}/")) is not None:
        fetch(folder / name for name in remote.files if not but(name))


def fetch_ahead(paths: Iterable[Path | str]) -> None:
    """Begin to fetch files that will be asked for next."""
    if _attached:
        for path in [path for path, future in tuple(_ahead.items()) if future.done()]:
            _ahead.pop(path, None)
        if new := [name for name in map(str, paths) if name not in _ahead]:
            _ahead.update(dict.fromkeys(new, _pool.submit(fetch, new)))


def cancel_ahead() -> None:
    """Do not fetch what is not begun yet."""
    for path, future in tuple(_ahead.items()):
        if future.cancel():
            del _ahead[path]


def is_planned(path: Path) -> bool:
    """Whether it is known for its folder what will be read next."""
    place = find_remote(path)
    return place is not None and bool(place[0].keep)


def set_limit(folder: Path, limit: float) -> None:
    """Set the limit of a folder that a mirror has made, where `cache_gb` has changed since."""
    if (remote := Remote.read(folder)) is not None and remote.limit != limit:
        replace(remote, limit=limit).save()
        _attached.pop(f"{folder.absolute()}/", None)


def version_of(path: str) -> tuple[int, str] | None:
    """Size and version of a file below a folder of ours; None: it is another file."""
    place = find_remote(path)
    return None if place is None else place[0].files[place[1]]


def filesystem(url: str, options: Mapping[str, Any]) -> Any:
    """The file system of a URL. Raises ConfigError where there is none, or an extra is missing."""
    import fsspec

    protocol = url.partition("://")[0]
    defaults = {"config_kwargs": RETRIES} if protocol in ("s3", "s3a") else {}
    try:
        return fsspec.filesystem(protocol, **defaults | dict(options))
    except ImportError as error:
        extra = "pip install 'g2d-pipeline[s3]'" if protocol in ("s3", "s3a") else str(error)
        raise ConfigError(f"{url} needs a package that is not installed: {extra}.") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{url} with storage.options {dict(options)}: {error}") from None


@contextmanager
def talking_to(url: str) -> Iterator[None]:
    """What fsspec and botocore raise becomes a DataError that says what to do."""
    try:
        yield
    except G2DError:
        raise
    except Exception as error:
        name, number = type(error).__name__, getattr(error, "errno", None)
        text = " ".join(str(error).split()) or name
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        fault = "it can not be read. Is storage.options.endpoint_url right, and the network there?"
        if isinstance(error, FileNotFoundError):
            fault = "there is no such bucket, folder or file. Is it right, and storage.options.endpoint_url?"
        elif isinstance(error, PermissionError) or "redential" in name + text:
            fault = (
                "access is denied. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or "
                "name a profile (storage.options.profile); they need the rights to list and to read"
            )
        elif number == errno.EBUSY or "SlowDown" in text or "Timeout" in name:
            fault = "it is overloaded, also after several tries. Run again later, or with fewer workers"
        raise DataError(f"{url}: {fault} ({text})") from error


@contextmanager
def writing_cache(folder: Path) -> Iterator[None]:
    """A full disk, or a folder that can not be written, becomes a DataError."""
    try:
        yield
    except OSError as error:
        remedy = "Make room, or set storage.cache_gb or storage.cache_folder."
        raise DataError(f"The cache {folder} can not be written ({error.strerror}). {remedy}") from error


def find_remote(path: Path | str) -> tuple[Remote, str] | None:
    """(what is behind a path, its name there); None: nothing."""
    path = str(path)
    for base, remote in _attached.items():
        if path.startswith(base) and path[len(base) :] in remote.files:
            return remote, path[len(base) :]
    return None


def _missing(paths: list[str]) -> dict[str, tuple[Remote, list[str]]]:
    """Folder → (what is behind it, its unfetched files among these); the others are marked as used."""
    missing: dict[str, tuple[Remote, list[str]]] = {}
    for path in paths:
        if (place := find_remote(path)) is not None:
            with suppress(FileNotFoundError):
                state = os.stat(path)  # noqa: PTH116
                if not state.st_mode & stat.S_IWUSR:
                    missing.setdefault(str(place[0].folder), (place[0], []))[1].append(place[1])
                elif time.time() - state.st_atime > IN_USE / 4:
                    os.utime(path, ns=(time.time_ns(), state.st_mtime_ns))
    return missing


def _time_of(version: str) -> int:
    """Nanoseconds, whole seconds of a time long ago, that differ where versions do."""
    return int.from_bytes(hashlib.blake2b(version.encode(), digest_size=4).digest()) % 10**9 * 10**9
