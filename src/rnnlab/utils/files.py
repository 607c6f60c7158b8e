"""Reading users' files, writing small files atomically, and free memory."""

import codecs
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from rnnlab.utils.errors import UserError

PIECE = 1 << 22  # bytes read at once
LITTLE = 1 << 24  # bytes, which there always are
BYTE_ORDER_MARK = "\ufeff"  # some editors put it before a text


def locate(path: str) -> Path:
    """A path that a setting gives, on this machine: `~` is a home, and nothing else has a meaning of its own."""
    try:
        return Path(str(path)).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from error


def open_file(path: Path, what: str) -> BinaryIO:
    """A regular file, opened to be read. Devices and pipes, which may have no end or let one wait, are refused.

    **Raises:** `UserError`, in which the file is called `what`, if it is none or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
            raise UserError(f"{what} is {kind}: give a file.")
        # if it has become a pipe by now, this does not wait for somebody to write into it
        return open(str(path), "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except FileNotFoundError as error:
        raise UserError(f"{what}: there is no such file.") from error
    except (OSError, ValueError) as error:  # the latter for a name that holds a NUL
        raise UserError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def read_pieces(path: Path, what: str) -> Iterator[bytes]:
    """The bytes of a file, some millions at a time, up to where it ended when it was opened."""
    with open_file(path, what) as file:
        left = os.fstat(file.fileno()).st_size
        try:
            while left > 0 and (raw := file.read(min(PIECE, left))):
                left -= len(raw)
                yield raw
        except OSError as error:
            raise UserError(f"{what} cannot be read: {error.strerror}.") from error


def decode(pieces: Iterable[bytes], what: str, advice: str) -> Iterator[str]:
    """The text of UTF-8, without a byte order mark.

    **Raises:** `UserError` with the place of a byte that is none, and `advice`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    for raw in chain(pieces, (b"",)):
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            at = position - waiting + error.start
            raise UserError(
                f"{what}: byte {at:,} (0x{error.object[error.start]:02x}) is not UTF-8. {advice}"
            ) from error
        yield text if position else text.removeprefix(BYTE_ORDER_MARK)
        position += len(raw)


@contextmanager
def one_word(what: str) -> Iterator[None]:
    """Around a library that reads a file: whatever it says of a stranger's bytes is one `UserError`, no warning."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except UserError:
        raise
    except Exception as error:
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{what}: {told}") from error


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


def write_atomically(path: Path, text: str) -> None:
    """Replace a file, so that a reader, and who comes after a crash, sees the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
