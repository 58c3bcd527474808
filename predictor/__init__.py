"""Using trained weights: generation."""
