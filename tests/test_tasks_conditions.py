"""Conditions are CEL, answer plainly when they cannot be evaluated, and never take long."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cld.errors import InvalidArgument
from cld.tasks.conditions import check_expression, evaluate_list, evaluate_when, is_question, question

INPUTS = {"n": 3, "s": "abc", "d": {"a": 1}, "l": [{"ok": n % 2 == 0, "t": "x" * 100} for n in range(500)]}


def refused(expression: str, *, evaluate=evaluate_when, inputs: object = INPUTS) -> str:
    with pytest.raises(InvalidArgument) as caught:
        evaluate(expression, inputs)
    return str(caught.value)


def test_inputs_are_read_by_name_and_as_a_whole() -> None:
    assert evaluate_when("n > 2 && inputs.s.startsWith('a')", INPUTS)
    assert not evaluate_when("has(d.b) || has(inputs.missing)", INPUTS)
    assert evaluate_when("l.exists(x, x.ok) && 'a//b' != s // not a comment inside", INPUTS)


def test_lists_come_as_they_are_or_are_made() -> None:
    assert evaluate_list("[1, n, s]", INPUTS) == [1, 3, "abc"]
    assert len(evaluate_list("l.filter(x, x.ok).map(y, y.t)", INPUTS)) == 250
    assert evaluate_list("[1, 2].map(x, {'k': x * n})", INPUTS) == [{"k": 3}, {"k": 6}]


def test_a_question_is_told_from_an_expression() -> None:
    assert is_question(" ? is it urgent") and question(" ? is it urgent") == "is it urgent"
    assert not is_question("a ? b : c")


def test_errors_name_the_expression_and_the_place() -> None:
    assert "'n +' is no CEL: line 1, column 4" in refused("n +")
    assert "reads 'm' at line 2, column 3, which is no input; the inputs are: d, l, n, s" in refused("n > 1 &&\n  m")
    assert "'n' gives 3, and not true or false" in refused("n")
    assert "there is no 'b'" in refused("d.b == 1")
    assert "index out of bounds" in refused("l[999].ok")
    assert "'1/0 == 1' cannot be evaluated: division by zero" in refused("1/0 == 1")
    assert "gives a text, and not a list" in refused("s", evaluate=evaluate_list)
    assert "gives a bytes, which JSON does not have" in refused("[b'a']", evaluate=evaluate_list)
    assert "gives the key 1" in refused("[{1: 2}]", evaluate=evaluate_list)
    assert "when is empty" in refused(" ")


def test_names_that_are_no_inputs_are_found_before_anything_runs() -> None:
    check_expression("l.filter(x, x.ok && x.n > n).size() > inputs.n", "when", names=("l", "n"))
    with pytest.raises(InvalidArgument, match="reads 'x' at line 1, column 24"):
        check_expression("l.exists(x, x.ok) && x > 1"[:21] + "  x > 1", "when", names=("l",))


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 200 + "1" + ")" * 200,
        "[" * 200,
        "!" * 300 + "true",
        "n" + " + n" * 400,
        "l.map(x, l.map(y, l.map(z, x)))",
        "l.map(x, l)",
        "l.map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x])",
        "(l + l + l + l + l + l + l + l).map(x, x)",
        "l.map(x, big + big)",
        "l.filter(x, x.t.matches('(x{50}){50}'))",
        "l.filter(x, s.matches(x.t))",
    ],
)
def test_what_could_take_long_is_refused_at_once(expression: str) -> None:
    error = refused(expression, evaluate=evaluate_list, inputs={**INPUTS, "big": "b" * 50_000})
    # Said before it is evaluated, and not by what evaluates it.
    assert any(bound in error for bound in ("could take too long", "nests deeper than", "characters; at most"))


def test_a_list_longer_than_the_limit_and_inputs_too_many_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="gives 500 values; at most 10"):
        evaluate_list("l", INPUTS, limit=10)
    assert "have over" in refused("m.size() > 1", inputs={"m": list(range(200_000))})
    assert evaluate_when("n == 3", {"n": 3, "m": list(range(200_000))})


WORDS = (
    "n s l d x . ( ) [ ] { } , + - * / % ! ? : == < && || in 1 9223372036854775807 'a' .map(x, .filter(x, .size() "
    "has( timestamp( duration( int( string( .matches( '(' \" \\ ''' é \0 // r'"
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS.split(" ")), max_size=25), st.sampled_from(["", " "]))
def test_any_text_at_all_is_evaluated_or_refused_in_our_own_words(words: list[str], separator: str) -> None:
    with contextlib.suppress(InvalidArgument):
        evaluate_list(separator.join(words), {"n": 1, "s": "a", "l": [1, "b"], "d": {}})
