"""An input, what was put into it, and what the product must therefore do.

An input is used, or refused with a ClientError that names it. If it is used, every image that was
put in is used with its label, or counted as left out. Anything else is a failure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

USED, REFUSED = "used", "refused"
CRASH, HANG, MEMORY, LOSS, UNCLEAR = "crash", "hang", "memory", "silent loss", "unclear error"
FAILURES = (CRASH, HANG, MEMORY, LOSS, UNCLEAR)
_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """An image that was put in.

    Attributes:
        name: of its file or member.
        content: of the file.
        label: its class; of several classes all, sorted and joined by `|`.
        is_touched: it was damaged, or what names or labels it was: it must be counted, but its
            content and label are unknown.
    """

    name: str
    content: bytes
    label: str = ""
    is_touched: bool = False


@dataclass
class Case:
    """An input of the product.

    Attributes:
        command: how the product reads it, a name in `product.COMMANDS`.
        path: what the command is given.
        items: every image in it.
        options: more words of the command line.
        named: a refusal contains one of these.
        others: files that are not images and are counted as left out.
        is_sound: nothing is wrong with it, so it must not be refused.
        most_more: how many more images a mutation may have made, for example by repeating bytes.
        most_fewer: how many it may have hidden, for example by joining two lines of a list.
        may_repeat: an image can be named twice, with two classes, as in a `.lst`; that is reported.
        truth: what the command must print, if its output is compared as a whole.
        what: what was done to it, for people.
    """

    command: str
    path: Path
    items: list[Item]
    options: list[str] = field(default_factory=list)
    named: tuple[str, ...] = ()
    others: int = 0
    is_sound: bool = False
    most_more: int = 0
    most_fewer: int = 0
    may_repeat: bool = False
    truth: str | None = None
    what: str = ""


@dataclass
class Outcome:
    """What the product did.

    Attributes:
        code: the exit code.
        error: what it wrote to standard error.
        used: (digest of the content or "", label) of every image that it used.
        skipped: how many images and files it named or counted as left out.
        says_truncated: it warned that the end of the input is missing, or that records were lost.
        output: what it printed, if that is compared as a whole.
        is_labeled: the labels in `used` are those of the images.
    """

    code: int
    error: str = ""
    used: list[tuple[str, str]] = field(default_factory=list)
    skipped: int = 0
    says_truncated: bool = False
    output: str = ""
    is_labeled: bool = True


def digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def judge(case: Case, outcome: Outcome) -> tuple[str, str]:
    """Return the verdict on an outcome and its reason."""
    if "out of memory" in outcome.error:
        return MEMORY, _last_lines(outcome.error)
    if outcome.code not in (0, 2) or "Traceback (most recent" in outcome.error:
        return CRASH, f"exit code {outcome.code}: {_last_lines(outcome.error)}"
    if outcome.code == 2:
        return _judge_refusal(case, outcome.error)
    if case.truth is not None:
        if outcome.output == case.truth:
            return USED, ""
        return LOSS, f"other predictions than before it was packed: {outcome.output[:300]!r}"
    return _judge_use(case, outcome)


def _judge_refusal(case: Case, error: str) -> tuple[str, str]:
    lines = [line for line in error.splitlines() if line.startswith("ClientError: ")]
    if len(lines) != 1:
        return UNCLEAR, f"expected one line that begins with ClientError: {_last_lines(error)}"
    if not any(word in lines[0] for word in (str(case.path), *case.named)):
        return UNCLEAR, f"the error does not name the input: {lines[0]}"
    if case.is_sound:
        return UNCLEAR, f"a sound input is refused: {lines[0]}"
    return REFUSED, ""


def _judge_use(case: Case, outcome: Outcome) -> tuple[str, str]:
    counted, put_in = len(outcome.used) + outcome.skipped, len(case.items) + case.others
    if counted < put_in - case.most_fewer and not outcome.says_truncated:
        return LOSS, (
            f"{put_in - counted} of {len(case.items)} images are neither used nor named "
            f"({len(outcome.used)} used, {outcome.skipped} left out, {case.others} other files)"
        )
    if counted > put_in + case.most_more:
        return LOSS, f"{counted} images and files are used or left out, but {put_in} were put in"
    has_content = any(content for content, _ in outcome.used)
    if not outcome.is_labeled:
        return USED, ""
    sound = [item for item in case.items if not item.is_touched]
    wanted = Counter((digest(i.content) if has_content else "", i.label) for i in sound)
    used = Counter(outcome.used)
    absent = sum((wanted - used).values())
    excused = max(0, outcome.skipped - case.others)
    if absent > excused and not outcome.says_truncated:
        return (
            LOSS,
            f"{absent} sound images, of which {excused} are left out: {_shown(wanted, used)}",
        )
    if not case.may_repeat and (wrong := _wrong_classes(case.items, outcome.used)):
        return LOSS, f"images get the class of others: {wrong[:_SHOWN]}"
    strange = sum((used - wanted).values())
    touched = len(case.items) - len(sound)
    if strange > touched + case.most_more:
        return LOSS, f"{strange} images or labels that nobody put in: {_shown(used, wanted)}"
    return USED, ""


def _wrong_classes(items: Sequence[Item], used: Sequence[tuple[str, str]]) -> list[str]:
    """Return what is wrong with the classes of sound images, which their contents tell."""
    touched = {digest(item.content) for item in items if item.is_touched}
    known = {digest(item.content): item.label for item in items if not item.is_touched}
    return [
        f"{label!r} instead of {known[content]!r}"
        for content, label in used
        if content not in touched and known.get(content, label) != label
    ]


def _shown(some: Counter[tuple[str, str]], others: Counter[tuple[str, str]]) -> str:
    found: Sequence[tuple[str, str]] = list((some - others).elements())
    return ", ".join(f"{label!r} ({content[:8]})" for content, label in found[:_SHOWN])


def _last_lines(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-4:])[:1500]
