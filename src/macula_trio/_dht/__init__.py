"""Who is near to what: the routing table, lookups over the network, and the values that we hold."""
