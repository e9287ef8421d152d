"""A guest process: its memory, threads, dispositions, and how it begins and ends."""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, get_native_id
from errno import EAGAIN

from hartwood.errors import Error
from hartwood.linux import exec as execution
from hartwood.linux import signals
from hartwood.linux.calls import HOST
from hartwood.linux.paths import Paths
from hartwood.linux.signals import SIG_DFL, SIG_IGN, SIGNALS, Action
from hartwood.linux.table import Calls
from hartwood.linux.task import Ended, Task
from hartwood.mem import hostmem
from hartwood.mem.flat import FlatSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hartwood.linux.engine import Delivery, Machine

#: Share of the host's available memory that a guest process may commit by default, in percent.
MEMORY_SHARE = 75
#: How often threads that are to end are interrupted again (seconds), and how often at most.
KICK_INTERVAL, KICKS = 0.01, 1000


class Process:
    """A riscv64 Linux program and what the kernel would know about it.

    `path` is the program file on the host (or below `root`, looked up there first), `argv` its
    arguments beginning with argv[0], `env` its environment (ours by default). `engine` is "auto",
    "interp", "jit" or "reference"; `strace` prints each system call to standard error; `stats` is
    a file for counters. `memory_limit` bounds the memory it may commit, in bytes; by default three
    quarters of what the host has available. `make_machine` makes the engine, given the space.
    Raises `LoadError` from `run` where the program cannot be run. The guest's process is the host
    process around it: a signal that kills the one by the kernel's default action kills both.
    """

    def __init__(
        self,
        path: str,
        argv: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        root: str | None = None,
        *,
        engine: str = "auto",
        stats: str | None = None,
        trace: bool = False,
        strace: bool = False,
        memory_limit: int | None = None,
        make_machine: Callable[[FlatSpace], tuple[Machine, Delivery]] | None = None,
    ) -> None:
        self.path = os.fsencode(path)
        self.argv = [os.fsencode(word) for word in (argv if argv else [path])]
        given = os.environ if env is None else env
        self.env = [os.fsencode(key) + b"=" + os.fsencode(given[key]) for key in given]
        self.name = os.path.basename(path)
        self.engine = engine
        self.stats = stats
        self.paths = Paths(self, root)
        self.pid = os.getpid()
        self.leader_pid = self.pid
        self.memory_limit = available_memory() if memory_limit is None else memory_limit
        self.space = FlatSpace(commit_limit=self.memory_limit)
        if make_machine is None:
            from hartwood.linux.machine import make_machine as default_machine

            make_machine = default_machine(engine, trace=trace)
        self.machine, self.delivery = make_machine(self.space)
        self.calls = Calls(self, trace=strace)
        self.tasks: dict[int, Task] = {}
        self.actions = [Action() for _ in range(SIGNALS + 1)]
        #: The thread whose end brings about the end of the process.
        self.leader: Task | None = None
        #: Set when threads have to end: True for the process's end, a task that calls execve.
        self.ending: Task | bool | None = None
        self.request: execution.Request | None = None
        self.exit_status = 0
        #: An error of ours that ends the process.
        self.failure: BaseException | None = None
        self.forked = False
        #: In a vfork child: the pipe its parent waits on, and its stack when it began.
        self.vfork_pipe: int | None = None
        self.vfork_window: tuple[int, bytes] = (0, b"")
        self.trampoline = 0
        self.brk_start = self.brk = 0
        self.exe = b""
        self.auxv = b""
        self.lock_future = False
        self.timers: list[int] = []
        #: Attached System V segments: sizes by guest address.
        self.segments: dict[int, int] = {}
        #: Limits kept for the guest instead of being set on the host process.
        self.limits: dict[int, tuple[int, int]] = {}
        self.personality = 0
        #: Held while the leader waits for a thread to end; `retire` lets go.
        self._changed = allocate_lock()

    # Life.
    def run(self) -> int:
        """Run the program to its end; its exit status, or minus the signal that killed it.

        Raises `LoadError` where it cannot be started.
        """
        mask = hostmem.Buffer(8)
        hostmem.syscall(HOST["rt_sigprocmask"], 0, 0, mask.address, 8)
        try:
            request = execution.prepare(self, self.path, self.argv, self.env)
            task = self._first_task()
            self._inherit_dispositions()
            execution.start(task, request)
            self.serve(task)
        finally:
            self.delivery.close()
            self.machine.close()
            hostmem.syscall(HOST["rt_sigprocmask"], signals.SIG_SETMASK, mask.address, 0, 8)
            self.space.close()
        return self.exit_status

    def _first_task(self) -> Task:
        task = Task(self, self.machine.new_hart())
        task.tid = get_native_id()
        hostmem.syscall(HOST["rt_sigprocmask"], 0, 0, task.scratch.address, 8)
        task.mask = int.from_bytes(task.scratch.view[:8], "little")
        signals.mirror_mask(task)
        self.tasks[task.tid] = task
        self.leader = task
        return task

    def _inherit_dispositions(self) -> None:
        dispositions = self.delivery.dispositions
        for signo in range(1, SIGNALS + 1):
            if dispositions.ignored(signo):
                self.actions[signo] = Action(SIG_IGN)
            elif dispositions.differs(signo):
                self.delivery.default(signo, 0)

    def serve(self, task: Task) -> None:
        """Run a thread; for the leader, until every thread of the process has ended."""
        try:
            while True:
                try:
                    task.run()
                except Ended:
                    pass
                self.retire(task)
                if task is not self.leader:
                    return
                self._wait_for_others()
                if self.request is None:
                    break
                task = self._first_task()
                request, self.request, self.ending = self.request, None, None
                execution.start(task, request)
                execution.after_start(task)
        except BaseException as error:
            self._fail(task, error)
        if self.forked:
            self.conclude()
        if self.failure is not None:
            raise self.failure

    def _fail(self, task: Task, error: BaseException) -> None:
        """End the process because of an error of our own, in whichever thread it happened."""
        if self.forked:
            # A child must not run on in whatever code called us: say what happened and end.
            if isinstance(error, Error):
                self.complain(f"hartwood: {error}")
            else:
                sys.excepthook(type(error), error, error.__traceback__)
            os._exit(70)
        self.failure = self.failure or error
        if self.ending is None:
            self.ending = True
            self.interrupt_others(task)
        if task.tid in self.tasks:
            self.retire(task)
        if task is self.leader:
            self._wait_for_others()
            raise self.failure

    def retire(self, task: Task) -> None:
        """Take an ended thread out of the process."""
        from hartwood.linux import threads

        # A thread that is over takes no more signals: the kernel must choose another.
        at = task.place(0, (signals.host_mask((1 << 64) - 1)).to_bytes(8, "little"))
        hostmem.syscall(HOST["rt_sigprocmask"], signals.SIG_SETMASK, at, 0, 8)
        threads.release(task)
        self.tasks.pop(task.tid, None)
        signals.pass_on(task)
        close = getattr(task.hart, "close", None)
        if close is not None:
            close()
        if self._changed.locked():
            self._changed.release()

    def _wait_for_others(self) -> None:
        kicks = 0
        while self.tasks:
            timeout = -1.0
            if self.ending is not None:
                self.interrupt_others(None)
                timeout = KICK_INTERVAL
                kicks += 1
                if kicks > KICKS:
                    self.complain(f"hartwood: {self.name}: {len(self.tasks)} threads do not end")
                    self.conclude()
            self._changed.acquire(timeout=timeout)

    def interrupt_others(self, task: Task | None) -> None:
        """Make every thread but `task` look at `ending` soon."""
        for other in list(self.tasks.values()):
            if other is not task:
                other.hart.request_stop()
                self.delivery.kick(other.tid)

    def end(self, task: Task, status: int) -> None:
        """End the whole process (exit_group, death by a signal); raises `Ended`."""
        if self.ending is None:
            self.exit_status = status
            self.ending = True
            self.request = None
            if len(self.tasks) > 1:
                self.interrupt_others(task)
        raise Ended("the process ends")

    def hand_over(self, task: Task, request: execution.Request) -> None:
        """Let the leader start a program in place of every thread's; raises `Ended`."""
        if self.ending is None:
            self.request = request
            self.ending = task
            self.interrupt_others(task)
        raise Ended("another program takes over")

    def die(self, task: Task, signo: int) -> None:
        """End the process as signal `signo` does; raises `Ended`."""
        self.end(task, -signo)

    def conclude(self) -> None:
        """Leave the host process at once, the way the guest ended."""
        from hartwood.linux import threads

        threads.give_back(self)
        if self.exit_status < 0:
            die_by(-self.exit_status)
        os._exit(self.exit_status)

    def set_limit(self, resource: int, soft: int, hard: int) -> None:
        """Keep a limit on memory (RLIMIT_DATA, RLIMIT_AS, RLIMIT_STACK) for the guest."""
        self.limits[resource] = (soft, hard)
        if resource in (2, 9):
            bounds = [self.limits[r][0] for r in (2, 9) if r in self.limits]
            self.space.commit_limit = min(self.memory_limit, *bounds)

    # Signals.
    def set_action(self, signo: int, action: Action) -> None:
        """Set a disposition here and on the host."""
        with self.space.lock:
            self.actions[signo] = action
            if action.handler == SIG_DFL:
                self.delivery.default(signo, action.flags)
            elif action.handler == SIG_IGN:
                self.delivery.ignore(signo, action.flags)
            else:
                self.delivery.catch(signo, action.flags)
        if action.handler == SIG_IGN or (
            action.handler == SIG_DFL and signo in signals.IGNORED_BY_DEFAULT
        ):
            for task in list(self.tasks.values()):
                for entry in tuple(task.pending):
                    if entry[0] == signo:
                        task.pending.remove(entry)

    def reset_actions(self) -> None:
        """execve: handlers become default, ignored signals stay ignored."""
        for signo in range(1, SIGNALS + 1):
            action = self.actions[signo]
            if action.handler not in (SIG_DFL, SIG_IGN):
                self.set_action(signo, Action())

    def raise_on_host(self, signo: int) -> None:
        """Let the host kernel do the default action of `signo` to this process."""
        hostmem.syscall(HOST["kill"], self.pid, signo)

    def complain(self, text: str) -> None:
        """One line on standard error, past every buffer."""
        try:
            os.write(2, text.encode(errors="replace") + b"\n")
        except OSError:  # the guest closed its standard error: there is nobody to tell
            return

    # Fork.
    def fork(self) -> int:
        """Fork the host process around the calling thread; the child's pid, 0 in the child.

        Raises `OSError` where the host has no room for another process.
        """
        with self.space.lock:
            return self._fork()

    def _fork(self) -> int:
        # The child has this thread alone: a lock that another one held would stay held.
        for hook in self.machine.before_fork:
            hook()
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or EAGAIN)
        if pid:
            for hook in self.machine.after_fork_parent:
                hook()
            return pid
        self.forked = True
        self.pid = os.getpid()
        self._changed = allocate_lock()
        for hook in self.machine.after_fork_child:
            hook()
        self.delivery.after_fork()
        return 0


def available_memory() -> int:
    """The default limit of committed memory, in bytes."""
    try:
        with open("/proc/meminfo", "rb", buffering=0) as file:
            text = file.read(4096)
        at = text.index(b"MemAvailable:") + 13
        return int(text[at : text.index(b"kB", at)]) * 1024 * MEMORY_SHARE // 100
    except (OSError, ValueError):
        return 1 << 34


def die_by(signo: int) -> None:
    """End this host process by `signo`, so that whoever waits sees what happened to the guest."""
    buffer = hostmem.Buffer(64)
    at = buffer.address
    # No core file: it would be ours, with the guest's reservation of 256 GiB in it.
    hostmem.syscall(HOST["setrlimit"], 4, at)
    hostmem.syscall(HOST["rt_sigaction"], signo, at, 0, 8)
    buffer.view[:8] = signals.bit(signo).to_bytes(8, "little")
    hostmem.syscall(HOST["rt_sigprocmask"], 1, at, 0, 8)
    hostmem.syscall(HOST["kill"], os.getpid(), signo)
    # Still here: the parent ignores it or we are init; the shell's convention is what is left.
    os._exit(128 + signo)
