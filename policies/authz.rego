# The decision. Allowed is what a grant gives and nothing refuses; whatever else happens, the answer is no.
package cld.authz

import data.cld.approvals
import data.cld.grants
import data.cld.namespaces
import data.cld.types

decision := {"allow": true, "reasons": [], "obligations": approvals.obligations} if permitted(input.resource)

else := {"allow": false, "reasons": reasons, "obligations": {}}

# The positions of those of input.resources that are permitted: by the same function as `decision`.
allowed := [index | some index, resource in input.resources; permitted(resource)]

permitted(resource) if {
	grants.allowed(resource)
	not grants.denied(resource)
	not types.closed(resource)
	not namespaces.barred(resource)
}

reasons := (grants.reasons(input.resource) | types.reasons(input.resource)) | namespaces.reasons(input.resource)

# The decision with everything in data.json that had a part in it.
explain := {
	"decision": decision,
	"subjects": grants.subjects_for(input.resource),
	"grants": grants.matching_grants(input.resource),
	"denies": grants.matching_denies(input.resource),
}
