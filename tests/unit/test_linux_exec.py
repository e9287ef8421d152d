"""Finding and starting programs: scripts, refusals, the first stack, what survives execve."""

from __future__ import annotations

import os
import struct
from errno import E2BIG, EACCES, ELIBBAD, ELOOP, ENOENT, ENOEXEC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.errors import LoadError
from hartwood.linux import exec as execution
from hartwood.linux import signals, stack
from hartwood.linux.signals import Action
from hartwood.linux.task import Ended
from hartwood.mem import descriptors
from hartwood.mem.flat import LIMIT, FlatSpace
from unit.elf_files import CODE, program, segment
from unit.fake_engine import call, in_child, make_process, make_task

EXECVE, EXECVEAT = 221, 281
AT = 0x10_0000
FDCWD = 2**64 - 100
HOST_PROGRAM = "/bin/sh"


def put(path, data, mode=0o755):
    path.write_bytes(data)
    path.chmod(mode)
    return os.fsencode(path)


@pytest.fixture
def task(monkeypatch):
    monkeypatch.setattr(signals, "mirror_mask", lambda task: None)
    monkeypatch.setattr(execution, "name_thread", lambda task, name: None)
    made = make_task()
    made.space.map(AT, 0x10000, 3)
    yield made
    made.space.close()


def prepare(task, path, *argv):
    return execution.prepare(task.process, path, list(argv) or [path], [b"E=1"])


# Finding.
def test_a_program_is_prepared(task, tmp_path):
    path = put(tmp_path / "prog", program())
    request = prepare(task, path, b"zero", b"one")
    assert (request.path, request.argv, request.env) == (path, [b"zero", b"one"], [b"E=1"])
    assert request.exe == path
    assert request.fd in descriptors.private
    request.close()
    assert request.fd not in descriptors.private


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!%s\n", [b"%s"]),
        (b"#! %s  \n", [b"%s"]),
        (b"#!%s one two  \n", [b"%s", b"one two"]),
        (b"#!%s\t-x\n", [b"%s", b"-x"]),
        (b"#!%s", [b"%s"]),
    ],
)
def test_a_script_starts_its_interpreter(task, tmp_path, line, words):
    real = put(tmp_path / "prog", program())
    script = put(tmp_path / "script", line.replace(b"%s", real))
    request = prepare(task, script, b"ignored", b"argument")
    expected = [word.replace(b"%s", real) for word in words]
    assert request.argv == [*expected, script, b"argument"]
    assert request.exe == real
    assert request.path == script
    request.close()


def test_scripts_of_scripts_end(task, tmp_path):
    real = put(tmp_path / "s0", program())
    for level in range(1, 5):
        real = put(tmp_path / f"s{level}", b"#!%s\n" % real)
    request = prepare(task, real)
    assert len(request.argv) == 5
    request.close()
    with pytest.raises(LoadError) as caught:
        prepare(task, put(tmp_path / "s5", b"#!%s\n" % real))
    assert caught.value.errno == ELOOP
    itself = tmp_path / "itself"
    with pytest.raises(LoadError):
        prepare(task, put(itself, b"#!%s\n" % os.fsencode(itself)))


@pytest.mark.parametrize(
    ("data", "errno", "words"),
    [
        (b"", ENOEXEC, "empty"),
        (b"garbage", ENOEXEC, "not an ELF file"),
        (b"#!\n", ENOEXEC, "names no interpreter"),
        (b"#!   \n", ENOEXEC, "names no interpreter"),
        (b"#!" + b"x" * 300, ENOEXEC, "too long"),
        (b"#!/nonexistent/interpreter\n", ENOENT, "No such file"),
        (program()[:100], ELIBBAD, "truncated"),
        (program(machine=183), ENOEXEC, "AArch64"),
        (program(interpreter=b"/nonexistent/ld.so\0"), ENOENT, "--root"),
    ],
)
def test_what_cannot_be_started_says_why(task, tmp_path, data, errno, words):
    before = set(descriptors.private)
    with pytest.raises(LoadError) as caught:
        prepare(task, put(tmp_path / "prog", data))
    assert caught.value.errno == errno
    assert words in str(caught.value)
    assert descriptors.private == before


