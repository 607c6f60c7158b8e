"""What a user got wrong, told in one message."""


class UserError(Exception):
    """A mistake that the user can mend. The message says what is wrong, where, and what to do."""


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
