"""Linked data within resources: what each form of it becomes, and what hostile texts do not do."""

from typing import Any

import pyoxigraph
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cld.index.linked import MAX_TRIPLES, extract
from cld.index.linked_terms import MAX_LITERAL, literal
from cld.resource import Meta, Resource

ME = "cld:common.Document.d/common.Text.t"
SCHEMA = "https://schema.org/"
TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"


def said(content: dict[str, Any], **more: Any) -> tuple[set[str], tuple[str, ...]]:
    """The statements of a resource but those of its place, blank nodes as `_:`, and its problems."""
    graph = extract(Resource(uri=ME, type="common.Text", id="t", content=content, **more), pyoxigraph)
    store = pyoxigraph.Store()
    store.load(graph.triples, format=pyoxigraph.RdfFormat.N_TRIPLES)  # all of it is well-formed
    lines = {line.removesuffix(" .") for line in graph.triples.decode().splitlines()}
    about = {line for line in lines if not any(f"<cld-vocab:{name}>" in line for name in ("type", "parent", "problem"))}
    return about, graph.problems


def matching(lines: set[str], *parts: str) -> list[str]:
    return [line for line in lines if all(part in line for part in parts)]


def test_the_tree_itself_says_type_parent_and_who_and_when() -> None:
    resource = Resource(
        uri=ME,
        type="common.Text",
        id="t",
        created_by="user:ada",
        created_at="2026-11-21T07:34:55.123456Z",
        updated_at="no time",
        meta=Meta(purpose="to greet"),
        content={"title": 'A "title"\nof two lines'},
    )
    lines = extract(resource, pyoxigraph).triples.decode().splitlines()
    assert f'<{ME}> <cld-vocab:type> "common.Text" .' in lines
    assert f"<{ME}> <cld-vocab:parent> <cld:common.Document.d> ." in lines
    assert f'<{ME}> <cld-vocab:createdBy> "user:ada" .' in lines
    assert f'<{ME}> <cld-vocab:purpose> "to greet" .' in lines
    assert f'<{ME}> <cld-vocab:title> "A \\"title\\"\\nof two lines" .' in lines
    assert any("createdAt" in line and "dateTime" in line for line in lines)
    assert not any("updatedAt" in line for line in lines)


def test_every_cld_uri_anywhere_in_the_content_is_a_link() -> None:
    lines, _ = said({"a": [{"b": "see cld:common.Text.x, and cld:common.Text.y/plan.Task.z."}], "c": f"me: {ME}"})
    assert {line.rpartition(" ")[2] for line in lines} == {"<cld:common.Text.x>", "<cld:common.Text.y/plan.Task.z>"}


def test_json_ld_in_the_content_and_in_a_script_tag_are_the_same() -> None:
    document = {"@context": "https://schema.org", "@id": "http://x/ada", "@type": "Person", "name": "Ada"}
    script = '<script type="application/ld+json">{"@context":"http://schema.org/","@id":"http://x/ada",'
    in_page, problems = said({"text": script + '"@type":"Person","name":"Ada"}</script>', "media_type": "text/html"})
    in_content, _ = said(document)
    wanted = {f"<http://x/ada> {TYPE} <{SCHEMA}Person>", f'<http://x/ada> <{SCHEMA}name> "Ada"'}
    assert in_page == in_content == wanted
    assert problems == ()


def test_no_remote_context_is_fetched_and_leaving_it_out_is_told() -> None:
    lines, problems = said({"@context": ["http://127.0.0.1:9/context", {"p": "http://p/"}], "p:a": 1, "b": 2})
    assert len(lines) == 1 and "<http://p/a>" in lines.pop()
    assert "http://127.0.0.1:9/context" in problems[0] and "never fetched" in problems[0]


def test_turtle_comes_from_its_media_type_and_from_blocks_of_code() -> None:
    turtle = '@prefix p: <http://p/> . <> p:knows [ p:name "Bob" ] . <#part> p:of <> .'
    by_type, _ = said({"text": turtle, "media_type": "text/turtle"})
    in_block, _ = said({"text": f"# Notes\n\n```turtle\n{turtle}\n```\n"})
    assert by_type == in_block
    assert f"<{ME}#part> <http://p/of> <{ME}>" in by_type
    assert len(matching(by_type, '<http://p/name> "Bob"')) == 1


def test_microdata_becomes_items_with_their_types_and_properties() -> None:
    html = (
        '<div itemscope itemid="http://x/film" itemtype="https://schema.org/Movie">'
        '<h1 itemprop="name">Avatar &amp; I</h1>'
        '<div itemprop="director" itemscope itemtype="https://schema.org/Person"><b itemprop=name>Jo</b></div>'
        '<a itemprop=url href="https://x/t">t</a><meta itemprop=genre content=SF>'
        "<time itemprop=datePublished datetime=2009-12-18>then</time></div>"
    )
    lines, problems = said({"text": html, "media_type": "text/html"})
    assert problems == ()
    film = "<http://x/film>"
    assert f"{film} {TYPE} <{SCHEMA}Movie>" in lines
    assert f'{film} <{SCHEMA}name> "Avatar & I"' in lines
    assert f"{film} <{SCHEMA}url> <https://x/t>" in lines
    assert f'{film} <{SCHEMA}genre> "SF"' in lines
    assert matching(lines, f"{film} <{SCHEMA}datePublished>", '"2009-12-18"^^', "#date>")
    (director,) = matching(lines, f"{film} <{SCHEMA}director> _:")
    assert f'{director.rpartition(" ")[2]} <{SCHEMA}name> "Jo"' in lines


