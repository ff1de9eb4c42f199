"""Elections: who is chosen, why, and when nobody is."""

import msgspec
import numpy as np
import pytest

from cld.errors import InvalidArgument
from cld.index.election import Candidate, Electorate, elect, name_words
from cld.index.election_learning import Experience
from cld.index.election_words import Vocabulary, request_words
from cld.index.wordllama import embed

TOOLS = [
    Candidate("get_weather", "Current conditions and forecast for a place.", "city days units"),
    Candidate("send_email", "Sends a message to a recipient's mailbox.", "to subject body"),
    Candidate("translateText", "Turns a text from one language into another.", "text source target"),
    Candidate("book_table", "Reserves seats in a restaurant.", "restaurant time persons"),
    Candidate("convert_currency", "Converts an amount of money at today's exchange rate.", "amount from to"),
    Candidate("resize_image", "Changes the width and height of a picture.", "path width height"),
]


@pytest.mark.parametrize(
    ("request_text", "name"),
    [
        ("Will it rain in Oslo tomorrow?", "get_weather"),
        ("please mail Bob that I am late", "send_email"),
        ("how do you say good morning in French, translated from English", "translateText"),
        ("get us a table for four at the Italian restaurant tonight", "book_table"),
        ("how many euros are 200 dollars", "convert_currency"),
        ("make this photo smaller, half its width", "resize_image"),
        ("whats the wheather forcast", "get_weather"),
    ],
)
def test_a_request_goes_to_the_candidate_made_for_it(request_text: str, name: str) -> None:
    election = elect(request_text, TOOLS)
    assert election.ranked[0].name == name
    assert election.runner_up == election.ranked[1].name != name


def test_scores_fall_and_say_why() -> None:
    election = elect("forecast for the city of Bergen", TOOLS)
    scores = [one.score for one in election.ranked]
    assert scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= scores[0] <= 1
    assert "forecast" in election.ranked[0].why.shared
    assert "get_weather" in election.reason


def test_what_says_nothing_is_left_out_of_the_answer() -> None:
    answer = msgspec.json.encode([one.why for one in elect("forecast for Bergen", TOOLS, top=6).ranked])
    assert b'"meaning":' in answer and b":0.0," not in answer and b":0.0}" not in answer and b'"earlier"' not in answer


def test_it_abstains_when_nothing_fits() -> None:
    fits = elect("convert 20 pounds to euros at today's exchange rate", TOOLS)
    misfit = elect("who won the chess championship in 1972", TOOLS)
    assert not fits.abstained
    assert misfit.abstained and "nothing fits" in misfit.reason
    assert misfit.confidence < 0.5 < fits.confidence


def test_without_candidates_or_words_it_abstains_and_says_so() -> None:
    assert elect("anything", []).reason == "there are no candidates that may be read"
    empty = elect(" ?! ", TOOLS)
    assert empty.abstained and empty.ranked == () and empty.reason == "the request has no words"


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_few_candidates_can_fit_or_not_too(count: int) -> None:
    fits, misfit = Electorate(TOOLS[:count]).elect_each(["what will the weather be", "who won the chess championship"])
    assert fits.ranked[0].name == "get_weather" and not fits.abstained and misfit.abstained
    assert (fits.runner_up is None) == (count == 1)


def test_that_several_say_the_same_is_no_doubt_that_one_of_them_fits() -> None:
    same = [Candidate(f"weather_{number}", TOOLS[0].description, TOOLS[0].parameters) for number in range(5)]
    for others in ([], TOOLS[1:]):
        one, five = (elect("what will the weather be", [*these, *others]) for these in (same[:1], same))
        assert not five.abstained and abs(five.confidence - one.confidence) < 0.05
    requests = ["will it rain", "is it cold outside", "how warm is it"]
    learnt = [msgspec.structs.replace(one, requests=tuple(requests)) for one in same]
    assert not elect("what will the weather be", learnt).abstained


def test_two_candidates_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="same name"):
        Electorate([TOOLS[0], TOOLS[0]])


def test_what_a_candidate_did_well_before_decides_where_descriptions_do_not() -> None:
    taught = [
        Candidate("ada", "An assistant.", requests=("draw a cat", "paint a sunset in oil", "sketch my house")),
        Candidate("bob", "An assistant.", requests=("sum this column", "add up these invoices", "what is 12% of 80")),
    ]
    for request, name in (("paint my dog", "ada"), ("add the numbers in this column", "bob")):
        assert elect(request, taught).ranked[0].name == name
        swapped = [
            msgspec.structs.replace(one, requests=other.requests)
            for one, other in zip(taught, taught[::-1], strict=True)
        ]
        assert elect(request, swapped).ranked[0].name != name


