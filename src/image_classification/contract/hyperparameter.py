"""Declared hyperparameters: each one parses its text, checks it and documents itself.

In: the string-to-string map of hyperparameters.json, in every encoding that the SageMaker SDKs
produce. Out: typed values, or one HyperparameterError with all problems together.

To add a hyperparameter, write one row in a table and read it in one place; CONTRIBUTING.md has the
steps. Parsing, errors, the log, `image-classification describe` and the documentation follow from
the row.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar, cast, overload

from image_classification.errors import HyperparameterError

Value = int | float | bool | str | None
Tuned = tuple[float, float] | bool
Kind = Literal["integer", "continuous", "categorical", "boolean", "text", "absent"]
T = TypeVar("T", covariant=True)
D = TypeVar("D", bound=Value)
H = TypeVar("H", bound="Hyperparameters")

_TRUE = {"true", "1", "yes"}
_FALSE = {"false", "0", "no"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""Numbers as JSON and the SDKs write them; Python alone would read 1_0 as 10."""
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_LARGEST_INTEGER = 2**63 - 1  # of an integer without a maximum: what NumPy's int64 holds
_UNSET = {"", "none", "null"}
_NEAR = 0.72  # of difflib; dropout and dropout_rate have 0.74, version and epsilon 0.71

IGNORED_PREFIXES = ("sagemaker_", "_tuning_")
"""The SDKs and tuning jobs add keys with these prefixes."""


