"""How Python enters generated code and how generated code comes back: the interpreter's frame.

`run` and `step` are C functions of one argument, the hart's `State`. The rest are handlers that
every bank shares.
"""

from __future__ import annotations

from hartwood.bits.ssa import Text
from hartwood.jit import abi
from hartwood.jit import host_x86 as host
from hartwood.jit.access import load_pointer
from hartwood.jit.calling import (
    HANDLER_CC,
    HANDLER_PARAMETERS,
    REGION_CC,
    REGION_PARAMETERS,
    REGION_RESULT,
    field,
    handler_tail,
    region_arguments,
    region_return,
    region_words,
)
from hartwood.jit.interp import dispatch, leave, transfer

_STEP_RECORD = abi.offset("step_record")


def _emit(text: Text, lines: list[str]) -> None:
    for line in lines:
        text.emit(line)


def _handler(name: str, text: Text) -> str:
    head = f"define {HANDLER_CC} void @{name}({HANDLER_PARAMETERS}) #0"
    return f"{head} {{\nentry:\n{text.body()}\n}}"


def _state_store(text: Text, name: str, value: str, kind: str = "i64") -> None:
    where = text.value(field(name))
    text.emit(f"store {kind} {value}, ptr {where}")


def _state_load(text: Text, name: str) -> str:
    return text.value(f"load i64, ptr {text.value(field(name))}")


def _leave() -> str:
    text = Text()
    _state_store(text, "pc", "%pc")
    _state_store(text, "budget", "%budget")
    text.emit("ret void")
    return _handler("leave", text)


def _simple(name: str, reason: int) -> str:
    """A handler that leaves at once with `reason`; tval is the pc."""
    text = Text()
    _emit(text, leave(text, reason, "0", "%pc", "%pc", "%budget"))
    return _handler(name, text)


def _over() -> str:
    """A transfer that may not go ahead: out of the address space, or out of budget."""
    text = Text()
    outside = text.value(f"icmp uge i64 %pc, {abi.LIMIT}")
    text.emit(f"br i1 {outside}, label %wild, label %spent")
    text.label("wild")
    _emit(text, leave(text, abi.FETCH, "0", "%pc", "%pc", "%budget"))
    text.label("spent")
    _emit(text, leave(text, abi.SLICE, "0", "0", "%pc", "%budget"))
    return _handler("over", text)


def _read_word(text: Text, away: str, checked: bool) -> str:
    """The instruction word at `%pc` as i32; branches to `away` or, for the second half, `away2`
    where a fetch fails. Without `checked` its pages need only be readable."""
    low = _fetch_half(text, "%pc", away)
    bits = text.value(f"and i32 {low}, 3")
    is_long = text.value(f"icmp eq i32 {bits}, 3")
    start = text.block
    more, ready = text.fresh_label("more"), text.fresh_label("ready")
    text.emit(f"br i1 {is_long}, label %{more}, label %{ready}")
    text.label(more)
    second = text.value("add i64 %pc, 2")
    if checked:
        _check(text, second, away + "2")
    high = _fetch_half(text, second, away + "2")
    high = text.value(f"shl i32 {high}, 16")
    whole = text.value(f"or i32 {high}, {low}")
    end = text.block
    text.emit(f"br label %{ready}")
    text.label(ready)
    return text.value(f"phi i32 [{low}, %{start}], [{whole}, %{end}]")


def _check(text: Text, address: str, away: str) -> None:
    """Branch to `away` unless the page of a guest address may be executed: that it may be read is
    not enough, so ask its shadow, which is not there or in retirement (see `shadow`)."""
    offset = text.value(f"shl i64 {address}, 3")
    handler = load_pointer(text, text.value(f"add i64 {offset}, {abi.SHADOW}"), away)
    gone, there = text.value(f"icmp eq ptr {handler}, @refetch"), text.fresh_label("there")
    text.emit(f"br i1 {gone}, label %{away}, label %{there}, !prof !1")
    text.label(there)


