"""Our own benchmarks, one file per family. Micro-guests are assembled with our own assembler."""
