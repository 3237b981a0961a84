"""TFRecord files, and fields of the messages in them, without TensorFlow.

A record is its length, a checksum of the length, the bytes, and a checksum of the bytes; checksums
are CRC-32C, rotated and offset (tensorflow/docs:site/en/api_guides/python/python_io.md). A message
is a row of fields, each with its number and the kind of its value (protobuf.dev, encoding).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numba as nb
import numpy as np

from scaleevent.errors import DataError
from scaleevent.system.refusals import reading

LARGEST = 1 << 30  # bytes of a record

_HEAD = struct.Struct("<QI")
_OFFSET = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed


def _table() -> np.ndarray:
    """(256,) uint32 remainders of one byte."""
    rest = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rest = np.where(rest & 1, (rest >> 1) ^ np.uint32(_POLYNOMIAL), rest >> 1)
    return rest


_REMAINDERS = _table()


@nb.njit(cache=True)
def _crc(data: np.ndarray, remainders: np.ndarray) -> np.uint32:
    rest = np.uint32(0xFFFFFFFF)
    for byte in data:
        rest = remainders[(rest ^ byte) & 0xFF] ^ (rest >> np.uint32(8))
    return rest ^ np.uint32(0xFFFFFFFF)


def masked_checksum(data: bytes) -> int:
    """The checksum that is stored beside these bytes."""
    rest = int(_crc(np.frombuffer(data, np.uint8), _REMAINDERS))
    return (((rest >> 15) | (rest << 17)) + _OFFSET) & 0xFFFFFFFF


def count_records(path: Path, to_damage: bool = False) -> int:
    """Number of records, by their lengths alone.

    Args:
        path: The file.
        to_damage: Count those before a damaged length or a cut end, where there are some.

    Raises:
        DataError: Not a TFRecord file, or one that is cut short.
    """
    number = 0
    with reading(path, "the file cannot be read"), path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        try:
            while (length := _length(file, path, number)) is not None:
                if file.seek(length + 4, os.SEEK_CUR) > end:
                    raise _cut(path, number)
                number += 1
        except DataError:
            if not (to_damage and number):
                raise
    return number


def records(path: Path) -> Iterator[bytes]:
    """The records of a file, their checksums compared.

    Raises:
        DataError: Not a TFRecord file, or a damaged one; the records before are whole.
    """
    number = 0
    with reading(path, "the file cannot be read"), path.open("rb") as file:
        while (length := _length(file, path, number)) is not None:
            data, tail = file.read(length), file.read(4)
            if len(data) < length or len(tail) < 4:
                raise _cut(path, number)
            if masked_checksum(data) != int.from_bytes(tail, "little"):
                raise DataError("a record is damaged: its checksum does not fit",
                                where=f"{path}, record {number}")  # fmt: skip
            yield data
            number += 1


def _length(file: BinaryIO, path: Path, number: int) -> int | None:
    """Bytes of the next record; None at the end of the file."""
    head = file.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise _cut(path, number)
    length, checksum = _HEAD.unpack(head)
    if masked_checksum(head[:8]) != checksum or length > LARGEST:
        raise DataError(
            "a record is damaged: its length does not fit its checksum" if number
            else "not a TFRecord file", where=f"{path}, record {number}",
        )  # fmt: skip
    return int(length)


def _cut(path: Path, number: int) -> DataError:
    return DataError(
        "the file ends within a record", where=f"{path}, record {number}",
        hint="a download that did not finish looks like this",
    )  # fmt: skip


def fields(message: bytes, where: object) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every field of a message: an integer, or its bytes, of numbers too.

    Raises:
        DataError: Not a message.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at, where)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at, where)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at, where)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _malformed(where)
        if at + size > end:
            raise _malformed(where)
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int, where: object) -> tuple[int, int]:
    """An integer of 7 bits a byte, lowest first, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _malformed(where)


def _malformed(where: object) -> DataError:
    return DataError("not a message of the expected kind", where=where)
