"""Virtio over MMIO (virtio 1.2, 4.2): the registers in front of every virtio device.

`VirtioMmio` by itself is a slot with no device in it (4.2.2: device ID 0). A device is a subclass
that says what it offers and serves its queues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from hartwood.dev.device import Device, Line, host, reg
from hartwood.dev.ports import NoRam, Ram
from hartwood.dev.virtio.queue import F_EVENT_IDX, F_INDIRECT, Queue, QueueError
from hartwood.errors import MemoryFault

MAGIC, VERSION, VENDOR = 0x74726976, 2, 0x4857
# Device status (2.1).
DRIVER_OK, FEATURES_OK, NEEDS_RESET = 4, 8, 0x40
_STATUS = 0x8F
#: Why there is an interrupt (4.2.2): used buffers, a change of configuration.
USED, CONFIGURED = 1, 2
F_VERSION_1 = 32
_RING_FEATURES = 1 << F_VERSION_1 | 1 << F_INDIRECT | 1 << F_EVENT_IDX
_NOTIFY, _CONFIG = 0x50, 0x100
_WIDE = (1 << 64) - 1
_WIRED: dict[str, bool] = {"host": True}
#: What is left to do once the device's lock is free.
Work = Callable[[], None]


def wired(factory: Callable[[], Any]) -> Any:
    """A field that no snapshot holds, made by `factory`."""
    return field(default_factory=factory, metadata=_WIRED, repr=False, compare=False)


def word(most: int = 0xFFFF_FFFF) -> Any:
    """A register of the state, from 0 to `most`."""
    return field(default=0, metadata={"most": most})


def words(most: int = 0xFFFF_FFFF) -> Any:
    """One for each queue."""
    return field(default_factory=list, metadata={"most": most})


@dataclass
class VirtioMmio(Device):
    """The transport. One lock guards registers and queues; harts, workers and the host's side may
    come at any time. A driver that breaks the rules gets DEVICE_NEEDS_RESET, and `trouble` says
    which."""

    compatible: ClassVar[str] = "virtio,mmio"
    size: ClassVar[int] = 0x200
    node: ClassVar[str] = "virtio_mmio"
    #: What kind of device (5), how many queues it has, and their largest size.
    device_id: ClassVar[int] = 0
    queue_count: ClassVar[int] = 0
    queue_max: ClassVar[int] = 256

    ram: Ram = wired(NoRam)
    irq: Line = host()
    lock: threading.RLock = wired(threading.RLock)
    idle: threading.Condition = wired(threading.Condition)
    rings: list[Queue | None] = wired(list)
    #: Operations that were begun and are not done.
    busy: int = field(default=0, metadata=_WIRED, repr=False, compare=False)
    trouble: str = field(default="", metadata=_WIRED, repr=False, compare=False)
    status: int = word(0xFF)
    device_features_sel: int = word()
    driver_features_sel: int = word()
    driver_features: int = word(_WIDE)
    queue_sel: int = word()
    interrupt_status: int = word(USED | CONFIGURED)
    generation: int = word()
    # By queue: the registers, and how far the device has come.
    queue_num: list[int] = words()
    queue_ready: list[int] = words(1)
    queue_desc: list[int] = words(_WIDE)
    queue_driver: list[int] = words(_WIDE)
    queue_device: list[int] = words(_WIDE)
    next_available: list[int] = words(0xFFFF)
    next_used: list[int] = words(0xFFFF)

    def __post_init__(self) -> None:
        self.idle = threading.Condition(self.lock)
        self.rings = [None] * self.queue_count
        for each in fields(self):
            if each.default_factory is list and not each.metadata.get("host"):
                setattr(self, each.name, [0] * self.queue_count)

    # What a device says of itself.
    def features(self) -> int:
        """The bits of its own that it offers; a constant while a driver is there."""
        return 0

    def config(self) -> bytes:
        """Its configuration space."""
        return b""

    def configure(self, offset: int, width: int, value: int) -> None:
        """A store to its configuration space."""

    def serve(self, index: int, queue: Queue) -> Work | None:
        """Look after a queue: it has new buffers, or there is news for it. Called with the lock.
        Raises `QueueError` or `MemoryFault` for what a driver may not do."""
        return None

    # What a device is given.
    def negotiated(self, feature: int) -> bool:
        """Whether the driver took this bit."""
        return bool(self.driver_features >> feature & 1)

    def live(self, index: int) -> Queue | None:
        """A queue that may be used: there, ready, with a driver, and not broken."""
        if self.status & (DRIVER_OK | NEEDS_RESET) != DRIVER_OK or index >= len(self.rings):
            return None
        return self.rings[index]

    def notify(self, index: int) -> None:
        """Have a queue served; from any thread."""
        with self.lock:
            queue = self.live(index)
            if queue is None:
                return
            try:
                work = self.serve(index, queue)
            except (QueueError, MemoryFault) as error:
                self.fail(str(error))
                return
        if work is not None:
            work()

    def give(self, queue: Queue, buffers: Iterable[tuple[int, int]]) -> None:
        """Give buffers of a queue back, and interrupt if the driver wants that. With the lock."""
        broken = self.status & NEEDS_RESET
        if queue in self.rings and not broken and queue.push(buffers):
            self.interrupt(USED)

    def begin(self, count: int) -> None:
        """Operations begin that end on some other thread, each by `end`. With the lock."""
        self.busy += count

    def end(self) -> None:
        """It is done. With the lock."""
        self.busy -= 1
        if not self.busy:
            self.idle.notify_all()

    def quiesce(self) -> None:
        """Wait until nothing is under way. Notifications must not go on coming meanwhile."""
        with self.lock:
            self.idle.wait_for(lambda: not self.busy)

    def interrupt(self, why: int) -> None:
        """Raise the line. With the lock."""
        self.interrupt_status |= why
        self.irq(True)

    def changed(self) -> None:
        """The configuration is another one than before; from any thread (4.2.2.1)."""
        with self.lock:
            self.generation = self.generation + 1 & 0xFFFF_FFFF
            if self.status & DRIVER_OK:
                self.interrupt(CONFIGURED)

    def fail(self, trouble: str) -> None:
        """The driver broke the rules: nothing is done before a reset (2.1.2). With the lock."""
        self.trouble = trouble
        self.status |= NEEDS_RESET
        if self.status & DRIVER_OK:
            self.interrupt(CONFIGURED)

    # State.
    def save(self) -> dict[str, Any]:
        """See `Device.save`; to be called when the device is quiet."""
        with self.lock:
            for index, queue in enumerate(self.rings):
                if queue is not None:
                    self.next_available[index] = queue.next_available
                    self.next_used[index] = queue.next_used
            return super().save()

    def load(self, state: dict[str, Any]) -> None:
        """See `Device.load`; the memory has its content already."""
        with self.lock:
            self.quiesce()
            super().load(state)

    def reset(self) -> None:
        """See `Device.reset`; what is under way is waited for, since it writes to memory."""
        with self.lock:
            self.rings = [None] * self.queue_count
            self.quiesce()
            super().reset()

    def settle(self) -> None:
        """See `Device.settle`."""
        with self.lock:
            self.rings = [None] * self.queue_count
            for index, ready in enumerate(self.queue_ready):
                if ready:
                    self._connect(index)
            self.irq(self.interrupt_status != 0)

    def _connect(self, index: int) -> None:
        """Make the ring that the registers describe."""
        try:
            if self.queue_num[index] > self.queue_max:
                raise QueueError(f"a queue of {self.queue_num[index]} descriptors")
            queue = Queue(
                self.ram, self.queue_num[index], self.queue_desc[index], self.queue_driver[index],
                self.queue_device[index], self.driver_features,
            )  # fmt: skip
            queue.next_available = self.next_available[index] & 0xFFFF
            queue.next_used = self.next_used[index] & 0xFFFF
            self.rings[index] = queue
        except (QueueError, MemoryFault) as error:
            self.fail(str(error))

    # Registers. Those of control are words, aligned (4.2.2.2).
    def read(self, offset: int, width: int) -> int:
        """A load."""
        with self.lock:
            if offset >= _CONFIG:
                part = self.config()[offset - _CONFIG : offset - _CONFIG + width]
                return int.from_bytes(part, "little")
            return super().read(offset, width) if width == 4 else 0

    def write(self, offset: int, width: int, value: int) -> None:
        """A store."""
        if offset == _NOTIFY and width == 4:
            self.notify(value & 0xFFFF_FFFF)  # without the lock: work follows it
            return
        with self.lock:
            before = self.status
            if offset >= _CONFIG:
                self.configure(offset - _CONFIG, width, value)
            elif width == 4:
                super().write(offset, width, value)
            begun = ~before & self.status & DRIVER_OK
        if begun:
            for index in range(self.queue_count):
                self.notify(index)

    @reg(0x000)
    def magic(self) -> int:
        """ "virt"."""
        return MAGIC

    @reg(0x004)
    def version(self) -> int:
        """Not the legacy interface."""
        return VERSION

    @reg(0x008)
    def kind(self) -> int:
        """Device ID."""
        return self.device_id

    @reg(0x00C)
    def vendor(self) -> int:
        """Vendor ID."""
        return VENDOR

    def _offered(self) -> int:
        return self.features() | _RING_FEATURES

    @reg(0x010)
    def device_features(self) -> int:
        """One half of what is offered."""
        return self._offered() >> 32 * self.device_features_sel if self._half() else 0

    def _half(self) -> bool:
        return self.device_features_sel < 2

    @reg(0x014)
    def select_device_features(self, value: int) -> None:
        """Which half."""
        self.device_features_sel = value

    @reg(0x020)
    def write_driver_features(self, value: int) -> None:
        """One half of what the driver takes; after FEATURES_OK it is too late (3.1.1)."""
        if not self.status & FEATURES_OK and self.driver_features_sel < 2:
            shift = 32 * self.driver_features_sel
            kept = self.driver_features & ~(0xFFFF_FFFF << shift)
            self.driver_features = kept | value << shift

    @reg(0x024)
    def select_driver_features(self, value: int) -> None:
        """Which half."""
        self.driver_features_sel = value

    @reg(0x030)
    def select_queue(self, value: int) -> None:
        """The queue that the following registers are of."""
        self.queue_sel = value

    @reg(0x034)
    def queue_num_max(self) -> int:
        """Its largest size; 0 where there is none."""
        return self.queue_max if self.queue_sel < self.queue_count else 0

    def _set(self, words: list[int], value: int, shift: int = 0) -> None:
        """Half of a register of the selected queue, as long as that is not ready (4.2.2.2)."""
        index = self.queue_sel
        if index < self.queue_count and not self.queue_ready[index]:
            words[index] = words[index] & ~(0xFFFF_FFFF << shift) | value << shift

    @reg(0x038)
    def write_queue_num(self, value: int) -> None:
        """Its size."""
        self._set(self.queue_num, value)

    @reg(0x044)
    def ready(self) -> int:
        """Whether it may be used."""
        return self.queue_ready[self.queue_sel] if self.queue_sel < self.queue_count else 0

    @reg(0x044)
    def write_ready(self, value: int) -> None:
        """Begin to use it, or stop, which takes until all that is under way is done."""
        index = self.queue_sel
        if index >= self.queue_count or self.queue_ready[index] == value & 1:
            return
        if not value & 1:
            self.rings[index] = None
            self.quiesce()
            self.next_available[index] = self.next_used[index] = 0
            self.queue_ready[index] = 0
        elif self.status & FEATURES_OK:
            self.queue_ready[index] = 1
            self._connect(index)

    @reg(0x060)
    def read_interrupt_status(self) -> int:
        """Why the line is up."""
        return self.interrupt_status

    @reg(0x064)
    def acknowledge(self, value: int) -> None:
        """These reasons have been seen."""
        self.interrupt_status &= ~value
        self.irq(self.interrupt_status != 0)

    @reg(0x070)
    def read_status(self) -> int:
        """How far the driver is."""
        return self.status

    @reg(0x070)
    def write_status(self, value: int) -> None:
        """A step of initialisation (3.1.1), or a reset. Features that were not offered, and an old
        driver's, are not acknowledged; a driver does not run before they are."""
        if not value:
            self.reset()
            return
        value &= _STATUS
        taken = self.driver_features
        if taken & ~self._offered() or not taken >> F_VERSION_1 & 1:
            value &= ~FEATURES_OK
        if not (self.status | value) & FEATURES_OK:
            value &= ~DRIVER_OK
        self.status |= value

    @reg(0x080)
    def desc_low(self, value: int) -> None:
        """The descriptors."""
        self._set(self.queue_desc, value)

    @reg(0x084)
    def desc_high(self, value: int) -> None:
        """The descriptors."""
        self._set(self.queue_desc, value, 32)

    @reg(0x090)
    def driver_low(self, value: int) -> None:
        """The available ring."""
        self._set(self.queue_driver, value)

    @reg(0x094)
    def driver_high(self, value: int) -> None:
        """The available ring."""
        self._set(self.queue_driver, value, 32)

    @reg(0x0A0)
    def device_low(self, value: int) -> None:
        """The used ring."""
        self._set(self.queue_device, value)

    @reg(0x0A4)
    def device_high(self, value: int) -> None:
        """The used ring."""
        self._set(self.queue_device, value, 32)

    @reg(0x0B0)
    def shared_low(self) -> int:
        """The length of a shared memory region: there is none (4.2.2)."""
        return 0xFFFF_FFFF

    @reg(0x0B4)
    def shared_high(self) -> int:
        """The same."""
        return 0xFFFF_FFFF

    @reg(0x0FC)
    def config_generation(self) -> int:
        """Changes with the configuration."""
        return self.generation
