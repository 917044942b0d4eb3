"""Calls from one node to another."""
