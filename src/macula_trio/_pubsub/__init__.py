"""Messages from one node to everybody who wants the topic."""
