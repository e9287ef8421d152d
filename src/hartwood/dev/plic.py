"""The platform-level interrupt controller (RISC-V PLIC specification 1.0.0, chapters 3 to 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hartwood.dev.device import Device, Line, Property, state
from hartwood.dev.ports import Posted

#: Interrupt sources, of which 0 is none, and contexts: two a hart, M and S.
SOURCES, CONTEXTS = 96, 16
_PENDING, _ENABLE, _CONTEXT = 0x1000, 0x2000, 0x20_0000
_WORDS, _ALL = SOURCES // 32, (1 << SOURCES) - 2


@dataclass
class Plic(Device):
    """Levels in by `raise_line`, one line out for each context (`outputs`)."""

    compatible: ClassVar[str] = "riscv,plic0"
    size: ClassVar[int] = 0x60_0000
    node: ClassVar[str] = "plic"
    properties: ClassVar[Mapping[str, Property]] = {
        "compatible": ["sifive,plic-1.0.0", compatible],
        "#interrupt-cells": 1, "#address-cells": 0, "interrupt-controller": None,
        "riscv,ndev": SOURCES - 1,
    }  # fmt: skip
    #: External interrupts of M and S: contexts 0 and 1 are those of hart 0, and so on.
    hart_interrupts: ClassVar[tuple[int, ...]] = (11, 9)
    priority: list[int] = state(most=7, count=SOURCES)
    enable: list[int] = state(most=0xFFFF_FFFF, count=CONTEXTS * _WORDS)
    threshold: list[int] = state(most=7, count=CONTEXTS)
    #: Bit masks of sources: what their wires say, what is latched, what is being served.
    levels: int = state(most=_ALL)
    pending: int = state(most=_ALL)
    served: int = state(most=_ALL)

    #: Told when an interrupt of a source begins to be served, and around its end.
    watchers: dict[int, Callable[[], None]] = field(
        default_factory=dict, metadata={"host": True}, repr=False, compare=False
    )

    #: By context what harts read without calling: the claim, where it gives 0.
    claims: dict[int, Posted] = field(
        default_factory=dict, metadata={"host": True}, repr=False, compare=False
    )

    def post(self, window: Callable[[int, int], Posted]) -> None:
        """Have registers, by offset and width, that harts read without calling."""
        self.claims = {each: window(_CONTEXT + 0x1000 * each, 4) for each in self.outputs}
        self.settle()

    def watch(self, source: int, changes: Callable[[], None]) -> None:
        """Call `changes` when `serves(source)` becomes another, without the lock; before that
        becomes False too, since the level of the wire is looked at then."""
        self.watchers[source] = changes

    def load(self, state: dict[str, Any]) -> None:
        """See `Device.load`."""
        super().load(state)
        self._tell()

    def reset(self) -> None:
        """See `Device.reset`."""
        super().reset()
        self._tell()

    def _tell(self) -> None:
        for changes in self.watchers.values():
            changes()

    def serves(self, source: int) -> bool:
        """Whether the source's wire is not looked at: its interrupt was claimed and goes on."""
        return bool(self.served >> source & 1)

    def line(self, source: int) -> Line:
        """The wire of a source."""
        return lambda level: self.raise_line(source, level)

    def raise_line(self, source: int, level: bool) -> None:
        """A device's wire changes; from any thread."""
        with self.lock:
            bit = 1 << source
            if bool(self.levels & bit) == level:
                return
            self.levels = self.levels | bit if level else self.levels & ~bit
            if level and not self.served & bit:  # or nothing that a hart sees has changed
                self._latch()
                self.settle()

    def _latch(self) -> None:
        """The gateway of a level passes one request on until it is completed; a request stays
        though its wire falls, and the handler finds nothing to do (chapter 5)."""
        self.pending |= self.levels & ~self.served

    def _enabled(self, context: int) -> int:
        low, middle, high = self.enable[context * _WORDS : (context + 1) * _WORDS]
        return low | middle << 32 | high << 64

    def _best(self, context: int, above: int) -> int:
        """The source of the highest priority `above` that, of equal ones the lowest number."""
        ready, best = self.pending & ~self.served, 0
        ready = ready and ready & self._enabled(context)
        while ready:
            source = (ready & -ready).bit_length() - 1
            ready &= ready - 1
            if self.priority[source] > above:
                best, above = source, self.priority[source]
        return best

    def settle(self) -> None:
        """See `Device.settle`."""
        with self.lock:
            for context, output in self.outputs.items():
                best = self._best(context, 0)
                if context in self.claims:
                    self.claims[context].show(1, None if best else 0)
                output(best != 0 and self._best(context, self.threshold[context]) != 0)

    def read(self, offset: int, width: int) -> int:
        """A load; registers are words (chapter 3)."""
        if width != 4 or offset & 3:
            return 0
        with self.lock:
            if offset < 4 * SOURCES:
                return self.priority[offset // 4]
            if _PENDING <= offset < _PENDING + 4 * _WORDS:
                return self.pending >> 8 * (offset - _PENDING) & 0xFFFF_FFFF
            slot = self._enable_slot(offset)
            if slot is not None:
                return self.enable[slot]
            context, which = divmod(offset - _CONTEXT, 0x1000)
            if not 0 <= context < CONTEXTS:
                return 0
            result = self.threshold[context] if not which else self._claim(context, which)
        if which == 4 and result in self.watchers:
            self.watchers[result]()
        return result

    def _claim(self, context: int, which: int) -> int:
        """Whatever the threshold: it keeps interrupts away, not who asks (chapter 9)."""
        if which != 4:
            return 0
        source = self._best(context, 0)
        if source:
            self.served |= 1 << source
            self.pending &= ~(1 << source)
            self.settle()
        return source

    @staticmethod
    def _enable_slot(offset: int) -> int | None:
        context, at = divmod(offset - _ENABLE, 0x80)
        if 0 <= context < CONTEXTS and at < 4 * _WORDS:
            return context * _WORDS + at // 4
        return None

    def write(self, offset: int, width: int, value: int) -> None:
        """A store."""
        if width != 4 or offset & 3:
            return
        watcher = self.watchers.get(value) if offset & 0xFFF == 4 and offset > _CONTEXT else None
        if watcher is not None:
            watcher()
        self._write(offset, value)
        if watcher is not None:
            watcher()

    def _write(self, offset: int, value: int) -> None:
        with self.lock:
            context, which = divmod(offset - _CONTEXT, 0x1000)
            slot = self._enable_slot(offset)
            if 4 <= offset < 4 * SOURCES:
                self.priority[offset // 4] = value & 7
            elif slot is not None:
                self.enable[slot] = value & (0xFFFF_FFFE if slot % _WORDS == 0 else 0xFFFF_FFFF)
            elif 0 <= context < CONTEXTS and which == 0:
                self.threshold[context] = value & 7
            elif 0 <= context < CONTEXTS and which == 4:
                # What is not enabled here is ignored without a word (chapter 10).
                self.served &= ~(1 << min(value, SOURCES) & self._enabled(context))
                self._latch()
            self.settle()
