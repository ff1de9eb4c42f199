"""cld: a filesystem-native resource store and policy-gated MCP server."""

__version__ = "0.1.0"
