"""Trees to compare: the base is the merge-base, built beside the head, with the Python for each.

Nothing here knows Hartwood: any repository with Python code in it will do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hartwood.lab.compare import checkout, git, import_paths
from hartwood.lab.machine import revision
from hartwood.lab.workload import LabError

#: What says which packages a project needs. The same in both revisions: the same Python serves.
PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
#: Branches a change is taken to be meant for, the first that there is.
UPSTREAM = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
NOT_SOURCE = (".git", ".venv", "venv", "node_modules", "__pycache__", ".mypy_cache", "build")


@dataclass(frozen=True)
class Tree:
    """A checkout: where it is, what git calls it, what runs it, what goes on the import path."""

    path: Path
    revision: str
    python: Path
    paths: tuple[Path, ...]


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold this machine's gate: two at once would each see the other's load.

    Raises `LabError` where another holds it, or the lock cannot be had.
    """
    path = Path(tempfile.gettempdir()) / f"hartwood-lab-{os.getuid()}.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LabError(f"{path}: the gate's lock cannot be had: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise LabError("another gate is measuring on this machine; wait for its end") from None
    try:
        yield
    finally:
        os.close(lock)


def resolved(repository: Path, name: str) -> str:
    """The full name of a commit. Raises `LabError`."""
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except LabError as error:
        if "cannot be run" in str(error):
            raise
        raise LabError(f"{name!r} is no revision of {repository}") from None


def merge_base(repository: Path, base: str | None, head: str | None) -> str:
    """The commit to compare with: where head left `base`, or the branch it is meant for.

    Without a base, and with a head that is that branch's own tip, it is the commit before; it is
    the tip itself where the tree has changes. Raises `LabError`.
    """
    tip = resolved(repository, head or "HEAD")
    name = base or next((each for each in UPSTREAM if _exists(repository, each)), None)
    if name is None:
        raise LabError("there is no main branch to compare with: name a revision with --base")
    start = resolved(repository, name)
    try:
        found = git(repository, "merge-base", start, tip)
    except LabError:
        raise LabError(
            f"{name} and {head or 'HEAD'} have no commit in common; is the clone too shallow? "
            "(git fetch --unshallow)"
        ) from None
    changed = head is None and revision(repository).endswith("+")
    if base is None and found == tip and not changed:
        if not _exists(repository, f"{tip}^"):
            raise LabError("this is the first commit there is: nothing to compare with")
        return resolved(repository, f"{tip}^")
    return found


def _exists(repository: Path, name: str) -> bool:
    with contextlib.suppress(LabError):
        resolved(repository, name)
        return True
    return False


@contextlib.contextmanager
def trees(
    repository: Path,
    base: str,
    head: str | None,
    paths: Sequence[str] = (),
    build: str = "",
) -> Iterator[tuple[Tree, Tree]]:
    """Both checkouts, built, gone afterwards. Without `head` it is the repository as it is.

    `paths` (relative to a checkout) go on the import path instead of `src` or the checkout itself;
    `build` is a shell command that is run in each. Raises `LabError`.
    """
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(checkout(repository, base))
        if head is None:
            top = Path(git(repository, "rev-parse", "--show-toplevel"))
            new, name = top, revision(repository)
        else:
            new, name = stack.enter_context(checkout(repository, head)), resolved(repository, head)
        for tree in (old, new):
            if build:
                _command(["sh", "-c", build], tree, f"--build in {tree.name}")
        pythons = interpreters(old, new)
        yield tuple(  # type: ignore[misc]
            Tree(path, called, python, import_of(path, paths))
            for path, called, python in zip((old, new), (base, name), pythons, strict=True)
        )


def import_of(tree: Path, paths: Sequence[str]) -> tuple[Path, ...]:
    """What goes on the import path of a checkout. Raises `LabError` for a path that is not there"""
    found = tuple(tree / path for path in paths) or tuple(import_paths(tree))
    for path in found:
        if not path.is_dir():
            raise LabError(f"--path: there is no folder {path.name} in {tree}")
    return found


def interpreters(base: Path, head: Path) -> tuple[Path, Path]:
    """The Python for each. This one, where both need the same packages; else environments of their
    own, for both, so that they differ in nothing but what the revisions ask for."""
    if _needs(base) == _needs(head):
        return Path(sys.executable), Path(sys.executable)
    return environment(base), environment(head)


def _needs(tree: Path) -> bytes:
    parts = [name.encode() + b"\0" + _bytes(tree / name) for name in PROJECT_FILES]
    return b"\0\0".join(parts)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def environment(tree: Path) -> Path:
    """The Python of a virtual environment with the packages a checkout needs, kept for the next
    time under what names them. Raises `LabError` where it cannot be built."""
    key = hashlib.sha256(sys.version.encode() + _needs(tree)).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "hartwood" / "lab" / key
    python, whole = folder / "bin" / "python", folder / "complete"
    if not whole.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        _command([sys.executable, "-m", "venv", str(folder)], tree, "python -m venv")
        installed = (tree / "pyproject.toml").is_file() or (tree / "setup.py").is_file()
        words = [str(tree)] if installed else ["-r", str(tree / "requirements.txt")]
        if installed or (tree / "requirements.txt").is_file():
            pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input"]
            _command([*pip, *words], tree, f"pip install {tree.name}")
        whole.touch()
    return python


def _command(words: list[str], folder: Path, what: str) -> None:
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
    except OSError as error:
        raise LabError(f"{what}: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise LabError(f"{what} failed: {said[-1][:200] if said else done.returncode}")


def changed(base: Path, head: Path) -> list[str]:
    """Files that differ between two trees, as relative paths: what is in either and is source."""
    files: dict[str, None] = {}
    for tree in (base, head):
        for folder, folders, names in os.walk(tree):
            folders[:] = [name for name in folders if name not in NOT_SOURCE]
            for name in names:
                path = Path(folder) / name
                if path.suffix != ".pyc" and path.is_file():
                    files[str(path.relative_to(tree))] = None
    return sorted(name for name in files if _bytes(base / name) != _bytes(head / name))


@contextlib.contextmanager
def reverted(base: Tree, head: Tree, files: Sequence[str]) -> Iterator[Tree]:
    """The head with these files as they are in the base, gone afterwards. Raises `LabError`."""
    with tempfile.TemporaryDirectory(prefix="hartwood-lab-") as folder:
        tree = Path(folder) / "tree"
        try:
            shutil.copytree(
                head.path, tree, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE)
            )
            for name in files:
                (tree / name).unlink(missing_ok=True)
                if (base.path / name).is_file():
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(base.path / name, tree / name)
        except (OSError, shutil.Error) as error:
            raise LabError(f"{tree}: cannot be written: {error}") from None
        inside = [path.is_relative_to(head.path) for path in head.paths]
        paths = tuple(
            tree / path.relative_to(head.path) if within else path
            for path, within in zip(head.paths, inside, strict=True)
        )
        yield Tree(tree, f"{head.revision} without {len(files)} files", head.python, paths)
