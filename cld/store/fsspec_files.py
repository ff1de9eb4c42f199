"""The files below one fsspec URL, as `cld.store.fsspec` needs them: plain calls that block.

Owns what differs between fsspec's drivers: how a file is replaced without readers seeing half of
it, which driver can create exclusively, which one several threads may use, whose links are
followed, and how their errors, and the credentials in their URLs, become ours. It knows paths
and bytes, no resources.

Drivers are trusted to do what was seen of them in `tests/test_fsspec_*.py`, not more: one that is not named in
`_TRAITS` is written in place, by one thread at a time.
"""

import errno
import re
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import unquote

from cld.errors import CldError, ConfigError, InvalidResource, StoreError, Unsupported
from cld.resource import new_id

TEMPORARY = ".cld/tmp"


@dataclass(frozen=True)
class _Trait:
    """What a driver can do. `replace`: a new file is renamed into place, or a put is whole, or neither."""

    replace: Literal["rename", "whole", "in place"] = "in place"
    create: Literal["link", "mode", "none"] = "none"
    parallel: bool = False
    links: bool = False
    writable: bool = True
    note: str = ""


_OBJECTS = _Trait(replace="whole", parallel=True)
_READ_ONLY = _Trait(writable=False)
_ARCHIVES = ("zip", "tar", "libarchive")
_TRAITS: Mapping[str, _Trait] = {
    # shutil.move is rename within one file system; os.link fails where there is something.
    "file": _Trait(replace="rename", create="link", parallel=True, links=True),
    # Its ls fails on what is removed meanwhile, hence one thread at a time.
    "memory": _Trait(replace="whole", create="mode", note="it is gone when the process ends"),
    "sftp": _Trait(replace="rename", note="links on the server are followed"),
    **dict.fromkeys(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"), _OBJECTS),
    **dict.fromkeys((*_ARCHIVES, "http", "https", "github", "git", "data"), _READ_ONLY),
}


class Entry(NamedTuple):
    """One name in a directory."""

    name: str
    is_directory: bool


class Files:
    """The files below a root; every path is relative to it.

    Raises, in every call: StoreError when the driver fails, Unsupported for a write it cannot do,
    InvalidResource when a link is on the way and the driver would follow it. Looking for links and
    then acting is no guard against somebody who plants them meanwhile; the local store is.
    """

    def __init__(self, fs: Any, root: str, trait: _Trait, address: "Address") -> None:
        self._fs = fs
        self._root = root
        self._prefix = root if root.endswith("/") or not root else root + "/"
        self._trait = trait
        self._address = address
        self.name = address.name
        """The URL without credentials; identifies the place within this process."""

    def __repr__(self) -> str:
        return f"Files({self.name!r})"

    @property
    def can_create(self) -> bool:
        """Whether a file can be created so that of all processes only one succeeds."""
        return self._trait.create != "none"

    @property
    def can_rename(self) -> bool:
        """Whether a file or directory moves in one step."""
        return self._trait.replace == "rename"

    @property
    def is_parallel(self) -> bool:
        """Whether several threads may call at once."""
        return self._trait.parallel

    @property
    def is_writable(self) -> bool:
        return self._trait.writable

    @property
    def notes(self) -> list[str]:
        """What somebody who keeps resources here must know about the driver."""
        in_place = "files are replaced in place, and a reader may see half of one"
        return [note for note in (self._trait.note, in_place * (self._trait.replace == "in place")) if note]

    def read(self, path: str) -> bytes | None:
        """The file's bytes, None where there is none."""
        self._refuse_links(path)
        with self._reported("read", path):
            try:
                return bytes(self._fs.cat_file(self._prefix + path))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, path: str, data: bytes, *, create: bool = False) -> None:
        """Put the file in place, with its directories.

        Raises:
            FileExistsError: with `create`, where `can_create`, when there is one.
        """
        self._refuse_read_only()
        self._refuse_links(path.rpartition("/")[0])
        with self._reported("write", path, *((FileExistsError,) if create else ())):
            match self._trait.replace:
                case "rename":
                    self._write_beside(path, data, create=create)
                case "whole" | "in place":
                    # Only where it is exclusive: elsewhere the mode is a look-up before the write.
                    mode = {"mode": "create"} if create and self._trait.create == "mode" else {}
                    self._in_directory(path, lambda: self._fs.pipe_file(self._prefix + path, data, **mode))

    def move(self, source: str, target: str) -> None:
        """Rename a file or directory, over a file that is there; in one step where `can_rename`."""
        self._refuse_read_only()
        self._refuse_links(source.rpartition("/")[0])
        with self._reported("move", source):
            self._in_directory(target, lambda: self._fs.mv(self._prefix + source, self._prefix + target))

    def remove(self, path: str) -> None:
        """Remove the file, of a link the link; one that is gone already is no error."""
        self._refuse_read_only()
        self._refuse_links(path.rpartition("/")[0])
        with self._reported("remove", path), suppress(FileNotFoundError):
            self._fs.rm_file(self._prefix + path)

    def remove_empty(self, path: str) -> None:
        """Remove the directory and those below it as far as they hold no files."""
        # Not the drivers' recursive rm: it takes brackets in the root's name for patterns.
        for entry in self.entries(path):
            if entry.is_directory:
                self.remove_empty(f"{path}/{entry.name}")
        with suppress(OSError, NotImplementedError):  # it is tidying only, and a file may lie in it
            self._fs.rmdir(self._prefix + path)

    def entries(self, path: str) -> list[Entry]:
        """What is in the directory, links not counted as directories; nothing where there is none or a link."""
        if self._link_in(path):
            return []
        with self._reported("list", path):
            self._fs.invalidate_cache()  # others write too
            try:
                found: list[dict[str, Any]] = self._fs.ls(self._prefix + path if path else self._root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [
            Entry(str(one["name"]).rstrip("/").rpartition("/")[2], one["type"] == "directory" and not one.get("islink"))
            for one in found
        ]

    def close(self) -> None:
        """Let go of connections and open archives."""
        # fsspec has no close of its own; these are the drivers' (sftp's connection, an archive's file).
        for held in (getattr(self._fs, "client", None), self._fs):
            if callable(close := getattr(held, "close", None)):
                with self._reported("close", ""):
                    close()

    def _write_beside(self, path: str, data: bytes, *, create: bool) -> None:
        beside = f"{self._prefix}{TEMPORARY}/{new_id()}"
        target = self._prefix + path
        try:
            self._in_directory(f"{TEMPORARY}/x", lambda: self._fs.pipe_file(beside, data))
            if create and self._trait.create == "link":
                self._in_directory(path, lambda: self._fs.link(beside, target))
                self._fs.rm_file(beside)
            else:
                self._in_directory(path, lambda: self._fs.mv(beside, target))
        except Exception:  # whatever failed is raised on; the half-made file goes if it can
            with suppress(Exception):
                self._fs.rm_file(beside)
            raise

    def _in_directory(self, path: str, act: Callable[[], Any]) -> None:
        """Do it, and where the directory is missing make that and do it again."""
        try:
            act()
        except FileNotFoundError:
            directory = (self._prefix + path).rpartition("/")[0]
            self._fs.makedirs(directory, exist_ok=True)
            act()

    def _link_in(self, path: str) -> str:
        """The first link on the way to `path`, itself included, where the driver follows links; else empty."""
        steps = path.split("/") if self._trait.links and path else []
        ways = ("/".join(steps[:end]) for end in range(1, len(steps) + 1))
        return next((way for way in ways if self._fs.islink(self._prefix + way)), "")

    def _refuse_links(self, path: str) -> None:
        if link := self._link_in(path):
            raise InvalidResource(f"{link} in {self.name} is a symbolic link, which is not followed; replace it")

    def _refuse_read_only(self) -> None:
        if not self._trait.writable:
            raise Unsupported(f"{self.name} can only be read: fsspec cannot change such a place; choose another root")

    @contextmanager
    def _reported(self, doing: str, path: str, *passing: type[Exception]) -> Generator[None]:
        """The driver's failure as ours, whatever type it has: drivers raise their libraries' own."""
        try:
            yield
        except (CldError, *passing):
            raise
        except Exception as error:
            where = f"{self.name}: cannot {doing} {path or 'it'}: {self._address.scrub(error)}"
            if isinstance(error, NotImplementedError) or getattr(error, "errno", None) == errno.EROFS:
                raise Unsupported(f"{where}; it can only be read") from self._address.cause(error)
            raise StoreError(f"{where}; not acknowledged, look at the storage and try again") from self._address.cause(
                error
            )


def open_files(url: str, options: Mapping[str, Any]) -> Files:
    """The files below `url`; `options` go to the driver of the URL's first protocol.

    Raises:
        ConfigError: an unknown protocol, a driver that is not installed (named), or arguments it refuses.
        StoreError: it cannot be reached.
    """
    # At first use: most runs have a local root and need no fsspec.
    from fsspec.core import url_to_fs  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    address = Address(url, options)
    chain = url.split("::")
    protocols = [link.partition("://")[0] if "://" in link else link for link in chain]
    arguments: dict[str, Any] = {**options, "skip_instance_cache": True}  # else closing one closes all
    if protocols[0] in _ARCHIVES and len(chain) == 1 and "fo" not in options:
        raise ConfigError(f"root {address.name} names no archive; write {protocols[0]}://::/path/of/archive")
    failure: CldError | None = None
    try:
        for protocol in {"sftp", "ssh"}.intersection(protocols):
            arguments.setdefault(protocol, {}).setdefault("host_key_policy", _known_hosts())
        fs, root = cast("tuple[Any, str]", url_to_fs(url, **arguments))
    except ImportError as error:
        failure = ConfigError(
            f"root {address.name}: the driver of {protocols[0]}:// is not installed: {address.scrub(error)}"
        )
    except (ValueError, TypeError) as error:
        failure = ConfigError(f"root {address.name} cannot be used: {address.scrub(error)}; check the URL")
    except Exception as error:  # drivers raise their libraries' own
        failure = StoreError(f"root {address.name} cannot be opened: {address.scrub(error)}")
        failure.__cause__ = address.cause(error)
    else:
        _without_delay(fs)
        names = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
        trait = next((_TRAITS[name] for name in names if name in _TRAITS), _Trait(parallel=bool(fs.async_impl)))
        return Files(fs, root, trait, address)
    raise failure


class Address:
    """A URL with its credentials taken out, and out of every text that may repeat them."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        secrets: set[str] = set()
        self.name = "::".join(_without_credentials(link, secrets) for link in url.split("::"))
        for value in _values(options):
            secrets.add(value)
        # Parsers quote pieces: a password with a '/' in it shows up cut at that.
        pieces = {piece for secret in secrets for piece in (secret, unquote(secret), *re.split(r"[:/@?&=]", secret))}
        self._secrets = sorted(pieces - {""}, key=len, reverse=True)

    def scrub(self, error: Exception) -> str:
        """The error's text, or its type where it has none, without credentials."""
        text = str(error) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text

    def cause(self, error: Exception) -> Exception | None:
        """The error, as the cause to chain, unless it tells credentials."""
        return error if self.scrub(error) == (str(error) or type(error).__name__) else None


def _without_credentials(link: str, secrets: set[str]) -> str:
    """The part of a chained URL for people to see; what it left out is added to `secrets`."""
    scheme, separator, rest = link.partition("://")
    rest, question, query = rest.partition("?")
    # Up to the last '@', as a password may hold '@' and '/' though it should not.
    user, at, rest = rest.rpartition("@")
    secrets.update((user.partition(":")[2], query))
    return f"{scheme}{separator}{'…@' * bool(at)}{rest}{'?…' * bool(question)}"


_SECRET = re.compile("pass|secret|token|key|credential", re.IGNORECASE)


def _values(options: Mapping[str, Any]) -> Iterator[str]:
    """The texts among the options that their names say are secret."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _values(value)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, str) and _SECRET.search(name):
            yield value


def _without_delay(fs: Any) -> None:
    """Send small requests at once, where it is SSH: paramiko leaves that to the kernel, which waits for more."""
    if (client := getattr(fs, "client", None)) is not None and hasattr(client, "get_transport"):
        connection = client.get_transport().sock
        if isinstance(connection, socket.socket):  # not where it is tunnelled
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _known_hosts() -> Any:
    """Accept the host keys that ssh knows, and no others: fsspec's own default accepts every key."""
    import paramiko  # noqa: PLC0415  at first use: only sftp roots need it

    class KnownHosts(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            known = paramiko.HostKeys()
            for file in (Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")):
                if file.is_file():
                    known.load(str(file))
            if not known.check(hostname, key):
                raise paramiko.SSHException(
                    f"the {key.get_name()} key of {hostname} is in no known_hosts; connect once with ssh to accept it"
                )

    return KnownHosts()
