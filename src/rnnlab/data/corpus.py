"""Texts as files of token indices, encoded once and then memory-mapped."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from rich.progress import track

from rnnlab.data.vocabulary import UNKNOWN, Vocabulary, code_points
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import CHUNK_SIZE, open_file, read_text, reading

Unit = Literal["char", "byte"]
FORMAT = 2  # of the cache
ALIGNMENT = 16  # bytes


@dataclass(frozen=True)
class Corpus:
    """An encoded text.

    - `tokens`: (characters,) indices, memory-mapped.
    - `vocabulary`: what the indices mean.
    - `first`: (vocabulary,) position of each token's first occurrence; `len(tokens)` if there is none.
    """

    tokens: np.ndarray
    vocabulary: Vocabulary
    first: np.ndarray


def open_corpus(
    files: list[Path], name: str, unit: Unit, min_count: int, vocabulary: Vocabulary | None, cache: Path, what: str
) -> Corpus:
    """The corpus of some files, one after the other: out of `cache`, or encoded into it.

    **Arguments:**

    - `files`: UTF-8 text for characters, anything for bytes.
    - `name`: of the text; the same after it has changed.
    - `unit`: what a token is.
    - `min_count`: characters that appear less often become the unknown character.
    - `vocabulary`: replaces the text's own and `min_count`.
    - `cache`: a folder, created if there is none.
    - `what`: names the text in messages, such as `data.path=poems.txt`.

    **Raises:** `UserError` for text that is empty or not UTF-8, characters that `vocabulary` lacks, a file that cannot
    be read or changes meanwhile, and a cache that cannot be written.
    """
    source = _fingerprint(files, what)
    settings: list[Any] = [[unit, min_count], *([vocabulary.characters] if vocabulary else [])]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for setting in settings:
            path = cache / f"{_digest([name, setting])}.tokens"
            corpus = _load(path, source)
            if corpus and (vocabulary is None or vocabulary.characters == corpus.vocabulary.characters):
                return corpus
        temporary = path.with_suffix(f".{secrets.token_hex(8)}")  # another run may encode the same text
        try:
            with temporary.open("wb") as file:
                _encode(files, unit, min_count, vocabulary, source, file, what)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
        corpus = _load(path, source)
    except OSError as error:
        raise UserError(
            f"The encoded text cannot be kept in {cache}: {error.strerror or error}. Choose a folder with data.cache=."
        ) from error
    if corpus is None or _fingerprint(files, what) != source:
        raise UserError(f"{what} changed while it was read. Start again.")
    return corpus


def _load(path: Path, source: str) -> Corpus | None:
    """The corpus of a file of the cache; `None` if there is none or the text has changed."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        header = json.loads(file.readline())
        if header["source"] != source:
            return None
        vocabulary = Vocabulary(header["characters"])
        tokens = np.memmap(file, vocabulary.dtype, mode="r", offset=file.tell(), shape=header["length"])
    return Corpus(tokens, vocabulary, np.array(header["first"]))


def _encode(
    files: list[Path], unit: Unit, min_count: int, vocabulary: Vocabulary | None, source: str, file: BinaryIO, what: str
) -> None:
    """Write a line of JSON and the tokens, after one pass that counts characters and one that encodes them."""
    counts, first = _count(_read(files, unit, what, "reading"))
    length = int(counts.sum())
    require(length > 0, f"{what} is empty.")
    vocabulary = vocabulary or (Vocabulary() if unit == "byte" else _vocabulary(counts, min_count, what))
    table = vocabulary.lookup()
    present = np.flatnonzero(counts)
    missing = present[table[present] == len(vocabulary)]
    require(
        not len(missing),
        f"{what} has characters that the model's vocabulary lacks: "
        f"{''.join(map(chr, missing[:40]))!r} ({counts[missing].sum():,} in all).",
    )
    first_token = np.full(len(vocabulary), length)
    np.minimum.at(first_token, table[present], first[present])
    characters = "".join(vocabulary.characters)
    header = {"source": source, "length": length, "characters": characters, "first": first_token.tolist()}
    line = json.dumps(header)
    file.write(line.encode() + b" " * (-(len(line) + 1) % ALIGNMENT) + b"\n")
    table = table.astype(vocabulary.dtype)
    for codes in _read(files, unit, what, "encoding"):
        file.write(table[codes].data)


def _count(chunks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How often each code point appears, and the position of its first occurrence."""
    counts, first = np.zeros((2, 0x110000), dtype=np.int64)
    position = 0
    for codes in chunks:
        found = np.bincount(codes)
        new = np.flatnonzero((found > 0) & (counts[: len(found)] == 0))
        counts[: len(found)] += found
        if len(new):
            found[codes[::-1]] = np.arange(len(codes))[::-1]  # of equal indices, the last one's value stays
            first[new] = position + found[new]
        position += len(codes)
    return counts, first


def _vocabulary(counts: np.ndarray, min_count: int, what: str) -> Vocabulary:
    """The characters that appear often enough, by code point, and the unknown character if others do not."""
    characters = set(map(chr, np.flatnonzero(counts >= min_count)))
    require(bool(characters), f"{what}: no character appears data.min_count={min_count} times. Use a smaller number.")
    if (counts > 0).sum() > len(characters):
        characters.add(UNKNOWN)
    return Vocabulary(sorted(characters))


def _read(files: list[Path], unit: Unit, what: str, description: str) -> Iterable[np.ndarray]:
    """The code points or bytes of all files, chunk by chunk, with a progress bar for large texts."""
    sizes = [path.stat().st_size for path in files]
    description = f"{description} {sum(sizes) / 2**20:,.0f} MiB of text"
    number = sum(1 + size // CHUNK_SIZE for size in sizes)
    small = sum(sizes) < 10 * CHUNK_SIZE
    return track(_chunks(files, unit, what), description, number, transient=True, disable=small)


def _chunks(files: list[Path], unit: Unit, what: str) -> Iterator[np.ndarray]:
    for path in files:
        name = what if str(path) in what else f"{what}: {path}"
        if unit == "char":
            yield from map(code_points, read_text(path, name, "Convert the file, or use data.unit=byte."))
        else:
            with open_file(path, name) as file:
                for raw in iter(partial(file.read, CHUNK_SIZE), b""):
                    yield np.frombuffer(raw, dtype=np.uint8)


def _fingerprint(files: list[Path], what: str) -> str:
    """Changes with the files. (Copying tools can restore the time of a change, but not that of the inode.)"""
    with reading(what):
        states = [(str(path.resolve()), path.stat()) for path in files]
    return _digest([(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for path, state in states])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, value]).encode()).hexdigest()[:16]
