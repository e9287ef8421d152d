"""What `ssa_float` promises without being compiled."""

from __future__ import annotations

import pytest

from hartwood.bits.softfloat import DZ, NV, NX, OF, RDN, RMM, RNE, RTZ, RUP, UF
from hartwood.bits.ssa import Text
from hartwood.bits.ssa_float import DYN, HostUnsupported, NotOnHost, on_host
from hartwood.bits.ssa_float_x86 import X86Float, fflags_of, mxcsr_of, outlined_functions
from hartwood.errors import Error


def host() -> X86Float:
    return X86Float(Text(), lambda: "%slot", lambda: "%frm")


def test_modes_of_the_host() -> None:
    assert [rm for rm in range(8) if on_host(rm)] == [RNE, RTZ, RDN, RUP, DYN]


@pytest.mark.parametrize("rm", [RMM, 5, 6])
def test_a_mode_the_host_lacks_is_refused(rm: int) -> None:
    fpu = host()
    calls = (
        lambda: fpu.add("%a", "%b", 64, rm),
        lambda: fpu.fma("%a", "%b", "%c", 32, rm),
        lambda: fpu.sqrt("%a", 64, rm),
        lambda: fpu.convert("%a", 64, 32, rm),
        lambda: fpu.from_int("%a", 64, True, 64, rm),
    )
    for attempt in calls:
        with pytest.raises(NotOnHost, match=f"no rounding mode {rm}") as caught:
            attempt()
        assert isinstance(caught.value, Error)


@pytest.mark.parametrize("rm", [5, 6])
def test_modes_that_do_not_exist_are_refused_for_integers_too(rm: int) -> None:
    with pytest.raises(NotOnHost, match=f"no rounding mode {rm}"):
        host().to_int("%a", 64, 32, True, rm)


def test_exact_conversions_take_any_mode() -> None:
    fpu = host()
    fpu.convert("%a", 32, 64, RMM)
    fpu.from_int("%a", 32, True, 64, RMM)
    fpu.from_int("%a", 32, False, 64, RMM)


def test_a_dynamic_operation_is_one_call_and_a_predicted_branch() -> None:
    fpu = host()
    result = fpu.div("%a", "%b", 64)
    text = fpu.text
    assert isinstance(text, Text)
    call, compare, branch, rare, back, on, phi = text.body().split("\n")
    assert "@llvm.experimental.constrained.fdiv.f64(double %a, double %b, " in call
    assert '"round.dynamic"' in call
    assert '"fpexcept.strict"' in call
    assert "fcmp uno" in compare
    assert branch.endswith(", !prof !1")
    assert (rare[-1], on[-1]) == (":", ":")
    assert back.strip().startswith("br label")
    assert phi.strip().startswith(f"{result} = phi double")
    assert text.block == on[:-1]


def test_a_raw_result_is_one_line() -> None:
    fpu = host()
    fpu.mul("%a", "%b", 32, raw=True)
    text = fpu.text
    assert isinstance(text, Text)
    assert len(text.body().split("\n")) == 1


def test_only_the_functions_that_are_called_are_defined() -> None:
    assert outlined_functions(host_text(outlined=False)) == []
    (function,) = outlined_functions(host_text(outlined=True))
    assert function.startswith("define internal preserve_allcc void @fused_nan32(float %a,")
    assert "call preserve_allcc" not in function


def host_text(outlined: bool) -> str:
    text = Text()
    X86Float(text, lambda: "%slot", lambda: "%frm", outlined=outlined).fma("%a", "%b", "%c", 32)
    return text.body()


def test_mxcsr_and_back() -> None:
    one_by_one = {NV: 1, DZ: 4, OF: 8, UF: 16, NX: 32}
    for flag, bit in one_by_one.items():
        assert mxcsr_of(flag, RNE) == 0x1F80 | bit
        assert fflags_of(0x1F80 | bit | 2) == flag
    for fflags in range(32):
        for frm in range(8):
            word = mxcsr_of(fflags, frm)
            assert fflags_of(word) == fflags
            assert word & 0x1F80 == 0x1F80
            assert word >> 13 == {RTZ: 3, RDN: 1, RUP: 2}.get(frm, 0)


def test_a_processor_without_the_instructions_is_named() -> None:
    X86Float.require({"sse4.1": True, "avx": True, "fma": True})
    with pytest.raises(HostUnsupported, match=r"lacks avx, fma$"):
        X86Float.require({"sse4.1": True, "avx": False})