def _fetch_half(text: Text, address: str, away: str) -> str:
    where = text.value(f"inttoptr i64 {address} to ptr")
    done, value = text.fresh_label("ok"), text.fresh()
    text.emit(f"{value} = {host.load(2, where, done, away, guest=True)}")
    text.label(done)
    return value


def _fetch_exits(text: Text) -> None:
    """The blocks `away` and `away2` of `_read_word`: the page of the first or second half is
    not there for execution."""
    text.label("away")
    _emit(text, leave(text, abi.FETCH, "0", "%pc", "%pc", "%budget"))
    text.label("away2")
    second = text.value("add i64 %pc, 2")
    _emit(text, leave(text, abi.FETCH, "0", second, "%pc", "%budget"))


def _decode_to(text: Text, record: str, *, checked: bool = True) -> tuple[str, str]:
    """Decode the instruction at `%pc` into `record`; gives the handler and the word. Its bank may
    be missing: then leave. Handler 0 of the table is the one for illegal instructions."""
    word = _read_word(text, "away", checked)
    number = text.value(f"call i32 @decode_word(i32 {word}, ptr {record})")
    table = text.value(f"inttoptr i64 {_state_load(text, 'handlers')} to ptr")
    index = text.value(f"zext i32 {number} to i64")
    slot = text.value(f"getelementptr ptr, ptr {table}, i64 {index}")
    handler = text.value(f"load ptr, ptr {slot}")
    missing = text.value(f"icmp eq ptr {handler}, null")
    bank, known = text.fresh_label("bank"), text.fresh_label("known")
    text.emit(f"br i1 {missing}, label %{bank}, label %{known}")
    text.label(bank)
    _emit(text, leave(text, abi.BANK, "0", index, "%pc", "%budget"))
    text.label(known)
    return handler, word


def _decode() -> str:
    """The handler of a record that nobody filled in yet."""
    text = Text()
    handler, word = _decode_to(text, "%rec")
    # Release: a thread that sees this handler sees its operands. Where another thread has just
    # discarded what was decoded from this page, the record has to stay as that left it; and where
    # the page came back since, with another instruction, the record must not be of the old one.
    pair = text.value(f"cmpxchg ptr %rec, ptr @decode, ptr {handler} seq_cst monotonic, align 8")
    again = _read_word(text, "away", checked=False)
    same, stale = text.value(f"icmp eq i32 {word}, {again}"), text.fresh_label("stale")
    text.emit(f"br i1 {same}, label %good, label %{stale}, !prof !0")
    text.label(stale)
    text.value(f"cmpxchg ptr %rec, ptr {handler}, ptr @decode seq_cst monotonic, align 8")
    _emit(text, handler_tail("@resync", "%pc", "%rec", "%budget"))
    text.label("good")
    published = text.value(f"extractvalue {{ptr, i1}} {pair}, 1")
    fresh, late = text.fresh_label("fresh"), text.fresh_label("late")
    text.emit(f"br i1 {published}, label %{fresh}, label %{late}, !prof !0")
    text.label(fresh)
    _emit(text, handler_tail(handler, "%pc", "%rec", "%budget"))
    text.label(late)  # another thread was faster, or the page may not be executed any more
    _emit(text, handler_tail("@resync", "%pc", "%rec", "%budget"))
    _fetch_exits(text)
    return _handler("decode", text)


def _once(name: str, after: str, *, checked: bool) -> str:
    """Run the instruction at `%pc` from a record of its own, then the handler `after`: for an
    instruction whose record points to translated code, or a single step. `checked` asks whether
    its pages may be executed; otherwise it was fetched already."""
    text = Text()
    if checked:
        # Control may have come straight from a region, to a page that may only be read.
        _check(text, "%pc", "away")
    rec = text.value(f"getelementptr i8, ptr %s, i64 {_STEP_RECORD}")
    handler, _ = _decode_to(text, rec, checked=checked)
    for skip in (abi.RECORD, 2 * abi.RECORD):
        where = text.value(f"getelementptr i8, ptr {rec}, i64 {skip}")
        text.emit(f"store ptr @{after}, ptr {where}")
    _emit(text, handler_tail(handler, "%pc", rec, "%budget"))
    _fetch_exits(text)
    return _handler(name, text)


