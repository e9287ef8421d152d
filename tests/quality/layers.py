"""Who may know whom: the graph of the rooms, and a reader of who really imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hartwood"
EVERYONE = {"errors"}
# Room -> rooms it may import. A name with a slash is one module of a room and nothing more of it.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "bits": set(),
    "mem": set(),
    "dev": set(),
    "net": set(),
    "storage": {"mem/pools"},
    "isa": {"bits"},
    "jit": {"bits", "isa", "mem"},
    "machine": {"bits", "isa", "mem", "jit", "dev", "net", "storage"},
    "board": {"machine", "mem", "dev", "net", "storage", "isa", "bits"},
    "linux": {"machine", "mem", "isa", "bits"},
    "guests": set(),
    "lab": set(),
    "lab/workloads": {"*"},
    "tools": {"*"},
    "__main__": {"tools"},
    "__init__": {"*"},
}
LLVM_MODULES = 2  # at most so many modules of jit import llvmlite, and nobody else


def room_of(module: str) -> str:
    """The room of `hartwood.a.b`: `a`, `__init__` for the package itself, `lab/workloads`."""
    parts = module.split(".")[1:]
    if parts[:2] == ["lab", "workloads"]:
        return "lab/workloads"
    return parts[0] if parts else "__init__"


def imports() -> Iterator[tuple[str, str, int]]:
    """Every import in the package: the importing module, the imported one, the line."""
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE).with_suffix("").parts
        parts = ("hartwood", *(inside[:-1] if inside[-1] == "__init__" else inside))
        module = ".".join(parts)
        package = parts if path.name == "__init__.py" else parts[:-1]
        for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield module, alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = ".".join((*package[: len(package) - node.level + 1], base)).rstrip(".")
                yield module, base, node.lineno
                for alias in node.names:
                    yield module, f"{base}.{alias.name}", node.lineno


def forbidden(importer: str, imported: str) -> bool:
    """Whether the table forbids module `importer` to import module `imported`."""
    if imported.partition(".")[0] != "hartwood":
        return False
    own, other = room_of(importer), room_of(imported)
    if other in {own, "__init__"} | EVERYONE:
        return False
    allowed = MAY_IMPORT.get(own, set())
    whole = "/".join(imported.split(".")[1:3])
    return not ({"*", other, whole} & allowed)
