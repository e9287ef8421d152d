"""Flattened device trees (Devicetree Specification 0.4, chapter 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hartwood.dev.device import Property
from hartwood.errors import Error

_BEGIN, _END, _PROPERTY, _FINISH = 1, 2, 3, 9
_MAGIC, _VERSION, _OLDEST, _HEADER = 0xD00DFEED, 17, 16, 40


class TreeError(Error):
    """A name or a value that a device tree cannot hold."""

    exit_status = 2


@dataclass
class Node:
    """A node: its name with the unit address, properties, children."""

    name: str
    properties: dict[str, Property] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def add(self, name: str, **properties: Property) -> Node:
        """A child; properties that are no Python names go in by `properties` afterwards."""
        child = Node(name, dict(properties))
        self.children.append(child)
        return child


def wide(*numbers: int) -> tuple[int, ...]:
    """Numbers of two cells each."""
    return tuple(half for number in numbers for half in (number >> 32, number & 0xFFFF_FFFF))


def _encoded(name: str, value: Property) -> bytes:
    if value is None:
        return b""
    if isinstance(value, str | list):
        texts = [value] if isinstance(value, str) else value
        try:
            encoded = [text.encode() for text in texts]
        except UnicodeEncodeError:
            raise TreeError(f"{name}: this is not text in UTF-8: {texts!a:.60}") from None
        if any(b"\0" in text for text in encoded):
            raise TreeError(f"{name}: text with a zero byte: {texts!a:.60}")
        return b"".join(text + b"\0" for text in encoded)
    cells = value if isinstance(value, tuple) else (value,)
    try:
        return struct.pack(f">{len(cells)}I", *cells)
    except struct.error:
        raise TreeError(f"{name}: {value} is not made of cells of 32 bits") from None


class _Writer:
    def __init__(self) -> None:
        self.words, self.strings, self._known = bytearray(), bytearray(), dict[str, int]()

    def node(self, node: Node) -> None:
        if "\0" in node.name:
            raise TreeError(f"a node cannot be called {node.name!r}")
        self.words += struct.pack(">I", _BEGIN) + self._padded(node.name.encode() + b"\0")
        for name, value in node.properties.items():
            data = _encoded(name, value)
            self.words += struct.pack(">3I", _PROPERTY, len(data), self._string(name))
            self.words += self._padded(data)
        for child in node.children:
            self.node(child)
        self.words += struct.pack(">I", _END)

    def _string(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = len(self.strings)
            self.strings += name.encode() + b"\0"
        return self._known[name]

    @staticmethod
    def _padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)


def flatten(root: Node) -> bytes:
    """The blob of a tree, with an empty list of reserved memory. Raises `TreeError`."""
    made = _Writer()
    made.node(root)
    made.words += struct.pack(">I", _FINISH)
    reserved = bytes(16)
    words_at = _HEADER + len(reserved)
    strings_at = words_at + len(made.words)
    header = struct.pack(
        ">10I", _MAGIC, strings_at + len(made.strings), words_at, strings_at, _HEADER,
        _VERSION, _OLDEST, 0, len(made.strings), len(made.words),
    )  # fmt: skip
    return header + reserved + bytes(made.words) + bytes(made.strings)
