"""The engine's benchmark: programs, measuring, the report. `make bench` runs it."""
