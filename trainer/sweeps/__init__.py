"""``--multirun``: many jobs of one command line, chosen by a grid or a search, each a process of its own."""
