"""What a node answers by HTTP; wants the extra ``http``."""