@pytest.mark.parametrize(
    ("html", "wanted"),
    [  # as in the examples of https://www.w3.org/TR/rdfa-primer/
        ('<p vocab="http://p/" property="title">T</p>', '<ME> <http://p/title> "T"'),
        ('<p prefix="q: http://q/" property="q:t" content="C" lang="en">T</p>', '<ME> <http://q/t> "C"@en'),
        (
            '<p vocab="http://p/"><a property="license" href="http://l/">x</a></p>',
            "<ME> <http://p/license> <http://l/>",
        ),
        ('<p about="http://s/" property="dc:title">T</p>', '<http://s/> <http://purl.org/dc/terms/title> "T"'),
        ('<p resource="#a" vocab="http://p/"><b property="n">N</b></p>', '<ME#a> <http://p/n> "N"'),
        ('<p vocab="http://p/" rel="knows"><b resource="http://o/"></b></p>', "<ME> <http://p/knows> <http://o/>"),
        ('<p vocab="http://p/" rev="by" resource="http://o/"></p>', "<http://o/> <http://p/by> <ME>"),
        ('<p vocab="http://p/" typeof="T" resource="http://o/"></p>', f"<http://o/> {TYPE} <http://p/T>"),
        (
            '<p vocab="http://p/" property="n" datatype="xsd:integer" content="1">one</p>',
            '<ME> <http://p/n> "1"^^<http://www.w3.org/2001/XMLSchema#integer>',
        ),
    ],
)
def test_rdfa_says_what_its_primer_says(html: str, wanted: str) -> None:
    lines, _ = said({"text": html, "media_type": "text/html"})
    assert wanted.replace("<ME", f"<{ME}") in lines


def test_rdfa_chains_typed_things_through_what_lies_between() -> None:
    html = (
        '<div vocab="http://p/" resource="#a" typeof="P"><ul rel="knows"><li typeof="P"><b property="n">B</b></li>'
        '<li typeof="P"><b property="n">C</b></li></ul></div>'
    )
    lines, _ = said({"text": html, "media_type": "text/html"})
    friends = {line.rpartition(" ")[2] for line in matching(lines, f"<{ME}#a> <http://p/knows>")}
    assert len(friends) == 2
    assert {line.split()[0] for line in matching(lines, "<http://p/n>")} == friends


def test_a_front_matter_becomes_properties_of_its_resource() -> None:
    keys = "title: Notes\ntags: [a, b]\ndate: 2020-01-02\nschema:about: https://x/y\nown key: 3\nauthor: {name: Ada}"
    text = f"---\n{keys}\n---\nText"
    lines, problems = said({"text": text})
    assert problems == ()
    dc = "http://purl.org/dc/terms/"
    assert f'<{ME}> <{dc}title> "Notes"' in lines
    assert f'<{ME}> <{dc}subject> "a"' in lines and f'<{ME}> <{dc}subject> "b"' in lines
    assert matching(lines, f"<{dc}date>", '"2020-01-02"^^', "#date>")
    assert f"<{ME}> <{SCHEMA}about> <https://x/y>" in lines
    assert matching(lines, "<cld-vocab:key/own%20key>", '"3"^^')
    (author,) = matching(lines, f"<{dc}creator> _:")
    assert f'{author.rpartition(" ")[2]} <cld-vocab:key/name> "Ada"' in lines


def test_links_are_taken_from_prose_and_not_from_code() -> None:
    text = (
        "[a](http://a.example/x_(y)) <http://b.example/> [[Some page|shown]] [c](../c.md#part)\n\n[d]: http://d.example\n"
        "`[no](http://no.example)`\n\n~~~\n[no](http://no.example) [[No]]\n~~~\n[js](javascript:alert)"
        " [JS](JavaScript:alert) <VBScript:a>"
    )
    lines, _ = said({"text": text, "source": "docs/deep/notes.md"})
    found = {line.rpartition(" ")[2] for line in matching(lines, "<cld-vocab:linksTo>")}
    assert found == {
        "<http://a.example/x_(y)>",
        "<http://b.example/>",
        "<http://d.example>",
        "<cld-source:docs/c.md>",
    }
    assert matching(lines, "linksToTitle") == [f'<{ME}> <cld-vocab:linksToTitle> "Some page"']
    assert f"<{ME}> <cld-vocab:source> <cld-source:docs/deep/notes.md>" in lines


