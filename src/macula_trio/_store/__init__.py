"""Where a node keeps what may outlive it."""
