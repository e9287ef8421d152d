"""From a relocatable object to one flat, position-independent blob, and that blob as a file.

`flatten` does a linker's work for code that needs no linker: one object, nothing undefined,
nothing writable, nothing that depends on the address it is loaded at. System V gABI chapters 4
and 5; the x86-64 psABI, section 4.4, for the relocations.
"""

from __future__ import annotations

from struct import Struct, error

from hartwood.errors import ImageError

try:  # hashlib pulls in OpenSSL: 4 ms of start-up that a checksum does not need.
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter that was built without it
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"HWIMAGE\n"
VERSION = 1

_MACHINE = 62  # EM_X86_64
_EHDR = Struct("<16sHHIQQQIHHHHHH")
_SHDR = Struct("<IIQQQQIIQQ")
_SYM = Struct("<IBBHQQ")
_RELA = Struct("<QQq")
_FAULT = Struct("<II")

# Section types and flags (gABI figures 4-9 and 4-11).
_PROGBITS, _SYMTAB, _RELA_TYPE, _NOTE, _NOBITS, _REL = 1, 2, 4, 7, 8, 9
_UNWIND = 0x7000_0001
_WRITE, _ALLOC, _EXEC, _TLS, _COMPRESSED = 1, 2, 4, 0x400, 0x800
_UNDEF, _RESERVED = 0, 0xFF00

# Relocations (psABI table 4.9).
_R_NONE, _R_PC32, _R_PLT32, _R_PC64 = 0, 2, 4, 24
_R_GOTPCRELX, _R_REX_GOTPCRELX = 41, 42
_R_NAMES = {1: "64", 3: "GOT32", 9: "GOTPCREL", 10: "32", 11: "32S", 22: "TPOFF32"}

FAULT_SECTION = ".hwfault"
SLOT_SECTION = ".hwslot"
_MAX_ALIGN = 4096
_MAX_NAME = 1024
_MAX_CODE = 1 << 30

# magic, version, machine, then the sizes of the six parts; the digest follows.
_HEADER = Struct("<8sHH7I")
_DIGEST = 32


class Image:
    """Machine code and constants that run at any page-aligned address.

    `code` is the blob; `entries` maps the name of each global symbol to its offset; `slots` maps
    names of 8-byte words in the blob that `CodeArena.install` fills in, because only then is
    their value known; `faults` holds pairs of little-endian u32 (offset of an instruction that
    may fault, offset to continue at), sorted by the first; `meta` belongs to the caller.
    """

    __slots__ = ("code", "entries", "faults", "meta", "slots")

    def __init__(
        self,
        code: bytes | memoryview,
        entries: Mapping[str, int],
        faults: bytes | memoryview = b"",
        slots: Mapping[str, int] | None = None,
        meta: bytes = b"",
    ) -> None:
        self.code = code
        self.entries = entries
        self.faults = faults
        self.slots = slots or {}
        self.meta = meta

    @property
    def fault_pairs(self) -> list[tuple[int, int]]:
        """(instruction offset, landing offset), sorted by instruction."""
        return list(_FAULT.iter_unpack(self.faults))

    def dump(self) -> bytes:
        """The image as the content of a file."""
        entry_names, entry_offsets = _pack_names(self.entries)
        slot_names, slot_offsets = _pack_names(self.slots)
        parts = (
            self.code, self.faults, entry_offsets, entry_names, slot_offsets, slot_names, self.meta
        )  # fmt: skip
        header = _HEADER.pack(MAGIC, VERSION, _MACHINE, *map(len, parts))
        digest = blake2b(header, digest_size=_DIGEST)
        for part in parts:
            digest.update(part)
        return b"".join((header, digest.digest(), *parts))

    @classmethod
    def load(cls, data: bytes | memoryview) -> Image:
        """The image that `dump` wrote; `code` and `faults` are views of `data`, not copies.

        Raises `ImageError` for anything else: another version, a truncated or altered file.
        """
        view = memoryview(data)
        start = _HEADER.size + _DIGEST
        if len(view) < start or view[:8] != MAGIC:
            raise ImageError("not a code image: the header is missing")
        _, version, machine, *sizes = _HEADER.unpack_from(view)
        if (version, machine) != (VERSION, _MACHINE):
            raise ImageError(f"code image of version {version} for machine {machine}")
        if start + sum(sizes) != len(view):
            raise ImageError(f"code image of {len(view)} bytes, not {start + sum(sizes)}")
        digest = blake2b(view[: _HEADER.size], digest_size=_DIGEST)
        digest.update(view[start:])
        if digest.digest() != view[_HEADER.size : start]:
            raise ImageError("code image is damaged: its checksum does not match")
        parts = []
        for size in sizes:
            parts.append(view[start : start + size])
            start += size
        code, faults, entry_offsets, entry_names, slot_offsets, slot_names, meta = parts
        entries = _unpack_names(entry_names, entry_offsets, len(code))
        slots = _unpack_names(slot_names, slot_offsets, len(code) - 7)
        _check_faults(faults, len(code))
        return cls(code, entries, faults, slots, bytes(meta))


