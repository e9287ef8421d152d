"""Real guests to run: Debian's riscv64 programs, fetched and unpacked without root."""

from __future__ import annotations

from hartwood.guests.catalog import GUESTS, Guest, GuestError, fetch, location

__all__ = ["GUESTS", "Guest", "GuestError", "fetch", "location"]
