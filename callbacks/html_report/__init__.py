"""What a run or a sweep came to, as one HTML file that opens anywhere, without a network."""
