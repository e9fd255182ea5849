"""Arrays in, arrays out; no tensor is known here."""
