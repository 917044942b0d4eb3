"""The wire: frames, the MessagePack inside them, and the typed messages above.  Sans-IO (DESIGN section 4)."""
