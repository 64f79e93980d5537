"""Draws how the packages of dcal_core import one another, as the mermaid graph in docs/architecture.md.

    python docs/house.py            writes it there

An arrow goes from a package to one that imports it; what follows from other arrows is left out.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- house: made by docs/house.py -->\n", "<!-- end of house -->"


def packages() -> list[str]:
    """The folders of dcal_core that hold modules."""
    return sorted(path.parent.name for path in ROOT.glob("dcal_core/*/__init__.py"))


def imported(package: str) -> set[str]:
    """The other packages that any file of a package imports, at its top or inside functions."""
    names = set()
    for path in (ROOT / "dcal_core" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names if name.startswith("dcal_core.")]
    return {part[1] for part in parts} & set(packages()) - {package}


def arrows() -> list[tuple[str, str]]:
    """Pairs (imported, importing) that do not follow from others."""
    direct = {package: imported(package) for package in packages()}

    def behind(package: str) -> set[str]:
        found = set(direct[package])
        for other in direct[package]:
            found |= behind(other)
        return found

    found = []
    for package, others in direct.items():
        through = set().union(*(behind(other) for other in others))
        found += [(other, package) for other in others - through]
    return sorted(found)


def graph() -> str:
    """The mermaid source, with its fence."""
    lines = [f"    {package}" for package in packages()]
    lines += [f"    {a} --> {b}" for a, b in arrows()]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```\n"])


def main() -> None:
    """Write the graph between its marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + graph() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
