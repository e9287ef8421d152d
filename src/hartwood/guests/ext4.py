"""An ext4 file system written to a file, without root and without mounting anything.

Documentation/filesystems/ext4 of the Linux kernel. With FLEX_BG all bitmaps and inode tables stand
behind the group descriptors; journal, directories and files follow, each in one piece. So the used
blocks and inodes are the first ones, and what a bitmap says is how many.
"""

from __future__ import annotations

import os
import stat
import struct
from collections import Counter
from typing import IO

from hartwood.guests.catalog import GuestError
from hartwood.guests.tree import Node, Tree

BLOCK = 4096
GROUP = 8 * BLOCK  # blocks of a group: its bitmap is one block
INODE = 256
INODES = 8192  # of a group
EXTENT = 1 << 15  # blocks of the longest extent
EXTENTS_OF_INODE = 4  # more need a tree of extents, which files of a package do not
JOURNAL_BLOCKS = 4096
ROOT, JOURNAL, LOST_FOUND = 2, 8, 11  # special inodes; 11 is the first that is not reserved

HAS_JOURNAL, DIR_INDEX, SPARSE_SUPER2 = 0x4, 0x20, 0x200  # compatible features
FILETYPE, EXTENTS, FLEX_BG = 0x2, 0x40, 0x200  # incompatible ones
DIR_NLINK, EXTRA_ISIZE = 0x20, 0x40  # those that matter to who writes
EXTENTS_FLAG = 0x80000

_KINDS = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6, stat.S_IFLNK: 7,
}  # fmt: skip


def write(image: IO[bytes], tree: Tree, size: int, *, label: str, uuid: bytes) -> None:
    """Write a file system of `size` bytes that has all of `tree` to the empty file `image`.

    `label` has up to 16 bytes and `uuid` 16; holes stay holes. Raises `GuestError` when the tree
    does not fit.
    """
    _Writer(image, tree, size).write(label.encode(), uuid)