def test_a_text_cannot_speak_for_the_tree() -> None:
    forged = f'<{ME}> <cld-vocab:createdBy> "user:root" . <x:a> <x:b> <x:c> .'
    lines, problems = said({"text": forged, "media_type": "text/turtle"})
    assert lines == {"<x:a> <x:b> <x:c>"}
    assert "cld-vocab:createdBy" in problems[0]
    lines, _ = said({"text": '---\n"cld-vocab:createdBy": user:root\nvocab:createdBy: user:root\n---\n'})
    assert not matching(lines, "<cld-vocab:createdBy>")


def test_graphs_that_a_text_names_are_its_own_resources_graph_all_the_same() -> None:
    lines, _ = said({"@id": "cld:common.Text.other", "@graph": [{"@id": "x:a", "x:b": {"@id": "x:c"}}]})
    assert "<x:a> <x:b> <x:c>" in lines


def test_what_is_wrong_with_one_part_is_told_and_costs_no_other() -> None:
    text = "---\na: *b\n---\n```turtle\n<a b> <c:d> .\n```\n```jsonld\n{no json\n```\n```ttl\n<x:a> <x:b> 1 .\n```"
    lines, problems = said({"text": text})
    assert matching(lines, "<x:a> <x:b>")
    assert len(problems) == 3
    assert any("line 1" in problem for problem in problems)


def test_yaml_with_aliases_or_without_end_is_refused() -> None:
    laughs = "a: &a [x,x]\n" + "".join(f"b{n}: &b{n} [*a,*a]\n" for n in range(100))
    for hostile in (laughs, "a: " + "[" * 20000 + "]" * 20000, "\n".join(f"k{n}: [{'1,' * 50}]" for n in range(600))):
        lines, problems = said({"text": f"---\n{hostile}\n---\n"})
        assert lines == set() and len(problems) == 1 and "front matter" in problems[0]
    lines, problems = said({"text": "---\na: !!python/object/apply:os.system [x]\n---\n"})
    assert lines == set() and len(problems) == 1


def test_cyclic_and_deep_json_ld_is_told_of() -> None:
    cyclic = {"@context": {"a": "b:x", "b": "a:y"}, "a": 1}
    assert said(cyclic)[1]
    for depth in (100, 100_000):
        _, problems = said({"text": "[" * depth + "]" * depth, "media_type": "application/ld+json"})
        assert "deeper" in problems[0]


def test_giant_literals_and_floods_of_statements_are_bounded() -> None:
    giant = f'<x:a> <x:b> "{"x" * (MAX_LITERAL + 1)}" . <x:a> <x:b> 1 .'
    lines, problems = said({"text": giant, "media_type": "text/turtle"})
    assert len(lines) == 1 and "characters" in problems[0]
    flood = "".join(f"<x:a> <x:b> {n} .\n" for n in range(MAX_TRIPLES + 10))
    lines, problems = said({"text": flood, "media_type": "text/turtle"})
    assert len(lines) < MAX_TRIPLES and "left out" in problems[-1]


def test_a_graph_is_the_same_each_time_it_is_made() -> None:
    content = {"text": "```turtle\n[] <x:p> [ <x:q> [] ] .\n```\n---\n<b itemscope itemtype='x:T'></b> typeof="}
    resource = Resource(uri=ME, type="common.Text", id="t", content=content)
    assert extract(resource, pyoxigraph) == extract(resource, pyoxigraph)


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_can_be_written_and_read_back(text: str) -> None:
    data = f"<x:a> <x:b> {literal(text)} .\n".encode()
    (quad,) = pyoxigraph.parse(data, format=pyoxigraph.RdfFormat.N_TRIPLES)
    assert quad.object.value == "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


@given(st.text(alphabet='-`~[]()<>#|\n" \\ab:/=.' + "\u202e\ud800", max_size=200))
def test_any_markup_leaves_a_well_formed_graph(text: str) -> None:
    said({"text": text.encode(errors="replace").decode(), "source": "a/b.md"})
    said({"text": text.encode(errors="replace").decode(), "media_type": "text/html"})


def test_a_front_matter_in_toml_says_the_same_as_one_in_yaml() -> None:
    toml = '+++\ntitle = "A"\ndate = 2026-11-21\ntags = ["x", "y"]\n[more]\ndepth = 2\n+++\n\nText.\n'
    yaml = "---\ntitle: A\ndate: 2026-11-21\ntags: [x, y]\nmore: {depth: 2}\n---\n\nText.\n"
    lines, problems = said({"text": toml})
    assert (lines, problems) == said({"text": yaml}) and len(lines) == 6
    assert said({"text": "+++\ntitle = \n+++\nText."})[1][0].startswith("a front matter that is no TOML: ")
    for deep in ("a." * 40 + "a = 1\n", "a = " + "[" * 30_000 + "]" * 30_000 + "\n", "a = [" + "1," * 20_000 + "]\n"):
        lines, problems = said({"text": f"+++\n{deep}+++\nText."})
        assert lines == set() and len(problems) == 1


def test_what_says_that_it_is_plain_text_has_no_markup() -> None:
    text = "[b](https://b.example/) <https://c.example/> cld:common.Text.x"
    assert len(said({"text": text})[0]) == 3
    assert len(said({"text": text, "media_type": "text/plain"})[0]) == 1
