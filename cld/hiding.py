"""The forms in which a secret may come back in a text: as it is, and as programs write it."""

import base64
import json
from urllib.parse import quote, quote_plus

LEAST_LINE = 8
"""A line of a secret of several is looked for by itself from this length on; a shorter one is in any text."""


def forms_of(secret: str) -> set[str]:
    """What to look for in a text that may hold `secret`."""
    forms = {secret, repr(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}
    forms |= {json.dumps(secret, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
    data = secret.encode(errors="surrogateescape")
    forms |= {encode(data).decode().rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    lines = secret.splitlines()
    if len(lines) > 1:
        forms |= {line.strip() for line in lines if len(line.strip()) >= LEAST_LINE}
    return forms
