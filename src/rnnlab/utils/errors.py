"""What a user got wrong, told in one message."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LONGEST = 4000  # characters of a line
# control characters, with which a stranger's text would steer the terminal, turn its direction or make lines of its own
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A mistake that the user can mend. The message says what is wrong, where, and what to do.

    **Arguments:**

    - `lines`: of the message. What cannot be printed in them, out of a file's names, is escaped.
    """

    def __init__(self, *lines: str):
        short = (
            line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}" for line in lines
        )
        super().__init__(*map(printable, short))

    def __str__(self) -> str:
        return "\n".join(self.args)


class Lost(UserError):
    """A run that lost one of its processes, or the room to write; it can go on from its last checkpoint."""


class Pruned(Exception):
    """A trial of a search that was given up, because others did better by then."""


class Stopped(SystemExit):
    """A run that ended because it was asked to, with a checkpoint to go on from. The exit code is 128 + the signal."""

    def __init__(self, signal: int, message: str):
        super().__init__(128 + signal)
        self.message = message

    def __str__(self) -> str:
        return self.message


def require_other_file(output: str, path: str | None, **inputs: str | None) -> None:
    """Raise `UserError` if `path`, to be written as the setting `output` says, is one of the files that are read."""
    for key, read in inputs.items():
        same = path and read and all(map(os.path.exists, (path, read))) and os.path.samefile(path, read)
        require(not same, f"{output}={path} would replace {key}={read}. Choose another file.")


def printable(text: str, but: str = "") -> str:
    """`text` with control characters as Python writes them: `\\x1b` for an escape. Those in `but` stay."""
    return UNPRINTABLE.sub(lambda sign: sign[0] if sign[0] in but else sign[0].encode("unicode_escape").decode(), text)


_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collected(faults: list[str]) -> Iterator[None]:
    """Within, `require` adds to `faults` what it would raise, so that one fault does not hide the next."""
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