def join(first: Image, second: Image) -> Image:
    """One image of two, with the first one's meta; a name that both export is the second one's."""
    at = len(first.code) + 63 & -64
    words = memoryview(second.faults).cast("B").cast("I").tolist()
    moved = Struct(f"<{len(words)}I").pack(*(at + word for word in words))
    return Image(
        bytes(first.code).ljust(at, b"\xcc") + bytes(second.code),
        {**first.entries, **{name: at + where for name, where in second.entries.items()}},
        bytes(first.faults) + moved,
        {**first.slots, **{name: at + where for name, where in second.slots.items()}},
        first.meta,
    )


def _pack_names(table: Mapping[str, int]) -> tuple[bytes, bytes]:
    if any("\0" in name or not name for name in table):
        raise ImageError("an entry's name is empty or contains a zero byte")
    names = "\0".join(table).encode()
    try:
        return names, Struct(f"<{len(table)}I").pack(*table.values())
    except error as reason:
        raise ImageError(f"an entry's offset does not fit: {reason}") from None


def _unpack_names(names: memoryview, offsets: memoryview, limit: int) -> dict[str, int]:
    try:
        keys = str(names, "utf-8").split("\0") if names else []
        values = offsets.cast("I").tolist()
    except (TypeError, ValueError) as reason:
        raise ImageError(f"code image has an unreadable table of names: {reason}") from None
    if len(keys) != len(values) or (values and max(values) >= limit):
        raise ImageError("code image has an entry outside its code")
    return dict(zip(keys, values, strict=True))


def _check_faults(faults: memoryview, limit: int) -> None:
    """The signal handler trusts the table: it must be sorted and point into the code."""
    if len(faults) % _FAULT.size:
        raise ImageError("code image has a torn fault table")
    words = faults.cast("I").tolist()
    keys = words[::2]
    if words and (max(words) >= limit or sorted(keys) != keys):
        raise ImageError("code image has a fault table that is unsorted or leaves its code")


class _Section:
    """One allocated section and where it goes in the blob."""

    __slots__ = ("align", "data", "name", "place", "rank")

    def __init__(self, name: str, flags: int, align: int, data: memoryview) -> None:
        self.name = name
        self.align = align
        self.data = data
        self.place = -1
        #: Instructions first, then constants, so that one bound tells them apart; slots last.
        self.rank = 0 if flags & _EXEC else 2 if name == SLOT_SECTION else 1


def flatten(obj: bytes, meta: bytes = b"") -> Image:
    """Lay out and relocate the object `obj` that LLVM emitted (x86-64, reloc=pic, small model).

    Raises `ImageError` for an object that is damaged, is not self-contained (the message names
    the undefined symbol), has writable data, or needs to know its address.
    """
    try:
        return _Flattener(obj).run(meta)
    except (error, IndexError, UnicodeDecodeError) as reason:
        # A field that points outside the object, whichever field it was.
        raise ImageError(f"object file is damaged: {reason}") from None


