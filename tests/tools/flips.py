"""Flips bits, as a bad disk does, in the files that Parquill keeps; tests require that the damage is found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import orjson

from parquill.tasks.storage.disk import CHECKSUM

FLIPS = 12


def flipped(path: Path, seed: int = 1) -> Iterator[int]:
    """Flip one bit of a file after another, at seeded offsets, each alone; restore the file at the end.

    Yields the offsets (in bytes). It skips flips in JSON that do not change its content (such as another blank).
    """
    data = path.read_bytes()
    draw = random.Random(seed)
    try:
        flips = 0
        while flips < FLIPS:
            offset = draw.randrange(len(data))
            damaged = bytearray(data)
            damaged[offset] ^= 1 << draw.randrange(8)
            if path.suffix == ".json" and _says_the_same(data, damaged):
                continue
            path.write_bytes(damaged)
            flips += 1
            yield offset
    finally:
        path.write_bytes(data)


def _says_the_same(data: bytes, damaged: bytearray) -> bool:
    try:
        before, after = orjson.loads(data), orjson.loads(damaged)
    except orjson.JSONDecodeError:
        return False
    return all(after.get(name) == value for name, value in before.items() if name != CHECKSUM)
