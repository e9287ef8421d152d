"""Faults of generated code land where they should, other faults are nobody's, signals get through.

Each scenario runs in a process of its own, because handlers are the process's and some end it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hartwood.jit import host_x86
from hartwood.jit.image import flatten
from native_code import compile_image, runtime_object

MASK = (1 << 64) - 1
SCENARIOS = Path(__file__).with_name("signal_scenarios.py")


def probe_text() -> str:
    """A function with twelve values alive across an access, on both ways out of it."""
    lines = ["define i64 @probe(i64 %seed, i64 %at, i64 %write) nounwind {"]
    for k in range(1, 13):
        lines += [f"%m{k} = mul i64 %seed, {k}", f"%a{k} = add i64 %m{k}, {k}"]
    lines += [
        "%p = inttoptr i64 %at to ptr",
        "%w = icmp ne i64 %write, 0",
        "br i1 %w, label %writing, label %reading",
        "reading:",
        f"%v0 = {host_x86.load(8, '%p', 'ok', 'flt')}",
        "writing:",  # adds nothing, so the memory keeps its value
        f"%v1 = {host_x86.amo('add', 8, '%p', '0', 'ok', 'flt')}",
        "ok:",
        "%v = phi i64 [%v0, %reading], [%v1, %writing]",
        *mix("ok"),
        "%r = add i64 %v, %ok12",
        "ret i64 %r",
        "flt:",
        *mix("flt"),
        "%s = xor i64 %flt12, -1",
        "ret i64 %s",
        "}",
    ]
    return "\n".join(lines)


def mix(name: str) -> list[str]:
    lines = [f"%{name}0 = add i64 0, 0"]
    for k in range(1, 13):
        lines.append(f"%t{name}{k} = mul i64 %a{k}, {2 * k + 1}")
        lines.append(f"%{name}{k} = xor i64 %{name}{k - 1}, %t{name}{k}")
    return lines


SMALL = f"""
define i64 @load(i64 %at) nounwind {{
  %p = inttoptr i64 %at to ptr
  %v = {host_x86.load(8, "%p", "ok", "flt")}
ok:
  ret i64 %v
flt:
  ret i64 -1
}}
define i64 @store(i64 %at) nounwind {{
  %p = inttoptr i64 %at to ptr
  {host_x86.store(8, "%p", "7", "ok", "flt")}
ok:
  ret i64 0
flt:
  ret i64 -1
}}
define i64 @combine(i64 %at) nounwind {{
  %p = inttoptr i64 %at to ptr
  %v = {host_x86.amo("minu", 8, "%p", "7", "ok", "flt")}
ok:
  ret i64 %v
flt:
  ret i64 -1
}}
define i64 @plain_load(i64 %at) nounwind {{
  %p = inttoptr i64 %at to ptr
  %v = load volatile i64, ptr %p
  ret i64 %v
}}
define i64 @six() nounwind {{
  ret i64 1
}}
"""

# enter(function, argument, where the stack pointer is kept): what an abort returns from.
ENTER = """
.globl enter
enter:
  pushq %rbx
  pushq %rbp
  pushq %r12
  movq %rdx, %rbx
  movq %rsp, (%rdx)
  movq %rdi, %rax
  movq %rsi, %rdi
  call *%rax
  movq $0, (%rbx)
  popq %r12
  popq %rbp
  popq %rbx
  ret
.globl aborted
aborted:
  movq $0xab, %rax
  popq %r12
  popq %rbp
  popq %rbx
  ret
