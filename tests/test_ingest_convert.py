"""Conversion: what each format becomes. In this process, because it is pure; the bounds are tested with the pool."""

import base64
import contextlib
from itertools import pairwise
from xml.parsers.expat import ExpatError

import msgspec
import pyoxigraph
import pytest
from ingest_files import docx, mail, pdf

from cld.config import IngestLimits
from cld.index.linked import extract
from cld.ingest.convert import ConversionFailed, convert
from cld.ingest.kinds import Form, by_content, by_name
from cld.ingest.linked import MOST_CHARACTERS, Linked, linked_of_page
from cld.ingest.messages import Converted, Order
from cld.resource import Resource

LIMITS = IngestLimits()


def mail_of(depth: int) -> str:
    """A message of containers within containers."""
    parts = (f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(depth))
    return f"From: a@b.c\n{''.join(parts)}\nwords\n"


def converted(form: Form, data: bytes | str, name: str = "file", **bounds: int) -> Converted:
    raw = data.encode() if isinstance(data, str) else data
    order = Order(name, form, raw, LIMITS.text_characters, LIMITS.passages, 10.0)
    return convert(Order(**{**{f: getattr(order, f) for f in order.__struct_fields__}, **bounds}))


def shown(one: Converted) -> list[tuple[tuple[str, ...], str]]:
    return [(passage.titles, passage.text) for passage in one.passages]


def test_markdown_is_cut_along_its_headings_and_keeps_its_front_matter() -> None:
    head = "---\ntitle: The Guide\ntags: [a]\n---\n"
    text = head + "# Start\n\nHello.\n\n## Deeper `code`\n\nMore *words*.\n\n# End\n\nBye.\n"
    made = converted("markdown", text)
    assert made.title == "The Guide"
    assert made.head == head
    assert shown(made) == [
        (("Start",), "Hello."),
        (("Start", "Deeper code"), "More *words*."),
        (("End",), "Bye."),
    ]
    assert made.abstract == "Hello."


def test_offsets_and_lines_find_the_quote_again_in_the_file() -> None:
    text = "# T\r\n\r\nFirst ä.\r\n\r\n## U\r\n\r\n" + "A sentence of some words here. " * 200 + "\r\nlast 🎉 line\r\n"
    made = converted("markdown", text)
    read = text.replace("\r\n", "\n")
    assert len(made.passages) > 3
    for one in made.passages:
        assert read[one.start : one.end] == one.text
        assert one.line == read.count("\n", 0, one.start) + 1
    assert [one.start for one in made.passages] == sorted(one.start for one in made.passages)
    assert made.passages[-1].text.endswith("last 🎉 line")


def test_long_sections_are_cut_between_sentences_and_nothing_is_lost() -> None:
    sentences = [f"Sentence number {n} says something of its own." for n in range(400)]
    made = converted("text", " ".join(sentences))
    assert all(len(one.text) <= 1200 for one in made.passages)
    assert all(one.text.endswith(".") for one in made.passages)
    assert " ".join(one.text for one in made.passages) == " ".join(sentences)


def test_headings_in_code_are_no_headings() -> None:
    made = converted("markdown", "# Real\n\n```sh\n# comment\n```\n\n~~~\n## other\n~~~\nTitle two\n=========\nbody\n")
    assert [one.titles for one in made.passages] == [("Real",), ("Title two",)]


def test_restructured_text_has_the_levels_its_underlines_came_in() -> None:
    text = "=====\nTitle\n=====\n\nIntro.\n\nPart\n----\n\nOne.\n\nSub\n~~~\n\nTwo.\n\nOther\n-----\n\nThree.\n"
    text += "\n=== ===\nA   B\n=== ===\n"
    made = converted("rst", text)
    assert made.title == "Title"
    assert [one.titles for one in made.passages] == [
        ("Title",),
        ("Title", "Part"),
        ("Title", "Part", "Sub"),
        ("Title", "Other"),
    ]
    assert made.passages[0].text == "Intro."


def test_html_becomes_text_with_headings_and_keeps_its_linked_data() -> None:
    page = (
        "<html><head><title>T &amp; U</title><style>x{}</style>"
        '<script type="application/ld+json">{"@type": "Thing"}</script></head><body><nav>go</nav><h1>A &lt; B</h1>'
        '<p>One &amp; <b>two</b>.</p><img alt="pic" src="data:image/png;base64,AAAA"><h2>C</h2><p>a_b ä</p>'
        "<script>alert(1)</script></body></html>"
    )
    made = converted("html", page)
    assert made.title == "T & U"
    assert made.linked == (Linked("application/ld+json", '{"@type": "Thing"}'),)
    text = "\n".join(one.text for one in made.passages)
    assert ("A < B", "C") in {one.titles for one in made.passages}
    assert "One & **two**." in text and "a_b ä" in text
    assert "alert" not in text and "base64" not in text and "x{}" not in text and "title:" not in text


