"""What runs a step over time."""
