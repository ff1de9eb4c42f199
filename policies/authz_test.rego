package cld.authz_test

import data.cld.authz

# A question, as cld.policy.input builds it.
ask(id, action, uri) := {
	"principal": {"id": id, "kind": split(id, ":")[0], "roles": [], "on_behalf_of": ""},
	"action": action,
	"resource": resource(uri),
	"context": {"tool": "", "arguments": {}, "task": "", "host": "", "time": "", "destructive": false, "shortened": false},
}

resource(uri) := {"uri": uri, "type": type, "namespace": namespace(elements[0]), "parents": parents} if {
	elements := split(substring(uri, 4, -1), "/")
	words := split(elements[count(elements) - 1], ".")
	type := concat(".", array.slice(words, 0, 2))
	parents := array.concat(["cld:"], [above |
		some n in numbers.range(1, count(elements))
		n < count(elements)
		above := concat("", ["cld:", concat("/", array.slice(elements, 0, n))])
	])
}

namespace(first) := name if {
	["cld", "Namespace", name] = split(first, ".")
} else := ""

with_context(question, more) := object.union(question, {"context": more})

note := "cld:common.Conversation.c1/common.Message.m1"

inside := "cld:cld.Namespace.docs/common.Message.m1"

elsewhere := "cld:cld.Namespace.sales/common.Message.m1"

roles := {
	"role:owner": {"cld:": {"allow": ["*"], "namespaces": true}},
	"role:editor": {"cld:": {"allow": ["read", "write"]}},
	"role:reader": {"cld:": {"allow": ["read"]}},
}

test_without_data_nothing_is_allowed if {
	not authz.decision.allow with input as ask("user:ada", "read", note)
	count(authz.decision.reasons) > 0 with input as ask("user:ada", "read", note)
}

test_an_owner_may_everything_everywhere if {
	every action in ["read", "write", "delete", "list", "call", "subscribe"] {
		every uri in [note, inside, elsewhere, "cld:tool.Tool.x", "cld:cld.Namespace.docs"] {
			authz.decision.allow with input as ask("user:ada", action, uri)
				with data.members as {"user:ada": ["owner"]}
				with data.grants as roles
				with data.owners_only as {"tool.*": true, "cld.Namespace": true}
		}
	}
}

test_filtering_names_the_positions_that_are_allowed if {
	question := object.union(
		object.remove(ask("user:bob", "read", note), ["resource"]),
		{"resources": [resource(note), resource(inside), resource(elsewhere), resource(inside)]},
	)
	authz.allowed == [1, 3] with input as question
		with data.members as {"user:bob": ["reader@docs"]}
		with data.grants as roles
}

test_a_yes_has_no_reasons_and_a_no_has_no_obligations if {
	allowed := authz.decision with input as ask("user:ada", "read", note)
		with data.grants as {"user:ada": {note: {"allow": ["read"]}}}
	allowed == {"allow": true, "reasons": [], "obligations": {}}
	denied := authz.decision with input as ask("user:ada", "write", note)
		with data.approvals as {"targets": {"cld:": {"actions": ["*"]}}}
	denied.obligations == {}
}

test_an_explanation_names_what_had_a_part if {
	found := authz.explain with input as ask("user:ada", "read", note)
		with data.grants as {"user:ada": {"cld:": {"allow": ["read"]}, note: {"allow": ["write"]}}}
	found.decision.allow
	found.grants == {{"subject": "user:ada", "place": "cld:", "reach": "cld:", "rule": {"allow": ["read"]}}}
}
