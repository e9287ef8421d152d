"""Devices: each knows its registers, and neither where it sits nor on which architecture."""
