"""The soak: many principals, much trouble, and a check on every answer, notification and question."""
