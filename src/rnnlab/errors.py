"""What a user got wrong, told in one message."""

import os


class UserError(Exception):
    """A mistake that the user can mend. The message says what is wrong, where, and what to do."""


def require_other_file(output: str, path: str | None, **inputs: str | None) -> None:
    """Raise `UserError` if `path`, to be written as the setting `output` says, is one of the files that are read."""
    for key, read in inputs.items():
        same = path and read and all(map(os.path.exists, (path, read))) and os.path.samefile(path, read)
        require(not same, f"{output}={path} would replace {key}={read}. Choose another file.")


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
