"""Exceptions for what a user got wrong, and for runs that end early."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# control characters, which would steer the terminal, change the direction of text, or begin lines
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A mistake that the user can correct. The message says what is wrong, where, and what to do.

    **Arguments:**

    - `lines`: of the message. Control characters in them, out of a file's names, are escaped.
    """

    def __init__(self, *lines: str):
        super().__init__(*map(printable, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class Lost(UserError):
    """A run that lost one of its processes or the room to write; it can continue from its last checkpoint."""


class Pruned(Exception):
    """A trial of a search that was stopped early, because others were better by then."""


class Stopped(SystemExit):
    """A run that was asked to stop and left a checkpoint. The exit code is 128 + the signal."""

    def __init__(self, signal: int, message: str):
        super().__init__(128 + signal)
        self.message = message

    def __str__(self) -> str:
        return self.message


def require_other_file(output: str, path: str | None, **inputs: str | None) -> None:
    """Raise `UserError` if `path`, to be written by the setting `output`, is one of the files that are read."""
    for key, read in inputs.items():
        same = path and read and all(map(os.path.exists, (path, read))) and os.path.samefile(path, read)
        require(not same, f"{output}={path} would replace {key}={read}. Choose another file.")


def printable(text: str, but: str = "") -> str:
    """`text` with control characters escaped, `\\x1b`; those in `but` stay."""

    def escaped(found: re.Match) -> str:
        return found[0] if found[0] in but else found[0].encode("unicode_escape").decode()

    return UNPRINTABLE.sub(escaped, text)


_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collected(faults: list[str]) -> Iterator[None]:
    """Within, `require` adds its messages to `faults` in place of raising, so that one fault does not hide the next."""
    before = _collected.set(faults)
    try:
        yield
    except UserError as error:
        faults += error.args
    finally:
        _collected.reset(before)


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if condition:
        return
    if (faults := _collected.get()) is None:
        raise UserError(message)
    faults.append(message)
