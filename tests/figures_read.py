"""What a figure holds, read back: numbers as its script reads them, images pixel by pixel."""

import base64
import gzip
import zlib

import numpy as np

from caseback.views.figure.shades import MISSING


def integers_of(text):
    """Integers of 16 bits."""
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), "<i2")


def numbers_of(packed):
    """The numbers that the page's script reads."""
    whole = integers_of(packed["q"]).astype(float)
    return np.where(whole == MISSING, np.nan, whole * packed["unit"])


def pixels_of(address):
    """Palette indices of an image, by row and column, and the palette with its opacities."""
    png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    chunks, at = {}, 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        name, body = png[at + 4 : at + 8].decode(), png[at + 8 : at + 8 + size]
        assert zlib.crc32(png[at + 4 : at + 8 + size]) == int.from_bytes(png[at + 8 + size : at + 12 + size], "big")
        chunks[name], at = body, at + 12 + size
    wide = int.from_bytes(chunks["IHDR"][:4], "big")
    lines = np.frombuffer(zlib.decompress(chunks["IDAT"]), np.uint8).reshape(-1, wide + 1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:], np.frombuffer(chunks["PLTE"], np.uint8).reshape(-1, 3), list(chunks["tRNS"])
