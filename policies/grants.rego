# What data.json allows and forbids by subject and place. Both are looked up by the resource's own
# ancestors, so a decision costs depth times subjects, however many grants there are.
package cld.grants

import data.cld.subjects

# The places at which a rule reaches the resource: every ancestor and itself.
places(resource) := array.concat(resource.parents, [resource.uri])

tables := [table | some subject in subjects.everywhere; table := data.grants[subject]]

scoped_tables[namespace] := [table | some subject in members; table := data.grants[subject]] if {
	some namespace, members in subjects.within
}

allowed(resource) if {
	at := places(resource)
	some table in tables
	some place in at
	rule := table[place]
	reaches(rule, place, resource)
	covers(rule.allow, rule, resource)
} else if {
	at := places(resource)
	some table in scoped_tables[resource.namespace]
	some place in at
	rule := table[place]
	covers(rule.allow, rule, resource)
}

# Namespaces are isolated: a rule at the root of the tree ends where a namespace begins, unless it
# says that it holds in namespaces too.
reaches(rule, place, resource) if {
	resource.namespace == ""
} else if {
	place != "cld:"
} else if {
	rule.namespaces == true
}

covers(actions, rule, resource) if {
	names(actions)
	fits(rule, resource.type)
}

names(actions) if {
	input.action in actions
} else if {
	"*" in actions
}

# A rule without types is about every type.
fits(rule, type) if {
	not rule.types
} else if {
	"*" in rule.types
} else if {
	type in rule.types
} else if {
	concat("", [split(type, ".")[0], ".*"]) in rule.types
}

deny_tables := [table | some subject in subjects.everywhere; table := data.denies[subject]]

scoped_deny_tables[namespace] := [table | some subject in members; table := data.denies[subject]] if {
	some namespace, members in subjects.within
}

# Explicit denies hold in namespaces too, always.
denied(resource) if {
	some table in deny_tables
	some place in places(resource)
	rule := table[place]
	covers(rule.deny, rule, resource)
} else if {
	some table in scoped_deny_tables[resource.namespace]
	some place in places(resource)
	rule := table[place]
	covers(rule.deny, rule, resource)
}

# From here on: words, for explanations. Only evaluated for what is denied, or explained.

subjects_for(resource) := subjects.everywhere | object.get(subjects.within, resource.namespace, set())

matching_denies(resource) := {found |
	some subject in subjects_for(resource)
	some place in places(resource)
	rule := data.denies[subject][place]
	covers(rule.deny, rule, resource)
	found := {"subject": subject, "place": place, "rule": rule}
}

# Every grant at a place that reaches the resource, whether or not it gives this action; `reach` is
# where it holds, which for a role held in one namespace is that namespace at most.
grants_here(resource) := unscoped(resource) | scoped(resource)

unscoped(resource) := {found |
	some subject in subjects.everywhere
	some place in places(resource)
	rule := data.grants[subject][place]
	reaches(rule, place, resource)
	found := {"subject": subject, "place": place, "reach": place, "rule": rule}
}

scoped(resource) := {found |
	some subject in subjects.within[resource.namespace]
	some place in places(resource)
	rule := data.grants[subject][place]
	found := {"subject": subject, "place": place, "reach": narrower(place, resource), "rule": rule}
}

narrower("cld:", resource) := root(resource)

narrower(place, _) := place if place != "cld:"

root(resource) := concat(".", ["cld:cld.Namespace", resource.namespace])

matching_grants(resource) := {found |
	some found in grants_here(resource)
	covers(found.rule.allow, found.rule, resource)
}

types_in_words(rule) := "" if not rule.types

types_in_words(rule) := concat("", [" for ", concat(", ", rule.types)]) if {
	rule.types
	not "*" in rule.types
}

types_in_words(rule) := "" if "*" in rule.types

in_words(found) := concat("", [
	found.subject, " has ", concat(", ", found.rule.allow),
	types_in_words(found.rule), " in ", found.reach,
])

reasons(resource) := denials(resource) | shortfall(resource)

denials(resource) := {message |
	some found in matching_denies(resource)
	message := concat("", [found.subject, " is denied ", input.action, " in ", found.place, because(found.rule)])
}

because(rule) := concat("", [": ", rule.reason])

because(rule) := "" if not rule.reason

shortfall(resource) := set() if {
	allowed(resource)
} else := {concat("", [who, " may not ", input.action, " ", resource.uri, "; ", concat("; ", words)])} if {
	words := {in_words(found) | some found in grants_here(resource)}
	count(words) > 0
} else := {concat("", [who, " has no grant that reaches ", resource.uri, isolation(resource)])}

who := concat("", [input.principal.id, " (", concat(", ", subjects.held), ")"]) if {
	count(subjects.held) > 0
} else := input.principal.id

isolation(resource) := concat("", ["; only grants within ", root(resource), " count there, namespaces are isolated"]) if {
	resource.namespace != ""
} else := ""
