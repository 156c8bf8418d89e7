"""What MCP clients meet: one edge per kind of client, over the same services."""
