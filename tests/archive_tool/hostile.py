"""Archives that no honest tool would write, as bytes: members with headers of one's own choice, pickles by hand."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

MANIFEST = b'{"runtime": "python", "model": {"modelName": "m", "handler": "base_handler"}}'


@dataclass
class Member:
    """A member as its own header tells of it; `central` is what the directory says instead."""

    name: bytes
    data: bytes
    method: int = zipfile.ZIP_STORED
    flags: int = 0
    extra: bytes = b""
    before: bytes = b""
    tail: bytes = b""  # within what the directory takes for the member
    central: dict[str, Any] | None = None
    header: dict[str, Any] | None = None
    descriptor: bytes | None = None
    listed: bool = True

    def packed(self) -> bytes:
        if self.method == zipfile.ZIP_STORED:
            return self.data
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(self.data) + packer.flush()


def zip_of(
    *members: Member, before: bytes = b"", between: bytes = b"", comment: bytes = b"", after: bytes = b""
) -> bytes:
    """Write a zip as the members say."""
    out = bytearray(before)
    directory = bytearray()
    count = 0
    for member in members:
        out += member.before
        packed = member.packed()
        told = {
            "name": member.name,
            "flags": member.flags,
            "method": member.method,
            "crc": zlib.crc32(member.data),
            "packed": len(packed) + len(member.tail),
            "size": len(member.data),
            "offset": len(out),
            "extra": b"",
        } | (member.central or {})
        later = member.flags & 8
        own = {"crc": zlib.crc32(member.data), "packed": len(packed), "size": len(member.data)} | (member.header or {})
        numbers = (0, 0, 0) if later else tuple(own.values())
        lengths = (len(member.name), len(member.extra))
        header = struct.pack("<4s5H3I2H", b"PK\3\4", 20, member.flags, member.method, 0, 33, *numbers, *lengths)
        out += header + member.name + member.extra + packed + member.tail
        if later:
            standard = struct.pack("<4s3I", b"PK\7\10", told["crc"], told["packed"], told["size"])
            out += standard if member.descriptor is None else member.descriptor
        if member.listed:
            count += 1
            directory += struct.pack(
                "<4s6H3I5H2I", b"PK\1\2", 0x314, 20, told["flags"], told["method"], 0, 33, told["crc"], told["packed"],
                told["size"], len(told["name"]), len(told["extra"]), 0, 0, 0, 0o100644 << 16, told["offset"],
            )  # fmt: skip
            directory += told["name"] + told["extra"]
    out += between
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(out), len(comment))
    return bytes(out + directory + end + comment + after)


class Attack:
    """Unpickled, it makes a folder; nothing here ever unpickles it."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


class Unknown:
    """A class of no allow-list."""


def attack(protocol: int = 2) -> bytes:
    return pickle.dumps({"weights": [1, 2, 3], "x": Attack()}, protocol)


def checkpoint(data: bytes, name: str = "data.pkl") -> bytes:
    """Return a checkpoint of torch, as torch.save writes it, around a pickle."""
    members = [Member(f"w/{name}".encode(), data), Member(b"w/version", b"3\n"), Member(b"w/data/0", bytes(64))]
    return zip_of(*members)


def archive(*members: Member, manifest: bytes = MANIFEST, **more: bytes) -> bytes:
    return zip_of(*members, Member(b"MAR-INF/MANIFEST.json", manifest), **more)
