"""Debian packages of any architecture through the machine's own apt, without root.

apt gets private directories and a private list of sources; the mirror and the proxies are the
machine's own, signatures are checked with the machine's Debian keyring, and the machine's package
lists are neither read nor changed (apt.conf(5), sources.list(5)).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from hartwood.guests.catalog import GuestError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TRIES = 3  # on top of apt's own retries of each file
# The host's own are meant: a sysroot's empty ones would only hide them.
HOST_DIRECTORIES = frozenset({"dev", "proc", "run", "sys", "tmp"})

_CONFIGURATION = """\
Dir::Etc "{folder}/etc";
Dir::Etc::main "apt.conf";
Dir::Etc::parts "parts";
Dir::Etc::sourcelist "private.sources";
Dir::Etc::sourceparts "parts";
Dir::Etc::preferences "preferences";
Dir::Etc::preferencesparts "parts";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/state";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "0";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "0";
Acquire::AllowDowngradeToInsecureRepositories "0";
Acquire::Languages "none";
Acquire::Retries "4";
Debug::NoLocking "1";
"""
_SOURCE = """\
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
Signed-By: {keyring}
"""


class Apt:
    """A private apt for one suite and architecture, with all it keeps in `folder`."""

    def __init__(
        self, folder: Path, *, mirror: str, suite: str, architecture: str, keyring: Path
    ) -> None:
        self.folder = folder
        self.mirror = mirror
        self.suite = suite
        self.architecture = architecture
        self.keyring = keyring

    @classmethod
    def of_machine(cls, folder: Path, *, suite: str, architecture: str) -> Apt:
        """An apt with the machine's own Debian mirror and keyring.

        Raises `GuestError` where there is no apt, no Debian mirror or no Debian keyring.
        """
        for program in ("apt-get", "apt-config", "dpkg-deb"):
            if shutil.which(program) is None:
                raise GuestError(f"{program} is needed to fetch Debian packages; there is none")
        if not KEYRING.exists():
            raise GuestError(f"{KEYRING} is missing; install the package debian-archive-keyring")
        return cls(
            folder,
            mirror=machine_mirror(),
            suite=suite,
            architecture=architecture,
            keyring=KEYRING,
        )

    def update(self) -> None:
        """Fetch the suite's package index and check its signature.

        A machine older than the suite may lack the suite's keys: then the newer keyring is taken
        from the machine's own release, which the old keys vouch for. Raises `GuestError`.
        """
        try:
            self._update()
        except GuestError as error:
            if "NO_PUBKEY" not in str(error) and "not signed" not in str(error):
                raise
            self.keyring = self._newer_keyring()
            self._update()

    def download(self, packages: Sequence[str], *, dependencies: bool = True) -> list[Path]:
        """Fetch `packages` (and what they depend on); return the archives. Raises `GuestError`."""
        archives = self.folder / "cache" / "archives"
        if dependencies:
            self._run("apt-get", "-qq", "--yes", "--download-only", "install", *packages)
        else:
            self._run("apt-get", "-qq", "download", *packages, cwd=archives)
        return sorted(archives.glob("*.deb"))

    def _update(self) -> None:
        for part in ("etc/parts", "state/lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "state" / "status").touch()
        configuration = _CONFIGURATION.format(folder=self.folder, architecture=self.architecture)
        (self.folder / "etc" / "apt.conf").write_text(_machine_transport() + configuration)
        source = _SOURCE.format(mirror=self.mirror, suite=self.suite, keyring=self.keyring)
        (self.folder / "etc" / "private.sources").write_text(source)
        self._run("apt-get", "-qq", "update")

    def _newer_keyring(self) -> Path:
        release = _os_release().get("VERSION_CODENAME", "stable")
        architecture = _output("dpkg", "--print-architecture")
        older = Apt(
            self.folder / "keys",
            mirror=self.mirror,
            suite=release,
            architecture=architecture,
            keyring=self.keyring,
        )
        older._update()
        unpack(older.download(["debian-archive-keyring"], dependencies=False), older.folder / "x")
        return older.folder / "x" / KEYRING.relative_to("/")

    def _run(self, *command: str, cwd: Path | None = None) -> None:
        # apt reads APT_CONFIG before the machine's files, so the private Dir::Etc keeps those
        # (and their hooks, which may expect root) out altogether.
        configuration = self.folder / "etc" / "apt.conf"
        environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
        for attempt in range(1, TRIES + 1):
            done = subprocess.run(
                command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return
            complaint = done.stderr + done.stdout
            if "NO_PUBKEY" in complaint or "Unable to locate" in complaint:
                break
            if attempt < TRIES:
                time.sleep(3 * attempt)
        lines = [line for line in complaint.splitlines() if line.startswith(("E:", "W:"))]
        raise GuestError(f"{' '.join(command[:2])}: {' '.join(lines) or complaint.strip()}")


def machine_mirror() -> str:
    """The address of the Debian archive that this machine's own sources name.

    Raises `GuestError` when they name none.
    """
    override = os.environ.get("HARTWOOD_DEBIAN_MIRROR")
    if override:
        return override
    listing = _output("apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI)")
    for line in listing.splitlines():
        kind, _, address = line.partition(" ")
        # Security archives and third parties' have other names; a mirror keeps this one.
        if kind == "Packages" and address.rstrip("/").endswith("/debian"):
            return address
    raise GuestError(
        "this machine's apt sources name no Debian mirror; set HARTWOOD_DEBIAN_MIRROR to one"
    )


def unpack(archives: Iterable[Path], tree: Path) -> None:
    """Unpack Debian archives into `tree` as an unprivileged user can.

    Owners and set-id bits are dropped, device nodes are left out, and absolute symbolic links are
    made relative, so that they stay inside `tree`. Raises `GuestError` for a damaged archive.
    """
    for name in ("bin", "lib", "sbin"):  # merged /usr: base-files(5) ships these links
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")
    for archive in archives:
        each_member(archive, "--fsys-tarfile", partial(_unpack_member, tree))


def each_member(
    archive: Path, part: str, take: Callable[[tarfile.TarFile, tarfile.TarInfo], None]
) -> None:
    """Give `take` every member of one part of a Debian archive, and what its content is read from.

    `part` is dpkg-deb's word for it: `--fsys-tarfile`, the files, or `--ctrl-tarfile`. Raises
    `GuestError` for a damaged archive.
    """
    command = ("dpkg-deb", part, str(archive))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as members:
                for member in members:
                    take(members, member)
            process.stdout.read()
        except (tarfile.TarError, ValueError, OverflowError) as error:  # of numbers in its headers
            raise GuestError(f"{archive.name}: damaged package: {error}") from error
        finally:
            process.stdout.close()
            complaint = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise GuestError(f"{archive.name}: {complaint}")


def _unpack_member(tree: Path, members: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    inside = PurePosixPath("/", member.name).relative_to("/")
    if ".." in inside.parts:
        raise GuestError(f"{member.name}: a package member that points outside of it")
    path = tree / inside
    if inside.parts[:1] and inside.parts[0] in HOST_DIRECTORIES:
        return
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (member.isfile() or member.issym() or member.islnk()):
        return
    if path.is_symlink() or path.exists():
        path.unlink()
    if member.issym():
        path.symlink_to(_inside_link(inside, member.linkname))
    elif member.islnk():
        path.hardlink_to(tree / PurePosixPath("/", member.linkname).relative_to("/"))
    else:
        content = members.extractfile(member)
        assert content is not None
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
        path.chmod(member.mode & 0o777 | 0o600)


def _inside_link(inside: PurePosixPath, target: str) -> str:
    if not target.startswith("/"):
        return target
    return "/".join([".."] * (len(inside.parts) - 1) + [target.lstrip("/")])


def _machine_transport() -> str:
    """The machine's own settings of how to reach a mirror: proxies, certificates, time checks."""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-")
    lines = _output("apt-config", "dump").splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(wanted))


def _os_release() -> dict[str, str]:
    text = Path("/etc/os-release").read_text()
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value.strip('"') for key, _, value in pairs}


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise GuestError(f"{command[0]}: {error}") from error
