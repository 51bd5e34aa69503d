"""What the notebook leans on. Each file can be read alone; none knows the page."""