def test_json_ld_of_a_page_is_kept_whatever_is_in_it_and_only_what_is_too_long_is_left_out() -> None:
    def script(text: str) -> str:
        return f'<script type="application/ld+json">{text}</script >'

    some = ['{"name": "a < b </b>"}', f'{{"name": "{"x" * 70_000}"}}', '{"name": "c"}']
    made = converted("html", "<p>Words.</p>" + "".join(map(script, some)) + "<script>0 < 1</script>")
    assert [one.text for one in made.linked] == some and made.notes == ()
    long = f'{{"name": "{"x" * MOST_CHARACTERS}"}}'
    made = converted("html", "<p>Words.</p>" + "".join(map(script, [some[0], long, some[2]])))
    assert [one.text for one in made.linked] == [some[0], some[2]]
    assert len(made.notes) == 1 and f"JSON-LD of {len(long)} characters" in made.notes[0]


PAGE = """<html lang="en" vocab="https://schema.org/"><head><title>T</title><meta property="og:title" content="T">
<script>let a = "<p itemprop=no>"</script></head><body><nav><a href="/x">go</a></nav>
<table><tr itemscope itemtype="https://schema.org/Person" itemref="more">
<td itemprop="name">Ada <b>L. &amp; Co</b></td>
<td><a itemprop="url" href="https://ada.example/">her page</a>
<time itemprop="birthDate" datetime="1815-12-10">then</time>
</td></tr></table><p id="more">She was <i itemprop="jobTitle">a reckoner</i>.
<ul><li itemprop="award" itemscope itemtype="https://schema.org/Thing"><span itemprop="name">Medal</span>
<li>plain words</ul><div typeof="Book" resource="#b"><p property="name">Notes<p>More
<span property="author" typeof="Person"><img property="image" src="https://ada.example/a.png"><b property="name"
lang="de">Äda</b></span></div><a rel="license" href="https://l.example/">free</a></body></html>"""


def graph_of(text: str) -> set[str]:
    """What an HTML text says but for its links, as canonical triples."""
    content = {"text": text, "media_type": "text/html"}
    resource = Resource(uri="cld:common.Document.d", type="common.Document", id="d", content=content)
    found = pyoxigraph.Dataset(pyoxigraph.parse(extract(resource, pyoxigraph).triples, pyoxigraph.RdfFormat.N_TRIPLES))
    found.canonicalize(pyoxigraph.CanonicalizationAlgorithm.UNSTABLE)
    return {str(quad) for quad in found if "linksTo" not in str(quad.predicate)}


def test_microdata_and_rdfa_of_a_page_say_what_they_say_in_it() -> None:
    (kept,) = converted("html", PAGE).linked
    assert kept.media_type == "text/html" and "plain words" not in kept.text and "go</a>" not in kept.text
    said = graph_of(kept.text)
    assert said == graph_of(PAGE)
    for words in (
        "Ada L. & Co",
        "reckoner",
        "Medal",
        "Äda",
        "ada.example/a.png",
        "schema.org/Book",
        "license",
        "ogp.me",
    ):
        assert any(words in one for one in said), words


def test_a_fenced_block_of_data_is_a_passage_by_itself_and_never_cut() -> None:
    turtle = "```turtle\n" + "".join(f"<#s{n}> <urn:p> {n} .\n" for n in range(1500)) + "```"
    code = "```python\n" + "".join(f"line_{n} = {n}\n\n" for n in range(400)) + "```"
    text = f"# Head\n\n{'Words before it. ' * 100}\n\n{turtle}\n\n{code}\n\n{'Words after it. ' * 100}\n"
    made = converted("markdown", text)
    texts = [one.text for one in made.passages]
    assert turtle in texts and code not in texts
    assert all(text[one.start : one.end] == one.text for one in made.passages)
    assert "".join("".join(texts).split()) == "".join(text.removeprefix("# Head").split())


