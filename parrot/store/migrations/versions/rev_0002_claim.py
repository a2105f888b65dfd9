"""How often the store was opened to write."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build the table and its one row."""
    claim = op.create_table("claim", sa.Column("number", sa.Integer, nullable=False))
    op.bulk_insert(claim, [{"number": 0}])
