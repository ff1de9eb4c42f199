package cld.grants_test

import data.cld.authz
import data.cld.authz_test.ask
import data.cld.authz_test.elsewhere
import data.cld.authz_test.inside
import data.cld.authz_test.note
import data.cld.authz_test.roles

reasons(question, grants, denies) := found if {
	found := authz.decision.reasons with input as question
		with data.grants as grants
		with data.denies as denies
}

allows(question, grants) if {
	authz.decision.allow with input as question with data.grants as grants
}

test_a_grant_reaches_its_place_and_below_and_nothing_beside if {
	grants := {"user:bob": {"cld:common.Conversation.c1": {"allow": ["read"]}}}
	allows(ask("user:bob", "read", "cld:common.Conversation.c1"), grants)
	allows(ask("user:bob", "read", note), grants)
	not allows(ask("user:bob", "read", "cld:common.Conversation.c2"), grants)
	not allows(ask("user:bob", "read", "cld:common.Conversation.c12"), grants)
	not allows(ask("user:eve", "read", note), grants)
	not allows(ask("user:bob", "write", note), grants)
}

test_a_grant_in_one_namespace_gives_nothing_in_another if {
	grants := {"user:bob": {"cld:cld.Namespace.docs": {"allow": ["*"]}}}
	allows(ask("user:bob", "read", inside), grants)
	not allows(ask("user:bob", "read", elsewhere), grants)
	not allows(ask("user:bob", "read", note), grants)
}

test_a_grant_at_the_root_ends_where_a_namespace_begins if {
	grants := {"user:bob": {"cld:": {"allow": ["read"]}}}
	allows(ask("user:bob", "read", note), grants)
	not allows(ask("user:bob", "read", inside), grants)
	allows(ask("user:bob", "read", inside), {"user:bob": {"cld:": {"allow": ["read"], "namespaces": true}}})
}

test_a_role_in_one_namespace_counts_there_only if {
	every case in [[inside, true], [elsewhere, false], [note, false]] {
		allowed := authz.decision.allow with input as ask("user:bob", "read", case[0])
			with data.members as {"user:bob": ["reader@docs"]}
			with data.grants as roles
		allowed == case[1]
	}
}

test_a_role_outside_namespaces_does_not_reach_into_them if {
	every case in [[inside, false], [note, true]] {
		allowed := authz.decision.allow with input as ask("user:bob", "read", case[0])
			with data.members as {"user:bob": ["editor"]}
			with data.grants as roles
		allowed == case[1]
	}
}

test_roles_of_a_token_count if {
	question := object.union(ask("user:bob", "read", note), {"principal": {"roles": ["reader"]}})
	allows(question, roles)
}

test_types_narrow_a_grant if {
	every case in [["common.Message", true], ["common.*", true], ["plan.*", false], ["plan.Task", false], ["*", true]] {
		allowed := authz.decision.allow with input as ask("user:bob", "read", note)
			with data.grants as {"user:bob": {"cld:": {"allow": ["read"], "types": [case[0]]}}}
		allowed == case[1]
	}
}

test_deny_overrides_and_gives_its_reason if {
	found := reasons(
		ask("user:bob", "read", note),
		{"user:bob": {note: {"allow": ["*"]}}},
		{"anyone": {"cld:common.Conversation.c1": {"deny": ["read"], "reason": "under review"}}},
	)
	found == {"anyone is denied read in cld:common.Conversation.c1: under review"}
}

test_a_deny_at_the_root_holds_in_namespaces_too if {
	not authz.decision.allow with input as ask("user:bob", "read", inside)
		with data.grants as {"user:bob": {inside: {"allow": ["*"]}}}
		with data.denies as {"kind:user": {"cld:": {"deny": ["*"]}}}
}

test_a_deny_for_a_scoped_role_holds_in_its_namespace if {
	every case in [[inside, false], [elsewhere, true]] {
		allowed := authz.decision.allow with input as ask("user:bob", "read", case[0])
			with data.members as {"user:bob": ["guest@docs"]}
			with data.grants as {"user:bob": {"cld:": {"allow": ["read"], "namespaces": true}}}
			with data.denies as {"role:guest": {"cld:": {"deny": ["read"]}}}
		allowed == case[1]
	}
}

test_an_assistant_on_behalf_of_somebody_counts_as_delegate if {
	grants := {"delegate": {"cld:": {"allow": ["read"]}}}
	alone := ask("assistant:writer", "read", note)
	not allows(alone, grants)
	allows(object.union(alone, {"principal": {"on_behalf_of": "user:ada"}}), grants)
}

test_a_denial_says_what_there_is_instead if {
	found := authz.decision.reasons with input as ask("user:bob", "write", inside)
		with data.members as {"user:bob": ["reader@docs"]}
		with data.grants as roles
	found == {concat("", [
		"user:bob (reader@docs) may not write ", inside,
		"; role:reader has read in cld:cld.Namespace.docs",
	])}
}

test_a_denial_says_when_nothing_reaches_there if {
	found := reasons(ask("user:eve", "read", inside), {}, {})
	found == {concat("", [
		"user:eve has no grant that reaches ", inside,
		"; only grants within cld:cld.Namespace.docs count there, namespaces are isolated",
	])}
}

test_a_denial_names_the_types_a_grant_is_for if {
	found := reasons(ask("user:bob", "read", note), {"user:bob": {"cld:": {"allow": ["read"], "types": ["plan.*"]}}}, {})
	found == {concat("", ["user:bob may not read ", note, "; user:bob has read for plan.* in cld:"])}
}
