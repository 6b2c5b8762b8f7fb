"""An environment variable that is read: its declaration is also its documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from image_classification.errors import UserError


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
        """True for true, 1, yes and on in any case."""
        return self.read(environ).strip().lower() in {"true", "1", "yes", "on"}