def test_missing_directory_unexecutable(task, tmp_path):
    with pytest.raises(LoadError) as caught:
        prepare(task, b"/nonexistent")
    assert caught.value.errno == ENOENT
    with pytest.raises(LoadError) as caught:
        prepare(task, os.fsencode(tmp_path))
    assert caught.value.errno == EACCES
    path = put(tmp_path / "prog", program(), 0o644)
    with pytest.raises(LoadError) as caught:
        prepare(task, path)
    assert caught.value.errno == EACCES
    task.process.leader = None  # a person may start what is only readable
    prepare(task, path).close()


def test_a_host_program_is_told_apart(task):
    with pytest.raises(execution.HostProgram) as caught:
        prepare(task, HOST_PROGRAM.encode(), b"sh", b"-c")
    assert caught.value.file == HOST_PROGRAM.encode()
    assert caught.value.argv == [b"sh", b"-c"]
    assert "x86-64, not for riscv64" in str(caught.value)


def test_too_many_arguments(task, tmp_path):
    path = put(tmp_path / "prog", program())
    for argv in ([b"x" * 131072], [b"x" * 1000] * 7000, [b""] * 1_000_000):
        with pytest.raises(LoadError) as caught:
            prepare(task, path, *argv)
        assert caught.value.errno == E2BIG


def test_below_the_root_first(tmp_path):
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    put(root / "bin/sh", program())
    put(root / "ld.so", program([segment(va=0)], type=3, entry=0x200))
    dynamic = put(root / "bin/dynamic", program(interpreter=b"/ld.so\0"))
    process = make_process(root=str(root))
    request = execution.prepare(process, b"/bin/sh", [b"sh"], [])
    assert request.exe == os.fsencode(root / "bin/sh")
    assert request.path == b"/bin/sh"
    request.close()
    request = execution.prepare(process, dynamic, [b"d"], [])
    assert request.link is not None
    assert request.link.program.path == "/ld.so"
    assert request.link.fd in descriptors.private
    request.close()
    process.space.close()


# The first stack.
def words_at(space, at, count):
    return struct.unpack(f"<{count}Q", space.read(at, 8 * count))


def pointers(space, at):
    while word := space.read_u64(at):
        yield word
        at += 8


texts = st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\0", b"")), max_size=12)


@given(texts, texts, st.binary(min_size=1, max_size=50).map(lambda t: t.replace(b"\0", b"n")))
@settings(max_examples=100, deadline=None)
def test_the_stack_reads_back(argv, env, path):
    space = FlatSpace()
    try:
        top, size = 0x80_0000, 0x4_0000
        space.map(top - size, size, 3)
        auxv = [(stack.AT_PAGESZ, 4096), (stack.AT_ENTRY, 0x1234)]
        sp, vector = stack.build(space, top, argv, env, path, auxv, b"0123456789abcdef", size)
        assert sp % 16 == 0
        assert top - size < sp < top
        assert space.read_u64(sp) == len(argv)
        at = sp + 8
        found = [space.read_cstring(p) for p in pointers(space, at)]
        assert found == argv
        at += 8 * len(argv) + 8
        assert [space.read_cstring(p) for p in pointers(space, at)] == env
        at += 8 * len(env) + 8
        assert space.read(at, len(vector)) == vector
        pairs = dict(struct.iter_unpack("<QQ", vector))
        assert list(pairs)[-1] == stack.AT_NULL
        assert pairs[stack.AT_ENTRY] == 0x1234
        assert space.read(pairs[stack.AT_RANDOM], 16) == b"0123456789abcdef"
        assert space.read_cstring(pairs[stack.AT_EXECFN]) == path
        assert space.read_u64(top - 8) == 0
        # The strings lie together, arguments first, as setproctitle and its like expect.
        places = [*pointers(space, sp + 8), *pointers(space, sp + 8 * len(argv) + 16)]
        assert places == sorted(places)
        lengths = [len(text) + 1 for text in (*argv, *env)]
        assert all(b - a == n for a, b, n in zip(places, places[1:], lengths, strict=False))
    finally:
        space.close()


def test_a_stack_without_room_is_refused():
    space = FlatSpace()
    with pytest.raises(LoadError) as caught:
        stack.build(space, 0x80_0000, [b"x" * 50_000], [], b"p", [], bytes(16), 0x2_0000)
    assert caught.value.errno == E2BIG
    with pytest.raises(LoadError):
        stack.build(space, 0x80_0000, [b"x" * 131072], [], b"p", [], bytes(16), 1 << 30)
    space.close()


# Starting.
def start(task, tmp_path, data=None, **options):
    path = put(tmp_path / "prog", data or program(**options))
    task.process.exe = b""
    request = prepare(task, path, b"zero", b"one")
    execution.start(task, request)
    return request


