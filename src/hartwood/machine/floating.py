"""The guest's floating-point flags and rounding mode as the host's control word, and back.

Native code keeps both in MXCSR (SDM 1, 10.2.3); Unpriv. 21.2 has the guest's side.
"""

from __future__ import annotations

# (host sticky bit, guest flag): IE NV, ZE DZ, OE OF, UE UF, PE NX. DE has no counterpart.
_FLAG_BITS = ((1, 16), (4, 8), (8, 4), (16, 2), (32, 1))
#: RISC-V rounding mode -> MXCSR.RC; RMM (4) has none and native code leaves it to the reference.
_ROUNDING = {0: 0, 1: 3, 2: 1, 3: 2}
_MASKED = 0x1F80


def flags_of(mxcsr: int) -> int:
    """RISC-V fflags for the sticky bits of an MXCSR value."""
    return sum(guest for host, guest in _FLAG_BITS if mxcsr & host)


def mxcsr_of(fflags: int, frm: int) -> int:
    """MXCSR with these flags and rounding mode, every exception masked."""
    sticky = sum(host for host, guest in _FLAG_BITS if fflags & guest)
    return _MASKED | sticky | _ROUNDING.get(frm, 0) << 13