def _resync() -> str:
    """Go on at the shadow's record of `%pc`."""
    text = Text()
    offset = text.value("shl i64 %pc, 3")
    address = text.value(f"add i64 {offset}, {abi.SHADOW}")
    dispatch(text, "%pc", text.value(f"inttoptr i64 {address} to ptr"), "%budget")
    return _handler("resync", text)


def _enter_region() -> str:
    """The handler of a record whose instruction begins translated code."""
    text = Text()
    spent = text.value("icmp sle i64 %budget, 0")
    text.emit(f"br i1 {spent}, label %over, label %go")
    text.label("over")
    _emit(text, handler_tail("@over", "%pc", "%rec", "%budget"))
    text.label("go")
    pinned = []
    for register in abi.PINNED:
        where = text.value(field("x", register))
        pinned.append(text.value(f"load i64, ptr {where}"))
    offset = text.value("shl i64 %pc, 2")
    address = text.value(f"add i64 {offset}, {abi.ENTRIES}")
    slot = text.value(f"inttoptr i64 {address} to ptr")
    code = text.value(f"load ptr, ptr {slot}")
    arguments = region_arguments("%pc", "%budget", pinned)
    result = text.value(f"call {REGION_CC} {REGION_RESULT} {code}({arguments})")
    words = region_words(text, result)
    ran = text.value(f"sub i64 %budget, {words[1]}")
    total = text.value(f"add i64 {_state_load(text, 'translated')}, {ran}")
    _state_store(text, "translated", total)
    for register, word in zip(abi.PINNED, words[2:], strict=True):
        where = text.value(field("x", register))
        text.emit(f"store i64 {word}, ptr {where}")
    pc = text.value(f"and i64 {words[0]}, -2")
    outside = text.value(f"icmp uge i64 {pc}, {abi.LIMIT}")
    text.emit(f"br i1 {outside}, label %wild, label %inside")
    text.label("wild")
    _emit(text, handler_tail("@over", pc, "%rec", words[1]))
    text.label("inside")
    spent = text.value(f"icmp sle i64 {words[1]}, 0")
    text.emit(f"br i1 {spent}, label %over2, label %more")
    text.label("over2")
    _emit(text, handler_tail("@over", pc, "%rec", words[1]))
    text.label("more")
    bit = text.value(f"and i64 {words[0]}, 1")
    exits = text.value(f"icmp ne i64 {bit}, 0")
    text.emit(f"br i1 {exits}, label %once, label %on")
    text.label("once")
    # Where translated code begins again at the instruction that it left at, the instruction has
    # to be interpreted; anything else may have a unit by now, or be worth one.
    offset = text.value(f"shl i64 {pc}, 3")
    handler = load_pointer(text, text.value(f"add i64 {offset}, {abi.SHADOW}"), "on")
    again = text.value(f"icmp eq ptr {handler}, @enter_region")
    text.emit(f"br i1 {again}, label %apart, label %on")
    text.label("apart")
    once = text.value(f"inttoptr i64 {_state_load(text, 'once')} to ptr")
    _emit(text, handler_tail(once, pc, "%rec", words[1]))
    text.label("on")
    transfer(text, pc, words[1])
    return _handler("enter_region", text)


def _no_region(name: str) -> str:
    """What an entry slot points to while there is no translation: give the words back."""
    text = Text()
    region_return(text, ["%pc", "%budget", *(f"%p{i}" for i in range(len(abi.PINNED)))])
    head = f"define {REGION_CC} {REGION_RESULT} @{name}({REGION_PARAMETERS}) #0"
    return f"{head} {{\nentry:\n{text.body()}\n}}"