"""


class Program:
    """A random function of many guest accesses, and what it must give on any guest memory.

    Straight runs, diamonds and counted loops; all faults go to a handful of shared blocks whose
    phis tell which access it was and what two values alive there were.
    """

    def __init__(self, number: int) -> None:
        self.rng = random.Random(number)
        self.name = f"program{number:02}"
        self.lines: list[str] = []
        self.steps: list[tuple] = []
        self.count = 0
        self.block = "entry"
        self.edges: dict[int, list[tuple[str, int, str, str]]] = {n: [] for n in range(3)}

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def emit(self, text: str) -> str:
        name = self.fresh()
        self.lines.append(f"%{name} = {text}")
        return f"%{name}"

    def access(self, a: str, b: str) -> tuple[str, tuple]:
        """One access at an address made of `a`; gives the new `a` and how to model it."""
        kind = self.rng.choice(("load", "load", "store", "add", "swap", "max"))
        offset, target = 8 * self.rng.randrange(64), self.rng.randrange(3)
        key = len(self.edges[0]) + len(self.edges[1]) + len(self.edges[2]) + 1
        low = self.emit(f"and i64 {a}, {0xFC00 | 0x1F8}")
        at = self.emit(f"add i64 {low}, {offset}")
        pointer = self.emit(f"inttoptr i64 {at} to ptr")
        self.edges[target].append((self.block, key, a, b))
        done = "ok" + self.fresh()
        fault = f"fault{target}"
        if kind == "store":
            self.lines.append(host_x86.store(8, pointer, b, done, fault))
            value = b
        else:
            if kind == "load":
                line = host_x86.load(8, pointer, done, fault)
            else:
                line = host_x86.amo(kind, 8, pointer, b, done, fault)
            value = self.emit(line)
        self.lines.append(f"{done}:")
        self.block = done
        new = self.emit(f"add i64 {value}, {a}")
        new = self.emit(f"mul i64 {new}, {0x9E3779B97F4A7C15 - (1 << 64)}")
        new = self.emit(f"lshr i64 {new}, 3")
        return new, (kind, offset, key, target)

    def run_of(self, a: str, count: int) -> tuple[str, list[tuple]]:
        steps = []
        for _ in range(count):
            a, step = self.access(a, "%b")
            steps.append(step)
        return a, steps

    def diamond(self, a: str) -> tuple[str, tuple]:
        bit = self.emit(f"and i64 {a}, 4")
        test = self.emit(f"icmp eq i64 {bit}, 0")
        left, right, join = (part + self.fresh() for part in ("left", "right", "join"))
        self.lines += [f"br i1 {test}, label %{left}, label %{right}", f"{left}:"]
        self.block = left
        x, zero = self.run_of(a, self.rng.randrange(1, 4))
        after_left = self.block
        self.lines += [f"br label %{join}", f"{right}:"]
        self.block = right
        y, one = self.run_of(a, self.rng.randrange(1, 4))
        self.lines += [f"br label %{join}", f"{join}:"]
        merged = self.emit(f"phi i64 [{x}, %{after_left}], [{y}, %{self.block}]")
        self.block = join
        return merged, ("diamond", zero, one)

    def loop(self, a: str) -> tuple[str, tuple]:
        times = self.rng.randrange(2, 9)
        before, head, done = self.block, "loop" + self.fresh(), "done" + self.fresh()
        inside, index, last, next_index = (self.fresh() for _ in range(4))
        self.lines += [f"br label %{head}", f"{head}:"]
        hole = len(self.lines)
        self.lines += ["", ""]
        self.block = head
        out, steps = self.run_of(f"%{inside}", self.rng.randrange(1, 5))
        self.lines += [
            f"%{next_index} = add i64 %{index}, 1",
            f"%{last} = icmp eq i64 %{next_index}, {times}",
            f"br i1 %{last}, label %{done}, label %{head}",
            f"{done}:",
        ]
        self.lines[hole] = f"%{inside} = phi i64 [{a}, %{before}], [{out}, %{self.block}]"
        self.lines[hole + 1] = f"%{index} = phi i64 [0, %{before}], [%{next_index}, %{self.block}]"
        self.block = done
        return out, ("loop", times, steps)

    def text(self) -> str:
        a = "%a"
        for _ in range(25):
            shape = self.rng.randrange(4)
            if shape == 0:
                a, step = self.diamond(a)
                self.steps.append(step)
            elif shape == 1:
                a, step = self.loop(a)
                self.steps.append(step)
            else:
                a, steps = self.run_of(a, self.rng.randrange(1, 6))
                self.steps += steps
        self.lines.append(f"ret i64 {a}")
        for target, edges in self.edges.items():
            self.lines.append(f"fault{target}:")
            for n, part in enumerate(("key", "was", "two")):
                pairs = ", ".join(f"[{edge[n + 1]}, %{edge[0]}]" for edge in edges)
                self.lines.append(f"%{part}{target} = phi i64 {pairs}")
            self.lines += [
                f"%x{target} = xor i64 %was{target}, %two{target}",
                f"%y{target} = mul i64 %key{target}, {1000003 + target}",
                f"%z{target} = add i64 %x{target}, %y{target}",
                f"ret i64 %z{target}",
            ]
        head = f"define i64 @{self.name}(i64 %a, i64 %b, i64 %unused) nounwind {{\nentry:\n"
        return head + "\n".join(self.lines) + "\n}\n"

    def model(self, memory: dict[int, int], limit: int, a: int, b: int) -> int:
        """What the function must return where only addresses below `limit` are there."""

        class Fault(Exception):
            pass

        def signed(x: int) -> int:
            return x - (1 << 64) if x >> 63 else x

        def run(steps: list[tuple], a: int) -> int:
            for step in steps:
                if step[0] == "diamond":
                    a = run(step[1] if a & 4 == 0 else step[2], a)
                elif step[0] == "loop":
                    for _ in range(step[1]):
                        a = run(step[2], a)
                else:
                    kind, offset, key, target = step
                    at = (a & (0xFC00 | 0x1F8)) + offset
                    if at >= limit:
                        raise Fault(((a ^ b) + key * (1000003 + target)) & MASK)
                    old = memory.get(at, at * 0x9E3779B97F4A7C15 & MASK)
                    new = {
                        "load": old,
                        "store": b,
                        "swap": b,
                        "add": old + b & MASK,
                        "max": max(old, b, key=signed),
                    }[kind]
                    memory[at] = new
                    value = b if kind == "store" else old
                    a = ((value + a) * 0x9E3779B97F4A7C15 & MASK) >> 3
            return a

        try:
            return run(self.steps, a)
        except Fault as fault:
            return int(fault.args[0])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images every scenario loads: the runtime, and the code of these tests."""
    place = tmp_path_factory.mktemp("images")
    (place / "runtime").write_bytes(flatten(runtime_object()).dump())
    enter = "\n".join(f'module asm "{line}"' for line in ENTER.strip().splitlines())
    text = "\n".join((enter, SMALL, probe_text(), *(p.text() for p in all_programs())))
    (place / "code").write_bytes(compile_image(text).dump())
    return place


