"""The fsspec store on a real SFTP server, paramiko's, on this machine."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.sftp import SFTP_OK
from store_contract import FolderBehind, NewPlace, Place, StoreContract

from cld.errors import StoreError
from cld.resource import Draft, new_id
from cld.store.fsspec import FsspecStore
from cld.uri import URI

A = URI("cld:common.Thing.a")
USER, PASSWORD = "ada", "s3cret-pa55"


class Login(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        return AUTH_SUCCESSFUL if (username, password) == (USER, PASSWORD) else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def get_allowed_auths(self, username: str) -> str:
        return "password"


def answered(call):
    """SFTP's word for how an `os` call went."""
    try:
        call()
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)
    return SFTP_OK


class Folder(paramiko.SFTPServerInterface):
    """The machine's files over SFTP, with `posix_rename` as OpenSSH has it."""

    def list_folder(self, path):
        try:
            found = [paramiko.SFTPAttributes.from_stat(e.stat(follow_symlinks=False), e.name) for e in os.scandir(path)]
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        return found

    def stat(self, path):
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(path))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def lstat(self, path):
        try:
            return paramiko.SFTPAttributes.from_stat(os.lstat(path))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def open(self, path, flags, attr):
        try:
            file = os.fdopen(os.open(path, flags, 0o600), "wb" if flags & os.O_WRONLY else "rb")
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = handle.writefile = file
        # paramiko closes both names of the one file; stat is what a reader asks for first.
        handle.stat = lambda: paramiko.SFTPAttributes.from_stat(os.fstat(file.fileno()))
        return handle

    def remove(self, path):
        return answered(lambda: os.remove(path))

    def posix_rename(self, oldpath, newpath):
        return answered(lambda: os.replace(oldpath, newpath))

    def mkdir(self, path, attr):
        return answered(lambda: os.mkdir(path))

    def rmdir(self, path):
        return answered(lambda: os.rmdir(path))


class Server:
    """Accepts connections until closed; the host's key is known to clients by `known_hosts`."""

    def __init__(self) -> None:
        self._key = paramiko.ECDSAKey.generate()
        self._transports: list[paramiko.Transport] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.known_hosts = f"[127.0.0.1]:{self.port} {self._key.get_name()} {self._key.get_base64()}\n"
        self._thread = threading.Thread(target=self._serve, name="sftp server")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(connection)
            transport.add_server_key(self._key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Folder)
            transport.start_server(event=threading.Event(), server=Login())
            self._transports.append(transport)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)
        for transport in self._transports:
            transport.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """A home whose `known_hosts` has the server, and no keys of whoever runs the tests."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(server.known_hosts)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


class TestSftp(StoreContract):
    examples = 5

    @pytest.fixture
    def new_place(self, home: Path, server: Server) -> NewPlace:
        def make() -> Place:
            root = home / new_id()
            url = f"sftp://{USER}:{PASSWORD}@127.0.0.1:{server.port}{root}"
            return Place(open=lambda: FsspecStore.open(url), behind=FolderBehind(root))

        return make


def test_sftp_has_one_writer_and_says_so(home: Path, server: Server) -> None:
    async def main() -> None:
        store = await FsspecStore.open(f"sftp://{USER}:{PASSWORD}@127.0.0.1:{server.port}{home}/tree")
        try:
            assert store.capabilities.cas == "none"
            assert "let no other process write here" in store.warning
            assert PASSWORD not in store.warning + repr(store)
            await store.put(Draft(A, {}), by="user:ada")
        finally:
            await store.aclose()
        assert (home / "tree" / f"{A}.json").is_file()

    anyio.run(main)


def test_a_host_whose_key_is_not_known_is_refused(home: Path, server: Server) -> None:
    (home / ".ssh" / "known_hosts").unlink()
    with pytest.raises(StoreError, match="known_hosts"):
        anyio.run(FsspecStore.open, f"sftp://{USER}:{PASSWORD}@127.0.0.1:{server.port}{home}/tree")


def test_a_refused_login_tells_no_password(home: Path, server: Server) -> None:
    with pytest.raises(StoreError) as caught:
        anyio.run(FsspecStore.open, f"sftp://{USER}:wr0ng-pa55@127.0.0.1:{server.port}{home}/tree")
    assert "wr0ng-pa55" not in str(caught.value) + repr(caught.value)


def test_a_server_that_went_away_is_a_store_error(home: Path) -> None:
    server = Server()
    (home / ".ssh" / "known_hosts").write_text(server.known_hosts)

    async def main() -> None:
        store = await FsspecStore.open(f"sftp://{USER}:{PASSWORD}@127.0.0.1:{server.port}{home}/tree")
        await store.put(Draft(A, {}), by="user:ada")
        await anyio.to_thread.run_sync(server.close)
        with anyio.fail_after(20):
            with pytest.raises(StoreError) as caught:
                await store.get(A)
            assert PASSWORD not in str(caught.value)
            await store.aclose()

    anyio.run(main)
