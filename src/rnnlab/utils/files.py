"""Reading files that a user names, and writing small files atomically."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from pathlib import Path

from rnnlab.utils.errors import UserError

CHUNK_SIZE = 1 << 22  # bytes or characters that are read at once


def locate(path: str) -> Path:
    """The path that a setting gives, with `~` expanded."""
    return Path(os.path.expanduser(str(path)))


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise any error of reading a file as one `UserError` that calls the file `what`, and show no warnings."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what}: there is no such file.") from error
    except Exception as error:
        message = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{what}: {message}") from error


def read_text(path: Path, what: str, advice: str) -> Iterator[str]:
    """The text of a UTF-8 file, without a byte order mark, `CHUNK_SIZE` characters at a time.

    **Raises:** `UserError` with the position of the first invalid byte, and `advice`.
    """
    with reading(what), path.open("rb") as raw, TextIOWrapper(raw, "utf-8-sig", newline="") as file:
        try:
            yield from iter(partial(file.read, CHUNK_SIZE), "")
        except UnicodeDecodeError as error:
            position = raw.tell() - len(error.object) + error.start
            byte = error.object[error.start]
            raise UserError(f"{what}: byte {position:,} (0x{byte:02x}) is not UTF-8. {advice}") from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that readers, also after a crash, find either the old content or the new."""
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
