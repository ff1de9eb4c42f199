# What a namespace adds: the tools it may use, and no reaching from one namespace into another.
package cld.namespaces

# The namespace of the task that is being worked, empty when there is none.
default of_task := ""

of_task := substring(first, count("cld:cld.Namespace."), -1) if {
	first := split(input.context.task, "/")[0]
	startswith(first, "cld:cld.Namespace.")
}

default tool := ""

# The tool by which something is done; for a call of a tool resource, that tool.
tool := input.context.tool if input.context.tool != ""

# Outside namespaces, and for no task of one, there is nothing to look at.
barred(resource) if {
	resource.namespace != ""
	bars(resource)
} else if {
	of_task != ""
	bars(resource)
}

bars(resource) if {
	not_its_tool(resource.namespace)
} else if {
	not_its_tool(of_task)
} else if {
	not_its_call(resource.namespace, resource)
} else if {
	not_its_call(of_task, resource)
} else if {
	crosses(resource)
}

not_its_tool(namespace) if {
	tool != ""
	tools := data.namespaces[namespace].tools
	not tool in tools
}

not_its_call(namespace, resource) if {
	input.action == "call"
	tools := data.namespaces[namespace].tools
	not called(resource) in tools
}

# The tool's name as hosts see it: an assistant is a tool too.
called(resource) := concat("_", ["assistant", last(resource)]) if {
	is_assistant(resource.type)
} else := last(resource)

is_assistant("common.Assistant")

is_assistant(type) if startswith(type, "assistant.")

last(resource) := parts[count(parts) - 1] if parts := split(resource.uri, ".")

crosses(resource) if {
	resource.namespace != ""
	of_task != ""
	of_task != resource.namespace
}

reasons(resource) := (tool_reasons(resource) | call_reasons(resource)) | crossing(resource)

spaces(resource) := {resource.namespace, of_task}

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
