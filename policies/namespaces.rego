# What a namespace adds: the tools it may use, and no reaching from one namespace into another.
package cld.namespaces

# The namespace of the task that is being worked, empty when there is none.
of_task := substring(first, count("cld:cld.Namespace."), -1) if {
	first := split(input.context.task, "/")[0]
	startswith(first, "cld:cld.Namespace.")
}

default tool := ""

# The tool by which something is done; for a call of a tool resource, that tool.
tool := input.context.tool if input.context.tool != ""

barred(resource) if {
	some_bar(resource)
}

some_bar(resource) if not_its_tool(resource.namespace)

some_bar(_) if not_its_tool(of_task)

some_bar(resource) if not_its_call(resource.namespace, resource)

some_bar(resource) if not_its_call(of_task, resource)

some_bar(resource) if crosses(resource)

not_its_tool(namespace) if {
	tool != ""
	tools := data.namespaces[namespace].tools
	not tool in tools
}

not_its_call(namespace, resource) if {
	input.action == "call"
	startswith(resource.type, "tool.")
	tools := data.namespaces[namespace].tools
	not called(resource) in tools
}

called(resource) := parts[count(parts) - 1] if parts := split(resource.uri, ".")

crosses(resource) if {
	resource.namespace != ""
	of_task != resource.namespace
}

reasons(resource) := (tool_reasons(resource) | call_reasons(resource)) | crossing(resource)

spaces(resource) := {resource.namespace} | {namespace | namespace := of_task}

tool_reasons(resource) := {concat("", [
	"namespace ", namespace, " may not use the tool ", tool, "; its tools are ",
	concat(", ", data.namespaces[namespace].tools),
]) |
	some namespace in spaces(resource)
	not_its_tool(namespace)
}

call_reasons(resource) := {concat("", [
	"namespace ", namespace, " may not use the tool ", called(resource), "; its tools are ",
	concat(", ", data.namespaces[namespace].tools),
]) |
	some namespace in spaces(resource)
	not_its_call(namespace, resource)
}

crossing(resource) := {concat("", [
	"a task in namespace ", of_task,
	" does not reach into namespace ", resource.namespace,
])} if {
	crosses(resource)
}

crossing(resource) := set() if not crosses(resource)