@dataclass(eq=False)
class Hyperparameter(Generic[T]):
    """A row of a table of hyperparameters, and the attribute of a job's values that reads it.

    Attributes:
        kind: how its text is read.
        default: the value when unset; None means "not set".
        meaning: one sentence for the reference.
        at_least, at_most: closed bounds of a number.
        above, below: open bounds of a number.
        choices: the allowed values of a categorical, compared without case.
        optimizers: the optimizers that use it; empty: it acts with every optimizer.
        aliases: other spellings that published jobs use.
        only: if not empty, the values that this version supports; it refuses other legal values of
            the built-in with an explanation.
        name: the built-in's name for it; by default the name of the attribute.
        tuned: the range that the built-in recommends for tuning; True: all values; False: none.
    """

    kind: Kind
    default: T
    meaning: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    only: tuple[Value, ...] = ()
    name: str = ""
    tuned: Tuned = False

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.name = self.name or attribute

    @overload
    def __get__(self, values: None, owner: type) -> Hyperparameter[T]: ...
    @overload
    def __get__(self, values: Hyperparameters, owner: type) -> T: ...
    def __get__(self, values: Hyperparameters | None, owner: type) -> Hyperparameter[T] | T:
        return self if values is None else cast(T, values.by_name.get(self.name, self.default))

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its other spellings."""
        return (self.name, *self.aliases)

    def acts_with(self, optimizer: str) -> bool:
        """Whether the optimizer uses it."""
        return not self.optimizers or optimizer in self.optimizers

    def parse(self, raw: object) -> Value:
        """Return the typed value of a JSON value: text as the SDKs write it, a number or null.

        Raises:
            HyperparameterError: it is not a legal value; the message names the legal ones.
        """
        text = raw if isinstance(raw, str) else json.dumps(raw)
        plain = unquote(text)
        if plain.lower() in _UNSET and not (self.kind == "categorical" and plain in self.choices):
            return cast(Value, self.default)
        value = self._convert(plain)
        if value is None:
            is_long = self.kind == "integer" and self.at_most is None and len(plain) > 18
            limit = f" and ≤ {_LARGEST_INTEGER}" if is_long else ""
            raise HyperparameterError(f"{self.name}={text!r}: expected {self.expected()}{limit}")
        if self.only and value not in self.only:
            raise HyperparameterError(
                f"{self.name}={text!r}: the built-in supports it, this version does not; "
                f"choose one of {_listed(self.only)}"
            )
        return value

    def expected(self) -> str:
        """Return a description of the legal values."""
        if self.kind == "categorical":
            return f"one of {_listed(self.choices)}"
        if self.kind == "boolean":
            return "True or False (or 1, 0)"
        if self.kind == "text":
            return "text"
        number = "an integer" if self.kind == "integer" else "a number"
        bounds = {"≥": self.at_least, ">": self.above, "≤": self.at_most, "<": self.below}
        form = "d" if self.kind == "integer" else "g"
        shown = [f"{sign} {bound:{form}}" for sign, bound in bounds.items() if bound is not None]
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
        if math.isinf(number):
            return None
        if self.kind == "integer":
            if not number.is_integer():
                return None
            is_exact = len(plain) <= 20 and _INTEGER.fullmatch(plain)  # a float has 53 bits
            number = int(plain) if is_exact else int(number)
        lower = self.at_least if self.at_least is not None else self.above
        upper = self.at_most if self.at_most is not None else self.below
        if upper is None and self.kind == "integer":
            upper = _LARGEST_INTEGER
        too_small = lower is not None and (number < lower or number == self.above)
        too_large = upper is not None and (number > upper or number == self.below)
        return None if too_small or too_large else number


@dataclass(frozen=True)
class Hyperparameters:
    """The typed hyperparameters of a job, by name and as attributes; subclasses declare them."""

    by_name: Mapping[str, Value]

    @classmethod
    def declared(cls) -> tuple[Hyperparameter[Any], ...]:
        """Return the rows of the table: those of the subclass first, without the absent ones."""
        found: dict[str, Hyperparameter[Any]] = {}
        for owner in cls.__mro__:
            for attribute, entry in vars(owner).items():
                if isinstance(entry, Hyperparameter):
                    found.setdefault(attribute, entry)
        return tuple(entry for entry in found.values() if entry.kind != "absent")

    def with_value(self: H, entry: Hyperparameter[Any], value: Value) -> H:
        """Return a copy with another value of `entry`."""
        return replace(self, by_name={**self.by_name, entry.name: value})


def integer(
    default: D,
    meaning: str,
    at_least: int,
    at_most: int | None = None,
    *,
    name: str = "",
    tuned: Tuned = False,
) -> Hyperparameter[int | D]:
    """Declare an integer."""
    return Hyperparameter("integer", default, meaning, at_least, at_most, name=name, tuned=tuned)


def real(
    default: D,
    meaning: str,
    at_least: float | None = None,
    at_most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    optimizers: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    name: str = "",
    tuned: Tuned = False,
) -> Hyperparameter[float | D]:
    """Declare a number."""
    bounds = (at_least, at_most, above, below)
    return Hyperparameter(
        "continuous", default, meaning, *bounds, (), optimizers, aliases, name=name, tuned=tuned
    )


def flag(
    default: D, meaning: str, *, aliases: tuple[str, ...] = (), tuned: bool = False
) -> Hyperparameter[bool | D]:
    """Declare a switch."""
    return Hyperparameter("boolean", default, meaning, aliases=aliases, tuned=tuned)


def choice(
    default: D,
    choices: tuple[str, ...],
    meaning: str,
    *,
    only: tuple[str, ...] = (),
    tuned: bool = False,
) -> Hyperparameter[str | D]:
    """Declare a categorical."""
    return Hyperparameter("categorical", default, meaning, choices=choices, only=only, tuned=tuned)


def text(default: D, meaning: str) -> Hyperparameter[str | D]:
    """Declare a free text."""
    return Hyperparameter("text", default, meaning)


def absent(value: D) -> Hyperparameter[D]:
    """Declare the fixed value of a hyperparameter that only the other interface has."""
    return Hyperparameter("absent", value, "")


def unquote(text: str) -> str:
    """Return `text` trimmed and without the JSON quoting that SDKs add, once or twice."""
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
    """Return the integers of `10,20`, `10, 20`, `(10, 20)` or `[10,20]`; else raise ValueError."""
    numbers = text.strip("()[] ").split(",")
    if not all(_INTEGER.fullmatch(number.strip()) for number in numbers):
        raise ValueError(f"not integers separated by commas: {text!r}")
    return tuple(int(number) for number in numbers)


def parse_all(
    declared: Iterable[Hyperparameter[Any]],
    given: Mapping[str, object],
    known_elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Value]:
    """Return the typed values of all declared hyperparameters by name, defaults included.

    Args:
        declared: the hyperparameters of the interface.
        given: the content of hyperparameters.json.
        known_elsewhere: names of the other interface → a remark for the error.

    Raises:
        HyperparameterError: lists every problem.
    """
    table = {name: entry for entry in declared for name in entry.names}
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
            problems.append(f"{name} and {seen[entry.name]} mean the same: set only one of them")
        seen[entry.name] = name
        try:
            values[entry.name] = entry.parse(raw)
        except HyperparameterError as error:
            problems.append(str(error))
    if problems:
        count = (
            f"{len(problems)} hyperparameter problems" if len(problems) > 1 else "Hyperparameters"
        )
        raise HyperparameterError(f"{count}: " + "; ".join(problems))
    return values


def is_near(name: str, known: Iterable[str]) -> bool:
    """Return whether `name` is close enough to a known name to be a mistake, not another thing."""
    plain, names = name.replace("-", "_").lower(), list(known)
    is_shortened = len(plain) > 3 and any(other.startswith(f"{plain}_") for other in names)
    return is_shortened or bool(difflib.get_close_matches(plain, names, n=1, cutoff=_NEAR))


def _unknown(name: str, table: Mapping[str, object], known_elsewhere: Mapping[str, str]) -> str:
    message = f"Additional hyperparameters are not allowed ({name!r} was unexpected)"
    if name in known_elsewhere:
        return f"{message}: {known_elsewhere[name]}"
    nearest = difflib.get_close_matches(name.replace("-", "_").lower(), table, n=1)
    return f"{message}: did you mean {nearest[0]!r}?" if nearest else message


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(str(value) for value in values)
