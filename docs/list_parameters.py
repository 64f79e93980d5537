"""Lists every parameter in docs/parameters.md, from the classes that read them.

python docs/list_parameters.py            writes the page
"""

from pathlib import Path

from pydantic.fields import FieldInfo

from dcal_core.config.parameters import KINDS, choices, is_decisive, limits
from dcal_core.config.recipes import CLASSES, class_of
from dcal_core.config.shared import Config
from dcal_core.markdown import markdown_table

PAGE = Path(__file__).parent / "parameters.md"
START = """\
# Parameters

Made by `docs/list_parameters.py`. Values come from these defaults, then the preset (`params/*.yaml`), then
`-p name value` in a command or in papermill, or the parameters cell of a notebook. A parameter that a system lacks is
refused.

**Fixed**: it decides the trained weights, so a run cannot [go on](resuming.md) with another value. The others can be
changed at any time.
"""
HEAD = ["parameter", "takes", "default", "fixed", "meaning"]


def takes(field: FieldInfo) -> str:
    """What a parameter takes: its choices, or its type with its range."""
    if choices(field):
        return ", ".join(f"`{choice}`" for choice in choices(field))
    span = limits(field)
    return KINDS[field.annotation] + (f", {span[0]} to {span[1]}" if span else "")


def spelled(value: object) -> str:
    """A value as it is written in YAML."""
    return '`""`' if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def differing(values: dict[str, str]) -> str:
    """One text where all systems agree, else one for each."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "; ".join(f"{recipe}: {value}" for recipe, value in values.items())


def row(name: str, fields: dict[str, FieldInfo]) -> list[str]:
    """A parameter's line, from its field in each recipe that has it."""
    columns = [
        {recipe: takes(field) for recipe, field in fields.items()},
        {recipe: spelled(field.default) for recipe, field in fields.items()},
        {recipe: "yes" if is_decisive(field) else "" for recipe, field in fields.items()},
        {recipe: field.description for recipe, field in fields.items()},
    ]
    return [f"`{name}`", *map(differing, columns)]


def page() -> str:
    """The page: the parameters of every system, then those of some."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for recipe in CLASSES:
        for name, field in class_of(recipe).model_fields.items():
            found.setdefault(name, {})[recipe] = field
    sections: dict[str, list] = {"Every system": []}
    for name, fields in sorted(found.items(), key=lambda item: -len(item[1])):
        title = "Every system" if name in Config.model_fields else "Only " + " and ".join(f"`{one}`" for one in fields)
        sections.setdefault(title, []).append(row(name, fields))
    return "\n".join([START, *(f"## {title}\n\n{markdown_table(HEAD, *rows)}\n" for title, rows in sections.items())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
