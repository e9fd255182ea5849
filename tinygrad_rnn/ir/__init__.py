"""The intermediate form: expressions, programs of one step over rows, what they mean, and the text they become."""
