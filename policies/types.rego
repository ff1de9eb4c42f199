# Types that only some may write or delete, whatever was granted: what the system itself is made of.
package cld.types

import data.cld.subjects

changes if input.action in {"write", "delete"}

# The entry for the type itself beats the one for its package.
listed(table, type) if table[type] == true

listed(table, type) if {
	not type in object.keys(table)
	table[concat("", [split(type, ".")[0], ".*"])] == true
}

closed(resource) if {
	changes
	guarded(resource)
}

guarded(resource) if {
	listed(data.owners_only, resource.type)
	not subjects.owner_of(resource)
} else if {
	subjects.is_assistant
	listed(data.owners_only, resource.type)
} else if {
	subjects.is_assistant
	listed(data.persons_only, resource.type)
}

reasons(resource) := (owners(resource) | assistants(resource)) | persons(resource)

owners(resource) := {concat("", [
	"only an owner may ", input.action, " ", resource.type, "; ", input.principal.id, " is none here",
]) |
	changes
	not subjects.is_assistant
	listed(data.owners_only, resource.type)
	not subjects.owner_of(resource)
}

assistants(resource) := {concat("", [
	"an assistant may not ", input.action, " ", resource.type, ", even for an owner; ask the person to do it",
]) |
	changes
	subjects.is_assistant
	listed(data.owners_only, resource.type)
}

persons(resource) := {concat("", [
	"an assistant may not ", input.action, " ", resource.type, "; a person has to",
]) |
	changes
	subjects.is_assistant
	listed(data.persons_only, resource.type)
}
