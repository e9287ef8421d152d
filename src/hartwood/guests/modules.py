"""Drivers that a kernel package has as modules: those that a machine of ours can use, with all that
they depend on, as `modprobe` wants to find them (modprobe(8), modules.dep(5)).

The packages come without lists of dependencies, so these are made of what each module says of
itself in its section `.modinfo`.
"""

from __future__ import annotations

import io
import lzma
from pathlib import Path

from hartwood.guests.catalog import GuestError

#: What is taken along, where the kernel has it as a module: virtio's drivers, and file systems.
WANTED = (
    "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "9pnet_virtio", "9p",
    "ext4", "crc32c_generic",
)  # fmt: skip


def collect(tree: Path) -> dict[str, bytes]:
    """The files for an initial file system, by path; none for a kernel without modules. `tree` is
    an unpacked package. Raises `GuestError` for a module that is damaged or not there."""
    folders = sorted((tree / "usr/lib/modules").glob("*")) or sorted(
        (tree / "lib/modules").glob("*")
    )
    if not folders:
        return {}
    found = {_name(path): path for path in folders[0].rglob("*.ko*")}
    taken, aliases, depends = dict[str, bytes](), list[str](), dict[str, list[str]]()
    todo = [name for name in WANTED if name in found]
    while todo:
        name = todo.pop()
        if name in taken:
            continue
        if name not in found:
            raise GuestError(f"{folders[0].name}: no module {name}, which another one needs")
        taken[name] = _read(found[name])
        says = _says(found[name], taken[name])
        depends[name] = [
            _name(Path(each)) for value in says["depends"] for each in value.split(",")
        ]
        depends[name] = [each for each in depends[name] if each]
        aliases += [f"alias {alias} {name}\n" for alias in says["alias"]]
        todo += depends[name]
    base = f"lib/modules/{folders[0].name}"
    files = {f"{base}/{name}.ko": data for name, data in taken.items()}
    lines = [f"{name}.ko: {' '.join(_all(name, depends))}".rstrip() for name in sorted(taken)]
    files[f"{base}/modules.dep"] = "".join(f"{line}\n" for line in lines).encode()
    files[f"{base}/modules.alias"] = "".join(sorted(aliases)).encode()
    return files


def _name(path: Path) -> str:
    """`virtio-rng.ko.xz` is the module virtio_rng."""
    return path.name.partition(".")[0].replace("-", "_")


def _all(name: str, depends: dict[str, list[str]], above: tuple[str, ...] = ()) -> list[str]:
    """Everything that a module needs, what is needed by others after those (modules.dep(5))."""
    if name in above:
        raise GuestError(f"modules {' and '.join(above)} depend on each other")
    found = list[str]()
    for each in depends[name]:
        found += [f"{each}.ko", *_all(each, depends, (*above, name))]
    return [file for place, file in enumerate(found) if file not in found[place + 1 :]]


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        return lzma.decompress(data) if path.suffix == ".xz" else data
    except lzma.LZMAError as error:
        raise GuestError(f"{path.name}: {error}") from None


def _says(path: Path, data: bytes) -> dict[str, list[str]]:
    """What a module says of itself."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
        text = section.data() if section is not None else b""
    except (ELFError, ValueError) as error:
        raise GuestError(f"{path.name}: no module: {error}") from None
    says: dict[str, list[str]] = {"depends": [], "alias": []}
    for line in text.split(b"\0"):
        key, _, value = line.decode(errors="replace").partition("=")
        says.setdefault(key, []).append(value)
    return says
