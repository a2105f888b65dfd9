"""The log of sessions' events, and what guards it."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build the tables."""
    op.create_table(
        "sessions",
        sa.Column("session_no", sa.Integer, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False, unique=True),
        sa.Column("last_seq", sa.Integer, nullable=False),
        sa.Column("closed_wall_s", sa.Float),
        sa.Column("purged", sa.Boolean, nullable=False),
    )
    op.create_index("sessions_by_close", "sessions", ["purged", "closed_wall_s"])
    op.create_table(
        "events",
        sa.Column("session_no", sa.Integer, sa.ForeignKey("sessions.session_no"), nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("events_by_session", "events", ["session_no", "seq"], unique=True)
    op.create_table(
        "resolutions",
        sa.Column("variable_id", sa.Text, primary_key=True),
        sa.Column("session_no", sa.Integer, sa.ForeignKey("sessions.session_no"), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("resolutions_by_session", "resolutions", ["session_no"])
    op.create_table(
        "attempts",
        sa.Column("call_id", sa.Text, primary_key=True),
        sa.Column("session_no", sa.Integer, sa.ForeignKey("sessions.session_no"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("attempts_by_session", "attempts", ["session_no"])
    op.create_table(
        "replies",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("body_hash", sa.Text, nullable=False),
        sa.Column("reply", sa.Text, nullable=False),
        sa.Column("session_no", sa.Integer, sa.ForeignKey("sessions.session_no")),
    )
    op.create_index("replies_by_session", "replies", ["session_no"])