def test_a_started_program_has_what_linux_gives(task, tmp_path):
    for number in range(1, 32):
        task.x[number] = 7
        task.hart.f[number] = 7
    task.hart.fcsr = 0xFF
    request = start(task, tmp_path)
    process, space = task.process, task.space
    assert task.hart.pc == CODE + 0x200
    assert task.x.tolist() == [0, 0, task.x[2], *[0] * 29]
    assert task.hart.f.tolist() == [0] * 32
    assert task.hart.fcsr == 0
    sp = task.x[2]
    assert space.read_u64(sp) == 2
    assert process.exe == request.exe
    assert process.argv == [b"zero", b"one"]
    assert process.brk == process.brk_start == CODE + 0x1000
    assert space.read(process.trampoline, 8) == execution.TRAMPOLINE
    regions = {region.path: region for region in space.regions}
    assert regions["[stack]"].end == LIMIT - 4096
    assert regions["[stack]"].prot == 7  # no PT_GNU_STACK
    assert regions["[vdso]"].prot == 5
    assert space.regions.at(AT) is None
    assert process.machine.flushed == 1
    pairs = dict(struct.iter_unpack("<QQ", process.auxv))
    assert pairs[stack.AT_PHDR] == CODE + 64
    assert pairs[stack.AT_PHNUM] == 1
    assert pairs[stack.AT_HWCAP] == 0x112D
    assert pairs[stack.AT_UID] == os.getuid()
    assert stack.AT_BASE in pairs
    assert 33 not in pairs  # AT_SYSINFO_EHDR: there is no vDSO
    assert request.fd not in descriptors.private


def test_the_stack_is_executable_only_on_request(task, tmp_path):
    data = program([segment(), segment(kind=0x6474E551, flags=6, filled=0, va=0)])
    start(task, tmp_path, data)
    assert next(r.prot for r in task.space.regions if r.path == "[stack]") == 3


def test_the_stack_follows_its_limit(task, tmp_path):
    task.process.limits[3] = (64 << 20, 64 << 20)
    start(task, tmp_path)
    region = next(r for r in task.space.regions if r.path == "[stack]")
    assert region.end - region.start == 64 << 20
    task.process.limits[3] = (2**64 - 1, 2**64 - 1)
    start(task, tmp_path)
    region = next(r for r in task.space.regions if r.path == "[stack]")
    assert region.end - region.start == 1 << 30
    assert task.space.mmap_top <= region.start


def test_a_first_program_without_room_is_an_error(task, tmp_path):
    huge = segment(va=0x20000, flags=6, offset=0x1000, filled=0x10, size=1 << 33)
    task.process.space.commit_limit = 1 << 20
    with pytest.raises(LoadError, match="Cannot allocate memory"):
        start(task, tmp_path, program([segment(), huge]))


def test_a_later_program_without_room_kills(task, tmp_path):
    lines = []
    task.process.complain = lines.append
    huge = segment(va=0x20000, flags=6, offset=0x1000, filled=0x10, size=1 << 33)
    request = prepare(task, put(tmp_path / "prog", program([segment(), huge])))
    task.process.exe = b"/the/old/one"
    task.process.space.commit_limit = 1 << 20
    with pytest.raises(Ended):
        execution.start(task, request)
    assert task.process.exit_status == -9
    assert "Cannot allocate" in lines[0]


def arguments(task, *texts):
    """An argv array at AT with its strings behind it; its address."""
    places, at = [], AT + 0x1000
    for text in texts:
        task.space.write(at, text + b"\0")
        places.append(at)
        at += len(text) + 1
    task.space.write(AT, struct.pack(f"<{len(places) + 1}Q", *places, 0))
    return AT


@in_child
def test_execve_replaces_the_program_and_keeps_what_it_must(task, tmp_path):
    process = task.process
    path = put(tmp_path / "prog", program())
    process.exe = b"/old"
    process.set_action(10, Action(0x1000))
    process.set_action(12, Action(signals.SIG_IGN))
    task.mask = signals.bit(15)
    task.pending.append((15, signals.user_info(15, 0, 1, 1)))
    task.clear_tid = task.robust_list = 99
    signals.set_stack(task, AT, 0, 8192)
    closing = os.dup2(0, 3100, inheritable=False)
    staying = os.dup2(0, 3101, inheritable=True)
    array = arguments(task, b"zero", b"one")
    task.space.write(AT + 0x2000, path + b"\0")
    assert call(task, EXECVE, AT + 0x2000, array, 0) is None
    assert process.argv == [b"zero", b"one"]
    assert process.env == []
    assert process.actions[10].handler == signals.SIG_DFL
    assert process.actions[12].handler == signals.SIG_IGN
    assert task.mask == signals.bit(15)
    assert len(task.pending) == 1
    assert (task.clear_tid, task.robust_list, task.stack_size) == (0, 0, 0)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(closing)
    os.close(staying)
    assert task.hart.pc == CODE + 0x200


