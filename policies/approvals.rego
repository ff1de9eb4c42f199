# What is allowed only once a person agrees, and how much it may cost: the obligations of a yes.
package cld.approvals

import data.cld.grants
import data.cld.namespaces
import data.cld.subjects

obligations["require_approval"] := {"reason": concat("; ", [reason | some reason in needed])} if count(needed) > 0

obligations["max_tokens"] := min(token_limits) if {
	spends
	count(token_limits) > 0
}

does_something if input.action in {"call", "write", "delete"}

tool_names contains input.context.tool if input.context.tool != ""

tool_names contains namespaces.called(input.resource) if {
	input.action == "call"
}

# Tools named in data.json.
needed contains reason if {
	does_something
	some name in tool_names
	said := data.approvals.tools[name]
	is_string(said)
	reason := concat("", ["the tool ", name, ": ", said])
}

# Tools that say of themselves that they destroy, unless data.json says false to that.
needed contains reason if {
	input.action == "call"
	input.context.destructive
	some name in tool_names
	not name in object.keys(object.get(data.approvals, "tools", {}))
	reason := concat("", ["the tool ", name, " is destructive"])
}

# Places named in data.json.
needed contains reason if {
	some place in grants.places(input.resource)
	rule := data.approvals.targets[place]
	grants.covers(rule.actions, rule, input.resource)
	concerns(rule)
	why := object.get(rule, "reason", "data.json lists it for approval")
	reason := concat("", [why, " (", input.action, " in ", place, ")"])
}

concerns(rule) if not rule.subjects

concerns(rule) if {
	some subject in rule.subjects
	subject in grants.subjects_for(input.resource)
}

# Proposals that are not sure enough of themselves. A proposal that does not say how sure it is, is not.
needed contains reason if {
	does_something
	stated := input.context.arguments.confidence
	reason := unsure(stated)
}

needed contains reason if {
	input.action == "write"
	input.resource.type == "plan.Proposal"
	reason := unsure(proposal_confidence)
}

proposal_confidence := stated if {
	stated := input.context.arguments.confidence
} else := stated if {
	stated := input.context.arguments.content.confidence
} else := "none"

unsure(stated) := concat("", [
	"its confidence ", format_int(stated * 100, 10), "% is under ",
	format_int(data.approvals.confidence_below * 100, 10), "%",
]) if {
	is_share(stated)
	stated < data.approvals.confidence_below
}

# 70 may be meant as 70%, or as very sure: it is not for a rule to guess.
unsure(stated) := "its confidence is no number between 0 and 1" if {
	data.approvals.confidence_below
	is_number(stated)
	not is_share(stated)
}

unsure(stated) := "it does not say in numbers how confident it is" if {
	data.approvals.confidence_below
	not is_number(stated)
}

is_share(stated) if {
	is_number(stated)
	stated >= 0
	stated <= 1
}

# Calls spend, and so does planning a task.
spends if input.action == "call"

spends if {
	input.action == "write"
	input.resource.type == "plan.Task"
}

token_limits contains limit if {
	some subject in subjects.everywhere
	limit := data.limits[subject].max_tokens
}

# A role held in a namespace is limited there, and by the tasks of it.
token_limits contains limit if {
	some namespace in namespaces.spaces(input.resource)
	some subject in subjects.within[namespace]
	limit := data.limits[subject].max_tokens
}

token_limits contains limit if {
	some namespace in namespaces.spaces(input.resource)
	limit := data.namespaces[namespace].limits.max_tokens
}
