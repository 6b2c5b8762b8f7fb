"""Hyperparameters as objects: each parses its text, checks it and documents itself.

In: the string-to-string map of hyperparameters.json, in every encoding that the SageMaker SDKs
produce. Out: typed values by name, or one HyperparameterError with all problems together.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from image_classification.errors import HyperparameterError

Value = int | float | bool | str | None
Kind = Literal["integer", "continuous", "categorical", "boolean", "text"]

_TRUE = {"true", "1", "yes"}
_FALSE = {"false", "0", "no"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""As JSON and the SDKs write numbers; Python alone would read 1_0 as 10."""
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_UNSET = {"", "none", "null"}

IGNORED_PREFIXES = ("sagemaker_", "_tuning_")
"""Keys that the SDKs and tuning jobs add on their own."""


@dataclass(frozen=True)
class Hyperparameter:
    """A named setting of the job.

    Attributes:
        name: the interface's own name for it.
        kind: how its text is read.
        default: the value when unset; None means "not set".
        meaning: one sentence for the reference.
        minimum, maximum: closed bounds of numbers.
        above, below: open ones.
        choices: allowed values of a categorical, compared without case.
        required: an error if unset.
        optimizers: those that read it; empty: it acts whatever the optimizer is.
        aliases: other spellings that published jobs use.
        only: if not empty, the values this version can honor; another legal value of the
            built-in is refused with an explanation, never silently ignored.
    """

    name: str
    kind: Kind
    default: Value
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    optimizers: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    only: tuple[Value, ...] = ()

    def parse(self, text: str) -> Value:
        """The typed value of `text`; a HyperparameterError says what was expected."""
        plain = unquote(text)
        if plain.lower() in _UNSET and not (self.kind == "categorical" and plain in self.choices):
            return self.default
        value = self._convert(plain)
        if value is None:
            raise HyperparameterError(f"{self.name}={text!r}: expected {self.expected()}")
        if self.only and value not in self.only:
            raise HyperparameterError(
                f"{self.name}={text!r}: the built-in has it, this version does not yet; "
                f"it can honor {_listed(self.only)}"
            )
        return value

    def expected(self) -> str:
        """The legal values in words."""
        if self.kind == "categorical":
            return f"one of {_listed(self.choices)}"
        if self.kind == "boolean":
            return "True or False (or 1, 0)"
        if self.kind == "text":
            return "text"
        number = "an integer" if self.kind == "integer" else "a number"
        bounds = {"≥": self.minimum, ">": self.above, "≤": self.maximum, "<": self.below}
        shown = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
        return " ".join([number, " and ".join(shown)]).strip()

    def _convert(self, plain: str) -> Value:
        if self.kind == "text":
            return plain
        if self.kind == "categorical":
            return next((c for c in self.choices if c.lower() == plain.lower()), None)
        if self.kind == "boolean":
            lowered = plain.lower()
            return True if lowered in _TRUE else False if lowered in _FALSE else None
        return self._convert_number(plain)

    def _convert_number(self, plain: str) -> Value:
        if not _NUMBER.fullmatch(plain):
            return None
        number = float(plain)
        lower = self.minimum if self.minimum is not None else self.above
        upper = self.maximum if self.maximum is not None else self.below
        too_small = lower is not None and (number < lower or number == self.above)
        too_large = upper is not None and (number > upper or number == self.below)
        if too_small or too_large or math.isinf(number):
            return None
        if self.kind == "integer":
            return int(number) if number.is_integer() else None
        return number


def unquote(text: str) -> str:
    """`text` without the JSON quoting that an SDK put around it, once or twice, and trimmed."""
    plain = text.strip()
    for _ in range(2):
        if len(plain) < 2 or plain[0] != '"' or plain[-1] != '"':
            break
        try:
            decoded = json.loads(plain)
        except ValueError:
            break
        plain = str(decoded).strip()
    return plain


def integer_list(text: str) -> tuple[int, ...]:
    """The integers of `10,20`, `10, 20`, `(10, 20)` or `[10,20]`; ValueError if it is no such."""
    parts = text.strip("()[] ").split(",")
    if not all(_INTEGER.fullmatch(part.strip()) for part in parts):
        raise ValueError(f"not integers separated by commas: {text!r}")
    return tuple(int(part) for part in parts)


def parse_one(entry: Hyperparameter, raw: object) -> Value:
    """The typed value of a JSON value: text as the SDKs write it, or a bare number or null."""
    return entry.parse(raw if isinstance(raw, str) else json.dumps(raw))


def parse_all(
    declared: Iterable[Hyperparameter],
    given: Mapping[str, object],
    known_elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Value]:
    """Typed values of all declared hyperparameters, by their own names.

    Args:
        declared: the hyperparameters of the interface.
        given: hyperparameters.json.
        known_elsewhere: names of the other interface → a remark for the message.

    Raises:
        HyperparameterError: with every problem found, one after the other.
    """
    table = {name: entry for entry in declared for name in (entry.name, *entry.aliases)}
    values: dict[str, Value] = {entry.name: entry.default for entry in table.values()}
    problems: list[str] = []
    seen: dict[str, str] = {}
    for name, raw in given.items():
        if name.startswith(IGNORED_PREFIXES):
            continue
        entry = table.get(name)
        if entry is None:
            problems.append(_unknown(name, table, known_elsewhere or {}))
            continue
        if entry.name in seen:
            problems.append(f"{name} and {seen[entry.name]} mean the same: give one of them")
        seen[entry.name] = name
        try:
            values[entry.name] = parse_one(entry, raw)
        except HyperparameterError as error:
            problems.append(str(error))
    problems += [
        f"{entry.name} is required: {entry.expected()}"
        for entry in dict.fromkeys(table.values())
        if entry.required and values[entry.name] is None and entry.name not in seen
    ]
    if problems:
        count = (
            f"{len(problems)} hyperparameter problems" if len(problems) > 1 else "Hyperparameters"
        )
        raise HyperparameterError(f"{count}: " + "; ".join(problems))
    return values


def _unknown(name: str, table: Mapping[str, object], known_elsewhere: Mapping[str, str]) -> str:
    message = f"Additional hyperparameters are not allowed ({name!r} was unexpected)"
    if name in known_elsewhere:
        return f"{message}: {known_elsewhere[name]}"
    nearest = difflib.get_close_matches(name.replace("-", "_"), table, n=1)
    return f"{message}: did you mean {nearest[0]!r}?" if nearest else message


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(str(value) for value in values)
