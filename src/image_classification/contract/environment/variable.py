"""An environment variable that is read: its declaration is also its documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from image_classification.errors import UserError

_ON = ("true", "1", "yes", "on")
_OFF = ("false", "0", "no", "off")


@dataclass(frozen=True)
class Variable:
    """An environment variable: its name, what holds when it is unset, and its meaning.

    `aliases` are other names of the setting, in falling rank; SageMaker's toolkits have several.
    """

    name: str
    default: str
    meaning: str
    aliases: tuple[str, ...] = ()

    def read(self, environ: Mapping[str, str] | None = None) -> str:
        """Its value, that of the first alias that is set, or the default."""
        given = os.environ if environ is None else environ
        values = (given.get(name, "") for name in (self.name, *self.aliases))
        return next(filter(None, values), self.default)

    def read_integer(self, minimum: int, environ: Mapping[str, str] | None = None) -> int:
        """Its value as an integer ≥ `minimum`; a UserError names it otherwise."""
        text = self.read(environ)
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise UserError(
                f"environment variable {self.name} must be an integer ≥ {minimum}, got {text!r}"
            )
        return value

    def read_switch(self, environ: Mapping[str, str] | None = None) -> bool:
        """Its value as a switch, in any case; a UserError names it if it is no accepted word."""
        text = self.read(environ)
        word = text.strip().lower() or self.default
        if word in _ON:
            return True
        if word in _OFF:
            return False
        raise UserError(
            f"environment variable {self.name} must be one of {', '.join(_ON)} (on) or "
            f"{', '.join(_OFF)} (off), or unset ({self.default}), got {text!r}"
        )
