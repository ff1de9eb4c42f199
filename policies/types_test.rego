package cld.types_test

import data.cld.authz
import data.cld.authz_test.ask

grants := {"anyone": {"cld:": {"allow": ["*"], "namespaces": true}}}

owners_only := {"tool.*": true, "tool.Call": false, "common.Schema": true, "cld.Namespace": true}

decide(id, members, uri, action) := decision if {
	decision := authz.decision with input as ask(id, action, uri)
		with data.members as members
		with data.grants as grants
		with data.owners_only as owners_only
		with data.persons_only as {"plan.*": true, "plan.Proposal": false, "tool.Call": true}
}

test_only_owners_change_what_the_system_is_made_of if {
	every uri in ["cld:tool.Tool.x", "cld:common.Schema.x", "cld:cld.Namespace.docs"] {
		every action in ["write", "delete"] {
			not decide("user:bob", {"user:bob": ["editor"]}, uri, action).allow
			decide("user:ada", {"user:ada": ["owner"]}, uri, action).allow
		}
		decide("user:bob", {}, uri, "read").allow
	}
}

test_a_type_of_a_closed_package_can_be_open if {
	decide("user:bob", {}, "cld:plan.Task.t/tool.Call.c", "write").allow
}

test_an_owner_of_a_namespace_changes_tools_in_it_but_not_the_namespace if {
	members := {"user:bob": ["owner@docs"]}
	decide("user:bob", members, "cld:cld.Namespace.docs/tool.Tool.x", "write").allow
	not decide("user:bob", members, "cld:cld.Namespace.sales/tool.Tool.x", "write").allow
	not decide("user:bob", members, "cld:cld.Namespace.docs", "write").allow
}

test_an_assistant_does_not_change_the_system_even_when_an_owner if {
	decision := decide("assistant:writer", {"assistant:writer": ["owner"]}, "cld:tool.Tool.x", "write")
	not decision.allow
	decision.reasons == {"an assistant may not write tool.Tool, even for an owner; ask the person to do it"}
}

test_only_persons_write_approvals if {
	decide("user:bob", {}, "cld:plan.Approval.a", "write").allow
	decision := decide("assistant:writer", {}, "cld:plan.Approval.a", "write")
	not decision.allow
	decision.reasons == {"an assistant may not write plan.Approval; a person has to"}
}

test_an_assistant_does_not_write_what_work_writes_down_of_itself if {
	every below in ["plan.Task.t", "plan.Turn.t0000", "plan.Ledger.budget", "plan.Approval.a", "tool.Call.c"] {
		uri := concat("/", ["cld:plan.Task.r", below])
		every action in ["write", "delete"] {
			not decide("assistant:writer", {"assistant:writer": ["owner"]}, uri, action).allow
			decide("user:bob", {}, uri, action).allow
		}
		decide("assistant:writer", {}, uri, "read").allow
	}
	decide("assistant:writer", {}, "cld:plan.Proposal.p", "write").allow
}

test_the_reason_names_who_may if {
	decision := decide("user:bob", {}, "cld:tool.Tool.x", "write")
	decision.reasons == {"only an owner may write tool.Tool; user:bob is none here"}
}
