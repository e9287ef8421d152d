#!/usr/bin/env python3
"""Keeps one comment on a pull request up to date with what a run of the gate found.

For the workflow that may write, started by the end of one that may not: a fork's run has no write
token and leaves an artifact. Nothing of that run is believed but figures: the judgement in its
artifact is read as data, the text is made here, and which pull request it belongs to is GitHub's
word, not the artifact's. The comment is found again by its first line and its author.

Exit status: 0 written, or nothing to write to (no pull request, a newer commit); 2 otherwise.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

EXAMPLES = """examples:
  pull_request_comment.py --run 123456789             in GitHub Actions, token in GITHUB_TOKEN
  pull_request_comment.py --pull 7 --judgement gate.json   with any other CI

environment: GITHUB_TOKEN, GITHUB_REPOSITORY (owner/name), GITHUB_API_URL (https://api.github.com)
exit status: 0 written, or nothing to write to; 2 otherwise
"""
LARGEST = 20 << 20  # bytes of an artifact, or of the judgement in it
LONGEST = 60_000  # characters; GitHub takes 65,536
TIMEOUT = 30.0


class Trouble(Exception):
    """What went wrong, in a line."""


class TooLarge(Trouble):
    """More came than anything of ours is long."""


class _Redirect(urllib.request.HTTPRedirectHandler):
    """An artifact is elsewhere, under an address that is its own permission: the token stays."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
        headers: HTTPMessage, newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None:
            made.remove_header("Authorization")
        return made


class GitHub:
    """The few REST calls there are to make (docs.github.com/rest, version 2022-11-28)."""

    def __init__(self, api: str, repository: str, token: str) -> None:
        self._root = f"{api.rstrip('/')}/repos/{repository}"
        self._token = token
        self._open = urllib.request.build_opener(_Redirect).open

    def raw(self, method: str, path: str, body: object = None) -> bytes:
        """The answer to a request. Raises `Trouble`."""
        request = urllib.request.Request(self._root + path, method=method)
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        request.add_header("Authorization", f"Bearer {self._token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with self._open(request, timeout=TIMEOUT) as answer:
                found: bytes = answer.read(LARGEST + 1)
        except urllib.error.HTTPError as error:
            raise Trouble(f"{method} {path}: {error.code} {error.reason}") from None
        except OSError as error:
            raise Trouble(f"{method} {path}: {error}") from None
        if len(found) > LARGEST:
            raise TooLarge(f"{method} {path}: more than {LARGEST} bytes")
        return found

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The same as parsed JSON."""
        try:
            return json.loads(self.raw(method, path, body))
        except ValueError:
            raise Trouble(f"{method} {path}: no JSON came back") from None

    def pages(self, path: str) -> Iterator[Any]:
        """Every entry of a list, page by page."""
        mark = "&" if "?" in path else "?"
        for page in range(1, 1000):
            found = self.call("GET", f"{path}{mark}per_page=100&page={page}")
            entries = found["artifacts"] if isinstance(found, dict) else found
            yield from entries
            if len(entries) < 100:
                return


def pull_of(github: GitHub, run: dict[str, Any]) -> int | None:
    """The open pull request that a run was of; None where there is none, or it has moved on."""
    owner = run["head_repository"]["owner"]["login"]
    head = urllib.parse.quote(f"{owner}:{run['head_branch']}", safe="")
    for pull in github.pages(f"/pulls?state=open&head={head}"):
        if pull["head"]["sha"] == run["head_sha"]:
            return int(pull["number"])
    return None


def judgement_of(github: GitHub, run: int, artifact: str) -> bytes | None:
    """gate.json of a run's artifact; None where the run left none."""
    for each in github.pages(f"/actions/runs/{run}/artifacts"):
        if each["name"] != artifact or each.get("expired"):
            continue
        try:
            data = github.raw("GET", f"/actions/artifacts/{int(each['id'])}/zip")
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("gate.json") as file:
                found = file.read(LARGEST + 1)
        except (TooLarge, KeyError, zipfile.BadZipFile, RuntimeError, EOFError, zlib.error):
            return None
        return found if len(found) <= LARGEST else None
    return None


def text_of(judgement: bytes | None, link: str) -> str:
    """The comment. What cannot be read is "not judged" with its reason, never green."""
    from hartwood.lab.report import Report, load, markdown
    from hartwood.lab.workload import LabError

    found = Report(faults=["the run left no judgement"])
    if judgement is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gate.json"
            path.write_bytes(judgement)
            try:
                found = load([path])
                if found.judgement is None:
                    found = Report(faults=["the artifact holds no judgement"])
            except LabError as error:
                found = Report(faults=[str(error).replace(str(path), path.name)])
    text = markdown(found)
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition("\n")[0] + "\n\n(cut here; the rest is in the artifact)\n"
    return f"{text}\n[The run, with the whole report]({link})\n" if link else text


def put(github: GitHub, pull: int, text: str, author: str) -> str:
    """Update our comment, or make it where there is none yet; gives what was done."""
    from hartwood.lab.report import MARK

    ours = [
        each
        for each in github.pages(f"/issues/{pull}/comments")
        if each["body"].startswith(MARK) and each["user"]["login"] == author
    ]
    if not ours:
        github.call("POST", f"/issues/{pull}/comments", {"body": text})
        return "made"
    if ours[0]["body"] == text:
        return "left as it was"
    github.call("PATCH", f"/issues/comments/{int(ours[0]['id'])}", {"body": text})
    return "updated"


def main(words: list[str]) -> int:
    """Do it; give the exit status. Raises `Trouble`."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=int, help="the run whose artifact to read")
    parser.add_argument("--artifact", default="benchmark", help="its name (benchmark)")
    parser.add_argument("--pull", type=int, help="the pull request, where there is no run")
    parser.add_argument("--judgement", type=Path, help="the judgement, where there is no run")
    parser.add_argument("--author", default="github-actions[bot]", help="who the token belongs to")
    parsed = parser.parse_args(words)
    if (parsed.run is None) == (parsed.pull is None or parsed.judgement is None):
        parser.error("name either --run, or both --pull and --judgement")
    token, repository = (os.environ.get(f"GITHUB_{name}", "") for name in ("TOKEN", "REPOSITORY"))
    if not token or "/" not in repository:
        raise Trouble("GITHUB_TOKEN and GITHUB_REPOSITORY (owner/name) have to be set")
    github = GitHub(os.environ.get("GITHUB_API_URL") or "https://api.github.com", repository, token)
    pull, link, judgement = parsed.pull, "", None
    if parsed.run is None:
        judgement = parsed.judgement.read_bytes() if parsed.judgement.is_file() else None
    else:
        run = github.call("GET", f"/actions/runs/{parsed.run}")
        pull, link = pull_of(github, run), run["html_url"]
        if pull is None:
            print("no comment: the run is of no open pull request, or not of its newest commit")
            return 0
        judgement = judgement_of(github, parsed.run, parsed.artifact)
    print(f"comment on #{pull}: {put(github, pull, text_of(judgement, link), parsed.author)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Exception as error:
        print(f"pull_request_comment: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
