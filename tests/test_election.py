"""Elections: who is chosen, why, and when nobody is."""

import msgspec
import pytest

from cld.errors import InvalidArgument
from cld.index.election import Candidate, Electorate, elect

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


def test_one_candidate_alone_can_fit_or_not() -> None:
    assert elect("what will the weather be", TOOLS[:1]).ranked[0].name == "get_weather"
    assert elect("what will the weather be", TOOLS[:1]).runner_up is None


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
