"""Numbers as shades and as bytes: a map is an image of one pixel a cell, whatever its size on the page.

    signed      index = 128 + round(127 · value / most)      orange above 0, blue below
    unsigned    index = 1 + round(254 · value / most)        teal
    missing     index = 0                                    gray

The image holds palette indices, and the palette one color of rising opacity: what lies behind shows through, so one
image is right on light paper and on dark. 64 layers by 64 tokens take 2 kB, as 4,096 rectangles they took 300.
"""

from __future__ import annotations

import base64
import gzip
import struct
import zlib

import numpy as np

from caseback.errors import CasebackError
from caseback.reports.document import checked

__all__ = ["FOIL", "MISSING", "SEQUENTIAL", "TARGET", "image_of", "packed_integers", "packed_numbers"]

TARGET, FOIL, SEQUENTIAL = (217, 108, 20), (52, 118, 196), (34, 138, 146)
_GRAY = (128, 128, 128)
MISSING = -32768
_MOST = 32767


@checked
def image_of(values: np.ndarray, most: float, *, signed: bool = False, opaque: float = 1.0) -> str:
    """A map as the address of an image that has its data in it.

    Parameters
    ----------
    values
        (row, column); NaN where there is none. The first row is the image's upper one.
    most
        The number that has the full shade; above it, and without a sign below 0, shades stay as they are.
    signed
        Whether there are two colors, for numbers above and below 0.
    opaque
        The opacity of the full shade, 0 to 1: less where text stands on it.

    Returns
    -------
    str
        ``data:image/png;base64,…``.

    Raises
    ------
    CasebackError
        For values that are no map.

    Examples
    --------
    >>> image_of(np.array([[0.0, 1.0]]), 1.0)[:22]
    'data:image/png;base64,'
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise CasebackError(f"a map is an array of rows and columns, and this has the shape {values.shape}")
    share = np.nan_to_num(values / (most if most > 0 else 1.0), nan=0.0, posinf=1.0, neginf=-1.0)
    if signed:
        index = 128 + np.rint(127 * np.clip(share, -1, 1))
        palette = [(FOIL if i < 128 else TARGET, abs(i - 128) / 127) for i in range(1, 256)]
    else:
        index = 1 + np.rint(254 * np.clip(share, 0, 1))
        palette = [(SEQUENTIAL, (i - 1) / 254) for i in range(1, 256)]
    index = np.where(np.isnan(values), 0, index).astype(np.uint8)
    colors = [*_GRAY, *(part for color, _ in palette for part in color)]
    full = 255 * min(max(opaque, 0.0), 1.0)
    alphas = [45, *(round(full * shade) for _, shade in palette)]
    rows, columns = index.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), index], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", bytes(colors)), (b"tRNS", bytes(alphas)), (b"IDAT", zlib.compress(lines, 9))]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in [*chunks, (b"IEND", b"")])
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


@checked
def packed_numbers(values: np.ndarray) -> dict[str, object]:
    """Numbers for the script that shows them: 16-bit integers, gzipped, in base64, and what one is worth.

    Parameters
    ----------
    values
        Any shape; NaN where there is none. An error is at most a 65,000th of the largest absolute value.

    Examples
    --------
    >>> sorted(packed_numbers(np.array([1.0, -0.5])))
    ['q', 'unit']
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.abs(values[np.isfinite(values)])
    unit = float(finite.max()) / _MOST if finite.size and finite.max() > 0 else 1.0
    whole = np.where(np.isfinite(values), np.rint(np.nan_to_num(values) / unit), MISSING).astype("<i2")
    return {"unit": unit, "q": packed_integers(whole)}


@checked
def packed_integers(values: np.ndarray) -> str:
    """Integers of 16 bits, gzipped, in base64; the same ones give the same text.

    Raises
    ------
    CasebackError
        For integers of more bits.

    Examples
    --------
    >>> packed_integers(np.array([1, 2]))[:5]
    'H4sIA'
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iu" or (values.size and np.abs(values.astype(np.int64)).max() > -MISSING):
        raise CasebackError("numbers of a figure are packed as integers of 16 bits, and these are none")
    # no time stamp, so that the same figure gives the same bytes
    return base64.b64encode(gzip.compress(values.astype("<i2").tobytes(), 9, mtime=0)).decode("ascii")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
