package cld.approvals_test

import data.cld.authz
import data.cld.authz_test.ask
import data.cld.authz_test.inside
import data.cld.authz_test.note
import data.cld.authz_test.with_context

grants := {"anyone": {"cld:": {"allow": ["*"], "namespaces": true}}}

obliged(question, approvals) := obligations if {
	decision := authz.decision with input as question
		with data.grants as grants
		with data.approvals as approvals
	decision.allow
	obligations := decision.obligations
}

reason(question, approvals) := obliged(question, approvals).require_approval.reason

test_a_listed_tool_needs_approval if {
	approvals := {"tools": {"shell": "it runs commands"}}
	reason(ask("user:ada", "call", "cld:tool.Tool.shell"), approvals) == "the tool shell: it runs commands"
	reason(with_context(ask("user:ada", "write", note), {"tool": "shell"}), approvals) == "the tool shell: it runs commands"
	obliged(ask("user:ada", "call", "cld:tool.Tool.other"), approvals) == {}
	obliged(with_context(ask("user:ada", "read", note), {"tool": "shell"}), approvals) == {}
}

test_a_tool_that_says_it_destroys_needs_approval_unless_data_says_otherwise if {
	question := with_context(ask("user:ada", "call", "cld:tool.Tool.wipe"), {"destructive": true})
	reason(question, {}) == "the tool wipe is destructive"
	obliged(question, {"tools": {"wipe": false}}) == {}
	obliged(with_context(question, {"destructive": false}), {}) == {}
}

test_a_listed_place_needs_approval_for_what_it_lists if {
	approvals := {"targets": {"cld:common.Conversation.c1": {"actions": ["delete"], "reason": "kept for audit"}}}
	reason(ask("user:ada", "delete", note), approvals) == "kept for audit (delete in cld:common.Conversation.c1)"
	obliged(ask("user:ada", "write", note), approvals) == {}
	obliged(ask("user:ada", "delete", "cld:common.Conversation.c2"), approvals) == {}
}

test_a_listed_place_can_concern_some_subjects_only if {
	approvals := {"targets": {"cld:": {"actions": ["write"], "subjects": ["kind:assistant"]}}}
	obliged(ask("user:ada", "write", note), approvals) == {}
	reason(ask("assistant:writer", "write", note), approvals) == "data.json lists it for approval (write in cld:)"
}

test_a_listed_place_concerns_those_who_hold_a_role_in_its_namespace if {
	approvals := {"targets": {"cld:cld.Namespace.docs": {"actions": ["write"], "subjects": ["role:editor"]}}}
	every case in [["editor", 1], ["editor@docs", 1], ["editor@sales", 0], ["reader@docs", 0]] {
		decision := authz.decision with input as ask("user:bob", "write", inside)
			with data.members as {"user:bob": [case[0]]}
			with data.grants as grants
			with data.approvals as approvals
		count(decision.obligations) == case[1]
	}
}

test_an_unsure_proposal_needs_approval if {
	approvals := {"confidence_below": 0.7}
	unsure := with_context(ask("user:ada", "call", "cld:tool.Tool.x"), {"arguments": {"confidence": 0.5}})
	reason(unsure, approvals) == "its confidence 50% is under 70%"
	obliged(with_context(unsure, {"arguments": {"confidence": 0.7}}), approvals) == {}
	obliged(unsure, {}) == {}
	reason(with_context(unsure, {"arguments": {"confidence": "high"}}), approvals) == "it does not say in numbers how confident it is"
}

test_a_confidence_that_is_no_share_needs_approval if {
	every stated in [70, 1.01, -0.1, -1e308, 1e308] {
		question := with_context(ask("user:ada", "call", "cld:tool.Tool.x"), {"arguments": {"confidence": stated}})
		reason(question, {"confidence_below": 0.7}) == "its confidence is no number between 0 and 1"
	}
	every stated in [0.7, 1] {
		question := with_context(ask("user:ada", "call", "cld:tool.Tool.x"), {"arguments": {"confidence": stated}})
		obliged(question, {"confidence_below": 0.7}) == {}
	}
}

test_a_proposal_that_does_not_say_how_sure_it_is_needs_approval if {
	approvals := {"confidence_below": 0.7}
	proposal := ask("user:ada", "write", "cld:plan.Proposal.p")
	reason(proposal, approvals) == "it does not say in numbers how confident it is"
	obliged(with_context(proposal, {"arguments": {"content": {"confidence": 0.9}}}), approvals) == {}
	reason(with_context(proposal, {"arguments": {"content": {"confidence": 0.69}}}), approvals) == "its confidence 69% is under 70%"
}

test_the_smallest_token_limit_counts if {
	every case in [["call", note, 500], ["call", inside, 100], ["write", "cld:plan.Task.t", 500]] {
		decision := authz.decision with input as ask("user:ada", case[0], case[1])
			with data.grants as grants
			with data.limits as {"kind:user": {"max_tokens": 500}, "anyone": {"max_tokens": 900}}
			with data.namespaces as {"docs": {"limits": {"max_tokens": 100}}}
		decision.obligations == {"max_tokens": case[2]}
	}
}

test_a_role_held_in_a_namespace_is_limited_there_and_by_its_tasks if {
	docs_task := with_context(ask("user:bob", "call", "cld:tool.Tool.x"), {"task": "cld:cld.Namespace.docs/plan.Task.t"})
	every case in [[ask("user:bob", "call", inside), 5], [ask("user:bob", "call", note), 9], [docs_task, 5]] {
		decision := authz.decision with input as case[0]
			with data.members as {"user:bob": ["editor@docs"]}
			with data.grants as grants
			with data.limits as {"role:editor": {"max_tokens": 5}, "anyone": {"max_tokens": 9}}
		decision.obligations == {"max_tokens": case[1]}
	}
}

test_reading_spends_nothing if {
	decision := authz.decision with input as ask("user:ada", "read", note)
		with data.grants as grants
		with data.limits as {"anyone": {"max_tokens": 900}}
	decision.obligations == {}
}
