"""`python -m mcpgateway`."""

from __future__ import annotations

from mcpgateway.cli import main

if __name__ == "__main__":
    main()
