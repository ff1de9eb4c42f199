"""Sums: a calculation that stands in a text. Finds it, and leaves the calculating to a tool. Pure."""

import re

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_SPOKEN = (
    (r"\bto the power of\b", "**"),
    (r"\bdivided by\b", "/"),
    (r"\bmultiplied by\b", "*"),
    (r"\btimes\b", "*"),
    (r"\bplus\b", "+"),
    (r"\bminus\b", "-"),
    (r"\bmodulo\b", "%"),
    (r"[\u00d7\u22c5]", "*"),
    (r"(?<=[\d)])\s*[xX]\s*(?=[\d(])", "*"),
    (r"\u00f7", "/"),
    (r"\u2212", "-"),
    (r"\^", "**"),
)
_PERCENT = re.compile(rf"({_NUMBER})\s*(?:%|percent)\s+of\s+({_NUMBER})")
_SUM = re.compile(rf"(?<![(\s-])[(\s-]*{_NUMBER}[\s)]*(?:(?:\*\*|//|[-+*/%])[\s(+-]*{_NUMBER}[\s)]*)+")
# Dates, telephone numbers and ranges are made of numbers and dashes too.
_NO_SUM = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d+(?:-\d+){2,}|\d+-\d+|\d{1,2}/\d{1,2}/\d{2,4}")


def sum_in(text: str) -> str | None:
    """The one calculation in the text, as an expression with digits and operators; None when there is none."""
    said = text
    for pattern, sign in _SPOKEN:
        said = re.sub(pattern, f" {sign} ", said, flags=re.IGNORECASE)
    said = _PERCENT.sub(r" \1 / 100 * \2 ", said)
    # Begins with a blank, so that there is a place before the first sign too.
    found = [one[0].strip() for one in _SUM.finditer(f" {said}")]
    found = [one for one in found if not _NO_SUM.fullmatch(one)]
    if len(found) != 1:
        return None
    expression = re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(found[0].split()))
    while expression.count("(") > expression.count(")") and expression.startswith("("):
        expression = expression[1:].strip()
    while expression.count(")") > expression.count("(") and expression.endswith(")"):
        expression = expression[:-1].strip()
    return expression if expression.count("(") == expression.count(")") else None
