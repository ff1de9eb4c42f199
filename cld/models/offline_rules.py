"""Demands on a text that can be checked by rule: its script, its length, words that it has to have.

Owns what can be said of an answer without a model: only that it plainly does not fit, never that it does. What is
demanded in other words is not judged here. Pure.
"""

import re
import unicodedata
from collections.abc import Iterator

_MOST_TEXT = 100_000
_LEAST_LETTERS = 4
_LEAST_SHARE = 0.5
"""Of the letters of a text so many have to be of its language's script: names and words of trade may be of another."""

_LATIN = "LATIN"
_SCRIPTS: dict[str, tuple[str, ...]] = {
    "japanese 日本語 japanisch japonais japonés": ("HIRAGANA", "KATAKANA", "CJK"),
    "chinese 中文 mandarin chinesisch chinois chino": ("CJK", "BOPOMOFO"),
    "korean 한국어 koreanisch coréen coreano": ("HANGUL", "CJK"),
    "russian русском русский russisch russe ruso ukrainian українською українська ukrainisch bulgarian serbian "
    "belarusian macedonian kazakh mongolian": ("CYRILLIC",),
    "greek ελληνικά griechisch grec griego": ("GREEK",),
    "arabic العربية arabisch arabe persian farsi فارسی urdu اردو pashto": ("ARABIC",),
    "hebrew עברית hebräisch hébreu hebreo yiddish": ("HEBREW",),
    "hindi हिन्दी हिंदी marathi nepali sanskrit": ("DEVANAGARI",),
    "bengali বাংলা": ("BENGALI",),
    "tamil தமிழ்": ("TAMIL",),
    "telugu తెలుగు": ("TELUGU",),
    "thai ไทย thailändisch": ("THAI",),
    "lao": ("LAO",),
    "khmer": ("KHMER",),
    "burmese": ("MYANMAR",),
    "georgian ქართული georgisch": ("GEORGIAN",),
    "armenian հայերեն armenisch": ("ARMENIAN",),
    "amharic አማርኛ": ("ETHIOPIC",),
    "english englisch anglais inglés german deutsch allemand alemán french français französisch francés spanish "
    "español spanisch espagnol italian italiano italienisch portuguese português dutch nederlands swedish svenska "
    "norwegian norsk danish dansk finnish suomi polish polski czech čeština slovak hungarian magyar romanian română "
    "turkish türkçe vietnamese indonesian malay catalan croatian slovenian estonian latvian lithuanian icelandic latin "
    "swahili": (_LATIN,),
}
_LANGUAGES = {name: scripts for names, scripts in _SCRIPTS.items() for name in names.split()}
# Those without spaces stand in the middle of others' words: 日本語で.
_UNSPACED = tuple(name for name in _LANGUAGES if ord(name[0]) > 0x0E00)

_ASKED_IN = re.compile(r"(?i)\b(?:in|auf|en|на|into)\s+(?:plain\s+|simple\s+|formal\s+)?([^\W\d_]+)")
_NOT_WORDS = re.compile(r"cld:\S+|https?://\S+|```.*?```|`[^`\n]*`", re.DOTALL)
_QUOTE = re.compile(r"^>.*$", re.MULTILINE)

_NAMES = "one two three four five six seven eight nine ten eleven twelve"
_NUMBERS = {name: number for number, name in enumerate(_NAMES.split(), 1)}
_AMOUNT = re.compile(
    r"(?i)\b(?P<bound>at least|no fewer than|at most|no more than|exactly)\s+(?P<number>\d{1,6}|"
    + "|".join(_NUMBERS)
    + r")\s+(?P<what>words?|characters?|lines?|paragraphs?|sources?|quotes?|resources?)\b"
)
_HAS = re.compile(
    r"(?i)\b(?P<verb>(?:does not |do(?:es)?n['\u2019]t |not |never )?(?:mention|contain|include|name|say)s?)\s+"
    r"(?:the (?:word|words|phrase|name|term)\s+)?[\"\u201c](?P<words>[^\"\u201c\u201d]{1,200})[\"\u201d]"
)


def misfit(demand: str, text: str, sources: int = 0) -> str:
    """What of `demand` the text plainly does not fulfil, in words; empty when nothing is plain."""
    text = text[:_MOST_TEXT]
    return _wrong_script(demand, text) or _wrong_amount(demand, text, sources) or _wrong_words(demand, text)


def can_be_checked(demand: str) -> bool:
    """Whether anything of the demand is of a kind that `misfit` knows; a script of many languages does not count."""
    language = _language(demand)
    of_many = language is not None and _LANGUAGES[language] == (_LATIN,)
    return bool(_AMOUNT.search(demand) or _HAS.search(demand)) or (language is not None and not of_many)


def _language(demand: str) -> str | None:
    for found in _ASKED_IN.finditer(demand):
        if found[1].lower() in _LANGUAGES:
            return found[1].lower()
    if (alone := demand.strip(" .:").lower()) in _LANGUAGES:
        return alone
    return next((name for name in _UNSPACED if name in demand), None)


def _wrong_script(demand: str, text: str) -> str:
    if (language := _language(demand)) is None:
        return ""
    scripts = _LANGUAGES[language]
    words = _NOT_WORDS.sub(" ", text)
    # A quote may be in another language than what is said around it, but not where nothing is.
    letters = list(_scripts_of(_QUOTE.sub(" ", words)))
    if len(letters) < _LEAST_LETTERS:
        letters = list(_scripts_of(words))
    if len(letters) < _LEAST_LETTERS:
        return ""
    fitting = sum(1 for script in letters if script in scripts)
    if fitting < _LEAST_SHARE * len(letters):
        return f"it is to be in {language.title()}, and only {fitting / len(letters):.0%} of its letters are"
    if scripts[0] == "HIRAGANA" and len(letters) > 20 and not any(script != "CJK" for script in letters):
        return f"it is to be in {language.title()}, and has no kana"
    return ""


def _scripts_of(text: str) -> Iterator[str]:
    for letter in text:
        if letter.isalpha():
            yield _LATIN if letter.isascii() else unicodedata.name(letter, "").split(" ")[0].split("-")[0]


def _wrong_amount(demand: str, text: str, sources: int) -> str:
    for found in _AMOUNT.finditer(demand):
        number = _NUMBERS.get(found["number"].lower()) or int(found["number"])
        what, bound = found["what"].lower().rstrip("s"), found["bound"].lower()
        there = _count(what, text, sources)
        wrong = {
            "at least": there < number,
            "no fewer than": there < number,
            "at most": there > number,
            "no more than": there > number,
            "exactly": there != number,
        }[bound]
        if wrong:
            return f"it has {there} {what}{'' if there == 1 else 's'}, and is to have {bound} {number}"
    return ""


def _count(what: str, text: str, sources: int) -> int:
    match what:
        case "word":
            return len(text.split())
        case "character":
            return len(text.strip())
        case "line":
            return sum(1 for line in text.splitlines() if line.strip())
        case "paragraph":
            return sum(1 for part in re.split(r"\n\s*\n", text) if part.strip())
        case _:
            return sources


def _wrong_words(demand: str, text: str) -> str:
    folded = text.casefold()
    for found in _HAS.finditer(demand):
        unwanted = found["verb"].lower().startswith(("do", "not", "never"))
        if (found["words"].casefold() in folded) == unwanted:
            return f"it {'has' if unwanted else 'does not have'} the words {found['words']!r}"
    return ""
