"""YAML files as people write them: what only mistakes and attacks hold is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from repro import files
from repro.errors import UserError


def read_yaml(path: Path, mend: str) -> Any:
    """The value in a YAML file. Raises UserError, ending in ``mend``, where it cannot be read, and naming the
    line where it is no YAML or nothing that a person means."""
    path = Path(path)
    text = files.read_text(path, mend)
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        if not isinstance(error, _Refused):
            problem = f"not YAML ({problem})"
        raise UserError(f"{path}{where}: {problem}; mend that line") from None


class _Refused(yaml.MarkedYAMLError):
    """YAML that nobody means."""


class _Loader(yaml.SafeLoader):
    """Refuses keys given twice, of which YAML takes the last; aliases that unfold to more than memory holds;
    and values that have no place in text, JSON or arithmetic."""

    NODES, DEPTH = 20_000, 50  # that a file may unfold to; a study has hundreds, and five levels

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0
        self._unfolded: dict[yaml.Node, int] = {}  # nodes in the tree below each

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        before, self._depth = self._nodes, self._depth + 1
        if self._depth > self.DEPTH:
            raise _Refused(problem=f"more than {self.DEPTH} levels", problem_mark=event.start_mark)
        node: Any = super().compose_node(parent, index)
        # An alias of what it is part of would unfold without end.
        alias = isinstance(event, yaml.AliasEvent)
        self._nodes += self._unfolded.get(node, self.NODES) if alias else 1
        self._unfolded.setdefault(node, self._nodes - before)
        self._depth -= 1
        if self._nodes > self.NODES:
            raise _Refused(problem=f"more than {self.NODES} values", problem_mark=event.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        # Not after construction, which puts merged keys (`<<`) among those that may override them.
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen = set()
        for key in keys:
            if key.value in seen:
                raise _Refused(
                    problem=f"the key `{key.value[:100]}` is there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError):
            problem = f"a value that is none of its type, {node.tag.rpartition(':')[2]}"
            raise _Refused(problem=problem, problem_mark=node.start_mark) from None
        problem = ""
        if isinstance(value, float) and not math.isfinite(value):
            problem = f"{value} is no finite number"
        elif isinstance(value, int) and value.bit_length() > 128:
            problem = "a number is too long"
        elif isinstance(value, str) and not _encodable(value):
            problem = "a text holds what is no character"
        if problem:
            raise _Refused(problem=problem, problem_mark=node.start_mark)
        return value


def _encodable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def write_yaml(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping of plain values, which :func:`read_yaml` gives back."""
    files.write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
