"""Whose each session is, and how much of the store it takes."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two columns, and fill them from the events."""
    op.add_column("sessions", sa.Column("tenant_id", sa.Text, nullable=False, server_default=""))
    op.add_column("sessions", sa.Column("num_bytes", sa.BigInteger, nullable=False, server_default="0"))
    connection = op.get_bind()
    size = "octet_length(body)" if connection.dialect.name == "postgresql" else "length(CAST(body AS BLOB))"
    connection.execute(
        sa.text(
            f"UPDATE sessions SET num_bytes = (SELECT COALESCE(SUM({size}), 0) FROM events "  # noqa: S608
            "WHERE events.session_no = sessions.session_no) WHERE NOT purged"
        )
    )
    openings = connection.execute(sa.text("SELECT session_no, body FROM events WHERE seq = 1")).all()
    owners = [{"number": row.session_no, "tenant": json.loads(row.body)["tenant_id"]} for row in openings]
    if owners:
        connection.execute(
            sa.text("UPDATE sessions SET tenant_id = :tenant WHERE session_no = :number"), owners
        )
