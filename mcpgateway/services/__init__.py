"""Use cases. No wire is known here, and no edge."""
