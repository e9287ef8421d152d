"""A process of ours that the guest's wait must not find, and descriptors it must not see."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time

import pytest

from hartwood.mem import descriptors
from hartwood.mem.child import spawn_unseen
from unit.fake_engine import in_child


def python(code):
    return [sys.executable, "-S", "-c", code]


def test_it_runs_with_the_files_it_was_given():
    reading, writing = os.pipe()
    try:
        spawn_unseen(python("import os; os.write(7, b'here')"), os.environ, {7: writing})
        os.close(writing)
        assert os.read(reading, 10) == b"here"
        assert os.read(reading, 10) == b""
    finally:
        os.close(reading)


def test_wait_does_not_find_it_and_no_signal_comes():
    """In a fork, so that no other child of the test run is in the way."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            seen = []
            signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
            reading, writing = os.pipe()
            spawn_unseen(python("import os; os.write(3, b'x')"), os.environ, {3: writing})
            os.read(reading, 1)
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                time.sleep(0.05)
                status = 2 if seen else 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_inherits_no_other_descriptor():
    reading, writing = os.pipe()
    leaked = os.dup(writing)
    os.set_inheritable(leaked, True)
    try:
        code = "import os; os.write(9, ' '.join(sorted(os.listdir('/proc/self/fd'))).encode())"
        spawn_unseen(python(code), os.environ, {9: writing})
        os.close(writing)
        listed = os.read(reading, 100).split()
        assert [name for name in listed if name != b"3"] == [b"0", b"1", b"2", b"9"]
    finally:
        os.close(reading)
        os.close(leaked)


def test_crossed_numbers_arrive_right():
    pipes = [os.pipe() for _ in range(2)]
    try:
        first, second = pipes[0][1], pipes[1][1]
        code = f"import os; os.write({second}, b'first'); os.write({first}, b'second')"
        spawn_unseen(python(code), os.environ, {second: first, first: second})
        os.close(first)
        os.close(second)
        assert os.read(pipes[0][0], 10) == b"first"
        assert os.read(pipes[1][0], 10) == b"second"
    finally:
        os.close(pipes[0][0])
        os.close(pipes[1][0])


def test_a_program_that_is_not_there_just_ends():
    reading, writing = os.pipe()
    spawn_unseen(["/nonexistent/program"], os.environ, {5: writing})
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_hidden_descriptors_move_up_and_close():
    reading, writing = os.pipe()
    hidden = descriptors.hide(reading)
    try:
        assert hidden > 100
        assert hidden in descriptors.private
        assert not os.get_inheritable(hidden)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(reading)
        os.write(writing, b"still the same pipe")
        assert os.read(hidden, 5) == b"still"
    finally:
        os.close(writing)
        descriptors.close(hidden)
    assert hidden not in descriptors.private


def test_forget_closes_what_is_open_and_ignores_what_is_not():
    reading, writing = (descriptors.hide(fd) for fd in os.pipe())
    os.close(writing)
    descriptors.forget([reading, writing])
    assert not {reading, writing} & descriptors.private
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(reading)


@in_child
def test_there_is_room_when_the_guest_has_used_up_its_numbers():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = os.dup(0)
    os.close(used)
    soft = used + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, soft + 200)))
    last = os.dup(0)
    assert last == used
    with pytest.raises(OSError, match="Too many"):
        os.dup(0)
    with descriptors.Room() as room:
        assert room.floor == soft
        extra = os.dup(0)
        assert extra >= soft
    hidden = descriptors.hide(extra)
    assert hidden >= soft
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
    with pytest.raises(OSError, match="Too many"):
        os.dup(0)
    reading, writing = (None, None)
    with descriptors.Room():
        reading, writing = os.pipe()
    spawn_unseen(python("import os; os.write(9, b'here')"), os.environ, {9: writing})
    os.close(writing)
    assert os.read(reading, 10) == b"here"


@in_child
def test_without_any_room_the_error_is_the_hosts():
    used = os.dup(0)
    os.close(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 1))
    os.dup(0)
    with descriptors.Room(), pytest.raises(OSError, match="Too many"):
        os.dup(0)


def test_it_starts_while_other_threads_compete_for_python():
    """A fork of Python's would wait for ever for a lock whose holder it did not inherit."""
    stop = threading.Event()

    def compete():
        while not stop.is_set():
            sum(range(100))

    threads = [threading.Thread(target=compete) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            reading, writing = os.pipe()
            code = "import os; os.write(9, b'%d %d' % (os.getpid(), os.getsid(0)))"
            pid = spawn_unseen(python(code), os.environ, {9: writing})
            os.close(writing)
            assert os.read(reading, 30).split() == [str(pid).encode()] * 2, number
            assert os.read(reading, 10) == b""
            os.close(reading)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_from_threads_too_it_inherits_nothing_and_is_not_found():
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        test_it_inherits_no_other_descriptor()
        test_crossed_numbers_arrive_right()
        test_a_program_that_is_not_there_just_ends()
        reading, writing = os.pipe()
        code = 'import os; os.write(9, b"it\'s here")'
        spawn_unseen(python(code), os.environ, {9: writing})
        os.close(writing)
        assert os.read(reading, 20) == b"it's here"
        os.close(reading)
    finally:
        release.set()
        thread.join()
