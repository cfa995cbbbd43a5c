"""Media type and charset of a Content-Type header."""

import re
from functools import lru_cache
from typing import NamedTuple

_PARAMETER = re.compile(r""";\s*([^\s;="]+)\s*=\s*(?:"([^"]*)"|([^\s;"]*))""")
_LENGTH_MAX = 1024  # of the part that is read: the longest charset's name has 45 characters


class MediaType(NamedTuple):
    """Media type and charset in lower case; `name` is empty where there is none."""

    name: str
    charset: str | None


@lru_cache(maxsize=256)
def read(content_type: str) -> MediaType:
    """Read a header's value. Python's `email` reads numbered and encoded parameters too (RFC 2231), which no sender of
    XML writes: thousands of digits are an error there, and names in punycode take time by their square.
    """
    content_type = content_type[:_LENGTH_MAX]
    parameters = {
        name.lower(): quoted or plain for name, quoted, plain in reversed(_PARAMETER.findall(content_type))
    }  # the first of a name counts
    return MediaType(content_type.partition(";")[0].strip().lower(), parameters.get("charset", "").lower() or None)
