"""Layers that families are made of. They know no family and take plain arguments, not configurations."""
