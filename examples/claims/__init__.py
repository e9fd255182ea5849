"""The claims of the deep dive: each a module with the experiment, and a text file with the words."""
