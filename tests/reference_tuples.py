"""Losses of pairs, triplets and larger tuples of a batch, as their definitions read: see reference.py."""
