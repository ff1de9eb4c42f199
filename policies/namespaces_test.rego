package cld.namespaces_test

import data.cld.authz
import data.cld.authz_test.ask
import data.cld.authz_test.elsewhere
import data.cld.authz_test.inside
import data.cld.authz_test.note
import data.cld.authz_test.with_context

decide(question) := decision if {
	decision := authz.decision with input as question
		with data.grants as {"anyone": {"cld:": {"allow": ["*"], "namespaces": true}}}
		with data.namespaces as {"docs": {"tools": ["resource_get", "assistant_writer"]}}
}

task := "cld:cld.Namespace.docs/plan.Task.t1"

test_a_namespace_uses_its_own_tools_only if {
	decide(with_context(ask("user:ada", "read", inside), {"tool": "resource_get"})).allow
	decision := decide(with_context(ask("user:ada", "write", inside), {"tool": "resource_put"}))
	not decision.allow
	decision.reasons == {concat("", [
		"namespace docs may not use the tool resource_put; its tools are ",
		"resource_get, assistant_writer",
	])}
}

test_a_namespace_without_a_list_of_tools_uses_any if {
	decide(with_context(ask("user:ada", "read", elsewhere), {"tool": "anything"})).allow
}

test_outside_namespaces_tools_are_not_listed if {
	decide(with_context(ask("user:ada", "read", note), {"tool": "anything"})).allow
}

test_a_task_of_a_namespace_calls_its_tools_only if {
	every case in [
		["cld:tool.Tool.resource_get", true], ["cld:tool.Tool.shell", false],
		["cld:common.Assistant.writer", true], ["cld:assistant.Assistant.other", false],
	] {
		decide(with_context(ask("user:ada", "call", case[0]), {"task": task})).allow == case[1]
	}
}

test_a_task_of_one_namespace_does_not_reach_into_another if {
	decide(with_context(ask("user:ada", "read", inside), {"task": task})).allow
	decide(with_context(ask("user:ada", "read", note), {"task": task})).allow
	decision := decide(with_context(ask("user:ada", "read", elsewhere), {"task": task}))
	not decision.allow
	decision.reasons == {"a task in namespace docs does not reach into namespace sales"}
}

test_a_namespace_is_not_another_whose_name_begins_alike if {
	not decide(with_context(ask("user:ada", "read", "cld:cld.Namespace.docs2/a.B.c"), {"task": task})).allow
}
