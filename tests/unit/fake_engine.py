"""An engine that executes nothing: a test sets registers and makes the calls itself."""

from __future__ import annotations

import os
from array import array
from typing import Any

from hartwood.linux.delivery import Dispositions
from hartwood.linux.process import Process
from hartwood.linux.signals import SIG_DFL, SIG_IGN
from hartwood.linux.task import Task
from hartwood.mem import hostmem

WORD = (1 << 64) - 1


class FakeStop:
    def __init__(self, cause, address=0, signo=0, code=0):
        self.cause = cause
        self.address = address
        self.signo = signo
        self.code = code


class FakeHart:
    """Stops as `script` says: each entry is a function of the hart that returns a FakeStop."""

    def __init__(self, script=None):
        self.x = memoryview(array("Q", [0] * 32))
        self.f = memoryview(array("Q", [0] * 32))
        self.pc = 0
        self.fcsr = 0
        self.script = list(script or ())
        self.answers = []
        self.made = []
        self.stops = 0

    def run(self):
        step = self.script.pop(0)
        return step(self)

    def syscall(self, number, *arguments):
        self.made.append((number, *arguments))
        if self.answers:
            return self.answers.pop(0)
        return hostmem.syscall(number, *arguments)

    def request_stop(self):
        self.stops += 1

    def close(self):
        self.made.append("closed")


class FakeMachine:
    def __init__(self, space):
        self.space = space
        self.before_fork = []
        self.after_fork_parent = []
        self.after_fork_child = []
        self.harts = []
        self.flushed = 0

    def new_hart(self):
        self.harts.append(FakeHart())
        return self.harts[-1]

    def flush_code(self):
        self.flushed += 1

    def close(self):
        self.flushed = -1


class FakeDispositions(Dispositions):
    """Reads the host's dispositions and changes none."""

    def __init__(self):
        super().__init__()
        self.changes = []

    def write(self, signo, action):
        self.changes.append((signo, action))


class FakeDelivery:
    """Signals arrive when a test puts them into `waiting`."""

    exact = True

    def __init__(self):
        self._word = bytearray(4)
        self.word = memoryview(self._word)
        self.dispositions = FakeDispositions()
        self.waiting = []
        self.set = {}
        self.kicks = []

    def arrive(self, signo, tid, info):
        self.waiting.append((signo, tid, info))
        self._word[0] = 1

    def drain(self):
        self._word[0] = 0
        waiting, self.waiting = self.waiting, []
        return waiting

    def catch(self, signo, flags):
        self.set[signo] = ("caught", flags)

    def default(self, signo, flags):
        self.set[signo] = (SIG_DFL, flags)

    def ignore(self, signo, flags):
        self.set[signo] = (SIG_IGN, flags)

    def kick(self, tid):
        self.kicks.append(tid)

    def after_fork(self):
        self.waiting.clear()

    def close(self):
        self.set["closed"] = True


def make_process(path="/bin/guest", argv=None, env=None, root=None, **options) -> Any:
    """A process on the fake engine that has not been started."""

    def make_machine(space) -> Any:
        return FakeMachine(space), FakeDelivery()

    return Process(path, argv, env or {}, root, make_machine=make_machine, **options)


def make_task(process=None, *, tid=None, **options):
    """A task of a process that looks as if it ran."""
    process = process or make_process(**options)
    task = Task(process, process.machine.new_hart())
    task.tid = os.getpid() if tid is None else tid
    process.tasks[task.tid] = task
    if process.leader is None:
        process.leader = task
    return task


def call(task, number, *arguments):
    """Make system call `number` by the registers, as the loop does; its result, signed."""
    for index, value in enumerate(arguments):
        task.x[10 + index] = value & WORD
    entry = task.process.calls.known.get(number) or task.process.calls.resolve(number)
    return task.make(entry)


def in_child(test):
    """Run a test function in a forked child, for what changes the whole process; its failure is
    the caller's."""
    import functools
    import sys
    import traceback

    @functools.wraps(test)
    def run(*arguments, **fixtures):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                os.set_inheritable(writing, True)  # the test may be of execve
                test(*arguments, **fixtures)
                text = "ok"
            except BaseException:
                text = traceback.format_exc()
            try:
                os.write(writing, text.encode()[-60000:])
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.close(writing)
        answer = b""
        while part := os.read(reading, 65536):
            answer += part
        os.close(reading)
        os.waitpid(child, 0)
        assert answer == b"ok", answer.decode()

    return run
