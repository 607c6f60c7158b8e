"""What the scripts call, a module for each; imported by no other package."""
