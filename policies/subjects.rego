# Who the principal counts as, in the words of data.json: itself, its kind, its roles, anyone.
package cld.subjects

default given := []

given := data.members[input.principal.id]

# Roles a verified token brought and roles data.json gives, as written: "editor" or "editor@docs".
held := array.concat(input.principal.roles, given)

# These count wherever the resource lies.
everywhere contains input.principal.id

everywhere contains concat(":", ["kind", input.principal.kind])

everywhere contains "anyone"

# Somebody who acts for somebody else; what comes of it is cut by what the other one may do.
everywhere contains "delegate" if input.principal.on_behalf_of != ""

everywhere contains concat(":", ["role", role]) if {
	some role in held
	not contains(role, "@")
}

# Roles held in one namespace count for resources in it and nowhere else. A token may say "owner@": that is
# in no namespace, and would otherwise be everywhere outside of them.
within[namespace] contains concat(":", ["role", role]) if {
	some scoped in held
	[role, namespace] := split(scoped, "@")
	namespace != ""
}

is_assistant if input.principal.kind == "assistant"

# An owner of a namespace owns what is in it, but not what the namespace itself may do.
owner_of(_) if "owner" in held

owner_of(resource) if {
	resource.namespace != ""
	resource.type != "cld.Namespace"
	concat("@", ["owner", resource.namespace]) in held
}
