"""A text as a file of token indices: encoded once, then mapped into memory."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import Progress

from rnnlab.data.vocabulary import UNKNOWN, Vocabulary, code_points
from rnnlab.utils.errors import UserError, require
from rnnlab.utils.files import PIECE, decode, open_file, read_pieces

Unit = Literal["char", "byte"]
FORMAT = 1
DAY = 86_400  # seconds


@dataclass(frozen=True)
class Corpus:
    """An encoded text.

    - `tokens`: (characters,) indices, mapped from a file; reading some of them takes no more memory than these.
    - `vocabulary`: what they mean.
    - `first`: the position at which each sign of the vocabulary stands for the first time; -1 if it never does.
    """

    tokens: np.ndarray
    vocabulary: Vocabulary
    first: np.ndarray


def open_corpus(
    files: list[Path], name: str, unit: Unit, min_count: int, vocabulary: Vocabulary | None, cache: Path, what: str
) -> Corpus:
    """The corpus of some files, one after the other: from `cache`, or encoded into it.

    An entry of the cache is named after a fingerprint of path, size and time of every file and the settings. It is
    written beside and renamed when it is whole, so that a reader never meets half of one and the first of two runs that
    encode the same text wins. What is left of the same text as it was before a change is removed.

    **Arguments:**

    - `files`: UTF-8 text for characters, anything for bytes.
    - `name`: of the text, the same after it changed.
    - `unit`: what a token is.
    - `min_count`: characters that appear less often become the unknown sign.
    - `vocabulary`: to use in place of the text's own; `min_count` then has no meaning.
    - `cache`: a folder, made if there is none.
    - `what`: how to call the text in messages, such as `data.path=poems.txt`.

    **Raises:** `UserError` for text that is empty or not UTF-8, characters that `vocabulary` lacks, a file that cannot
    be read or changes meanwhile, and a cache that cannot be written.
    """
    source = _source(files, what)
    settings: dict[str, Any] = {"unit": unit, "min_count": min_count, "signs": None, "format": FORMAT}
    home = cache / _digest(name)
    if vocabulary:
        own = _load(home / _digest([source, settings]))
        if own and own.vocabulary.signs == vocabulary.signs:
            return own
        settings["signs"] = vocabulary.signs
    entry = home / _digest([source, settings])
    if (corpus := _load(entry)) is not None:
        return corpus
    partial = home / f"partial-{os.getpid()}-{time.time_ns()}"
    try:
        partial.mkdir(parents=True)
        least, free = (
            sum(size for _, size, *_ in source) // (1 if unit == "byte" else 4),
            shutil.disk_usage(partial).free,
        )
        require(least <= free, f"{what} takes {least / 1e9:,.1f} GB of {cache} or more, which has {free / 1e9:,.1f} GB "
                "left. Choose another folder with data.cache=.")  # fmt: skip
        about = _encode(files, unit, min_count, vocabulary, partial / "tokens.bin", what)
        require(_source(files, what) == source, f"{what} changed while it was read. Start again.")
        _write(partial / "about.json", [json.dumps({**about, "source": source}).encode()])
        if entry.exists() and _load(entry) is None:  # damaged
            shutil.rmtree(entry)
        try:
            partial.rename(entry)
        except OSError:
            if not entry.exists():  # else another run was faster
                raise
        _remove_old(home, source)
    except OSError as error:
        raise UserError(
            f"The encoded text cannot be kept in {cache}: {error.strerror or error}. Choose a folder with data.cache=."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    corpus = _load(entry)
    require(corpus is not None, f"What was written to {entry} cannot be read again. Choose a folder with data.cache=.")
    return corpus  # type: ignore[return-value]


def _load(entry: Path) -> Corpus | None:
    """An entry of the cache; `None` if there is none or it is damaged."""
    about = _about(entry)
    try:
        vocabulary, first = Vocabulary(about["signs"]), np.array(about["first"], dtype=np.int64)
        whole = len(set(vocabulary.signs)) == len(vocabulary.signs) and first.shape == (len(vocabulary),)
        with open_file(entry / "tokens.bin", "") as file:
            tokens = np.memmap(file, dtype=vocabulary.dtype, mode="r")
    except (UserError, OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return Corpus(tokens, vocabulary, first) if whole and len(tokens) == about["length"] else None


def _about(entry: Path) -> dict[str, Any]:
    """What an entry of the cache says of itself; nothing if it is damaged."""
    try:
        about = json.loads(b"".join(read_pieces(entry / "about.json", "")))
    except (UserError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _remove_old(home: Path, source: list) -> None:
    """Remove what was made of other states of the files, and what killed runs have left."""
    for other in home.iterdir():
        with suppress(OSError):  # another run may be removing it
            if other.name.startswith("partial-"):
                old = time.time() - other.stat().st_mtime > DAY
            else:
                old = _about(other).get("source", source) != source
            if old:
                shutil.rmtree(other)


def _encode(
    files: list[Path], unit: Unit, min_count: int, vocabulary: Vocabulary | None, path: Path, what: str
) -> dict[str, Any]:
    """Write all tokens to `path`, in one pass to count characters and one to encode them, and tell about them."""
    counts = np.zeros(0x110000, dtype=np.int64)
    first = np.full(0x110000, -1, dtype=np.int64)
    length = 0
    for codes in _watched(_pieces(files, unit, what), files, "reading"):
        here = np.bincount(codes)
        before = counts[: len(here)].copy()
        counts[: len(here)] += here
        new = np.flatnonzero((here > 0) & (before == 0))
        if len(new):
            here[codes[::-1]] = np.arange(len(codes))[::-1]  # the first is written last
            first[new] = length + here[new]
        length += len(codes)
    require(length > 0, f"{what} is empty.")
    if unit == "byte":
        vocabulary, table = Vocabulary(), np.arange(256)
    else:
        vocabulary = vocabulary or _vocabulary(counts, min_count, what)
        table = vocabulary.lookup()
        missing = np.flatnonzero((counts > 0) & (table == len(vocabulary)))
        require(
            not len(missing),
            f"{what} has characters that the model's vocabulary lacks: "
            f"{''.join(map(chr, missing[:40]))!r} ({counts[missing].sum():,} in all).",
        )
    pieces = _watched(_pieces(files, unit, what), files, "encoding")
    _write(path, (table[codes].astype(vocabulary.dtype) for codes in pieces))
    about = {"length": length, "signs": vocabulary.signs}
    if unit == "byte":
        return {**about, "first": first[:256].tolist()}
    first_of = first[vocabulary.codes].tolist()
    if vocabulary.unknown is not None:
        folded = first[(first >= 0) & (table == vocabulary.unknown)]
        first_of[vocabulary.unknown] = int(folded.min()) if len(folded) else -1
    return {**about, "first": first_of}


def _write(path: Path, pieces: Iterable[Any]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _vocabulary(counts: np.ndarray, min_count: int, what: str) -> Vocabulary:
    """The characters that appear often enough, by code point; the unknown sign is there if some do not."""
    signs = set(map(chr, np.flatnonzero(counts >= min_count)))
    require(bool(signs), f"{what}: no character appears data.min_count={min_count} times. Use a smaller number.")
    if (counts > 0).sum() > len(signs):
        signs.add(UNKNOWN)
    return Vocabulary(sorted(signs))


def _pieces(files: Iterable[Path], unit: Unit, what: str) -> Iterator[np.ndarray]:
    """The code points or bytes of all files, a few million at a time."""
    for path in files:
        called = what if str(path) in what else f"{what}: {path}"
        if unit == "byte":
            yield from (np.frombuffer(raw, dtype=np.uint8) for raw in read_pieces(path, called))
        else:
            advice = "Convert the file, or use data.unit=byte, which reads any."
            yield from map(code_points, decode(read_pieces(path, called), called, advice))


def _watched(pieces: Iterable[np.ndarray], files: list[Path], doing: str) -> Iterator[np.ndarray]:
    """A bar with the time left while a text is read, where there is a terminal."""
    total = sum(path.stat().st_size for path in files)
    with Progress(transient=True, disable=total < 10 * PIECE) as bar:
        task = bar.add_task(f"{doing} {total / 2**20:,.0f} MiB of text", total=total)
        for piece in pieces:
            yield piece
            bar.advance(task, len(piece))  # characters, which are bytes in most texts


def _source(files: list[Path], what: str) -> list[list[Any]]:
    """What changes with the files. (Copying tools can set the time of change back, but not that of the inode.)"""
    try:
        states = [(path.resolve(), path.stat()) for path in files]
    except OSError as error:
        raise UserError(f"{what}: {error.filename} cannot be read: {error.strerror}.") from error
    return [[str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns] for path, state in states]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
