package cld.subjects_test

import data.cld.authz_test.ask
import data.cld.authz_test.inside
import data.cld.authz_test.note
import data.cld.authz_test.resource
import data.cld.subjects

test_a_principal_counts_as_itself_its_kind_its_roles_and_anyone if {
	found := subjects.everywhere with input as ask("user:ada", "read", note)
		with data.members as {"user:ada": ["editor", "owner@docs"]}
	found == {"user:ada", "kind:user", "role:editor", "anyone"}
	within := subjects.within with input as ask("user:ada", "read", note)
		with data.members as {"user:ada": ["editor", "owner@docs"]}
	within == {"docs": {"role:owner"}}
}

test_an_owner_of_a_namespace_does_not_own_the_namespace_itself if {
	every case in [[inside, true], ["cld:cld.Namespace.docs", false], [note, false]] {
		owners := [1 |
			subjects.owner_of(resource(case[0])) with input as ask("user:ada", "write", case[0])
				with data.members as {"user:ada": ["owner@docs"]}
		]
		count(owners) == 1 == case[1]
	}
}

test_a_role_in_no_namespace_is_none if {
	question := object.union(ask("user:ada", "read", note), {"principal": {"roles": ["owner@", "@docs", "owner@docs@"]}})
	found := subjects.within with input as question
	object.get(found, "", set()) == set()
	everywhere := subjects.everywhere with input as question
	everywhere == {"user:ada", "kind:user", "anyone"}
}
