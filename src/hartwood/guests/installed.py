"""A Debian system of packages, as dpkg leaves it when their files are in place.

deb(5) and deb-control(5) for what comes in, dpkg's own database (lib/dpkg/dump.c, infodb-format.c,
triglib.c) for what goes out. A package is "install ok installed" when it has no scripts, or none
whose work is left to do; another is "install ok unpacked", so that `dpkg --configure -a` within the
guest finishes the work.
"""

from __future__ import annotations

import hashlib
import re
import stat
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path

from hartwood.guests.catalog import GuestError
from hartwood.guests.packages import each_member
from hartwood.guests.tree import Node, Tree

DATABASE = "var/lib/dpkg"
CONTROL_LIMIT = 4 << 20  # bytes of a package's control part
MEMBERS = 1 << 17  # files of one package
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # deb-control(5): Package, and names of control files
_KINDS = {
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def install(
    archives: Sequence[Path], tree: Tree, *, architecture: str, exclude: str = "",
    settled: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """Unpack `archives` into `tree` and register them there; return those that stay unpacked, since
    they have scripts and are not among the `settled` ones.

    Files whose path matches the regular expression `exclude` are known to dpkg and not there, as
    with its path-exclude. Raises `GuestError` for a damaged or a hostile package.
    """
    database = _Database(tree, architecture, settled)
    left_out = re.compile(exclude) if exclude else None
    for archive in archives:
        try:
            control = _control(archive)
            names = _unpack(archive, tree, left_out)
            database.register(control, names)
        except GuestError as error:
            if archive.name in str(error):
                raise
            raise GuestError(f"{archive.name}: {error}") from error
    database.close()
    return database.unpacked


def _control(archive: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def take(part: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./")
        if not member.isfile():
            return
        size = member.size + sum(map(len, found.values()))
        if not _NAME.fullmatch(name) or size > CONTROL_LIMIT:
            raise GuestError(f"{member.name[:80]!r}: no file that a package's control part has")
        content = part.extractfile(member)
        assert content is not None
        found[name] = content.read()

    each_member(archive, "--ctrl-tarfile", take)
    return found


def _unpack(archive: Path, tree: Tree, left_out: re.Pattern[str] | None) -> list[str]:
    names: list[str] = []

    def take(part: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = "/" + member.name.removeprefix("./").strip("/")
        if "\n" in path:
            raise GuestError(f"{path!r}: no path that a package may have")
        if len(names) == MEMBERS:
            raise GuestError(f"more than {MEMBERS} files")
        names.append(path if path != "/" else "/.")
        if left_out is None or member.isdir() or not left_out.search(path):
            tree.add(path, _node(part, member, tree))

    each_member(archive, "--fsys-tarfile", take)
    return names


def _node(part: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree) -> Node:
    """The inode that a member of an archive asks for; owners by number, as base-passwd has them."""
    if member.islnk():
        node = tree.find(member.linkname, follow=False)
        if node.is_directory:
            raise GuestError(f"{member.name}: a hard link to a directory")
        return node
    if not (0 <= member.uid < 1 << 32 and 0 <= member.gid < 1 << 32):
        raise GuestError(f"{member.name}: owned by nobody that can be")
    node = Node(member.mode & 0o7777, member.uid, member.gid, int(member.mtime))
    if member.isdir():
        node.mode |= stat.S_IFDIR
    elif member.issym():
        length = len(member.linkname.encode(errors="surrogateescape"))
        if not 0 < length < 4096 or "\0" in member.linkname:
            raise GuestError(f"{member.name}: a symbolic link to nowhere")
        node.mode, node.target = stat.S_IFLNK | 0o777, member.linkname
    elif member.isfile():
        content = part.extractfile(member)
        assert content is not None
        node.mode |= stat.S_IFREG
        node.span = tree.keep(content, member.size, member.name)
    elif member.type in _KINDS:
        if not (0 <= member.devmajor < 1 << 12 and 0 <= member.devminor < 1 << 20):
            raise GuestError(f"{member.name}: a device that Linux has no numbers for")
        node.mode |= _KINDS[member.type]
        node.device = (member.devmajor, member.devminor)
    else:
        raise GuestError(f"{member.name}: a member of the unknown kind {member.type!r}")
    return node


class _Database:
    """dpkg's record of a system, under construction."""

    def __init__(self, tree: Tree, architecture: str, settled: Collection[str]) -> None:
        self.tree, self.architecture, self.settled = tree, architecture, settled
        self.status: list[str] = []
        self.unpacked: list[str] = []
        self.triggers: dict[str, list[str]] = {}

    def register(self, control: dict[str, bytes], names: list[str]) -> None:
        """Write down one package: its control files and the paths that are its."""
        fields = control.get("control", b"").decode(errors="surrogateescape").strip("\n")
        name, architecture = _field(fields, "Package"), _field(fields, "Architecture")
        if not _NAME.fullmatch(name) or architecture not in (self.architecture, "all"):
            raise GuestError(f"not a package for {self.architecture}: {name!r}, {architecture!r}")
        if "\n\n" in fields or _field(fields, "Status"):
            raise GuestError("more than the one paragraph of one package in its control file")
        same = _field(fields, "Multi-Arch") == "same"
        known_as = f"{name}:{self.architecture}" if same else name
        files = {part: data for part, data in control.items() if part != "control"}
        files["list"] = "".join(f"{path}\n" for path in names).encode(errors="surrogateescape")
        for part, data in files.items():
            script = part in ("preinst", "postinst", "prerm", "postrm", "config")
            self.tree.file(f"{DATABASE}/info/{known_as}.{part}", data, 0o755 if script else 0o644)
        left = not files.keys().isdisjoint(("preinst", "postinst")) and name not in self.settled
        self.unpacked += [name] * left
        first, _, rest = fields.partition("\n")
        state = "unpacked" if left else "installed"
        lines = [first, f"Status: install ok {state}", *rest.splitlines()]
        self.status.append("\n".join([*lines, *self._conffiles(files.get("conffiles", b""))]))
        self._interests(known_as, files.get("triggers", b"").decode(errors="replace"))

    def _conffiles(self, listing: bytes) -> list[str]:
        """The field of configuration files: theirs are in place, with the sums they came with."""
        lines = ["Conffiles:"]
        for path in listing.decode(errors="surrogateescape").split("\n"):
            if not path.startswith("/"):  # or has a flag, and is not there
                continue
            content = self.tree.read(path)
            lines.append(f" {path} {hashlib.md5(content, usedforsecurity=False).hexdigest()}")
        return lines if len(lines) > 1 else []

    def _interests(self, package: str, text: str) -> None:
        """deb-triggers(5): interests in a path are one file, those in a name one each."""
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if len(words) != 2 or not words[0].startswith("interest"):
                continue
            noawait = "/noawait" if words[0] == "interest-noawait" else ""
            if words[1].startswith("/"):
                self.triggers.setdefault("File", []).append(f"{words[1]} {package}{noawait}")
            elif _NAME.fullmatch(words[1]):
                self.triggers.setdefault(words[1], []).append(f"{package}{noawait}")

    def close(self) -> None:
        """Write what is one file for all packages."""
        for part in ("info", "updates", "parts", "triggers", "alternatives"):
            self.tree.directory(f"{DATABASE}/{part}")
        status = "".join(f"{paragraph}\n\n" for paragraph in self.status)
        files = {"status": status, "info/format": "1\n", "arch": f"{self.architecture}\n"}
        files |= dict.fromkeys(("available", "diversions", "statoverride", "triggers/Unincorp"), "")
        for trigger, lines in self.triggers.items():
            files[f"triggers/{trigger}"] = "".join(f"{line}\n" for line in lines)
        for path, text in files.items():
            self.tree.file(f"{DATABASE}/{path}", text.encode(errors="surrogateescape"))


def _field(fields: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*)$", fields, re.MULTILINE | re.IGNORECASE)
    return found[1].strip() if found else ""
