"""What the study.json of two records folders say, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = "nothing"


def differing(one: Any, other: Any, within: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places where two JSON values differ, as ``evaluation.engine.torch``, with what each has there;
    :data:`ABSENT` where that is nothing. Lists of as many objects are looked into, other lists are not."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and _objects(one + other):
        one, other = ({str(at): value for at, value in enumerate(each)} for each in (one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            yield from differing(
                one.get(key, ABSENT), other.get(key, ABSENT), f"{within}.{key}" * bool(within) or key
            )
    elif one != other:
        yield within, one, other


def _objects(values: list[Any]) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def shown(value: Any) -> str:
    """A value for people, in a few words."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
