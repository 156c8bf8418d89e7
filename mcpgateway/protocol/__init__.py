"""MCP without wires: messages, revisions, headers, names and the SSE codec. No I/O and no asyncio in this package."""
