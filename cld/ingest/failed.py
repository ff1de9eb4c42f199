"""The one error a converter raises on purpose."""

from cld.errors import CldError


class ConversionFailed(CldError):
    """A file that cannot be converted; the message is the reason told to the person."""

    code = "conversion_failed"
