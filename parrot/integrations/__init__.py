"""Frameworks on Parrot. Each lives in a package of its own, needs an extra of its own, and is loaded by
nothing else.
"""
