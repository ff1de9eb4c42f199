"""The tools that come with cld: what they do, and above all what they cannot be made to do."""

import email
import email.policy
import gzip
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from table_policy import ListJournal, TablePolicy
from tool_world import ADA, everything

from cld.config import Tooling
from cld.guard import Guard
from cld.store.local_paths import open_walking
from cld.tools.calling import Calling
from cld.tools.declare import ToolError
from cld.tools.library import calculator, email_draft, files, http_fetch, places, time_now
from cld.tools.library.files import Granted
from cld.tools.python import PythonTools


def value(expression: str) -> str:
    return calculator.written(calculator.value_of(expression))


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.333333333333333"),
        ("(1 + 0.05) ** 10 * 1200", "1954.6735521329296875"),
        ("-8 ** 2", "-64"),
        ("2 ** 0.5", "1.4142135623731"),
        ("2 ** -2", "0.25"),
        ("7 // 2 + 7 % 4", "6"),
        ("2 ** 64", "18446744073709551616"),
        ("round(2.675, 2)", "2.68"),
        ("mean(1, 2, 4) * 3", "7"),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("sqrt(16) + cos(0)", "5"),
        ("-1/8", "-0.125"),
        ("10 ** 20 / 3", "3.33333333333333e+19"),
        ("factorial(20)", "2432902008176640000"),
        ("10 ** 5000", "1e+5000"),
        ("1 / 3 / 10 ** 400", "3.33333333333e-401"),
        ("-2 ** -2000", "-8.70980981622e-603"),
    ],
)
def test_arithmetic_is_exact_where_it_can_be(expression: str, result: str) -> None:
    assert value(expression) == result


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("9 ** 9 ** 9", "too large"),
        ("2 ** 100000", "too large"),
        ("1e999999999", "too large"),
        ("factorial(10 ** 9)", "too large"),
        ("exp(10 ** 6)", "too large"),
        ("round(1, 10 ** 9)", "too large"),
        ("pi * 1e308 * 10", "too large"),
        ("degrees(1e308) - degrees(1e308)", "too large"),
        ("(2 ** 19000) * (2 ** 19000)", "too large"),
        ("1 / 0", "divides by zero"),
        ("__import__('os').system('true')", "no arithmetic"),
        ("(1).__class__", "no arithmetic"),
        ("[1 for x in (1, 2)]", "no arithmetic"),
        ("open(1)", "open is not known here"),
        ("a + 1", "a is not known here"),
        ("True + 1", "no numbers"),
        ("sqrt(-1)", "cannot be worked out"),
        ("(-8) ** 0.5", "root of a negative"),
        ("1 +", "no expression"),
        ("(" * 300 + "1" + ")" * 300, "nest"),
        ("-" * 990 + "1", "nest"),
        ("1" * 1001, "at most 1000"),
        ("1 << 99999999", "only + - "),
    ],
)
def test_what_is_no_arithmetic_or_too_much_of_it_is_refused(expression: str, words: str) -> None:
    with pytest.raises(ToolError, match=f".*{words}".replace("+", r"\+")):
        value(expression)


def test_the_time_is_told_for_any_zone_and_close_ones_are_named() -> None:
    now = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
    there = time_now.time_in("Asia/Kolkata", now)
    assert (there.time, there.weekday, there.utc_offset) == ("2026-07-01T17:30:00+05:30", "Wednesday", "+05:30")
    assert there.utc == "2026-07-01T12:00:00Z"
    for wrong in ("berlin", "Europe/Berlim", "../../etc/passwd", "/etc/passwd", "", "a\0b"):
        with pytest.raises(ToolError, match="there is no time zone") as caught:
            time_now.time_in(wrong, now)
        assert "Berlin" in str(caught.value)


# -- files


@pytest.fixture
def granted(tmp_path: Path) -> Granted:
    (tmp_path / "granted").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    return Granted(str(tmp_path / "granted"))


def test_a_file_from_elsewhere_under_a_second_name_is_not_read(granted: Granted, tmp_path: Path) -> None:
    os.link(tmp_path / "secret.txt", tmp_path / "granted" / "mine.txt")
    with pytest.raises(ToolError, match="2 hard links"):
        granted.read("mine.txt")


def test_a_name_that_is_too_long_is_told_as_it_was_given(granted: Granted, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"^a{300} cannot be opened: File name too long"):
        granted.write("a" * 300, "text", replace=False)
    assert not list((tmp_path / "granted").iterdir())