class _Writer:
    def __init__(self, image: IO[bytes], tree: Tree, size: int) -> None:
        self.image, self.tree, self.blocks = image, tree, size // BLOCK
        self.groups = -(-self.blocks // GROUP)
        self.bitmaps = 1 + -(-self.groups * 32 // BLOCK)  # behind superblock and descriptors
        self.tables = self.bitmaps + 2 * self.groups
        self.next = self.tables + self.groups * INODES * INODE // BLOCK
        self.directories: Counter[int] = Counter()  # by group
        lost = tree.root.children.setdefault("lost+found", Node(stat.S_IFDIR | 0o700))
        if not lost.is_directory:
            raise GuestError("lost+found: is a directory on ext4, and a package has a file there")
        self.numbers = {tree.root: ROOT, lost: LOST_FOUND}
        self.names: Counter[Node] = Counter()
        for _, node in tree.paths():
            self.numbers.setdefault(node, LOST_FOUND - 1 + len(self.numbers))
            self.names[node] += 1
        self.inodes = LOST_FOUND - 2 + len(self.numbers)  # used ones, reserved ones too
        if self.inodes > self.groups * INODES:
            raise GuestError(f"{self.inodes} files are too many for a disk of {size >> 20} MiB")

    def write(self, label: bytes, uuid: bytes) -> None:
        self.image.truncate(self.blocks * BLOCK)
        journal = self._journal(uuid)
        todo = [(self.tree.root, self.tree.root)]
        while todo:
            node, parent = todo.pop()
            self._directory(node, parent)
            todo += [(child, node) for child in node.children.values() if child.is_directory]
        for node in self.numbers:
            if not node.is_directory:
                self._other(node)
        self._groups()
        self._superblock(label, uuid, journal)

    def _journal(self, uuid: bytes) -> bytes:
        """An empty journal (journal.rst: the superblock of jbd2 is big-endian)."""
        start = self._allocate(JOURNAL_BLOCKS)
        head = struct.pack(
            ">IIIIIIIIIIII16sI",
            0xC03B3998,
            4,
            0,
            BLOCK,
            JOURNAL_BLOCKS,
            1,
            1,
            0,
            0,
            0,
            0,
            0,
            uuid,
            1,
        )
        self._put(start, head)
        blocks, size = _extents(start, JOURNAL_BLOCKS), JOURNAL_BLOCKS * BLOCK
        self._inode(JOURNAL, Node(stat.S_IFREG | 0o600), 1, blocks, size, JOURNAL_BLOCKS)
        return blocks

    def _directory(self, node: Node, parent: Node) -> None:
        """Write a directory (its entries fill blocks; none crosses into the next) and its own."""
        entries = [(".", node), ("..", parent), *sorted(node.children.items())]
        blocks = [b""]
        for name, child in entries:
            encoded = os.fsencode(name)
            length = 8 + len(encoded) + -len(encoded) % 4
            if len(blocks[-1]) + length > BLOCK:
                blocks[-1] = _stretch_last(blocks[-1])
                blocks.append(b"")
            kind = _KINDS[stat.S_IFMT(child.mode)]
            head = struct.pack("<IHBB", self.numbers[child], length, len(encoded), kind)
            blocks[-1] += (head + encoded).ljust(length, b"\0")
        blocks[-1] = _stretch_last(blocks[-1])
        start = self._allocate(len(blocks))
        self._put(start, b"".join(blocks))
        inner = sum(child.is_directory for child in node.children.values())
        extents, size = _extents(start, len(blocks)), len(blocks) * BLOCK
        self._inode(self.numbers[node], node, 2 + inner, extents, size, len(blocks))
        self.directories[(self.numbers[node] - 1) // INODES] += 1

    def _other(self, node: Node) -> None:
        """A file, a link or a device node: inode and content."""
        count, size, block = 0, 0, b""
        if stat.S_ISREG(node.mode):
            offset, size = node.span
            count = -(-size // BLOCK)
            start = self._allocate(count)
            block = _extents(start, count)
            self._copy(offset, size, start)
        elif stat.S_ISLNK(node.mode):
            block = os.fsencode(node.target)
            size = len(block)
            if size >= 60:  # ifork.rst: shorter ones lie in the inode
                count, start = 1, self._allocate(1)
                self._put(start, block)
                block = _extents(start, 1)
        elif stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            block = struct.pack("<II", 0, os.makedev(*node.device))
        self._inode(self.numbers[node], node, self.names[node], block, size, count)

    def _inode(
        self, number: int, node: Node, links: int, block: bytes, size: int, count: int
    ) -> None:
        """inodes.rst; `block` is what stands in i_block, `count` the blocks that it holds."""
        extents = EXTENTS_FLAG if count or stat.S_ISREG(node.mode) else 0
        time = max(0, min(node.mtime, 0x7FFF_FFFF))
        # mode uid size atime ctime mtime dtime gid links blocks flags version block generation
        # acl size_high fragment blocks_high acl_high uid_high gid_high
        made = struct.pack(
            "<HHIIIIIHHIII60sIIIIHHHH", node.mode, node.uid & 0xFFFF, size & 0xFFFF_FFFF,
            time, time, time, 0, node.gid & 0xFFFF, links, count * (BLOCK // 512), extents, 0,
            block, 0, 0, size >> 32, 0, 0, 0, node.uid >> 16, node.gid >> 16,
        )  # fmt: skip
        self.image.seek(self.tables * BLOCK + (number - 1) * INODE)
        self.image.write(made.ljust(128, b"\0") + struct.pack("<H", 32))  # i_extra_isize

    def _groups(self) -> None:
        """Both bitmaps and the descriptor of each group (group_descr.rst); no copies of them."""
        descriptors = b""
        for group in range(self.groups):
            blocks = min(GROUP, self.blocks - group * GROUP)
            used = max(0, min(blocks, self.next - group * GROUP))
            inodes = max(0, min(INODES, self.inodes - group * INODES))
            bitmap, table = self.bitmaps + group, self.tables + group * INODES * INODE // BLOCK
            self._put(bitmap, _bitmap(used, blocks))
            self._put(bitmap + self.groups, _bitmap(inodes, INODES))
            descriptors += struct.pack(
                "<IIIHHHH12x", bitmap, bitmap + self.groups, table, blocks - used,
                INODES - inodes, self.directories[group], 0,
            )  # fmt: skip
        self._put(1, descriptors)

    def _superblock(self, label: bytes, uuid: bytes, journal: bytes) -> None:
        """super.rst, field by field at its offset."""
        made = bytearray(1024)

        def put(offset: int, kinds: str, *values: int | bytes) -> None:
            struct.pack_into("<" + kinds, made, offset, *values)

        inodes = self.groups * INODES
        put(0x00, "IIIII", inodes, self.blocks, 0, self.blocks - self.next, inodes - self.inodes)
        put(0x14, "IIIIII", 0, 2, 2, GROUP, GROUP, INODES)  # blocks and clusters of 1024 << 2
        put(0x36, "HHHH", 0xFFFF, 0xEF53, 1, 1)  # never checked for its age; sound; go on
        put(0x4C, "I4xIH", 1, LOST_FOUND, INODE)  # revision, first inode, size of one
        put(0x5C, "I", HAS_JOURNAL | DIR_INDEX | SPARSE_SUPER2)
        put(0x60, "II", FILETYPE | EXTENTS | FLEX_BG, DIR_NLINK | EXTRA_ISIZE)
        put(0x68, "16s16s", uuid, label)
        put(0xE0, "I", JOURNAL)
        put(0xEC, "16sBBH", uuid, 1, 1, 32)  # seed and kind of hash; the inode's copy follows
        put(0x10C, "60sII", journal, 0, JOURNAL_BLOCKS * BLOCK)
        put(0x15C, "HHI", 32, 32, 2)  # extra bytes of inodes; hashes of unsigned characters
        put(0x174, "B", 4)  # 2^4 groups have their tables together
        self.image.seek(1024)
        self.image.write(made)

    def _allocate(self, count: int) -> int:
        start, self.next = self.next, self.next + count
        if self.next > self.blocks:
            raise GuestError(f"the files do not fit on a disk of {self.blocks * BLOCK >> 20} MiB")
        return start

    def _put(self, block: int, data: bytes) -> None:
        self.image.seek(block * BLOCK)
        self.image.write(data)

    def _copy(self, offset: int, size: int, block: int) -> None:
        self.tree.store.seek(offset)
        self.image.seek(block * BLOCK)
        while size:
            piece = self.tree.store.read(min(size, 1 << 20))
            self.image.write(piece)
            size -= len(piece)


def _extents(start: int, count: int) -> bytes:
    """i_block of `count` blocks in one piece (ifork.rst, the extent tree)."""
    pieces = range(0, count, EXTENT)
    if len(pieces) > EXTENTS_OF_INODE:
        raise GuestError(f"a file of {count * BLOCK >> 20} MiB is too large for a guest's disk")
    made = struct.pack("<HHHHI", 0xF30A, len(pieces), EXTENTS_OF_INODE, 0, 0)
    for first in pieces:
        length = min(EXTENT, count - first)
        made += struct.pack("<IHHI", first, length, 0, start + first)
    return made


def _stretch_last(block: bytes) -> bytes:
    """A directory's block whose last entry reaches to its end (directory.rst)."""
    at = 0
    while (after := at + int.from_bytes(block[at + 4 : at + 6], "little")) < len(block):
        at = after
    length = struct.pack("<H", BLOCK - at)
    return (block[: at + 4] + length + block[at + 6 :]).ljust(BLOCK, b"\0")


def _bitmap(used: int, valid: int) -> bytes:
    """A block with the first `used` bits set, and those from `valid` on: they stand for nothing."""
    bits = (1 << used) - 1 | ((1 << GROUP) - 1) >> valid << valid
    return bits.to_bytes(BLOCK, "little")
