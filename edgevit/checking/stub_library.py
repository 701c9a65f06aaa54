"""A shared library with one small function, written byte by byte, so that no compiler is needed."""

from __future__ import annotations

import struct

PAGE = 0x1000
RETURNS_TRUE = bytes.fromhex("b801000000c3")  # x86-64: mov eax, 1; ret

# Of the ELF format (System V ABI, "Object Files" and "Dynamic Linking")
EXECUTABLE, WRITABLE = 5, 6
LOAD, DYNAMIC, STACK = 1, 2, 0x6474E551
PROGRAMS = 4
HASH, STRINGS, SYMBOLS, STRINGS_SIZE, SYMBOL_SIZE, NAME = 4, 5, 6, 10, 11, 14
HEADER_BYTES, PROGRAM_BYTES, SYMBOL_BYTES = 64, 56, 24


def shared_library(function: str, name: str) -> bytes:
    """An x86-64 ELF library `name` whose `function` returns 1 for any arguments."""
    strings = b"\0" + function.encode() + b"\0" + name.encode() + b"\0"
    hashes = struct.pack("<5I4x", 1, 2, 1, 0, 0)  # one bucket that begins with symbol 1; two symbols, no chain
    hashes_at = HEADER_BYTES + PROGRAMS * PROGRAM_BYTES
    symbols_at = hashes_at + len(hashes)
    strings_at = symbols_at + 2 * SYMBOL_BYTES
    code_at = strings_at + len(strings)
    a_global_function = 0x12
    symbols = bytes(SYMBOL_BYTES) + struct.pack(
        "<IBBHQQ", 1, a_global_function, 0, 1, code_at, len(RETURNS_TRUE)
    )  # the first symbol is always empty
    entries = {
        NAME: 1 + len(function) + 1,
        HASH: hashes_at,
        STRINGS: strings_at,
        SYMBOLS: symbols_at,
        STRINGS_SIZE: len(strings),
        SYMBOL_SIZE: SYMBOL_BYTES,
        0: 0,
    }
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in entries.items())
    end = code_at + len(RETURNS_TRUE)
    # The loader writes into the dynamic section, so that it has a page of its own.
    programs = (
        _segment(LOAD, EXECUTABLE, 0, end, PAGE)
        + _segment(LOAD, WRITABLE, PAGE, len(dynamic), PAGE)
        + _segment(DYNAMIC, WRITABLE, PAGE, len(dynamic), 8)
        + _segment(STACK, WRITABLE, 0, 0, 16)  # without it the loader takes the stack for executable
    )
    body = _header() + programs + hashes + symbols + strings + RETURNS_TRUE
    return body.ljust(PAGE, b"\0") + dynamic


def _header() -> bytes:
    identity = b"\x7fELF" + bytes([2, 1, 1])  # 64 bits, little-endian, version 1
    shared, x86_64 = 3, 62
    return identity.ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", shared, x86_64, 1, 0, HEADER_BYTES, 0, 0, HEADER_BYTES, PROGRAM_BYTES, PROGRAMS, 0, 0, 0
    )


def _segment(kind: int, access: int, start: int, size: int, alignment: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, access, start, start, start, size, size, alignment)