def _hot() -> str:
    """A transfer to an address that is hot: stitch what is there, or let Python know."""
    text = Text()
    where = text.value(f"inttoptr i64 {_state_load(text, 'stitch')} to ptr")
    none = text.value(f"icmp eq ptr {where}, null")
    text.emit(f"br i1 {none}, label %tell, label %try")
    text.label("tell")
    _emit(text, leave(text, abi.HOT, "0", "%pc", "%pc", "%budget"))
    text.label("try")
    context = text.value(f"inttoptr i64 {_state_load(text, 'stitch_context')} to ptr")
    text.value(f"call i64 {where}(ptr %s, ptr {context}, i64 %pc)")
    half = text.value("lshr i64 %pc, 1")
    index = text.value(f"and i64 {half}, {abi.HOT_SLOTS - 1}")
    counter = text.value(f"getelementptr i32, ptr {text.value(field('hot'))}, i64 {index}")
    threshold = text.value(f"trunc i64 {_state_load(text, 'hot_threshold')} to i32")
    text.emit(f"store i32 {threshold}, ptr {counter}")
    offset = text.value("shl i64 %pc, 3")
    address = text.value(f"add i64 {offset}, {abi.SHADOW}")
    dispatch(text, "%pc", text.value(f"inttoptr i64 {address} to ptr"), "%budget")
    return _handler("hot", text)


def _unit_exit() -> str:
    """To wherever control goes from a stitched unit (see `stencil`)."""
    text = Text()
    transfer(text, "%pc", "%budget")
    return _handler("unit_exit", text)


def _unit_exits() -> list[str]:
    """Other ways out of a unit: out of budget, to a page that is not there."""
    exits = []
    for name in ("over", "fetch"):
        text = Text()
        _emit(text, handler_tail(f"@{name}", "%pc", "%rec", "%budget"))
        exits.append(_handler(f"unit_{name}", text))
    return exits


def _illegal() -> str:
    text = Text()
    _emit(text, leave(text, abi.ILLEGAL, "2", "0", "%pc", "%budget"))
    return _handler("h_0", text)


def _outer(name: str, first: str) -> str:
    """A C function that runs handler `first` with the guest's floating-point control word."""
    text = Text()
    own = text.value("alloca i32")
    guest = text.value(field("mxcsr"))
    text.emit(host.store_mxcsr(own))
    text.emit(host.load_mxcsr(guest))
    pc, budget = _state_load(text, "pc"), _state_load(text, "budget")
    args = f"ptr %s, i64 {pc}, ptr null, i64 {budget}"
    text.emit(f"call {HANDLER_CC} void @{first}({args})")
    text.emit(host.store_mxcsr(guest))
    text.emit(host.load_mxcsr(own))
    text.emit("ret void")
    return f"define void @{name}(ptr %s) #0 {{\nentry:\n{text.body()}\n}}"


def shared_text() -> list[str]:
    """What the handlers of every bank leave through."""
    texts = (_leave(), _simple("fetch", abi.FETCH), _over(), _hot())
    return [text.replace("define ", "define internal ", 1) for text in texts]


def crossing_text() -> list[str]:
    """What control crosses between units and regions through, a module of its own with
    `shared_text`: large programs are there for a tenth of their time, so it is worth optimising."""
    texts = [
        _enter_region(),
        _no_region("no_region"),
        _no_region("no_region_stitched"),  # tells that the instruction ran, in a unit
        _unit_exit(),
        *_unit_exits(),
    ]
    # Optimised, a comparison with an address would take it from a table that there is none of.
    return [text.replace("define ", "define dso_local ", 1) for text in texts]


def entry_text() -> list[str]:
    """The rest; needs `@decode_word` and `shared_text` in the same module."""
    return [
        _simple("stepped", abi.SLICE),
        _simple("refetch", abi.FETCH),
        _decode(),
        _once("once", "unit_exit", checked=True),
        _once("once_only", "stepped", checked=True),
        _once("once_again", "stepped", checked=False),
        _resync(),
        _illegal(),
        _unit_exit(),
        _once("unit_once", "unit_exit", checked=True),
        _outer("run", "resync"),
        _outer("step", "once_only"),
        _outer("again", "once_again"),
    ]