def test_the_same_question_always_gets_the_same_answer_alone_or_among_others() -> None:
    requests = ["will it rain", "mail Bob", "a table for two", "will it rain"]
    together = list(Electorate(TOOLS).elect_each(requests))
    assert together[0] == together[3]
    for request, election in zip(requests, together, strict=True):
        alone = elect(request, TOOLS)
        assert [one.name for one in alone.ranked] == [one.name for one in election.ranked]
        assert alone.confidence == pytest.approx(election.confidence, abs=1e-5)


def test_very_long_and_odd_texts_cost_little_and_break_nothing() -> None:
    odd = ["x" * 100_000, "weather " * 50_000, "\x00\ud7ff\U0001f327", "天気はどうですか", "a" * 3 + "é" * 5000]
    hostile = [*TOOLS, Candidate("long", "word " * 100_000), Candidate("", ""), Candidate("🌧", "\n\n")]
    for election in Electorate(hostile).elect_each(odd):
        assert 0 <= election.confidence <= 1


def test_capitals_change_nothing() -> None:
    shouted = [
        msgspec.structs.replace(one, description=one.description.upper(), parameters=one.parameters.upper())
        for one in TOOLS
    ]
    for request in ("will it rain in oslo tomorrow", "reserve seats for tonight"):
        plain, loud = elect(request, TOOLS), elect(request.upper(), shouted)
        assert [one.name for one in plain.ranked] == [one.name for one in loud.ranked]
        assert loud.confidence == pytest.approx(plain.confidence, abs=1e-5)


@pytest.mark.parametrize("name", ["get_weather", "getWeather", "get-weather", "get.weather"])
def test_a_name_is_read_as_its_words(name: str) -> None:
    assert name_words(name).lower() == "get weather"


def test_a_word_that_every_candidate_has_says_nothing_and_one_that_few_have_speaks_for_them() -> None:
    texts = [f"booking of {thing}" for thing in ("flights", "hotels", "tables", "courts", "doctors", "taxis")]
    vocabulary = Vocabulary(texts, [str(number) for number in range(len(texts))])
    said = vocabulary.meet([request_words("booking"), request_words("courts"), request_words("airplane")]).words
    assert not said[0].any()
    assert said[1].argmax() == 3 and said[1, 3] > 0
    assert said[2].argmax() == 0


def test_a_rehearsed_request_is_judged_as_one_never_met() -> None:
    chance = np.random.default_rng(0)
    syllables = ["ba", "ke", "lo", "mi", "tu", "ra", "se", "no", "vi", "du"]

    def nonsense() -> str:
        return " ".join("".join(chance.choice(syllables, 3)) for _ in range(6))

    described = [nonsense() for _ in range(60)]
    requests = [(owner, text, request_words(text)) for owner in range(60) for text in (nonsense(), nonsense())]
    experience = Experience(embed(described), [request_words(text) for text in described], requests)
    rehearsal = experience.rehearsal()
    own = rehearsal.signals.places[np.arange(len(rehearsal.owners)), rehearsal.owners]
    # Requests that have nothing to do with their candidates can but be found by chance.
    better = (rehearsal.signals.places < own[:, None]).mean()
    assert 0.4 < better < 0.6


def test_an_earlier_request_or_two_leave_the_descriptions_their_say() -> None:
    earlier = ("is it cold outside", "drop Ann a line", "what is this in German", "a place to eat for six")
    taught = [
        msgspec.structs.replace(one, requests=(request,)) for one, request in zip(TOOLS, earlier, strict=False)
    ] + TOOLS[4:]
    assert elect("how many euros are 200 dollars", taught).ranked[0].name == "convert_currency"
    assert elect("make this photo smaller, half its width", taught).ranked[0].name == "resize_image"
    assert elect("forecast for the city of Bergen", taught).ranked[0].name == "get_weather"


def test_more_words_than_are_kept_give_the_same_signals() -> None:
    texts = [f"{one.name} {one.description}" for one in TOOLS]
    roomy, tight = (Vocabulary(texts, [one.name for one in TOOLS]) for _ in range(2))
    tight._most_cached = 8
    requests = [request_words(text) for text in (*texts, "will it rain", "mail Bob", *reversed(texts))]
    for _ in range(2):
        wanted, found = roomy.meet(requests), tight.meet(requests)
        assert np.allclose(wanted.words, found.words, atol=1e-5) and np.allclose(wanted.names, found.names, atol=1e-5)
    assert len(tight._cache) <= 8