def test_files_of_linked_data_are_searched_as_text_and_kept_whole() -> None:
    turtle = "".join(f"<#s{n}> <urn:p> {n} .\n" for n in range(1500))
    made = converted("turtle", turtle, "facts.ttl")
    assert made.linked == (Linked("text/turtle", turtle),) and len(made.passages) > 10
    assert made.title == "facts.ttl"


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-8", "utf-16", "utf-8-sig"])
def test_html_is_read_in_the_encoding_it_has(encoding: str) -> None:
    page = '<html><head><meta charset="iso-8859-1"><title>Grüße</title></head><body><p>Fähre</p></body></html>'
    made = converted("html", page.encode(encoding))
    assert (made.title, made.passages[0].text) == ("Grüße", "Fähre")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-16", "Grüße aus Köln"),
        ("utf-8-sig", "Grüße aus Köln"),
        ("cp1252", "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung. “So”"),
        ("cp1251", "Все люди рождаются свободными и равными в своем достоинстве и правах."),  # noqa: RUF001
        ("shift_jis", "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"),
    ],
)
def test_text_is_read_in_the_encoding_it_has(encoding: str, text: str) -> None:
    assert converted("text", text.encode(encoding)).passages[0].text == text


def test_a_few_bytes_that_are_no_characters_do_not_cost_the_rest() -> None:
    text = "Grüße aus Köln, schöne Ägypterin über Öl und Übermut. "
    assert converted("text", (text * 3).encode() + b"\xff!").passages[0].text == text * 3 + "\N{REPLACEMENT CHARACTER}!"
    assert converted("text", b"plain words with one \x81 byte").passages[0].text.startswith("plain words with one")


def test_a_pdf_has_headings_and_pages_and_its_words() -> None:
    data = pdf(
        [
            [(24, "The Report"), (11, "The first page says a <MIME> type_name in plain words."), (11, "It goes on.")],
            [(18, "Chapter two"), (11, "The second page has other words.")],
        ]
    )
    made = converted("pdf", data)
    by_words = {one.text: one for one in made.passages}
    first = next(one for words, one in by_words.items() if "first page" in words)
    second = next(one for words, one in by_words.items() if "second page" in words)
    assert (first.page, second.page) == (1, 2) and first.line is None
    assert "<MIME> type_name" in first.text
    assert made.title == "The Report"


def test_a_docx_keeps_headings_and_every_character() -> None:
    made = converted("docx", docx([(1, "R&amp;D"), (0, "AT&amp;T says x &lt; y."), (2, "Part"), (0, "End.")]))
    assert shown(made) == [(("R&D",), "AT&T says x < y."), (("R&D", "Part"), "End.")]
    assert "mammoth" in made.converter


def test_mail_is_its_headers_and_its_plain_text() -> None:
    made = converted("mail", mail("Grüße & more", "Hello Bob,\n\nsee you.\n", "<p>Hello <b>Bob</b></p>", ["plan.pdf"]))
    assert made.title == "Grüße & more"
    text = made.passages[0].text
    assert text.startswith("From: Ada <ada@example.org>\nTo: bob@example.org\nDate: Sat, 21 Nov 2026 08:00:00 +0000\n")
    assert "Attachments: plan.pdf" in text and "see you." in text and "<b>" not in text


def test_mail_that_is_html_only_is_read_as_html() -> None:
    text = converted("mail", mail("S", page="<h1>News</h1><p>Only <i>here</i></p>")).passages[-1].text
    assert text == "Only *here*"


def test_mail_with_lies_about_its_encoding_is_read_all_the_same() -> None:
    raw = b"From: a@b.c\nSubject: =?nonsense?q?x?=\nContent-Type: text/plain; charset=klingon-8\n\ncaf\xc3\xa9\n"
    assert "café" in converted("mail", raw).passages[0].text
    raw = b"From: \xff\xfe@b.c\nSubject: caf\xe9\nContent-Transfer-Encoding: base64\n\n!!!not base64\n"
    converted("mail", raw)
    body = base64.b64encode("Füße".encode("latin-1")).decode()
    raw = f"From: a@b.c\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n{body}\n"
    assert "Füße" in converted("mail", raw).passages[0].text


