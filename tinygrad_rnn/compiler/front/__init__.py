"""From a step in Python to a program: what it did, what it read, and what that means on rows."""
