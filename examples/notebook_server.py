"""A notebook for each session: a small stateful MCP server over Streamable HTTP, to try the gateway with.

Two callers who could see each other's notes would have met in one session.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from mcp.server.mcpserver import Context, MCPServer

notebook = MCPServer(
    "notebook", instructions="Keeps notes for as long as the session lasts. Nobody else can see them.", log_level="WARNING"
)
_notes: defaultdict[str, list[str]] = defaultdict(list)


def notes_of(ctx: Context) -> list[str]:
    """The notes of the session that the request belongs to."""
    session = (ctx.headers or {}).get("mcp-session-id")
    if session is None:
        raise ValueError("this server keeps notes per session, and the request belongs to none")
    return _notes[session]


@notebook.tool()
def add_note(text: str, ctx: Context) -> str:
    """Write a note."""
    notes = notes_of(ctx)
    notes.append(text)
    return f"note {len(notes)} written"


@notebook.tool()
def list_notes(ctx: Context) -> list[str]:
    """All notes of this session, oldest first."""
    return notes_of(ctx)


@notebook.tool()
def count(ctx: Context) -> int:
    """How many notes this session has."""
    return len(notes_of(ctx))


@notebook.resource("notebook://about", mime_type="text/plain")
def about() -> str:
    """What this server is."""
    return "A notebook that belongs to one session and is gone when the session ends."


@notebook.prompt()
def summarize(style: str = "short") -> str:
    """Ask for a summary of the notes."""
    return f"Read my notes with list_notes and give me a {style} summary."


def main() -> None:
    """Serve on a loopback port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4501)
    notebook.run("streamable-http", host="127.0.0.1", port=parser.parse_args().port)


if __name__ == "__main__":
    main()