class _Flattener:
    """The state of one `flatten`."""

    def __init__(self, obj: bytes) -> None:
        self.obj = memoryview(obj)
        self.sections: dict[int, _Section] = {}
        self.dropped: set[int] = set()
        self.relocations: list[tuple[int, memoryview]] = []
        self.symbols: list[tuple[int, int, int, int, int, int]] = []
        self.strings = b""
        self.blob = bytearray()
        self.text_end = 0
        self.addresses: list[int | None] = []

    def run(self, meta: bytes) -> Image:
        headers = self.read_headers()
        self.classify(headers)
        self.lay_out()
        self.resolve_symbols()
        targets: dict[int, dict[int, int]] = {}
        for index, table in self.relocations:
            section = self.sections.get(index)
            if section is None:
                continue  # relocates something that was dropped, such as .eh_frame
            if section.name == FAULT_SECTION:
                targets.setdefault(index, {}).update(self.fault_targets(section, table))
            else:
                self.relocate(section, table)
        faults = self.fault_table(targets)
        entries, slots = self.exports()
        return Image(bytes(self.blob), entries, faults, slots, meta)

    def cut(self, offset: int, size: int, what: str) -> memoryview:
        if offset + size > len(self.obj):
            raise ImageError(f"object file is truncated: {what} ends at {offset + size}")
        return self.obj[offset : offset + size]

    def read_headers(self) -> list[tuple[int, ...]]:
        (ident, kind, machine, version, _, _, shoff, _, _, _, _, shentsize, shnum, shstrndx) = (
            _EHDR.unpack_from(self.obj)
        )
        if ident[:7] != b"\x7fELF\x02\x01\x01" or (kind, version) != (1, 1):
            raise ImageError("not a relocatable little-endian ELF64 object")
        if machine != _MACHINE:
            raise ImageError(f"object file is for machine {machine}, not x86-64")
        if shentsize != _SHDR.size or not 0 < shnum < _RESERVED or shstrndx >= shnum:
            raise ImageError("object file has a bad section table")
        table = self.cut(shoff, shnum * _SHDR.size, "section table")
        headers = list(_SHDR.iter_unpack(table))
        # Real sections do not overlap; a crafted file whose sections do could otherwise make
        # a small object cost any amount of time and memory.
        if sum(h[5] for h in headers if h[1] != _NOBITS) > len(self.obj):
            raise ImageError("object file has overlapping sections")
        names = headers[shstrndx]
        self.strings = bytes(self.cut(names[4], names[5], "section names"))
        return headers

    def name_at(self, strings: bytes, offset: int) -> str:
        end = strings.find(b"\0", offset, offset + _MAX_NAME)
        if end < 0:
            raise ImageError(f"object file has a name without end at {offset}")
        return strings[offset:end].decode()

    def classify(self, headers: list[tuple[int, ...]]) -> None:
        """Decide for every section: part of the blob, read here, dropped or refused."""
        for index, header in enumerate(headers):
            name_at, kind, flags, _, offset, size, link, info, align, _ = header
            name = self.name_at(self.strings, name_at)
            if kind == _RELA_TYPE:
                table = self.cut(offset, size, name)
                if size % _RELA.size:
                    raise ImageError(f"object file has a torn relocation table {name}")
                self.relocations.append((info, table))
            elif kind == _SYMTAB:
                table = self.cut(offset, size, name)
                self.symbols = list(_SYM.iter_unpack(table))
                strings = headers[link]
                self.strings_of_symbols = bytes(self.cut(strings[4], strings[5], "symbol names"))
            elif kind == _REL:
                raise ImageError(f"object file has relocations without addends: {name}")
            elif not flags & _ALLOC:
                continue
            elif kind in (_NOTE, _UNWIND) or name == ".eh_frame" or not size:
                # No unwinder ever sees this code, and an empty section holds nothing.
                self.dropped.add(index)
            elif kind != _PROGBITS or flags & (_TLS | _COMPRESSED):
                raise ImageError(f"generated code may not have a section like {name}")
            elif flags & _WRITE and name != SLOT_SECTION and not name.startswith(".data.rel.ro"):
                raise ImageError(f"generated code has writable data in {name}")
            elif align & (align - 1) or align > _MAX_ALIGN:
                raise ImageError(f"section {name} has alignment {align}")
            else:
                data = self.cut(offset, size, name)
                self.sections[index] = _Section(name, flags, align, data)

    def lay_out(self) -> None:
        """Give every section its place in the blob."""
        kept = [s for s in self.sections.values() if s.name != FAULT_SECTION]
        for section in sorted(kept, key=lambda section: section.rank):
            padding = -len(self.blob) % max(section.align, 8 if section.rank == 2 else 1)
            # int3 between functions: what is never run by accident is never debugged.
            self.blob += (b"\0" if section.rank else b"\xcc") * padding
            section.place = len(self.blob)
            self.blob += section.data
            if not section.rank:
                self.text_end = len(self.blob)
        if len(self.blob) > _MAX_CODE:
            raise ImageError(f"object file is too large: {len(self.blob)} bytes")

    def resolve_symbols(self) -> None:
        """Offset in the blob of every symbol, None for one that may not be referred to."""
        for _, _, _, home, value, _ in self.symbols:
            section = self.sections.get(home)
            if section is None or section.place < 0 or value > len(section.data):
                self.addresses.append(None)
            else:
                self.addresses.append(section.place + value)

    def symbol_name(self, index: int) -> str:
        return self.name_at(self.strings_of_symbols, self.symbols[index][0])

    def unresolved(self, index: int) -> ImageError:
        home = self.symbols[index][3]
        name = self.symbol_name(index)
        if home == _UNDEF:
            return ImageError(f"generated code is not self-contained: {name!r} is undefined")
        return ImageError(f"generated code refers to {name!r}, which has no place in the image")

    def relocate(self, section: _Section, table: memoryview) -> None:
        blob, place, size = self.blob, section.place, len(section.data)
        addresses = self.addresses
        for offset, info, addend in _RELA.iter_unpack(table):
            kind = info & 0xFFFF_FFFF
            if kind == _R_NONE:
                continue
            target = addresses[info >> 32]
            if target is None:
                raise self.unresolved(info >> 32)
            width = 8 if kind == _R_PC64 else 4
            if offset + width > size:
                raise ImageError(f"object file has a relocation outside {section.name}")
            at = place + offset
            value = target + addend - at
            if kind in (_R_GOTPCRELX, _R_REX_GOTPCRELX):
                moved = self.relax(at, section)
                at, value = at + moved, value - moved
            elif kind not in (_R_PC32, _R_PLT32, _R_PC64):
                word = _R_NAMES.get(kind, str(kind))
                raise ImageError(
                    f"code is not position independent: relocation R_X86_64_{word} in "
                    f"{section.name} against {self.symbol_name(info >> 32)!r}"
                )
            if not -(1 << 8 * width - 1) <= value < 1 << 8 * width - 1:
                raise ImageError(f"object file has a relocation out of reach in {section.name}")
            blob[at : at + width] = value.to_bytes(width, "little", signed=True)

    def relax(self, at: int, section: _Section) -> int:
        """Turn an access through the global offset table into a direct one (psABI B.2): there is
        no table, because it would hold absolute addresses. Gives how far the field moved."""
        opcode, modrm = self.blob[at - 2], self.blob[at - 1]
        if at - section.place >= 2 and modrm & 0xC7 == 5 and opcode == 0x8B:
            self.blob[at - 2] = 0x8D  # mov name@GOTPCREL(%rip), reg: lea name(%rip), reg
            return 0
        if at - section.place >= 2 and (opcode, modrm) == (0xFF, 0x15):
            self.blob[at - 2 : at] = b"\x67\xe8"  # call *name@GOTPCREL(%rip): addr32 call name
            return 0
        if at - section.place >= 2 and (opcode, modrm) == (0xFF, 0x25):
            self.blob[at - 2] = 0xE9  # jmp *name@GOTPCREL(%rip): jmp name, and a byte to spare
            self.blob[at + 3] = 0x90
            return -1
        raise ImageError(
            f"code is not position independent: opcode {opcode:#x} uses a global offset table"
        )

    def fault_targets(self, section: _Section, table: memoryview) -> dict[int, int]:
        """What the words of a fault section point to. Each is `.long target - .`, so the target
        itself is symbol plus addend, wherever the word is."""
        targets = {}
        addresses = self.addresses
        for offset, info, addend in _RELA.iter_unpack(table):
            address = addresses[info >> 32]
            if address is None:
                raise self.unresolved(info >> 32)
            if info & 0xFFFF_FFFF != _R_PC32:
                raise ImageError("object file has a fault table that is not relative")
            targets[offset] = address + addend
        return targets

    def fault_table(self, targets: dict[int, dict[int, int]]) -> bytes:
        pairs: set[tuple[int, int]] = set()
        end = self.text_end
        for index, section in self.sections.items():
            if section.name != FAULT_SECTION:
                continue
            found = targets.get(index, {})
            size = len(section.data)
            if size % _FAULT.size or sorted(found) != list(range(0, size, 4)):
                raise ImageError("object file has a fault table with a word of its own making")
            words = [found[offset] for offset in range(0, size, 4)]
            if words and not (min(words) >= 0 and max(words) < end):
                raise ImageError("object file has a fault table that leaves its code")
            pairs.update(zip(words[::2], words[1::2], strict=True))
        ordered = sorted(pairs)
        if len({insn for insn, _ in ordered}) != len(ordered):
            raise ImageError("object file gives one instruction two places to land")
        return b"".join([_FAULT.pack(*pair) for pair in ordered])

    def exports(self) -> tuple[dict[str, int], dict[str, int]]:
        entries: dict[str, int] = {}
        slots: dict[str, int] = {}
        for index, (_, info, _, home, _, _) in enumerate(self.symbols):
            section = self.sections.get(home)
            address = self.addresses[index]
            if info >> 4 not in (1, 2) or section is None or address is None:
                continue  # local, or in nothing that was kept
            if section.name != SLOT_SECTION:
                if address >= len(self.blob):
                    raise ImageError(f"entry {self.symbol_name(index)!r} is past its section")
                entries[self.symbol_name(index)] = address
            elif address + 8 > len(self.blob):
                raise ImageError(f"slot {self.symbol_name(index)!r} is not 8 bytes")
            else:
                slots[self.symbol_name(index)] = address
        return entries, slots
