"""A hash over definitions: functions count by their bytecode and by what they refer to, so that a
changed helper or constant changes the hash, while moving a line or a comment does not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType


def digest(*things: object) -> str:
    """A hexadecimal SHA-256 over numbers, strings, containers and functions."""
    total = hashlib.sha256()
    for part in _parts(things, set()):
        total.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return total.hexdigest()


def _parts(thing: object, open_: set[int]) -> Iterator[str]:
    if isinstance(thing, FunctionType):
        # A function that is being described already (recursion) is not entered again.
        if id(thing) in open_:
            yield f"again {thing.__name__}"
            return
        open_.add(id(thing))
        code = thing.__code__
        yield from _code(code)
        # Prose changes nothing; the docstring is the first constant where there is one.
        documented = thing.__doc__ is not None and code.co_consts[:1] == (thing.__doc__,)
        yield from _parts(code.co_consts[1:] if documented else code.co_consts, open_)
        cells = thing.__closure__ or ()
        yield from _parts([cell.cell_contents for cell in cells], open_)
        yield from _parts(thing.__defaults__, open_)
        for name in _names(code):
            if name in thing.__globals__:
                yield name
                yield from _parts(thing.__globals__[name], open_)
    elif isinstance(thing, CodeType):
        yield from _code(thing)
        yield from _parts(thing.co_consts, open_)
    elif isinstance(thing, (tuple, list)):
        yield f"{len(thing)}["
        for part in thing:
            yield from _parts(part, open_)
    elif isinstance(thing, Mapping):
        yield from _parts(sorted(thing.items(), key=repr), open_)
    elif isinstance(thing, frozenset):
        yield repr(sorted(thing, key=repr))
    elif isinstance(thing, type):
        yield thing.__qualname__
    elif isinstance(thing, ModuleType):
        yield thing.__name__
    elif isinstance(thing, (int, float, str, bytes, bool, type(None))):
        yield repr(thing)
    else:
        # Objects have no stable text of their own; their kind has to do.
        yield type(thing).__qualname__


def _code(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))


def _names(code: CodeType) -> list[str]:
    """Global names that a function or the functions inside it use."""
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _names(constant)
    return found
