"""A notebook for each session: a small stateful MCP server on stdio, to try the gateway with.

Two callers who could see each other's notes would have met in one session.
"""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

notebook = MCPServer(
    "notebook", instructions="Keeps notes for as long as the session lasts. Nobody else can see them.", log_level="WARNING"
)
_notes: list[str] = []
"""Of the one session that this process was started for."""


@notebook.tool()
def add_note(text: str) -> str:
    """Write a note."""
    _notes.append(text)
    return f"note {len(_notes)} written"


@notebook.tool()
def list_notes() -> list[str]:
    """All notes of this session, oldest first."""
    return _notes


@notebook.tool()
def count() -> int:
    """How many notes this session has."""
    return len(_notes)


@notebook.resource("notebook://about", mime_type="text/plain")
def about() -> str:
    """What this server is."""
    return "A notebook that belongs to one session and is gone when the session ends."


@notebook.prompt()
def summarize(style: str = "short") -> str:
    """Ask for a summary of the notes."""
    return f"Read my notes with list_notes and give me a {style} summary."


if __name__ == "__main__":
    notebook.run("stdio")
