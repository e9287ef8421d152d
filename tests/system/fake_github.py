"""A GitHub of our own on 127.0.0.1: the REST calls that the comment's script makes, and no more.

Paths, fields and statuses are those of docs.github.com/rest; what is asked for in another way gets
404, as there. Tokens may read or write; artifacts are handed out from another host name, where the
token must not come along.
"""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

READ, WRITE = "token-that-reads", "token-that-writes"
BOT = "github-actions[bot]"


class GitHub:
    """One repository, `o/r`: its pull requests, comments, runs and artifacts."""

    repository = "o/r"

    def __init__(self) -> None:
        self.pulls: list[dict[str, Any]] = []
        self.comments: list[dict[str, Any]] = []
        self.runs: dict[int, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.log: list[tuple[str, str]] = []
        self.broken = ""  # a path that answers with 500
        self.port = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pull(self, owner: str, branch: str, sha: str) -> int:
        number = len(self.pulls) + 1
        login = {"login": owner}
        head = {"ref": branch, "sha": sha, "user": login, "label": f"{owner}:{branch}"}
        self.pulls.append({"number": number, "state": "open", "head": head})
        return number

    def run(self, owner: str, branch: str, sha: str) -> dict[str, Any]:
        number = 1000 + len(self.runs)
        self.runs[number] = {
            "id": number, "event": "pull_request", "head_branch": branch, "head_sha": sha,
            "html_url": f"https://github.com/o/r/actions/runs/{number}",
            "head_repository": {"full_name": f"{owner}/r", "owner": {"login": owner}},
            # For a fork's run GitHub leaves this empty.
            "pull_requests": [],
        }  # fmt: skip
        return self.runs[number]

    def artifact(self, run: int, name: str, files: dict[str, bytes]) -> None:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        self.artifacts.append(
            {"id": len(self.artifacts) + 1, "name": name, "run": run, "data": data.getvalue(),
             "expired": False}
        )  # fmt: skip

    def comment(self, pull: int, body: str, login: str) -> None:
        made = {"id": 500 + len(self.comments), "body": body, "user": {"login": login}}
        self.comments.append({**made, "pull": pull})

    def answer(self, method: str, target: str, body: Any, token: str) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        url, query = urlsplit(target), parse_qs(urlsplit(target).query)
        self.log.append((method, url.path))
        if self.broken and url.path.endswith(self.broken):
            return 500, {}
        if token not in (READ, WRITE):
            return 401, {}
        if method != "GET" and token != WRITE:
            return 403, {"message": "Resource not accessible by integration"}
        size, page = (int(query.get(key, [usual])[0]) for key, usual in (("per_page", "30"),
                                                                        ("page", "1")))  # fmt: skip

        def paged(entries: list[Any]) -> list[Any]:
            return entries[(page - 1) * size : page * size]

        def is_(pattern: str) -> re.Match[str] | None:
            return re.fullmatch(f"/repos/o/r{pattern}", url.path)

        if is_("/pulls") and method == "GET":
            found = [p for p in self.pulls if p["state"] == query.get("state", ["open"])[0]]
            if "head" in query:
                found = [p for p in found if p["head"]["label"] == query["head"][0]]
            return 200, paged(found)
        if (at := is_(r"/issues/(\d+)/comments")) and method in ("GET", "POST"):
            if method == "POST":
                self.comment(int(at[1]), body["body"], BOT)
                return 201, self.comments[-1]
            return 200, paged([c for c in self.comments if c["pull"] == int(at[1])])
        if (at := is_(r"/issues/comments/(\d+)")) and method == "PATCH":
            (found_one,) = [c for c in self.comments if c["id"] == int(at[1])]
            found_one["body"] = body["body"]
            return 200, found_one
        if (at := is_(r"/actions/runs/(\d+)")) and int(at[1]) in self.runs:
            return 200, self.runs[int(at[1])]
        if at := is_(r"/actions/runs/(\d+)/artifacts"):
            entries = [
                {key: each[key] for key in ("id", "name", "expired")}
                for each in self.artifacts if each["run"] == int(at[1])
            ]  # fmt: skip
            return 200, {"total_count": len(entries), "artifacts": paged(entries)}
        if at := is_(r"/actions/artifacts/(\d+)/zip"):
            return 302, f"http://localhost:{self.port}/storage/{at[1]}?sig=secret"
        return 404, {"message": "Not Found"}


@contextmanager
def serving() -> Iterator[GitHub]:
    """A GitHub that answers until the end of the block."""
    github = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if self.path.startswith("/storage/"):
                number = int(urlsplit(self.path).path.rpartition("/")[2])
                (found,) = [a for a in github.artifacts if a["id"] == number]
                # The storage takes its own signature and refuses any other permission beside it.
                self._send(400 if token else 200, b"" if token else found["data"])
                return
            body = json.loads(sent) if sent else None
            status, value = github.answer(self.command, self.path, body, token)
            if status == 302:
                self.send_response(302)
                self.send_header("Location", value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send(status, json.dumps(value).encode())

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _do

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        github.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield github
        finally:
            server.shutdown()
            thread.join()