def test_python_is_cut_at_its_definitions() -> None:
    source = (
        '"""Module words."""\nimport os\n\n# about f\n@cache\ndef f():\n    return 1\n\nclass C:\n'
        '    """Class words."""\n    x = 1\n\n    async def m(self):\n        return 2\n\nTAIL = 3\n'
    )
    made = converted("python", source, "mod.py")
    assert shown(made) == [
        (("mod.py",), '"""Module words."""\nimport os'),
        (("mod.py", "def f"), "# about f\n@cache\ndef f():\n    return 1"),
        (("mod.py", "class C"), 'class C:\n    """Class words."""\n    x = 1'),
        (("mod.py", "class C", "def m"), "async def m(self):\n        return 2"),
        (("mod.py",), "TAIL = 3"),
    ]
    assert [one.line for one in made.passages] == [1, 4, 9, 13, 16]


def test_python_that_does_not_parse_is_cut_at_what_looks_like_definitions() -> None:
    made = converted("python", "print 'old'\n\ndef f(x):\n    pass\n", "old.py")
    assert [one.titles for one in made.passages] == [("old.py",), ("old.py", "def f(x):")]


def test_javascript_is_cut_at_its_declarations() -> None:
    source = (
        "import x from 'y';\n\n// says hello\nexport async function hello(name) {\n  return 1;\n}\n\n"
        "class A {\n  m() {}\n}\n\nexport const go = (a) => {\n};\n"
    )
    made = converted("code", source, "a.js")
    assert [one.titles[1:] for one in made.passages] == [
        (),
        ("export async function hello(name)",),
        ("class A",),
        ("export const go = (a) =>",),
    ]
    assert made.passages[1].text.startswith("// says hello\nexport")


@pytest.mark.parametrize(
    ("form", "data", "reason"),
    [
        ("pdf", b"%PDF-1.7\n" + b"\x00\xff" * 500, "cannot be read as application/pdf"),
        ("pdf", pdf([[(10, "words")]])[:300], "cannot be read as application/pdf"),
        ("docx", b"PK\x03\x04 nonsense", "no DOCX"),
        ("docx", docx([(0, "x")], bomb_bytes=300 << 20), "unpacks to"),
        ("mail", b"this is not a message\n", "no e-mail"),
        ("html", b"<div>" * 100_000 + b"x" + b"</div>" * 100_000, "no text"),
        ("pdf", pdf([[]]), "no text"),
    ],
    ids=["pdf-junk", "pdf-cut", "docx-junk", "docx-bomb", "mail-junk", "html-deep", "pdf-scan"],
)
def test_what_cannot_be_converted_says_why(form: Form, data: bytes, reason: str) -> None:
    with pytest.raises(ConversionFailed, match=reason):
        converted(form, data)


@pytest.mark.parametrize(
    ("form", "data"),
    [("html", "<title>App</title><body><div id=root></div><script>start('words')</script>"), ("text", " \n\n")],
)
def test_a_file_that_says_nothing_is_a_document_without_passages(form: Form, data: str) -> None:
    made = converted(form, data, "name")
    assert made.passages == () and made.title in ("App", "name")


def test_too_much_text_and_too_many_passages_are_refused() -> None:
    with pytest.raises(ConversionFailed, match="has 101 characters; at most 100 are taken"):
        converted("text", "a" * 101, text_characters=100)
    with pytest.raises(ConversionFailed, match="more than 3 passages"):
        converted("markdown", "# h\n\nx\n\n" * 4, passages=3)


def test_no_words_of_a_page_are_lost_but_its_navigation() -> None:
    form = "<form><h1>Asp</h1><p>Page words.</p><button>Go</button></form><aside>Side.</aside><footer>Foot.</footer>"
    text = "\n".join(one.text for one in converted("html", f"<body><nav>Menu</nav>{form}</body>").passages)
    assert "Page words." in text and "Side." in text and "Foot." in text and "Menu" not in text
    assert converted("html", "<body><nav>Only this.</nav></body>").passages[0].text == "Only this."


def test_a_heading_with_nothing_under_it_is_not_lost() -> None:
    made = converted("markdown", "# Slides\n\n## First point\n\n## Second point\n\n# Thanks\n")
    assert shown(made) == [
        (("Slides", "First point"), "## First point"),
        (("Slides", "Second point"), "## Second point"),
        (("Thanks",), "# Thanks"),
    ]


