"""What files and people give, checked against a pydantic model: what is wrong becomes one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from repro.errors import UserError

T = TypeVar("T", bound=BaseModel)


def validated(
    model: type[T], values: dict[str, Any], where: str, layers: Mapping[str, dict[str, Any]] | None = None
) -> T:
    """``model`` from ``values``; the first thing wrong becomes a UserError in one sentence that begins with
    ``where``, or with the first of ``layers``, of which the values were made, that has the key at fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # A misspelt key is unknown, and what it was meant for missing: say the former. And whoever gives a
        # section does not want the word that could stand in its place.
        first = min(
            error.errors(),
            key=lambda one: (
                one["type"] != "extra_forbidden",
                one["type"] == "literal_error" and isinstance(one["input"], dict | list),
            ),
        )
        missing = first["type"] == "missing"
        parts = _keys_at(values, first["loc"])
        if parts:
            where = next((name for name, layer in (layers or {}).items() if _holds(layer, parts)), where)
        named = [*parts, first["loc"][-1]] if missing else parts
        key = ".".join(text if len(text) <= 100 else f"{text[:97]}..." for text in map(str, named))
        if first["type"] == "extra_forbidden":
            known = ", ".join(_fields_at(model, first["loc"][:-1]))
            raise UserError(f"{where}: unknown key `{key}`; known here: {known}") from None
        if missing:
            raise UserError(f"{where}: key `{key}` is missing; add it") from None
        given = "" if isinstance(first["input"], dict) else f" (it is {shown(first['input'])})"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: `{key}`: {message}{given}" if key else f"{where}: {message}") from None


def _keys_at(values: Any, location: Sequence[Any]) -> list[Any]:
    """An error's location as keys of the file: without the names that pydantic gives to alternatives."""
    parts = []
    for part in location:
        known = (
            isinstance(part, int) if isinstance(values, list) else isinstance(values, dict) and part in values
        )
        if known:
            values = values[part]
            parts.append(part)
    return parts


def _holds(values: Any, keys: Sequence[Any]) -> bool:
    """Whether there is something at these keys."""
    return len(_keys_at(values, keys)) == len(keys)


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Field names of the section that an error's location points into."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # the tag of a discriminated union, or a list index
        sections = [
            option
            for option in (field.annotation, *get_args(field.annotation))
            if isinstance(option, type) and issubclass(option, BaseModel)
        ]
        for section in sections:
            source = section.model_fields.get("source")
            if source is None or get_args(source.annotation)[0] in location:
                model = section
                break
    return list(model.model_fields)


def shown(value: Any) -> str:
    """A value in a sentence, shortened."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
