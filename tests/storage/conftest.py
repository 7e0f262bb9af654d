"""An S3 server on this machine, which can be told to misbehave, and a raw folder on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import soundfile
from moto.server import DomainDispatcherApplication, create_backend_app
from PIL import Image
from s3fs import S3FileSystem
from werkzeug.serving import make_server

from g2d_pipeline import remote
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.features import FeatureStore, open_store, write_store
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import locate, read_raw

SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message></Error>"
)
FAST = {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 1}}}


@dataclass
class S3:
    """moto's server. `asked`: (method, path) of each request; `slow`: so many of the next are refused;
    `hold`: the next PUT with that in its address is held before it is answered, until it is `released`."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    slow: int = 0
    hold: str | None = None
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": self.url}

    @property
    def fs(self) -> Any:
        return fsspec.filesystem("s3", skip_instance_cache=True, **self.options)

    def wrap(self, app: Any) -> Any:
        def answer(environ: dict[str, Any], start_response: Any) -> Any:
            self.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            address = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
            if environ["REQUEST_METHOD"] == "PUT" and self.hold is not None and self.hold in address:
                self.hold = None
                self.held.set()
                self.released.wait(30)
            if self.slow > 0:
                self.slow -= 1
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [SLOW_DOWN]
            return app(environ, start_response)

        return answer

    def gets(self, start: str = "/") -> list[str]:
        """The objects that were read."""
        return [path for method, path in self.asked if method == "GET" and path.startswith(start)]

    def upload(self, folder: Path, place: str) -> None:
        self.fs.put(f"{folder}/", place, recursive=True)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    s3 = S3()
    app = s3.wrap(DomainDispatcherApplication(create_backend_app))
    served = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    s3.url = f"http://127.0.0.1:{served.server_port}"
    yield s3
    served.shutdown()
    thread.join()


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server with an empty bucket `clips`; nothing is known of what was listed before."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(os, "environ", os.environ)
    forget()
    fs = server.fs
    for bucket in fs.ls(""):
        fs.rm(bucket, recursive=True)
    fs.mkdir("clips")
    server.asked.clear()
    server.held.clear()
    server.released.clear()
    yield server
    server.slow, server.hold = 0, None
    server.released.set()
    forget()


def forget() -> None:
    """As a new process would begin."""
    remote._attached.clear()
    remote._ahead.clear()
    os.environ.pop(remote.LISTED, None)
    fsspec.filesystem("memory").store.clear()
    S3FileSystem.clear_instance_cache()


RATE = 4000
COLUMNS = {"sound": {"kind": "audio", "sample_rate": RATE, "seconds": 0.25, "n_fft": 64, "hop_length": 64},
           "photo": {"kind": "image", "size": 6},
           "steps": {"kind": "sequence", "steps": 4}}  # fmt: skip


@dataclass
class Clips:
    """A project and a raw folder of `n` recordings, pictures and arrays beside it, with a table of them."""

    project: Path
    raw: Path
    n: int = 12

    def __post_init__(self) -> None:
        rng, n = np.random.default_rng(3), self.n
        for name in ("wav", "png", "npy"):
            (self.raw / name).mkdir(parents=True)
        for i in range(n):
            wave = 0.3 * rng.standard_normal(900).clip(-3, 3)
            soundfile.write(self.raw / f"wav/{i}.wav", wave, RATE, subtype="PCM_16")
            Image.fromarray(rng.integers(0, 256, (8, 7, 3), np.uint8)).save(self.raw / f"png/{i}.png")
            np.save(self.raw / f"npy/{i}.npy", rng.normal(size=(3, 2)).astype(np.float32))
        pd.DataFrame({
            "id": [f"s{i}" for i in range(n)], "label": ["dry", "wet"] * (n // 2),
            "fold": ["train"] * (n - n // 3) + ["val"] * (n // 6) + ["test"] * (n // 6),
            "sound": [f"wav/{i}.wav" for i in range(n)], "photo": [f"png/{i}.png" for i in range(n)],
            "steps": [f"npy/{i}.npy" for i in range(n)],
        }).to_csv(self.raw / "metadata.csv", index=False)  # fmt: skip

    def resolve(self, raw_dir: str, **storage: Any) -> Configuration:
        raw = {"layout": "table", "raw_dir": raw_dir, "target": "label", "split": "fold"}
        section = {"raw": raw, "task": "classification", "modalities": COLUMNS}
        files = {
            "dataset": "own",
            "method": "joint",
            "storage": storage,
            "datasets": {"own": section},
            "methods": {"joint": {}},
        }
        return resolve(files, {}, lambda r, s: locate(r, s, self.project), project=self.project)

    def featurize(self, raw_dir: str, folder: Path, workers: int = 1, **storage: Any) -> FeatureStore:
        configuration = self.resolve(raw_dir, **storage)
        manifest = read_raw(configuration.ingest(), self.project)
        settings = configuration.featurize()
        options = settings.options.updated(compute={"workers": workers}, progress=False)
        root = remote.local_folder(self.project, manifest.meta["raw_dir"])
        write_store(folder, manifest, root, settings.model_copy(update={"options": options}))
        return open_store(folder)


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    (tmp_path / "project").mkdir()
    return Clips(tmp_path / "project", tmp_path / "raw")
