"""What the terminal and HTML views of routes and explanations share. It imports nothing of the project."""
