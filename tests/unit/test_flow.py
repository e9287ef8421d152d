"""The shape of regions: where blocks begin and end, what they read, where control may enter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hartwood.isa.insn import Decoded
from hartwood.isa.riscv import RISCV
from hartwood.jit.abi import LIMIT
from hartwood.jit.flow import Block, Explorer, FlowError, Region, inner_successors, tight_blocks
from hartwood.jit.lift import transfer_target

AT = 0x10000
RA, SP, T0, T1, S0, A0, A1, A2 = 1, 2, 5, 6, 8, 10, 11, 12
F0 = 32
FA0 = F0 + 10


def mask(*registers: int) -> int:
    return sum(1 << register for register in registers)


def target(decoded: Decoded, pc: int) -> int | None:
    return transfer_target(RISCV, decoded, pc)


def explorer(
    text: str,
    at: int = AT,
    limit: int = 100,
    executed: Callable[[int], bool] = lambda pc: True,
) -> Explorer:
    code = RISCV.assemble(text, at)

    def fetch(pc: int) -> int | None:
        part = code[pc - at : pc - at + 4] if pc >= at else b""
        return int.from_bytes(part, "little") if len(part) > 1 else None

    return Explorer(RISCV, fetch, target, limit, executed)


def region(text: str, *, at: int = AT, limit: int = 100, eager: bool = False) -> Region:
    return explorer(text, at, limit).region(at, eager=eager)


def shape(found: Region) -> list[tuple[int, int, str, int]]:
    """Start, end, kind and length of each block, relative to the entry."""
    return [
        (block.start - AT, block.end - AT, block.kind, len(block.steps))
        for block in found.blocks.values()
    ]


# How blocks end.
@pytest.mark.parametrize(
    ("last", "kind", "goal"),
    [
        ("beq a0, a1, 0x10000", "branch", AT),
        ("j 0x10000", "jump", AT),
        ("jal ra, 0x10000", "call", AT),
        ("jal t0, 0x10000", "call", AT),
        ("jalr ra, 0(a0)", "call", None),
        ("jr a0", "indirect", None),
        ("jr ra", "return", None),
        ("jalr zero, 0(t0)", "return", None),
        ("ret", "return", None),
        ("c.jr ra", "return", None),
        ("c.jalr a0", "call", None),
        ("jr zero", "indirect", None),
    ],
)
def test_a_transfer_ends_the_block(last: str, kind: str, goal: int | None) -> None:
    first = region(f"addi a0, a0, 1\n{last}\n").blocks[AT]
    assert (first.kind, first.target) == (kind, goal)
    assert len(first.steps) == 2
    assert first.end == AT + 4 + len(RISCV.assemble(last, AT + 4))


@pytest.mark.parametrize("last", ["ecall", "ebreak", "c.ebreak", "fence.i", ".word 0"])
def test_the_interpreter_takes_over_before_what_it_alone_can_do(last: str) -> None:
    first = region(f"addi a0, a0, 1\n{last}\nret").blocks[AT]
    assert (first.kind, first.end, len(first.steps)) == ("stop", AT + 4, 1)


def test_a_fence_is_an_instruction_like_others() -> None:
    first = region("fence rw, rw\naddi a0, a0, 1\nret").blocks[AT]
    assert (first.kind, len(first.steps)) == ("return", 3)


def test_the_end_of_known_code_is_a_stop() -> None:
    first = region("addi a0, a0, 1\naddi a0, a0, 1").blocks[AT]
    assert (first.kind, first.end) == ("stop", AT + 8)


def test_nothing_to_translate_is_an_error() -> None:
    for text in ("ecall", ".word 0xffffffff", "fence.i"):
        with pytest.raises(FlowError, match="0x10000"):
            region(text)
    with pytest.raises(FlowError, match="0x20000"):
        explorer("nop").region(0x20000)


# Leaders.
def test_blocks_are_cut_where_control_comes_in() -> None:
    found = region("""
        addi a0, a0, 1
        middle: addi a0, a0, 2
        beq a0, a1, middle
        bne a0, a1, far
        addi a0, a0, 3
        far: ret
    """)
    assert shape(found) == [
        (0, 4, "fall", 1),
        (4, 12, "branch", 2),
        (12, 16, "branch", 1),
        (16, 20, "fall", 1),
        (20, 24, "return", 1),
    ]


def test_a_call_is_stepped_over() -> None:
    found = region("jal ra, away\naddi a0, a0, 1\nret\naway: addi a0, a0, 2\nret")
    assert shape(found) == [(0, 4, "call", 1), (4, 12, "return", 2)]
    assert inner_successors(found, found.blocks[AT]) == [AT + 4]


def test_an_indirect_jump_leads_out_of_the_region() -> None:
    found = region("jr a0\naddi a0, a0, 1\nret")
    assert shape(found) == [(0, 4, "indirect", 1)]
    assert inner_successors(found, found.blocks[AT]) == []


def test_the_entry_comes_first_even_when_its_region_begins_below_it() -> None:
    code = explorer("low: addi a0, a0, 1\nret\nhigh: bne a0, a1, low\nret")
    found = code.region(AT + 8)
    assert list(found.blocks) == [AT + 8, AT, AT + 12]


def test_compressed_instructions_are_two_bytes() -> None:
    found = region("c.addi a0, 1\nc.beqz a0, on\nc.addi a0, 2\non: c.jr ra")
    assert shape(found) == [
        (0, 4, "branch", 2),
        (4, 6, "fall", 1),
        (6, 8, "return", 1),
    ]


def test_an_instruction_may_overlap_another() -> None:
    """A jump into the middle of an instruction: both readings are translated."""
    # The upper half of this lui is c.nop's encoding (0x0001).
    found = region(f"lui a0, 0x10\nbeq a0, a1, {AT + 2}\nret")
    assert AT + 2 in found.blocks
    assert found.blocks[AT + 2].steps[0].decoded.length == 2


def test_a_goal_outside_the_address_space_is_no_block() -> None:
    at = LIMIT - 8
    code = RISCV.assemble(f"beq a0, a1, {LIMIT + 16}\nj {LIMIT + 4}", at)
    word = int.from_bytes

    def fetch(pc: int) -> int | None:
        return word(code[pc - at : pc - at + 4], "little") if 0 <= pc - at < 8 else 0x13

    found = Explorer(RISCV, fetch, target, 100).region(at)
    assert list(found.blocks) == [at, at + 4]


# Entries.
def test_loop_heads_are_entries() -> None:
    found = region("""
        li t0, 3
        outer: li t1, 5
        inner: addi t1, t1, -1
        bnez t1, inner
        addi t0, t0, -1
        bnez t0, outer
        ret
    """)
    assert found.entries == [AT, AT + 4, AT + 8]


def test_a_loop_to_the_entry_needs_no_other_entry() -> None:
    assert region("again: addi a0, a0, -1\nbnez a0, again\nret").entries == [AT]


def test_a_forward_join_is_no_entry() -> None:
    assert region("beqz a0, on\naddi a0, a0, 1\non: ret").entries == [AT]


# Limits and what has run.
def test_a_region_stops_growing_at_the_limit() -> None:
    pieces = "\n".join(f"beqz a0, l{n}\naddi a0, a0, 1\nl{n}:" for n in range(100)) + "\nret"
    whole, part = region(pieces, limit=1000), region(pieces, limit=20)
    assert whole.size == 201
    assert 20 <= part.size < 40
    # What lies beyond is left by way of a block end whose goal is no block.
    outside = [
        goal
        for block in part.blocks.values()
        for goal in (block.end, block.target)
        if block.kind == "branch" and goal not in part.blocks
    ]
    assert outside


def test_straight_code_is_not_cut_in_the_middle_by_the_limit() -> None:
    found = region("addi a0, a0, 1\n" * 50 + "ret", limit=10)
    assert shape(found) == [(0, 204, "return", 51)]


def test_what_never_ran_is_left_to_the_interpreter() -> None:
    text = "beqz a0, rare\naddi a0, a0, 1\nret\nrare: addi a0, a0, 2\nret"
    never = {AT + 12, AT + 16}
    found = explorer(text, executed=lambda pc: pc not in never).region(AT)
    rare = found.blocks[AT + 12]
    assert (rare.kind, rare.end, rare.steps) == ("stop", AT + 12, [])
    assert found.size == 3
    with pytest.raises(FlowError):
        explorer(text, executed=lambda pc: pc not in never).region(AT + 12)


def test_a_region_ends_where_execution_has_stopped_so_far() -> None:
    text = "addi a0, a0, 1\naddi a0, a0, 2\nret"
    first = explorer(text, executed=lambda pc: pc == AT).region(AT).blocks[AT]
    assert (first.kind, first.end) == ("stop", AT + 4)


def test_a_region_ends_where_another_is_known_to_begin() -> None:
    text = """
        beqz a0, joined
        addi a0, a0, 1
        j away
        joined: addi a0, a0, 2
        addi a0, a0, 3
        ret
        away: ret
    """
    found = explorer(text)
    assert found.region(AT).size == 7
    # In the middle of a block, and at the goal of a jump.
    found.known.update({AT + 16, AT + 24})
    cut = found.region(AT)
    assert shape(cut) == [(0, 4, "branch", 1), (4, 12, "jump", 2), (12, 16, "fall", 1)]
    assert inner_successors(cut, cut.blocks[AT + 12]) == []
    # Its own entry is no reason to end.
    assert found.region(AT + 16).size == 2


# What a translation depends on.
def test_ranges_are_joined_where_blocks_touch() -> None:
    found = region("beqz a0, on\naddi a0, a0, 1\non: ret\n")
    assert found.ranges == [(AT, AT + 12)]


def test_ranges_leave_out_what_is_jumped_over() -> None:
    found = region("j on\n.word 0, 0, 0, 0\non: ret")
    assert found.ranges == [(AT, AT + 4), (AT + 20, AT + 24)]


def test_a_range_straddles_pages() -> None:
    at = 0x10FFE
    found = region("addi a0, a0, 1\nc.jr ra", at=at)
    assert found.ranges == [(at, at + 6)]


# Registers.
def test_steps_say_what_they_read_and_write() -> None:
    found = region("add a0, a1, a2\nfld fa0, 8(sp)\nadd zero, a0, a0\nret")
    add, load, nothing, _ = found.blocks[AT].steps
    assert (add.reads, add.writes, add.exits) == (mask(A1, A2), mask(A0), False)
    assert (load.reads, load.writes, load.exits) == (mask(SP), mask(FA0), True)
    assert (nothing.reads, nothing.writes) == (mask(A0), 0)
    assert found.used == mask(RA, SP, A0, A1, A2, FA0)
    assert found.blocks[AT].written == mask(A0, FA0)


@pytest.mark.parametrize(
    ("text", "exits"),
    [
        ("add a0, a0, a1", False),
        ("ld a0, 0(a0)", True),
        ("amoadd.w a0, a1, (a2)", True),
        ("frflags a0", True),
        ("rdcycle a0", True),
        ("fadd.d fa0, fa0, fa0", True),
        ("fadd.d fa0, fa0, fa0, rtz", True),
        ("fmv.d.x fa0, a0", False),
        ("div a0, a0, a1", False),
    ],
)
def test_what_may_leave_in_the_middle_says_so(text: str, exits: bool) -> None:
    step = explorer(text).step(AT)
    assert step is not None
    assert step.exits == exits


LOOP = """
    li t0, 3
    head: addi t0, t0, -1
    ld a2, 0(a0)
    bnez t0, head
    ret
