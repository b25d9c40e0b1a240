"""What a page carries for its scripts, and for whoever saves it."""

import base64
import gzip
import json
import re


def page_data(html):
    """The data of a page, given as text."""
    ((kind, text),) = re.findall(r'<script type="application/(\w+)" id="document">(.*?)</script>', html, re.DOTALL)
    return json.loads(text if kind == "json" else gzip.decompress(base64.b64decode(text)))
