"""Messages, console, files and figures: what every package uses and nothing that knows of sequences or networks."""
