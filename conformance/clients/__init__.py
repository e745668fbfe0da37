"""Programs of ours around the cookbook's functions that have no command of their own."""
