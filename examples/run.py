"""Serves `mcp.json` with the programs of this Python environment on the path, as an editor started from it would have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Become the gateway; what stands on the command line goes to `mcpgateway serve`."""
    os.chdir(HERE.parent)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "mcpgateway", "serve", str(HERE / "mcp.json"), *sys.argv[1:]]
    os.execve(sys.executable, command, os.environ | {"PATH": path})


if __name__ == "__main__":
    main()
