"""What a user got wrong, told in one message."""

import os


class UserError(Exception):
    """A mistake that the user can mend. The message says what is wrong, where, and what to do."""


class Lost(UserError):
    """A run that lost one of its processes; it can go on from its last checkpoint."""


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


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
