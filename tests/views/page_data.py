"""What a page carries for its scripts, and for whoever saves it."""

import base64
import gzip
import json
import re

import numpy as np


def page_data(html):
    """The data of a page, given as text."""
    ((kind, text),) = re.findall(r'<script type="application/(\w+)" id="document">(.*?)</script>', html, re.DOTALL)
    data = json.loads(text if kind == "json" else gzip.decompress(base64.b64decode(text)))
    return {key: with_columns(value) for key, value in data.items()}


def with_columns(value):
    """The data with lists in the place of columns, of which the first bytes of all numbers stand first."""
    if not isinstance(value, dict):
        return value
    if not {"column", "data"} <= value.keys():
        return {key: with_columns(item) for key, item in value.items()}
    raw = np.frombuffer(gzip.decompress(base64.b64decode(value["data"])), np.uint8)
    numbers = np.ascontiguousarray(raw.reshape(int(value["column"][1]), -1).T).view(f"<{value['column']}")[:, 0]
    if "digits" in value:
        return [float(f"{x:.{value['digits']}g}") for x in numbers.tolist()]
    whole = numbers.astype(np.int64)
    whole = np.cumsum(whole) if value["differences"] else whole
    return whole.tolist() if value["per"] == 1 else (whole / value["per"]).tolist()
