"""TFRecord files of `tf.train.Example`, in which many data sets are handed on, read without TensorFlow."""

import gzip
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from almanac.runtime.errors import UserError

_LONGEST = 1 << 31  # bytes of a record


class NoExample(ValueError):
    """A record is no `tf.train.Example`."""


def examples(path: Path) -> Iterator[Mapping[str, Any]]:
    """The features of each example of a file, by name; each has a `bytes_list`, a `float_list` and an `int64_list`, whose `value` is empty
    but for the one that it is.

    Args:
        path: a file, gzipped or not.

    Raises:
        UserError: it can't be read, is cut off or damaged.
        NoExample: a record is something else.
    """
    from google.protobuf.message import DecodeError

    for record in records(path):
        try:
            yield _example_class().FromString(record).features.feature
        except DecodeError:
            raise NoExample("a record is no tf.train.Example") from None


def records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, each checked by its checksum (TensorFlow's `record_writer.h`).

    Raises:
        UserError: the file can't be read, is cut off or damaged.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            yield from _records(gzip.GzipFile(fileobj=plain) if zipped else plain, path)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error)) from None


def _records(file: Any, path: Path) -> Iterator[bytes]:
    while head := file.read(12):
        if len(head) < 12:
            raise _damaged(path, "it is cut off")
        length, sum_of_length = struct.unpack("<QI", head)
        if _masked(head[:8]) != sum_of_length or length > _LONGEST:
            raise _damaged(path, "a record's length has a wrong checksum")
        data, tail = file.read(length), file.read(4)
        if len(data) < length or len(tail) < 4:
            raise _damaged(path, "it is cut off")
        if _masked(data) != struct.unpack("<I", tail)[0]:
            raise _damaged(path, "a record has a wrong checksum")
        yield data


@cache
def _example_class() -> Any:
    """`tf.train.Example` (TensorFlow's `example.proto` and `feature.proto`)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="almanac", syntax="proto3")

    def add(message: Any, name: str, number: int, kind: Any, of: str = "", repeated: bool = False) -> Any:
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        named = {"type_name": f".almanac.{of}"} if of else {}
        return message.field.add(name=name, number=number, type=kind, label=label, **named)

    lists = (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64))
    for name, kind in lists:
        add(file.message_type.add(name=name), "value", 1, kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, _) in enumerate(lists, 1):
        called = name.replace("List", "_list").lower()
        add(feature, called, number, field.TYPE_MESSAGE, name).oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, field.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("almanac.Example"))


def _masked(data: bytes) -> int:
    """CRC-32C, rotated and shifted so that checksums of checksums are no trouble."""
    crc = int(_compiled()(np.frombuffer(data, np.uint8), _table()))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _compiled() -> Any:
    from almanac.nn.compiled import compiled_exactly

    return compiled_exactly(_crc32c)


def _crc32c(data: Any, table: Any) -> Any:
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)


@cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)  # Castagnoli's polynomial, reversed
    return table.astype(np.uint32)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} can't be read: {reason}", "it was cut off or damaged, or is no TFRecord file: download it again"
    )
