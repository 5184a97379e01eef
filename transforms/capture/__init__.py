"""Captures: reading them, what stands in a packet, blocks, anonymisation, writing them again."""
