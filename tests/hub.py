"""A Hugging Face Hub on this machine, for tests: the real huggingface_hub client talks to it over HTTP.

    with LocalHub() as hub: hub.commit(repo, {file: bytes}) -> commit hash <- the client: resolve, download, push

It speaks what huggingface_hub 2.4 asks: model info, tree, resolve with ETag and X-Repo-Commit, ranges, large files on
another origin under their SHA-256, and uploads (create, preupload, LFS batch, commit); and release pages, which send
plain files from another origin. Faults can be switched on.
"""

import base64
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import yaml
from huggingface_hub import constants


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit hash -> files
    branches: dict[str, str] = field(default_factory=dict)
    refusal: str | None = None  # the Hub's error code for every request, e.g. "GatedRepo"
    private: bool = False  # whether only those with a token know that it is there
    held: threading.Event | None = None  # what every answer waits for


class LocalHub:
    """Repos in memory behind an HTTP server; `url` is what HF_ENDPOINT would be."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # large files by SHA-256
        self.releases: dict[str, bytes] = {}  # plain files by name, at url/releases/NAME
        self.requests: list[str] = []  # "METHOD /path", and " RANGE" where a part was asked for
        self.tokens: set[str] = set()  # every Authorization that was sent
        self.announced: dict[str, int] = {}  # file name -> the size that is stated in place of its own
        self.drips: set[str] = set()  # file names whose downloads come at some 10 kB/s
        self.cuts: dict[str, int] = {}  # file name -> so many downloads of it are cut off half way
        self.ranges = True  # whether a cut download can go on where it stopped
        self.tampered: dict[str, bytes] = {}  # file name -> what is sent in its place
        self.vanish: set[str] = set()  # file names whose downloads break off without a single byte
        self.silent = False  # whether requests are taken and never answered
        self.broken = False  # whether every answer is 503
        self.stopped = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "LocalHub":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody answers any more: connections are refused. Stopping twice is harmless."""
        self.stopped.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def commit(self, repo_id: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put `files` on top of `branch`; returns the commit hash."""
        repo = self.repos.setdefault(repo_id, Repo())
        parent = repo.branches.get(branch, "")
        content = {**repo.commits.get(parent, {}), **files}
        commit = sha1(repr((parent, sorted(content.items()))).encode()).hexdigest()
        repo.commits[commit], repo.branches[branch] = content, commit
        return commit


@pytest.fixture
def local_hub(tmp_path):
    """A running `LocalHub` that this process's huggingface_hub talks to, with an empty cache and no waiting."""
    with hub_in_place_of_the_real_one(tmp_path) as hub:
        yield hub


@contextmanager
def hub_in_place_of_the_real_one(tmp_path: Path) -> Iterator[LocalHub]:
    """As `local_hub`, for longer than one test."""
    with LocalHub() as hub, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for module in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
            monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0.0))
        yield hub


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def etag(name: str, data: bytes) -> str:
    """SHA-256 of a large file, git's hash of a small one, as the Hub does."""
    return sha256(data).hexdigest() if is_large(name) else sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    """Remembers its connections, since a client would keep talking on an open one after the server is closed."""

    daemon_threads = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._connections: list[socket.socket] = []

    def get_request(self):
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def handle_error(self, *arguments) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # whoever asked has had enough
            super().handle_error(*arguments)

    def hang_up(self) -> None:
        for connection in self._connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _route(self):
        path = unquote(self.path.split("?")[0])
        self.hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".rstrip())
        self.hub.tokens |= {self.headers["Authorization"]} - {None}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self._read_chunks()
        if self.hub.silent:
            self.hub.stopped.wait()
            self.close_connection = True
            return None
        if self.hub.broken:
            return self._json({"error": "down for maintenance"}, 503)
        for method, pattern, answer in self._routes:
            if self.command in method and (match := re.fullmatch(pattern, path)):
                return answer(self, *match.groups())
        return self._json({"error": f"no such route: {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = _route

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _begin(self, status: int, length: int, headers: dict[str, str]):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, status: int, data: bytes = b"", **headers: str):
        self._begin(status, len(data), headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value, status: int = 200, **headers: str):
        self._send(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _refuse(self, status: int, code: str):
        self._json({"error": code}, status, X_Error_Code=code)

    def _files(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, files), or None after a refusal was sent."""
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self.headers["Authorization"]):
            return self._refuse(404, "RepoNotFound")
        if repo.held:
            repo.held.wait()
        if repo.refusal:
            return self._refuse(403, repo.refusal)
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        return commit, repo.commits[commit]

    def _info(self, repo_id: str, revision: str = "main"):
        if found := self._files(repo_id, revision):
            commit, files = found
            info = {"id": repo_id, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            card = files.get("README.md", b"").decode()
            self._json(info | {"cardData": yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None})

    def _tree(self, repo_id: str, revision: str):
        if found := self._files(repo_id, revision):
            entries = []
            for name, data in found[1].items():
                oid = sha1(b"blob %d\0" % len(data) + data).hexdigest()
                entry = {"type": "file", "path": name, "size": len(data), "oid": oid}
                if is_large(name):
                    entry["lfs"] = {"oid": etag(name, data), "size": len(data), "pointerSize": 130}
                entries.append(entry)
            self._json(entries)

    def _resolve(self, repo_id: str, revision: str, name: str):
        if not (found := self._files(repo_id, revision)):
            return
        commit, files = found
        if name not in files:
            return self._json({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data = files[name]
        if is_large(name):  # on the real Hub these lie on another host; here localhost is the other name
            oid = etag(name, data)
            self.hub.blobs[oid] = data
            location = f"http://localhost:{self.hub.port}/large/{oid}/{name}"
            return self._send(
                302,
                Location=location,
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{oid}"',
                X_Linked_Size=str(self.hub.announced.get(name, len(data))),
            )
        self._download(name, data, ETag=f'"{etag(name, data)}"', X_Repo_Commit=commit)

    def _release(self, name: str):
        if (data := self.hub.releases.get(name)) is None:
            return self._send(404, b"Not Found")
        oid = sha256(data).hexdigest()
        self.hub.blobs[oid] = data
        self._send(302, Location=f"http://localhost:{self.hub.port}/large/{oid}/{name}")

    def _large(self, oid: str, name: str):
        self._download(name, self.hub.blobs[oid], ETag=f'"{oid}"')

    def _download(self, name: str, data: bytes, **headers: str):
        data, status = self.hub.tampered.get(name, data), 200
        same = self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]
        if self.hub.ranges and same and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            start, end, status = int(match[1]), min(int(match[2] or len(data)) + 1, len(data)), 206
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            data = data[start:end]
        if self.command == "GET" and name in self.hub.vanish:
            self.close_connection = True
        elif self.command == "GET" and self.hub.cuts.get(name, 0) > 0 and len(data) > 1:
            self.hub.cuts[name] -= 1
            self._begin(status, len(data), headers)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif self.command == "GET" and name in self.hub.drips:
            self._begin(status, len(data), headers)
            with suppress(OSError):  # whoever asked has had enough
                for start in range(0, len(data), 100):
                    self.wfile.write(data[start : start + 100])
                    self.hub.stopped.wait(0.01)
            self.close_connection = True
        else:
            self._send(status, data, **headers)

    def _create(self):
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if repo_id in self.hub.repos:
            return self._json({"url": f"{self.hub.url}/{repo_id}"}, 409)
        self.hub.commit(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.hub.url}/{repo_id}"})

    def _validate_yaml(self):
        self._json({"warnings": [], "errors": []})

    def _preupload(self, repo_id: str, revision: str):
        self._json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(self.body)["files"]
                ]
            }
        )

    def _lfs_batch(self, repo_id: str):
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, oid: str):
        if sha256(self.body).hexdigest() != oid:
            return self._json({"error": "hash mismatch"}, 400)
        self.hub.blobs[oid] = self.body
        self._send(200)

    def _commit(self, repo_id: str, revision: str):
        files = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = self.hub.commit(repo_id, files, revision)
        self._json({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit}", "commitOid": commit})

    _routes = (
        ("POST", "/api/repos/create", _create),
        ("POST", "/api/validate-yaml", _validate_yaml),
        ("POST", "/api/models/([^/]+/[^/]+)/preupload/(.+)", _preupload),
        ("POST", "/api/models/([^/]+/[^/]+)/commit/(.+)", _commit),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", _lfs_batch),
        ("PUT", "/upload/([0-9a-f]{64})", _upload),
        ("GET", "/api/models/([^/]+/[^/]+)/revision/(.+)", _info),
        ("GET", "/api/models/([^/]+/[^/]+)/tree/([^/]+)", _tree),
        ("GET", "/api/models/([^/]+/[^/]+)", _info),
        ("GET HEAD", "/releases/(.+)", _release),
        ("GET HEAD", "/large/([0-9a-f]{64})/(.+)", _large),
        ("GET HEAD", "/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _resolve),
    )
