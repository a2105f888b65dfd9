"""Alembic's migrations, each run in one transaction."""
