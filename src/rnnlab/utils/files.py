"""Reading files that a user names, and writing small files atomically."""

import codecs
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import BinaryIO

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
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        message = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{what}: {message}") from error


def open_file(path: Path, what: str) -> BinaryIO:
    """A regular file, opened for reading bytes.

    **Raises:** `UserError`, which calls the file `what`, if there is none or it cannot be read.
    """
    with reading(what):
        if path.exists() and not path.is_file():
            raise UserError(f"{what} is not a regular file.")
        return path.open("rb")


def read_text(path: Path, what: str, advice: str) -> Iterator[str]:
    """The text of a UTF-8 file, without a byte order mark, `CHUNK_SIZE` characters at a time.

    **Raises:** `UserError` with the position of the first invalid byte, and `advice`.
    """
    with open_file(path, what) as raw, TextIOWrapper(raw, "utf-8-sig", newline="") as file:
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


# removed once no caller is left

one_word = reading
PIECE = CHUNK_SIZE
LITTLE = 1 << 24  # bytes, which there always are


def read_pieces(path: Path, what: str) -> Iterator[bytes]:
    with open_file(path, what) as file:
        yield from iter(partial(file.read, CHUNK_SIZE), b"")


def decode(pieces: Iterable[bytes], what: str, advice: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    for raw in chain(pieces, [b""]):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            at = position - pending + error.start
            byte = error.object[error.start]
            raise UserError(f"{what}: byte {at:,} (0x{byte:02x}) is not UTF-8. {advice}") from error
        yield text if position else text.removeprefix("\ufeff")
        position += len(raw)


def require_memory(needed: int, what: str, advice: str = "Use smaller values.") -> None:
    """Ask before memory is taken.

    **Arguments:**

    - `needed`: bytes that are taken at the least.
    - `what`: takes them, for the message, in the plural.

    **Raises:** `UserError` if there are fewer.
    """
    if needed > LITTLE and needed > (free := available_memory()):
        shown = (f"{min(size, 10**24) / 1e9:,.1f} GB" for size in (needed, free))
        raise UserError(f"{what} take {next(shown)} of memory or more, {next(shown)} are available. {advice}")


def available_memory() -> int:
    """Bytes that can still be taken: of the machine, and of the container or job that this process is in."""
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, TypeError):  # no Linux
        free.append(1024 * int(re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[1]))  # type: ignore[index]
        group = Path(f"/sys/fs/cgroup{re.search('^0::(.*)', Path('/proc/self/cgroup').read_text(), re.M)[1]}")  # type: ignore[index]
        for folder in (group, *group.parents):
            with suppress(OSError, TypeError, ValueError):  # no limit
                limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
                files = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
                free.append(limit - used + int(files[1]))  # type: ignore[index]  # pages of files give way
    return max(0, min(free))
