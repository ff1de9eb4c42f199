"""Kinds: what a file is, told by its name and, where the name says nothing, by its first bytes."""

import re
from typing import Literal

import msgspec

Form = Literal[
    "markdown", "rst", "text", "html", "pdf", "docx", "mail", "python", "code", "turtle", "n-triples", "json-ld"
]
"""How a file is converted; `code` is source in any language but Python, the last three are linked data."""


class Kind(msgspec.Struct, frozen=True):
    form: Form
    media_type: str


TEXT = Kind("text", "text/plain")
MAIL = Kind("mail", "message/rfc822")
HTML = Kind("html", "text/html")
PDF = Kind("pdf", "application/pdf")

SNIFFED_BYTES = 8192

_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_BY_SUFFIX: dict[str, Kind] = {
    **dict.fromkeys(("md", "markdown", "mdown", "mkd", "mdx", "qmd"), Kind("markdown", "text/markdown")),
    "rst": Kind("rst", "text/x-rst"),
    **dict.fromkeys(("txt", "text", "log", "org", "adoc", "asciidoc", "tex"), TEXT),
    **dict.fromkeys(("html", "htm", "xhtml"), HTML),
    "pdf": PDF,
    "docx": Kind("docx", _DOCX),
    "eml": MAIL,
    **dict.fromkeys(("ttl", "turtle"), Kind("turtle", "text/turtle")),
    **dict.fromkeys(("nt", "ntriples"), Kind("n-triples", "application/n-triples")),
    "jsonld": Kind("json-ld", "application/ld+json"),
    **dict.fromkeys(("py", "pyi", "pyw"), Kind("python", "text/x-python")),
    **dict.fromkeys(("js", "mjs", "cjs", "jsx"), Kind("code", "text/javascript")),
    **dict.fromkeys(("ts", "tsx", "mts", "cts"), Kind("code", "text/typescript")),
    **dict.fromkeys(("c", "h"), Kind("code", "text/x-c")),
    **dict.fromkeys(("cc", "cpp", "cxx", "hpp", "hh", "hxx"), Kind("code", "text/x-c++")),
    **{
        suffix: Kind("code", f"text/x-{name}")
        for suffix, name in {
            "go": "go", "rs": "rust", "java": "java", "kt": "kotlin", "scala": "scala", "swift": "swift",
            "cs": "csharp", "rb": "ruby", "php": "php", "pl": "perl", "lua": "lua", "r": "r", "jl": "julia",
            "ex": "elixir", "exs": "elixir", "erl": "erlang", "hs": "haskell", "ml": "ocaml", "clj": "clojure",
            "dart": "dart", "zig": "zig", "sh": "shellscript", "bash": "shellscript", "zsh": "shellscript",
            "ps1": "powershell", "sql": "sql", "rego": "rego", "proto": "protobuf", "tf": "terraform",
            "css": "css", "scss": "scss", "vue": "vue", "svelte": "svelte",
        }.items()
    },
}  # fmt: skip

_BINARY = frozenset(
    """
    7z a avi avif bin bmp bz2 class dat db deb dll dmg doc dylib ear eot exe flac gif gz heic ico img iso jar jpeg
    jpg ko lib lz4 m4a mkv mo mov mp3 mp4 npy npz o obj ogg onnx otf parquet pickle pkl png ppt pptx psd pt pyc
    pyd pyo rar rpm so sqlite sqlite3 svgz tar tgz tif tiff ttf war wasm wav webm webp whl woff woff2 xls xlsx xz
    zip zst
    """.split()  # noqa: SIM905 - a list would be 80 lines
)
_GENERATED = re.compile(
    r".*\.(min\.(js|css|mjs)|map|lock|svg)|package-lock\.json|npm-shrinkwrap\.json|pnpm-lock\.yaml|go\.sum", re.I | re.S
)

_HTML_START = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S)
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def by_name(name: str) -> Kind | Literal["binary", "generated"] | None:
    """What `name` says; None when only the content can."""
    if _GENERATED.fullmatch(name):
        return "generated"
    suffix = name.rpartition(".")[2].lower() if "." in name[1:] else ""
    return "binary" if suffix in _BINARY else _BY_SUFFIX.get(suffix)


def by_content(start: bytes) -> Kind | None:
    """What a file that starts so is; None for a binary one."""
    if start.startswith(b"%PDF-"):
        return PDF
    if start.startswith(_WIDE):
        return TEXT
    if b"\x00" in start or len(_CONTROL.findall(start)) > len(start) // 100:
        return None
    return HTML if _HTML_START.match(start) else TEXT
