"""Relationships with other nodes: proofs, links, who dials whom."""