def test_files_are_written_listed_read_and_replaced(granted: Granted, tmp_path: Path) -> None:
    assert granted.write("notes/2026/plan.md", "# Plän", replace=False).bytes == 7
    assert granted.read("notes/2026/plan.md") == "# Plän"
    (entry,) = granted.list("notes").entries
    assert (entry.name, entry.kind) == ("2026", "folder")
    with pytest.raises(ToolError, match=r"there is a file at notes/2026/plan\.md; file_replace"):
        granted.write("notes/2026/plan.md", "", replace=False)
    granted.write("notes/2026/plan.md", "new", replace=True)
    assert granted.read("notes/2026/plan.md") == "new"
    assert os.listdir(tmp_path / "granted/notes/2026") == ["plan.md"], "nothing half written is left"
    with pytest.raises(ToolError, match="file_write writes new files"):
        granted.write("other.md", "", replace=True)


ESCAPES = ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "./x", "a//b", "..", ".", "a\0b", "a\nb", "a/./b"]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out_of_the_granted_folder(granted: Granted, path: str) -> None:
    for reach in (granted.read, granted.list, lambda path: granted.write(path, "x", replace=False)):
        with pytest.raises(ToolError, match=r"is no path within|cannot be opened"):
            reach(path)


@pytest.mark.parametrize("walking", [False, True])
def test_no_link_leads_out_of_the_granted_folder(
    granted: Granted, tmp_path: Path, walking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if walking:  # as on kernels without openat2
        monkeypatch.setattr(files, "has_openat2", lambda _: False)
        assert files.open_walking is open_walking
    folder = tmp_path / "granted"
    (folder / "file").symlink_to(tmp_path / "secret.txt")
    (folder / "folder").symlink_to(tmp_path)
    for path in ("file", "folder/secret.txt"):
        with pytest.raises(ToolError, match="symbolic link"):
            granted.read(path)
        with pytest.raises(ToolError, match=r"symbolic link|there is a"):
            granted.write(path, "x", replace=True)
    with pytest.raises(ToolError):
        granted.write("folder/new.txt", "x", replace=False)
    assert (tmp_path / "secret.txt").read_text() == "secret" and not (tmp_path / "new.txt").exists()
    assert {entry.kind for entry in granted.list("").entries} == {"symbolic link"}


def test_what_is_no_text_or_no_file_is_told(granted: Granted, tmp_path: Path) -> None:
    folder = tmp_path / "granted"
    os.mkfifo(folder / "fifo")
    (folder / "image").write_bytes(b"\xff\xd8")
    with pytest.raises(ToolError, match="a FIFO, not a file"):
        granted.read("fifo")
    with pytest.raises(ToolError, match="no text in UTF-8"):
        granted.read("image")
    with pytest.raises(ToolError, match="there is nothing at none"):
        granted.read("none")
    with pytest.raises(ToolError, match="no Unicode"):
        granted.write("x", "\ud800", replace=False)


def test_who_may_read_a_file_stays_as_it_is_when_it_is_replaced(granted: Granted, tmp_path: Path) -> None:
    granted.write("secret", "one", replace=False)
    (file,) = tmp_path.rglob("secret")
    file.chmod(0o600)
    granted.write("secret", "two", replace=True)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("two", 0o600)


# -- mail


def test_a_draft_is_of_a_size_that_a_person_can_look_at() -> None:
    for subject, text in (("s" * 501, "text"), ("s", "x" * 1_000_001)):
        with pytest.raises(ToolError, match="at most 500 and 1000000"):
            email_draft.draft_of(["a@example.org"], subject, text, [], "")


def test_a_draft_is_left_for_a_person_and_never_sent(tmp_path: Path) -> None:
    message = email_draft.draft_of(
        ["Ada Lovelace <ada@example.org>", "b@example.org"],
        "Grüße",
        "Hällo\n.\nBye",
        ["c@example.org"],
        "d@example.org",
    )
    draft = email_draft.leave(tmp_path / "out" / "box", message)
    assert draft.to == ("Ada Lovelace <ada@example.org>", "b@example.org")
    (file,) = (tmp_path / "out" / "box").iterdir()
    assert file.name == draft.file and file.stat().st_mode & 0o777 == 0o600
    read = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    assert (read["Subject"], read["X-Unsent"], read["Cc"]) == ("Grüße", "1", "c@example.org")
    assert read.get_content().splitlines() == ["Hällo", ".", "Bye"]


@pytest.mark.parametrize(
    ("to", "subject"),
    [
        ("a@example.org\r\nBcc: evil@example.org", "s"),
        ("a@example.org\nBcc: evil@example.org", "s"),
        ("Ada\r\nBcc: evil@example.org <a@example.org>", "s"),
        ("a@example.org, b@example.org", "s"),
        ("a@example.org>, <evil@example.org", "s"),
        ("a", "s"),
        ("", "s"),
        ("a@b c", "s"),
        ("a@example.org", "s\r\nBcc: evil@example.org"),
        ("a@example.org", "s\nBcc: evil@example.org"),
        ("a@example.org", "s\u2028Bcc: evil@example.org"),
        ("a@example.org", "s\x00"),
    ],
)
def test_no_address_and_no_subject_makes_another_header(to: str, subject: str) -> None:
    with pytest.raises(ToolError) as caught:
        email_draft.draft_of([to], subject, "text", [], "")
    assert caught.value.code == "invalid_argument"


# -- pages


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        where = self.headers["Host"]
        status, headers, body = 200, {"Content-Type": "text/html; charset=utf-8"}, b""
        match self.path:
            case "/":
                body = "<title>A  page</title><style>x</style><h1>Hä</h1><script>no()</script><p>one<br>two".encode()
            case "/loop":
                status, headers = 302, {"Location": "/loop"}
            case "/on":
                status, headers = 302, {"Location": "/?a=1"}
            case "/elsewhere":
                status, headers = 302, {"Location": f"http://metadata.internal:{where.partition(':')[2]}/"}
            case "/file":
                status, headers = 302, {"Location": "file:///etc/passwd"}
            case "/large":
                headers, body = {"Content-Type": "text/plain"}, b"x" * (3 << 20)
            case "/image":
                headers = {"Content-Type": "image/png"}
            case "/packed":
                headers, body = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, gzip.compress(b"x" * 1000)
            case "/odd":
                headers, body = {"Content-Type": "text/plain; charset=undefined"}, "Hä".encode()
            case "/missing":
                status, body = 404, b"<p>not here"
            case _:
                body = self.path.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def site() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def anywhere(_: str) -> bool:
    return True


def test_a_page_is_fetched_as_text_and_within_bounds() -> None:
    with site() as port:
        here, hosts = f"http://localhost:{port}", [f"localhost:{port}"]
        page = http_fetch.fetch(f"{here}/", hosts, 1000, anywhere)
        assert (page.status, page.title, page.text, page.more) == (200, "A page", "Hä\none\ntwo", False)
        assert http_fetch.fetch(f"{here}/on", hosts, 1000, anywhere).url == f"{here}/?a=1"
        assert http_fetch.fetch(f"{here}/missing", hosts, 1000, anywhere).status == 404
        assert http_fetch.fetch(f"{here}/ü?ä", hosts, 1000, anywhere).text == "/%C3%BC?%C3%A4"
        large = http_fetch.fetch(f"{here}/large", hosts, 100, anywhere)
        assert (len(large.text), large.more) == (100, True)
        for path, words in (
            ("/loop", "more than 5 redirects"),
            ("/image", "image/png, and only texts"),
            ("/elsewhere", "metadata.internal.* none of the hosts"),
            ("/file", "no http:// or https://"),
        ):
            with pytest.raises(ToolError, match=words):
                http_fetch.fetch(f"{here}{path}", hosts, 1000, anywhere)


def test_what_is_packed_unasked_is_refused_and_a_charset_that_is_none_is_taken_for_utf_8() -> None:
    with site() as port:
        hosts = [f"localhost:{port}"]
        with pytest.raises(ToolError, match="packed as gzip"):
            http_fetch.fetch(f"http://localhost:{port}/packed", hosts, 100, anywhere)
        assert http_fetch.fetch(f"http://localhost:{port}/odd", hosts, 100, anywhere).text == "Hä"


def test_a_listed_host_at_an_address_that_is_not_public_is_not_connected_to() -> None:
    with site() as port, pytest.raises(ToolError, match=r"127\.0\.0\.1.* no public address") as caught:
        http_fetch.fetch(f"http://localhost:{port}/", [f"localhost:{port}"], 1000)
    assert caught.value.code == "access_denied"


def test_the_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means something else with every question (rebinding) is asked for once."""
    asked: list[str] = []
    with site() as port:

        def resolve(host: str, port: int, **_: Any) -> Any:
            asked.append(host)
            address = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        page = http_fetch.fetch(f"http://rebind.example:{port}/x", [f"rebind.example:{port}"], 100, "10.0.0.1".__ne__)
    assert (page.text, asked) == ("/x", ["rebind.example"])


def test_all_addresses_of_a_host_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: Any) -> Any:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("1.1.1.1", "169.254.169.254")
        ]
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ToolError, match=r"example\.org is at 169\.254\.169\.254, which is no public address"):
        http_fetch.fetch("https://example.org/", ["example.org"], 100)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
        ),
        *("255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1"),
        *(
            "fec0::1",
            "::127.0.0.1",
            "3fff::1",
            "2606:4700::5efe:a00:1",
            "2606:4700::200:5efe:7f00:1",
            "64:ff9b:1::7f00:1",
            "192.88.99.1",
            "192.0.0.8",
        ),
        *("::ffff:10.0.0.1", "2002:7f00:0001::", "2002:0a00:0001::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_addresses_of_this_machine_its_networks_and_reserved_ones_are_not_public(address: str) -> None:
    assert not http_fetch.is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert http_fetch.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.org/",
        "https://example.org.evil.org/",
        "https://evil.org/example.org",
        "https://evil.org#example.org",
        "https://notexample.org/",
        "https://example.org:8443/",
        "https://below.example.net.evil.org/",
        "http://2130706433/",
        "https://example.org@evil.org/",
        "https://user:pw@example.org/",
        "https://example.org\\@evil.org/",
        "https://evil.org\r\nHost: example.org/",
        "https://example.org/a b",
        "ftp://example.org/",
        "file:///etc/passwd",
        "//example.org/",
        "https://[::1]/",
        "https://[::1",
        "https://example.org:99999/",
        "https:///",
    ],
)
def test_what_is_not_listed_or_no_plain_url_is_not_even_looked_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        raise AssertionError("looked up")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ToolError):
        http_fetch.fetch(url, ["example.org", "*.example.net"], 100)


def test_hosts_are_listed_by_name_by_all_below_a_name_and_by_port() -> None:
    hosts = ["Example.org", "*.example.net", "ports.org:8443"]
    for host, port, scheme, listed in (
        ("example.org", 443, "https", True),
        ("example.org", 80, "http", True),
        ("www.example.org", 443, "https", False),
        ("a.b.example.net", 443, "https", True),
        ("example.net", 443, "https", False),
        ("ports.org", 8443, "https", True),
        ("ports.org", 443, "https", False),
    ):
        assert http_fetch.is_listed(host, port, scheme, hosts) is listed, host


def test_where_only_the_port_is_another_that_is_told() -> None:
    hosts = ["localhost", "*.example.net:8443", "other.org"]
    for url, words in (
        ("http://localhost:1/", r"localhost:1 .* at port 1: .* has localhost, .* the usual one, here 80"),
        ("https://a.example.net/", r"at port 443: .* has \*\.example\.net:8443, "),
    ):
        with pytest.raises(ToolError, match=words):
            http_fetch.fetch(url, hosts, 100)


# -- all together


async def library_of(tooling: Tooling) -> tuple[PythonTools, Calling]:
    where, options = places(tooling)
    source = await PythonTools.open(where, tooling, options, poll_seconds=600)
    return source, Calling([source], lambda who: Guard(who, TablePolicy(everything), ListJournal()), tooling)


@pytest.mark.anyio
async def test_what_the_settings_do_not_grant_is_no_tool() -> None:
    source, _ = await library_of(Tooling())
    assert [tool.name for tool in source.tools()] == ["calculator", "time_now"]
    await source.aclose()
    source, _ = await library_of(Tooling(library=False, http_hosts=("example.org",)))
    assert source.tools() == () and source.problems() == ()
    await source.aclose()


@pytest.mark.anyio
async def test_all_of_them_run_in_processes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "granted").mkdir()
    tooling = Tooling(
        http_hosts=("localhost",), granted_folder=str(tmp_path / "granted"), outbox=str(tmp_path / "outbox")
    )
    source, calls = await library_of(tooling)
    try:
        assert source.problems() == ()
        names = ["calculator", "email_draft", "file_list", "file_read", "file_replace", "file_write", "http_fetch"]
        assert [tool.name for tool in source.tools()] == [*names, "time_now"]
        risky = {tool.name for tool in source.tools() if tool.annotations.destructive}
        assert risky == {"file_replace"}
        assert (await calls.call("calculator", {"expression": "6 * 7"}, ADA)).text == "42"
        assert (await calls.call("time_now", {"zone": "Asia/Tokyo"}, ADA)).data["utc_offset"] == "+09:00"
        assert (await calls.call("file_write", {"path": "a.txt", "text": "hi"}, ADA)).data["bytes"] == 2
        assert (await calls.call("file_read", {"path": "a.txt", "offset": 1}, ADA)).text == "i"
        draft = await calls.call("email_draft", {"to": ["a@example.org"], "subject": "s", "text": "t"}, ADA)
        assert (tmp_path / "outbox" / draft.data["file"]).exists()
        fetched = await calls.call("http_fetch", {"url": "http://localhost/"}, ADA)
        assert fetched.error is not None and fetched.error.code == "access_denied"
    finally:
        await source.aclose()
