"""Secrets in the forms that programs give them, in texts that are told or logged."""

import base64
import json
from urllib.parse import quote

import pytest

from cld.hiding import forms_of
from cld.models.failures import clean
from cld.tools.server_secrets import HIDDEN, Secrets
from cld.types import Server

PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n  hkiG9w0BAQEFAASC\n-----END KEY-----"
ODD = 'p@ss w/ord "é"'


@pytest.mark.parametrize(
    "told",
    [
        ODD,
        repr(ODD),
        json.dumps(ODD),
        json.dumps(ODD, ensure_ascii=False),
        quote(ODD, safe=""),
        base64.b64encode(ODD.encode()).decode(),
        "MIIEvQIBADANBgkq",
        "    hkiG9w0BAQEFAASC",
        PEM,
    ],
)
def test_a_secret_is_hidden_in_every_form_that_it_is_told_in(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"ODD": ODD, "PEM": PEM}
    secrets = Secrets(Server(prefix="s", command="x", env={"A": "$ODD", "B": "$PEM"}), environment)
    assert HIDDEN in secrets.hide(f"it said {told}!")
    monkeypatch.setenv("MY_KEY2", ODD)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", PEM)
    cleaned = clean(f"it said {told}!")
    assert "…" in cleaned and not any(form in cleaned for secret in (ODD, PEM) for form in forms_of(secret))