@pytest.mark.parametrize("word", ["a", "ab ", "[(", "> ", "- ", "# x\n", "```\n", "=\n", "<p>", "*", "\\", "|"])
@pytest.mark.timeout(20)
def test_texts_without_any_structure_take_time_in_proportion(word: str) -> None:
    size = 1_500_000 if word == "a" else 400_000
    converted("markdown", word * (size // len(word)), passages=1_000_000)


@pytest.mark.parametrize("start", ["<title ", "<head ", "<!--", "<", "<p a=", "&amp"])
@pytest.mark.timeout(30)
def test_pages_of_nothing_but_beginnings_take_time_in_proportion(start: str) -> None:
    with contextlib.suppress(ConversionFailed):
        converted("html", start * (3_000_000 // len(start)), passages=1_000_000)


@pytest.mark.parametrize("start", ["<script ", "<script>", '<script type="application/ld+json">', "<b itemscope>"])
@pytest.mark.timeout(30)
def test_looking_for_linked_data_takes_time_in_proportion(start: str) -> None:
    linked_of_page(start * (1_000_000 // len(start)))


@pytest.mark.timeout(30)
def test_linked_data_that_nests_deep_or_never_ends_is_only_carried_and_front_matter_is_not_evaluated() -> None:
    deep = '<script type="application/ld+json">' + "[" * 60_000 + "</script><p>words"
    assert converted("html", deep).passages[0].text == "words"
    aliases = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in pairwise("abcdefghijkl"))
    head = f"---\n{aliases}---\n"
    assert converted("markdown", f"{head}words").head == head


@pytest.mark.timeout(30)
def test_a_docx_expands_no_entities_and_fetches_none() -> None:
    names = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    laughs = f'<!DOCTYPE d [<!ENTITY e0 "ha">{names}]>'
    with pytest.raises(ExpatError, match="amplification"):
        converted("docx", docx([(0, "&e11;")], before=laughs))
    outside = '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    assert converted("docx", docx([(0, "words"), (0, "&e;")], before=outside)).passages[0].text == "words"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "deep",
    [
        docx([(0, "x")], nested=5000),
        mail_of(3000),
        "From: a@b.c\n" + "Content-Type: message/rfc822\n\nFrom: x@y\n" * 5000,
    ],
    ids=["docx", "multipart", "message"],
)
def test_what_nests_without_end_ends_in_a_recursion_error_at_worst(deep: bytes | str) -> None:
    with contextlib.suppress(RecursionError):
        converted("docx" if isinstance(deep, bytes) else "mail", deep)


def test_of_thousands_of_parts_the_first_text_is_read() -> None:
    wide = "From: a@b.c\nContent-Type: multipart/mixed; boundary=b\n\n" + "--b\n\nwords\n" * 3000 + "--b--\n"
    assert converted("mail", wide).passages[0].text.endswith("words")


def test_attachments_are_names_whatever_they_say() -> None:
    names = ["../../etc/passwd", "/abs/path", "a\x1b]0;b"]
    text = converted("mail", mail("S", "Words.\n", attachments=names)).passages[0].text
    assert "../../etc/passwd, /abs/path" in text
    raw = b"From: a@b.c\nContent-Disposition: attachment; filename=caf\xe9.pdf\n\nx"
    assert "Attachments: caf" in converted("mail", raw).passages[0].text
    msgspec.msgpack.encode(converted("mail", raw))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.md", "text/markdown"),
        ("A.PDF", "application/pdf"),
        ("x.tsx", "text/typescript"),
        ("m.eml", "message/rfc822"),
        ("LICENSE", None),
        (".hidden", None),
        ("a.unknown", None),
    ],
)
def test_names_say_what_a_file_is(name: str, media_type: str | None) -> None:
    kind = by_name(name)
    assert not isinstance(kind, str) and (kind and kind.media_type) == media_type


def test_names_say_what_is_not_for_reading() -> None:
    assert [by_name(name) for name in ("a.png", "b.zip", "x.min.js", "uv.lock", "package-lock.json")] == [
        "binary",
        "binary",
        "generated",
        "generated",
        "generated",
    ]


def test_the_first_bytes_say_what_a_file_is_where_its_name_does_not() -> None:
    found = [by_content(start) for start in (b"%PDF-1.4", b"<!DOCTYPE html><p>", b"words", "ä".encode("utf-16"))]
    assert [kind and kind.form for kind in found] == ["pdf", "html", "text", "text"]
    assert by_content(b"\x7fELF\x00\x01") is None


@pytest.mark.parametrize(
    ("written", "title"), [('Alpha "doc"', 'Alpha "doc"'), ("'Alpha'", "Alpha"), ('"a" and "b', '"a" and "b')]
)
def test_only_quotes_around_all_of_a_title_are_none_of_it(written: str, title: str) -> None:
    assert converted("markdown", f"---\ntitle: {written}\n---\nWords.").title == title