_PROGRAMS: list[Program] = []


def all_programs() -> list[Program]:
    if not _PROGRAMS:
        _PROGRAMS.extend(Program(number) for number in range(8))
    return _PROGRAMS


def start(scenario: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = Path(__file__).parents[2] / "src"
    return subprocess.run(
        [sys.executable, str(SCENARIOS), scenario, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(source)},
    )


def result_of(scenario: str, folder: Path):
    done = start(scenario, folder)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_faults_land_with_every_register_intact(folder: Path) -> None:
    result = result_of("landing", folder)
    assert result["wrong"] == []
    assert all(count > 100 for count in result["faults"])


def test_large_random_programs_survive_optimisation(folder: Path) -> None:
    """Loops, diamonds, shared landing blocks with phis: the same answer as Python's model,
    wherever guest memory ends."""
    results = result_of("programs", folder)
    programs = {program.name: program for program in all_programs()}
    memory: dict[int, int] = {}
    previous = None
    faulted = 0
    for name, present, a, b, result in results:
        if (name, present) != previous:
            memory, previous = {}, (name, present)
        before = dict(memory)
        expected = programs[name].model(memory, present * 4096, a, b)
        assert result == expected, (name, present, a, b)
        faulted += expected != programs[name].model(before, 1 << 20, a, b)
    assert len(results) == 8 * 17 * 3
    assert faulted > 200


def test_each_kind_of_fault_is_told_apart(folder: Path) -> None:
    found = result_of("kinds", folder)
    segv, bus = signal.SIGSEGV, signal.SIGBUS
    mapped, access, past = 1, 2, 2  # SEGV_MAPERR, SEGV_ACCERR, BUS_ADRERR
    assert found == {
        "access": [MASK, segv, access, 0x1234, 0],
        "write": [MASK, segv, access, 0x2000, 1],
        "read-only": [MASK, segv, access, 0x10, 1],
        "read-only-atomic": [MASK, segv, access, 0x18, 1],  # its read worked, its write did not
        "absent-atomic": [MASK, segv, access, 0x3000, 0],
        "unmapped": [MASK, segv, mapped, 0x8008, 0],
        "non-canonical": [MASK, segv, 128, 0, 0],  # SI_KERNEL: the host does not say where
        "file": [0, segv, 128, 0, 0],  # no fault: the mailbox is as it was
        "truncated": [MASK, bus, past, 0x5008, 0],
        "truncated-write": [MASK, bus, past, 0x5010, 1],
        "still-there": 0,
    }


def test_a_fault_of_python_itself_still_ends_it(folder: Path) -> None:
    done = start("python_crash", folder)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "before\n")


def test_a_handler_that_was_there_before_gets_its_turn(folder: Path) -> None:
    done = start("python_crash_reported", folder)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "before\n")
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_a_fault_in_an_unregistered_thread_ends_the_process(folder: Path) -> None:
    done = start("unregistered", folder)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "")


def test_an_access_without_a_landing_aborts_cleanly(folder: Path) -> None:
    assert result_of("abort", folder) == {
        "results": [0xAB],
        "inside": True,
        "fault": signal.SIGSEGV,
        "normal": 5,
    }


def test_without_an_abort_landing_it_ends_the_process(folder: Path) -> None:
    done = start("abort_nowhere", folder)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "")


def test_no_signal_slips_between_the_test_and_the_call(folder: Path) -> None:
    result = result_of("ping_pong", folder)
    assert set(result.pop("outcomes")) <= {-513, -512}
    assert result == {"right": True, "child": 0}


def test_a_storm_of_signals_loses_none(folder: Path) -> None:
    result = result_of("storm", folder)
    assert result["complete"] == [True, True]
    assert result["users"]
    assert set(result["returns"]) <= {-513, -512, 1}
    assert result["children"] == [0, 0]


def test_system_calls_give_the_kernels_answers(folder: Path) -> None:
    """A call that the kernel would restart reports that it never began; one that it would not
    restart reports EINTR, and so does any where restarting was not asked for."""
    assert result_of("calls", folder) == {
        "getpid": True,
        "error": -9,
        "read": [6, "abcdef"],
        "six": True,
        "restartable": -512,
        "not-restarted": -4,
        "sleep": -4,
        "pending": [True, -513],
        "stop": 1,
        "drained": [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1],
        "calm": False,
        "sent": [[signal.SIGSEGV, 0]],
        "ignored": [],
    }


def test_a_forked_child_keeps_working(folder: Path) -> None:
    assert result_of("fork", folder) == {"child": 0, "parent": [1], "faults": True}
