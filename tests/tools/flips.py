"""Bits that a disk has flipped, in the files that Parquill itself keeps: what is wrong must be found before it counts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import orjson

from parquill.tasks.storage.disk import CHECKSUM

FLIPS = 12


def flipped(path: Path, seed: int = 1) -> Iterator[int]:
    """Flip one bit of a file after another, at seeded places, each alone; the file is as it was in the end.

    Gives the places (in bytes); those in JSON that change nothing it says (a kind of blank) are passed over.
    """
    data = path.read_bytes()
    draw = random.Random(seed)
    try:
        flips = 0
        while flips < FLIPS:
            place = draw.randrange(len(data))
            damaged = bytearray(data)
            damaged[place] ^= 1 << draw.randrange(8)
            if path.suffix == ".json" and _says_the_same(data, damaged):
                continue
            path.write_bytes(damaged)
            flips += 1
            yield place
    finally:
        path.write_bytes(data)


def _says_the_same(data: bytes, damaged: bytearray) -> bool:
    try:
        said, says = orjson.loads(data), orjson.loads(damaged)
    except orjson.JSONDecodeError:
        return False
    return all(says.get(name) == value for name, value in said.items() if name != CHECKSUM)
