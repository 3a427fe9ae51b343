"""Writes the golden files of format 1 from its description in the package comment. Run it by hand; needs the package
"cryptography". It is a second implementation on purpose: don't replace it by the Go code."""

import hashlib
import hmac
import os
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def hkdf(key, salt, info, length):
    pseudorandom = hmac.new(salt, key, hashlib.sha256).digest()
    out, block = b"", b""
    for i in range(1, 256):
        block = hmac.new(pseudorandom, block + info + bytes([i]), hashlib.sha256).digest()
        out += block
        if len(out) >= length:
            return out[:length]


def seal(data_key, encrypted_data_key, salt, chunk_size, content):
    size = struct.pack(">I", chunk_size)
    keys = hkdf(data_key, salt, b"keyledger sealed file 1" + size, 71)
    key, commitment, prefix = keys[:32], keys[32:64], keys[64:]
    fixed = bytes.fromhex("CB006B6D73666C01") + size + salt + commitment
    file = fixed + struct.pack(">H", len(encrypted_data_key)) + encrypted_data_key
    chunks = [content[i : i + chunk_size] for i in range(0, len(content), chunk_size)] or [b""]
    for i, chunk in enumerate(chunks):
        nonce = prefix + struct.pack(">I", i) + bytes([i == len(chunks) - 1])
        file += AESGCM(key).encrypt(nonce, chunk, fixed)
    return file


for name, chunk_size, content in [
    ("empty", 65536, b""),
    ("hello", 65536, b"hello, world\n"),
    ("chunks", 64, b"0123456789abcdef" * 20),
]:
    file = seal(bytes(range(32)), b"encrypted data key", bytes(range(100, 132)), chunk_size, content)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".v1.hex"), "w") as f:
        f.write(file.hex() + "\n")