@pytest.mark.parametrize(
    ("path", "argv", "env", "errno"),
    [
        (b"/nonexistent", True, 0, -ENOENT),
        (b"", True, 0, -ENOENT),
        (b"/", True, 0, -EACCES),
        (None, True, 0, -14),
        (b"/bin/sh", 8, 0, -14),
        (b"/bin/sh", True, 8, -14),
    ],
)
def test_a_refused_execve_leaves_everything_as_it_was(task, path, argv, env, errno):
    array = arguments(task, b"zero") if argv is True else argv
    if path is not None:
        task.space.write(AT + 0x2000, path + b"\0")
    task.hart.pc = 0x1234
    before = [(r.start, r.end) for r in task.space.regions]
    assert call(task, EXECVE, AT + 0x2000 if path is not None else 8, array, env) == errno
    assert [(r.start, r.end) for r in task.space.regions] == before
    assert task.hart.pc == 0x1234


def test_execve_by_a_thread_hands_over_to_the_leader(task, tmp_path):
    path = put(tmp_path / "prog", program())
    thread = make_task(task.process, tid=424242)
    array = arguments(task, b"zero")
    task.space.write(AT + 0x2000, path + b"\0")
    with pytest.raises(Ended):
        call(thread, EXECVE, AT + 0x2000, array, 0)
    assert task.process.ending is thread
    assert task.process.request is not None
    assert task.hart.stops == 1
    assert task.process.delivery.kicks == [task.tid]
    with pytest.raises(Ended):
        task.check()
    task.process.request.close()


@in_child
def test_execveat(task, tmp_path):
    put(tmp_path / "prog", program())
    (tmp_path / "link").symlink_to("prog")
    folder = os.open(tmp_path, os.O_RDONLY)
    file = os.open(tmp_path / "prog", os.O_RDONLY)
    for fd in (folder, file):
        os.set_inheritable(fd, True)
    try:
        array = arguments(task, b"zero")

        def execveat(at, name, flags):
            task.space.write(AT + 0x2000, name + b"\0")
            return call(task, EXECVEAT, at, AT + 0x2000, array, 0, flags)

        assert execveat(folder, b"missing", 0) == -ENOENT
        assert execveat(folder, b"", 0) == -ENOENT
        assert execveat(999, b"prog", 0) == -9
        assert execveat(folder, b"link", 0x100) == -ELOOP
        assert execveat(folder, b"prog", 0) is None
        assert task.process.exe == os.fsencode(tmp_path / "prog")
        task.space.map(AT, 0x10000, 3)
        array = arguments(task, b"zero")
        assert execveat(file, b"", 0x1000) is None
    finally:
        os.close(folder)
        os.close(file)


def test_a_host_program_really_takes_the_process():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writing, 1)
            task = make_task()
            task.space.map(AT, 0x10000, 3)
            array = arguments(task, b"sh", b"-c", b"echo $WORD; trap", b"rest")
            task.space.write(AT + 0x2000, HOST_PROGRAM.encode() + b"\0")
            task.space.write(AT + 0x3000, b"WORD=host\0")
            task.space.write(AT + 0x4000, struct.pack("<QQ", AT + 0x3000, 0))
            call(task, EXECVE, AT + 0x2000, array, AT + 0x4000)
        finally:
            os._exit(99)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(reading, 100) == b"host\n"
    os.close(reading)


def test_long_argument_arrays_are_read_across_pages(task):
    count = 3000
    at = AT + 0x8FF0 - 8 * 100
    task.space.map(AT, 0x20000, 3)
    task.space.write(AT, b"text\0")
    task.space.write(at, struct.pack(f"<{count + 1}Q", *[AT] * count, 0))
    assert len(execution._strings(task, at)) == count
    assert execution._strings(task, 0) == []
    # The last pointer may end where the mapping ends.
    end = AT + 0x20000
    task.space.write(end - 16, struct.pack("<QQ", AT, 0))
    assert execution._strings(task, end - 16) == [b"text"]
