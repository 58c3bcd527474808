"""Heads: what a task puts on a backbone's hidden states. Written once each, composed with any family."""
