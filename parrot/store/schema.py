"""The tables. `migrations` builds them; a test compares the two.

sessions ──< events          the log itself: one row an event, numbered within its session
    │
    ├────< resolutions       one row for each variable that is ready or failed: the first wins
    ├────< attempts          one row for each call that was placed: lower attempts are fenced off
    └────< replies           what was answered under an idempotency key

claim                        one row: how often the store was opened, so that who was replaced notices
"""

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text

HEAD = "0003"
"""The migration that builds this schema."""
APPLICATION_ID = 0x50525254
"""`PRRT`: marks an SQLite file as one of ours (`PRAGMA application_id`), and the lock on a
PostgreSQL schema."""

METADATA = MetaData()

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("session_no", Integer, primary_key=True),
    Column("session_id", Text, nullable=False, unique=True),
    Column("last_seq", Integer, nullable=False),
    Column("closed_wall_s", Float),
    Column("purged", Boolean, nullable=False),
    Column("tenant_id", Text, nullable=False, server_default=""),
    Column("num_bytes", BigInteger, nullable=False, server_default="0"),
    Index("sessions_by_close", "purged", "closed_wall_s"),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("session_no", Integer, ForeignKey("sessions.session_no"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("events_by_session", "session_no", "seq", unique=True),
)

RESOLUTIONS = Table(
    "resolutions",
    METADATA,
    Column("variable_id", Text, primary_key=True),
    Column("session_no", Integer, ForeignKey("sessions.session_no"), nullable=False),
    Index("resolutions_by_session", "session_no"),
    sqlite_with_rowid=False,
)

ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("call_id", Text, primary_key=True),
    Column("session_no", Integer, ForeignKey("sessions.session_no"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Index("attempts_by_session", "session_no"),
    sqlite_with_rowid=False,
)

REPLIES = Table(
    "replies",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("tenant_id", Text, primary_key=True),
    Column("body_hash", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("session_no", Integer, ForeignKey("sessions.session_no")),
    Index("replies_by_session", "session_no"),
)

CLAIM = Table(
    "claim",
    METADATA,
    Column("number", Integer, nullable=False),
)
