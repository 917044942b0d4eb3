"""Envelopes that travel over other nodes."""
