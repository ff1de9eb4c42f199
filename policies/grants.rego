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
}

allowed(resource) if {
	at := places(resource)
	some table in scoped_tables[resource.namespace]
	some place in at
	rule := table[place]
	covers(rule.allow, rule, resource)
}

# Namespaces are isolated: a rule at the root of the tree ends where a namespace begins, unless it
# says that it holds in namespaces too.
reaches(_, _, resource) if resource.namespace == ""

reaches(_, place, resource) if {
	resource.namespace != ""
	place != "cld:"
}

reaches(rule, "cld:", resource) if {
	resource.namespace != ""
	rule.namespaces == true
}

covers(actions, rule, resource) if {
	names(actions)
	fits(rule, resource.type)
}

names(actions) if input.action in actions

names(actions) if "*" in actions

# A rule without types is about every type.
fits(rule, _) if not rule.types

fits(rule, type) if some_type(rule.types, type)

some_type(types, _) if "*" in types

some_type(types, type) if type in types

some_type(types, type) if concat("", [split(type, ".")[0], ".*"]) in types

deny_tables := [table | some subject in subjects.everywhere; table := data.denies[subject]]

scoped_deny_tables[namespace] := [table | some subject in members; table := data.denies[subject]] if {
	some namespace, members in subjects.within
}

# Explicit denies hold in namespaces too, always.
denied(resource) if {
	count(deny_tables) > 0
	at := places(resource)
	some table in deny_tables
	some place in at
	rule := table[place]
	covers(rule.deny, rule, resource)
}

denied(resource) if {
	at := places(resource)
	some table in scoped_deny_tables[resource.namespace]
	some place in at
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

# Every grant at a place that reaches the resource, whether or not it gives this action.
grants_here(resource) := {found |
	some subject in subjects_for(resource)
	some place in places(resource)
	rule := data.grants[subject][place]
	counts(subject, rule, place, resource)
	found := {"subject": subject, "place": place, "rule": rule}
}

counts(subject, _, _, resource) if subject in subjects.within[resource.namespace]

counts(subject, rule, place, resource) if {
	subject in subjects.everywhere
	reaches(rule, place, resource)
}

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
	types_in_words(found.rule), " in ", found.place,
])

reasons(resource) := denials(resource) | shortfall(resource)

denials(resource) := {message |
	some found in matching_denies(resource)
	message := concat("", [found.subject, " is denied ", input.action, " in ", found.place, because(found.rule)])
}

because(rule) := concat("", [": ", rule.reason])

because(rule) := "" if not rule.reason

shortfall(resource) := set() if allowed(resource)

shortfall(resource) := {concat("", [who, " may not ", input.action, "; ", concat("; ", [w | some w in words])])} if {
	not allowed(resource)
	words := {in_words(found) | some found in grants_here(resource)}
	count(words) > 0
	who := as_whom
}

shortfall(resource) := {concat("", [input.principal.id, " has no grant that reaches ", resource.uri, elsewhere(resource)])} if {
	not allowed(resource)
	count(grants_here(resource)) == 0
}

as_whom := concat(", ", subjects.held) if count(subjects.held) > 0

as_whom := input.principal.id if count(subjects.held) == 0

elsewhere(resource) := "" if resource.namespace == ""

elsewhere(resource) := concat("", [
	"; namespaces are isolated, so only grants within cld:cld.Namespace.",
	resource.namespace, " count",
]) if {
	resource.namespace != ""
}
