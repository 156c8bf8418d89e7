"""The only package that calls MCP servers. Foreign exceptions are translated here, once, into `UpstreamError`s."""
