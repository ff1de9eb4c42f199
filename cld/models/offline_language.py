"""Words by which texts are read without a model: what begins a request, a question, a remark, a next step.

Data only. English throughout; where it is safe, German, French and Spanish too.
"""

import re

_IMPERATIVES = """
add analyse analyze apply arrange ask assess build calculate call categorise categorize change check choose clean
collect combine compare compile compose compute convert copy correct count create debug decide define delete derive
describe design determine develop discuss draft draw edit elaborate email estimate evaluate examine explain explore
export extract fetch figure fill filter find fix gather generate get give go group help identify implement import
improve inspect install interpret investigate judge list load locate look make map mark measure merge move name open
order organise organize outline paraphrase parse perform pick plan plot post predict prepare present print produce
propose provide publish pull quote rank rate read recommend record refactor remove rename repeat replace report
research retrieve review revise rewrite run save scan schedule search select send separate set show simplify sketch
solve sort specify start state store study suggest summarise summarize suppose survey tell test trace transform
translate try turn update upload validate verify visit watch write
"""

IMPERATIVES = frozenset(_IMPERATIVES.split())
"""Verbs that begin a request."""

QUESTION_WORDS = re.compile(
    r"(?i)\s*(?:who|whom|whose|what|which|when|where|why|how|is|are|was|were|do|does|did|has|have|had|can|could|will"
    r"|would|should|shall|may|might|am)\b(?!['\u2019])(?!\s+(?:not|never)\b)"
)

REMARKS = re.compile(
    r"(?i)\s*(?:please\s+)?(?:use|be|keep|avoid|include|ensure|make sure|don['\u2019]?t|do not|never|always|cite|note"
    r"|assume|remember|consider|focus|limit|answer|reply|respond|return|format|think|thanks?|thank you|write in|only)\b"
)
"""What begins a remark on how to do it, which is no step."""

_SUBJECTS = """
a an the i you he she it we they this that these those there my your his her its our their is are was were some der
die das ein eine ich du er sie es wir ihr le la les un une je tu il elle nous vous ils el los las una yo ella
"""

SUBJECTS = frozenset(_SUBJECTS.split())
"""After these a word of sequence tells a story instead of saying what to do."""

_LATER = (
    r"(?:(?P<english>then|next|after (?:that|this|which)|afterwards?|finally|lastly|at last)"
    r"|dann|danach|anschließend|schließlich|zum schluss|ensuite|puis|enfin|luego|después|por último|finalmente)"
)

SEQUENCE = re.compile(
    r"(?i)(?:[,;:]\s*(?:and\s+|but\s+|und\s+|et\s+|y\s+)?|\s(?:and|und|et|y)\s+)" + _LATER + r"\b,?\s+"
)
"""What joins a clause to the one that comes before it."""

ORDER = re.compile(
    r"(?i)(?:and\s+|und\s+|et\s+|y\s+)?(?:(?P<first>(?P<counted>first(?:ly| of all)?|to begin with)|zuerst|zunächst"
    r"|als erstes|d'abord|premièrement|primero|en primer lugar)|(?P<count>(?:second|third)(?:ly)?)|"
    + _LATER
    + r")\b(?:(?P<comma>\s*[,:]\s*)|\s+)"
)
"""What begins a clause and says where in an order it stands."""

IN_ORDER = re.compile(
    r"(?i)\b(?:in (?:this|that|the following|the given) order|in order:|in sequence|one after (?:the other|another)"
    r"|step by step|in turn|following steps|these steps|nacheinander|der reihe nach|in dieser reihenfolge"
    r"|schritt für schritt|dans (?:cet|l['\u2019])\s*ordre|étape par étape|en (?:este|ese) orden|paso a paso)"
)

REFERENCE = re.compile(
    r"(?i)\b(?:(?:the|its|their|those|these|this|that|each|your) (?:results?|outputs?|answers?|findings?|list|lists"
    r"|summary|summaries|notes found|numbers?|outcomes?|ones?|table|draft|text so far)|with (?:it|them|this|that|these"
    r"|those)|(?:it|them|these|those|the above|the former|he|she|they|him)|das ergebnis|dem ergebnis"
    r"|die ergebnisse|den ergebnissen|le résultat|les résultats|el resultado|los resultados)\b(?!\s+(?:is|are)\s+true)"
)
"""What speaks of something said or found before."""

ABBREVIATIONS = re.compile(
    r"(?i)(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|dr|mr|mrs|ms|prof|st|no|fig|sec|ch|vol|pp|z\.b|d\.h|u\.a|bzw|nr|p\.ex"
    r"|sr|sra)|\b[A-Z]|^\s*\d+)\.$"
)
"""What ends with a dot and ends no sentence."""
