"""Texts as files of token indices, encoded once and then memory-mapped."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from rich.progress import track

from rnnlab.data.vocabulary import code_points
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import CHUNK_SIZE, read_text, reading

Unit = Literal["char", "byte"]
FORMAT = 2  # of the cache
ALIGNMENT = 16  # bytes


class Corpus(NamedTuple):
    """An encoded text."""

    tokens: np.ndarray  # (length,) memory-mapped indices into `characters`, or bytes
    characters: str  # all different ones, by code point; empty for bytes
    counts: list[int]  # how often each of them appears


def open_corpus(files: list[Path], name: str, unit: Unit, cache: Path, what: str) -> Corpus:
    """The corpus of some files, one after the other: out of a file in `cache`, or encoded into it.

    The `name` of a text is the same after it has changed; messages call it `what`.

    **Raises:** `UserError` for text that is empty or not UTF-8, and files that cannot be read or written.
    """
    source = _fingerprint(files, what)
    path = cache / f"{_digest([name, unit])}.tokens"
    temporary = path.with_suffix(f".{secrets.token_hex(8)}")  # another run may encode the same text
    try:
        cache.mkdir(parents=True, exist_ok=True)
        while (corpus := _load(path, source)) is None:
            with temporary.open("wb") as file:
                _encode(files, unit, source, file, what)
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"data.cache={cache} cannot be written: {error.strerror}.") from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return corpus


def _load(path: Path, source: str) -> Corpus | None:
    """The corpus of a file of the cache; `None` if there is none or the text has changed."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        header = json.loads(file.readline())
        if header["source"] != source:
            return None
        tokens = np.memmap(file, header["dtype"], mode="r", offset=file.tell(), shape=header["length"])
    return Corpus(tokens, header["characters"], header["counts"])


def _encode(files: list[Path], unit: Unit, source: str, file: BinaryIO, what: str) -> None:
    """Write a line of JSON and the tokens, after one pass that counts characters and one that encodes them."""
    counts = np.zeros(0x110000, dtype=np.int64)  # of every code point
    for codes in _read(files, unit, what):
        found = np.bincount(codes)
        counts[: len(found)] += found
    require(bool(counts.any()), f"{what} is empty.")
    present = np.arange(256) if unit == "byte" else np.flatnonzero(counts)
    table = np.zeros(len(counts), dtype=np.min_scalar_type(len(present) - 1))
    table[present] = np.arange(len(present))
    header = {
        "source": source,
        "length": int(counts.sum()),
        "dtype": table.dtype.name,
        "characters": "" if unit == "byte" else "".join(map(chr, present)),
        "counts": counts[present].tolist(),
    }
    line = json.dumps(header)
    file.write(line.encode() + b" " * (-(len(line) + 1) % ALIGNMENT) + b"\n")
    for codes in _read(files, unit, what):
        file.write(table[codes].data)
    file.flush()


def _read(files: list[Path], unit: Unit, what: str) -> Iterable[np.ndarray]:
    """The code points or bytes of all files, chunk by chunk, with a progress bar for large texts."""
    number = sum(1 + path.stat().st_size // CHUNK_SIZE for path in files)
    small = number < 10 + len(files)
    return track(_chunks(files, unit, what), "encoding the text", number, transient=True, disable=small)


def _chunks(files: list[Path], unit: Unit, what: str) -> Iterator[np.ndarray]:
    for path in files:
        name = what if str(path) in what else f"{what}: {path}"
        if unit == "char":
            yield from map(code_points, read_text(path, name, "Convert the file, or use data.unit=byte."))
        else:
            with reading(name), path.open("rb") as file:
                for raw in iter(partial(file.read, CHUNK_SIZE), b""):
                    yield np.frombuffer(raw, dtype=np.uint8)


def _fingerprint(files: list[Path], what: str) -> str:
    """Changes with the files. (Copying tools can restore the time of a change, but not that of the inode.)"""
    with reading(what):
        states = [(str(path.resolve()), path.stat()) for path in files]
    return _digest([(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for path, state in states])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, value]).encode()).hexdigest()[:16]
