"""Places: what the paths given to a run are, once their links are followed. Blocking, so called in a thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cld.errors import InvalidArgument


@dataclass(frozen=True)
class Place:
    """A path with all its links followed, once, and whether it is a folder; `is_gone` where there is nothing."""

    path: PurePosixPath
    is_folder: bool
    is_gone: bool = False


def place_of(path: str | Path, within: Sequence[Path] | None, field: str) -> Place:
    """The path as it is now, with no links in it.

    Raises:
        InvalidArgument: it can be none, or lies outside `within`.
    """
    outside = InvalidArgument(f"{path} is not in a folder that may be taken in", field=field)
    try:
        given = Path(path).expanduser()
        try:
            real, is_gone = given.resolve(strict=True), False
        except (FileNotFoundError, NotADirectoryError):
            real, is_gone = given.resolve(), True
        str(real).encode()
        is_folder = real.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        if within is not None:
            # Whether it exists is not told of what lies outside.
            raise outside from None
        said = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"{path} cannot be found: {said}", field=field) from None
    if within is not None and not any(real.is_relative_to(folder.resolve()) for folder in within):
        raise outside
    return Place(PurePosixPath(str(real)), is_folder, is_gone)


def identity_of(path: Path) -> tuple[int, int] | None:
    """What a folder is the same by under whatever name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
