"""How parameters are declared, read and refused: flat pydantic classes, each field with a type, a range and a meaning.

papermill passes `-p resume false` as the string "false", and presets are read as text, so every value is read as its
field's type, or refused with one sentence.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from dcal_core.errors import ConfigError, quoted
from dcal_core.missing import is_writable_text

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
SPELLED = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parameter(default: Any, description: str, **limits: float) -> Any:
    """A field that can change the trained weights; `...` as the default leaves it to the recipes."""
    return Field(default, description=description, **limits)


def run_option(default: Any, description: str, **limits: float) -> Any:
    """A field that cannot change the trained weights, so that a run may go on with another value."""
    return Field(default, description=description, json_schema_extra={"decisive": False}, **limits)


def run_path(description: str) -> Any:
    """A `run_option` that names a file or folder, "" for none; `~` stands for the home folder."""
    return Field("", description=description, json_schema_extra={"decisive": False, "path": True})


class Parameters(BaseModel):
    """A flat set of parameters. Subclasses add fields, and override `check` for what fields must agree on.

    Fields are declared with `parameter` or, where they cannot change the trained weights, with `run_option`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

    @field_validator("*", mode="before")
    @classmethod
    def as_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        """What pydantic would take too loosely (True as a number) or not at all (" True ", a Path as text)."""
        field = cls.model_fields[info.field_name]
        kind = field.annotation
        if kind is bool:
            spelled = str(value).strip().lower()
            if spelled not in SPELLED:
                raise ValueError("not a truth value")
            return SPELLED[spelled]
        if isinstance(value, bool | bytes):
            raise ValueError("neither a number nor text")
        if kind is str and isinstance(value, Path):
            return str(value)
        if kind is str and isinstance(value, int | float):
            raise ValueError("a number, written 7 or 007")
        if not isinstance(value, str):
            return value
        if not is_writable_text(value):
            raise ValueError("no file could hold it")
        return os.path.expanduser(value) if (field.json_schema_extra or {}).get("path") else value

    @model_validator(mode="after")
    def check_agreement(self, info: ValidationInfo) -> Self:
        """Run `check`, unless single values are read on their own."""
        if not info.context:
            self.check()
        return self

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""

    @classmethod
    def decisive(cls) -> list[str]:
        """The names of the parameters that can change the trained weights."""
        return [name for name, field in cls.model_fields.items() if is_decisive(field)]

    def differences(self, saved: dict) -> dict[str, tuple]:
        """The decisive parameters in which a saved run differs, each with (its value then, the value now).

        A parameter that the saved run lacks, because its code had no such parameter yet, had its default.
        """
        fields = type(self).model_fields
        then = {name: saved.get(name, fields[name].default) for name in self.decisive()}
        return {name: (value, getattr(self, name)) for name, value in then.items() if value != getattr(self, name)}

    def fingerprint(self) -> str:
        """A hash of the decisive parameters: a label of the run, which says nothing across versions of the code."""
        decisive = {name: getattr(self, name) for name in self.decisive()}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]

    def as_dict(self) -> dict:
        """All parameters as a flat dictionary."""
        return self.model_dump()

    def replace(self, **changes) -> Self:
        """The same parameters with some of them changed."""
        return read(type(self), self.as_dict() | changes)


def is_decisive(field: FieldInfo) -> bool:
    """Whether a parameter can change the trained weights."""
    return (field.json_schema_extra or {}).get("decisive", True)


def choices(field: FieldInfo) -> tuple:
    """The values that a parameter can take, () for those with a range or with free text."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def limits(field: FieldInfo) -> tuple | None:
    """The smallest and the largest value of a number, None for other parameters."""
    bounds = {name: getattr(one, name) for one in field.metadata for name in ("ge", "le") if hasattr(one, name)}
    return (bounds["ge"], bounds["le"]) if bounds else None


def read(kind: type[Parameters], values: dict, agreeing: bool = True) -> Parameters:
    """Parameters of a class from values as they were given; raises ConfigError with one sentence.

    agreeing: whether the values must agree with one another too, and not only each with its own range.
    """
    try:
        return kind.model_validate(values, context=None if agreeing else {"values_only": True})
    except ValidationError as error:
        raise ConfigError(sentence(kind, error.errors()[0])) from None


def sentence(kind: type[Parameters], error: dict) -> str:
    """What pydantic found wrong, with the parameter, its value and what it takes."""
    if not error["loc"]:  # raised by `check`
        return str(error["ctx"]["error"])
    name = error["loc"][0]
    field = kind.model_fields[name]
    given = f"parameter {name}={quoted(error['input'])}"
    if choices(field):
        return f"{given}: takes one of {', '.join(choices(field))}."
    if error["type"] in ("greater_than_equal", "less_than_equal"):
        low, high = limits(field)
        number = quoted(error["input"]).strip("'")  # which may have come as text
        return f"parameter {name}={number}: takes {low:g} to {high:g} ({field.description})."
    if field.annotation is str and type(error["input"]) in (int, float):
        return f"{given}: takes text, and this is a number: put it in quotes; with papermill, give it by -r."
    return f"{given}: takes {KINDS[field.annotation]} ({field.description})."
