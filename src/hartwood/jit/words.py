"""The words whose native form is the same in the interpreter and in translated code.

Memory, atomics and floating point on the host; what leaves the instruction early is left to the
subclass (`only_reference_if`, the fault labels of `memory`).
"""

from __future__ import annotations

from hartwood.bits.ssa import SsaHart, Text, Val, constant
from hartwood.isa.insnset import InsnSet
from hartwood.jit.access import FlatMemory
from hartwood.jit.calling import field

NO_RESERVATION = (1 << 64) - 1


class NativeHart(SsaHart):
    """`words.Hart` on the host's own memory and floating-point unit."""

    memory: FlatMemory

    def __init__(self, text: Text, insns: InsnSet) -> None:
        super().__init__(text)
        self.insns = insns

    def state_load(self, name: str, width: int = 64) -> Val:
        """A field of `State`."""
        where = self.text.value(field(name))
        return Val(self.text, width, self.text.value(f"load i{width}, ptr {where}"))

    def state_store(self, name: str, value: Val | int, width: int = 64) -> None:
        """Set a field of `State`."""
        where = self.text.value(field(name))
        word = value if isinstance(value, Val) else constant(self.text, value, width)
        self.text.emit(f"store i{word.width} {word.name}, ptr {where}")

    def load(self, address: Val, size: int) -> Val:
        """See `words.Hart.load`."""
        return self.memory.load(address, size)

    def store(self, address: Val, value: Val) -> None:
        """See `words.Hart.store`."""
        self.memory.store(address, value)

    def amo(self, op: str, address: Val, value: Val) -> Val:
        """See `words.Hart.amo`."""
        return self.memory.amo(op, address, value)

    def load_reserved(self, address: Val, size: int) -> Val:
        """See `words.Hart.load_reserved`: the reservation is the address and the value seen."""
        value = self.memory.load(address, size)
        self.state_store("reserved_address", address)
        self.state_store("reserved_value", value.zext(64))
        return value

    def store_conditional(self, address: Val, value: Val) -> Val:
        """See `words.Hart.store_conditional`: succeeds where memory still holds what LR saw."""
        text = self.text
        match = self.state_load("reserved_address") == address
        start, attempt, join = text.block, text.fresh_label("sc"), text.fresh_label("scd")
        text.emit(f"br i1 {match.name}, label %{attempt}, label %{join}")
        text.label(attempt)
        expected = self.state_load("reserved_value").trunc(value.width)
        stored = self.memory.compare_exchange(address, expected, value)
        tried = text.block
        text.emit(f"br label %{join}")
        text.label(join)
        self.memory.new_block()
        won = text.value(f"phi i1 [false, %{start}], [{stored.name}, %{tried}]")
        # Only now: an attempt that faulted is run again with its reservation.
        self.state_store("reserved_address", NO_RESERVATION)
        return Val(text, 1, won)

    def fence(self) -> None:
        """See `words.Hart.fence`."""
        self.text.emit("fence seq_cst")

    def fence_i(self) -> None:
        """Nothing to do: pages that hold decoded code are write-protected, so a store there has
        already discarded what was made from them."""

    def only_reference(self) -> None:
        """This instruction needs the reference meaning; what follows is not reached."""
        raise NotImplementedError

    def csr_update(self, number: Val | int, op: str, value: Val | int, source: Val | int) -> Val:
        """See `words.Hart.csr_update`."""
        self.only_reference()
        return constant(self.text, 0, 64)

    def counter(self, name: str) -> Val:
        """See `words.Hart.counter`: the reference knows the time."""
        self.only_reference()
        return constant(self.text, 0, 64)