"""


def test_dirty_is_what_may_differ_from_the_state() -> None:
    found = region(LOOP)
    entry, head, last = (found.blocks[AT + offset] for offset in (0, 4, 16))
    assert entry.dirty == 0
    # a2 is pinned: it travels in a host register and is never at home.
    assert head.dirty == mask(T0)
    assert last.dirty == mask(T0)


def test_eager_regions_are_dirty_in_floating_point_registers_only() -> None:
    text = "fmv.d.x fa0, a0\nli t0, 1\nhead: addi t0, t0, 1\nbnez t0, head\nret"
    assert region(text, eager=True).blocks[AT + 8].dirty == mask(FA0)
    assert region(text).blocks[AT + 8].dirty == mask(FA0, T0)


def test_a_call_leaves_nothing_dirty() -> None:
    found = region("li t0, 1\njal ra, 0x10100\nret")
    assert found.blocks[AT + 8].dirty == 0


def test_dirt_comes_from_every_path() -> None:
    found = region("beqz a0, on\nli t0, 1\nj out\non: li t1, 1\nout: ret")
    assert found.blocks[AT + 16].dirty == mask(T0, T1)


def test_live_is_what_somebody_may_still_read() -> None:
    found = region(LOOP)
    entry, head, last = (found.blocks[AT + offset] for offset in (0, 4, 16))
    assert not entry.live >> T0 & 1  # written before it is read
    assert head.live & mask(T0, A0) == mask(T0, A0)
    # Its way out writes t0 home, so it is read there.
    assert last.live == mask(RA, T0)


def test_an_exit_in_the_middle_keeps_dirty_registers_alive() -> None:
    """t0 is overwritten after the load, but the load may fault and write it home before."""
    found = region("li t0, 1\nbeqz a0, on\nnop\non: ld a2, 0(a0)\nli t0, 2\nret")
    assert found.blocks[AT + 12].live >> T0 & 1
    found = region("li t0, 1\nbeqz a0, on\nnop\non: add a2, a0, a0\nli t0, 2\nret")
    assert not found.blocks[AT + 12].live >> T0 & 1


def test_nothing_is_live_across_a_call_but_by_the_state() -> None:
    found = region("add t1, a0, a1\njal ra, 0x10100\nadd a0, t1, t0\nret")
    entry = found.blocks[AT]
    assert not entry.live & mask(T0, T1)
    assert found.blocks[AT + 8].live & mask(T0, T1) == mask(T0, T1)


def test_successors_are_inside_only() -> None:
    block = Block(0, end=4, kind="branch", target=8)
    found = Region([0], {0: block, 8: Block(8)}, [])
    assert inner_successors(found, block) == [8]
    block.kind = "return"
    assert inner_successors(found, block) == []


# What is kept in host registers where the rest is written home at once.
def kept(text: str) -> list[int]:
    return sorted(at - AT for at in tight_blocks(region(text)))


def test_small_loops_without_calls_are_tight() -> None:
    body = "addi a0, a0, 1\n" * 10
    assert kept(f"nop\nagain: {body}bne a0, a1, again\nret") == [4]
    assert kept(f"again: {body}beq a0, a1, out\n{body}j again\nout: ret") == [0, 44]
    assert kept(f"again: {body}jal ra, again\nbne a0, a1, again\nret") == []
    assert kept(f"again: {body * 7}bne a0, a1, again\nret") == []
    assert kept(f"{body}bne a0, a1, out\n{body}out: ret") == []
