"""numpy, imported when it is first used: a server starts often and searches seldom.

The one place that imports it. Everything else in this package writes `np` from here.
"""

import importlib
from typing import TYPE_CHECKING, Any, TypeAlias

from cld.errors import Unsupported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:

    class _Late:
        """Stands for numpy until an attribute of it is asked for."""

        def __getattr__(self, name: str) -> Any:
            try:
                numpy = importlib.import_module("numpy")
            except ImportError as error:
                raise Unsupported(f"search needs the package numpy; install cld[knowledge] ({error})") from error
            value = getattr(numpy, name)
            setattr(self, name, value)
            return value

    np = _Late()

Floats: TypeAlias = "NDArray[np.float32]"
Scores: TypeAlias = "NDArray[np.float64]"
Shorts: TypeAlias = "NDArray[np.int16]"
Numbers: TypeAlias = "NDArray[np.uint32]"
Hashes: TypeAlias = "NDArray[np.uint64]"
Positions: TypeAlias = "NDArray[np.intp]"
Mask: TypeAlias = "NDArray[np.bool_]"

__all__ = ["Floats", "Hashes", "Mask", "Numbers", "Positions", "Scores", "Shorts", "np"]
