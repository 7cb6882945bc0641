"""Losses of rankings and groups, as their definitions read: see reference.py."""
