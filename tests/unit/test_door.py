"""The package's public door: lazy, complete, and honest about what is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hartwood
from hartwood.errors import Error
from hartwood.linux.process import Process


def test_names_lead_to_their_rooms() -> None:
    assert hartwood.Error is Error
    assert hartwood.Process is Process
    assert set(hartwood.__all__) <= set(dir(hartwood))


def test_version_is_the_packages() -> None:
    assert str(hartwood.__version__).split(".")[0].isdigit()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'hartwood' has no attribute 'nothing'"):
        _ = hartwood.nothing


def test_importing_imports_no_room() -> None:
    code = "import sys, hartwood; print([m for m in sys.modules if m.startswith('hartwood.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_is_an_error() -> None:
    for name in vars(hartwood.errors).values():
        if isinstance(name, type) and issubclass(name, Exception):
            assert issubclass(name, hartwood.Error)
