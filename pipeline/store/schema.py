"""The tables of the store, and how an older file becomes one of this version.

A step is never changed once it has shipped: a new table or column is a new step at the end.
"""

from __future__ import annotations

import sqlite3

__all__ = ["SCHEMA_VERSION", "migrate"]

_FIRST = """
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    snapshot BLOB,
    published_at TEXT
);
CREATE INDEX outbox_pending ON outbox (seq) WHERE published_at IS NULL;
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE caption (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time TEXT NOT NULL,
    media_time_s REAL,
    text TEXT NOT NULL,
    log_probability REAL NOT NULL,
    UNIQUE (camera, time, sequence)
);
CREATE INDEX caption_time ON caption (time);
CREATE VIRTUAL TABLE caption_text USING fts5 (text, content='caption', content_rowid='id',
    tokenize='porter unicode61');
CREATE TRIGGER caption_added AFTER INSERT ON caption BEGIN
    INSERT INTO caption_text (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER caption_removed AFTER DELETE ON caption BEGIN
    INSERT INTO caption_text (caption_text, rowid, text) VALUES ('delete', old.id, old.text);
END;
"""
# An event waits for each sink (Redis, webhooks, MQTT) by itself; published_at is when the last
# of them has taken it. A caption's age counts from archived_at: a recording may be years old.
_SINKS = """
CREATE TABLE waiting (
    sink TEXT NOT NULL,
    seq INTEGER NOT NULL REFERENCES outbox (seq),
    PRIMARY KEY (sink, seq)
) WITHOUT ROWID;
CREATE INDEX waiting_seq ON waiting (seq);
INSERT INTO waiting SELECT 'redis', seq FROM outbox WHERE published_at IS NULL;
DROP INDEX outbox_pending;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;
ALTER TABLE caption ADD COLUMN archived_at TEXT;
UPDATE caption SET archived_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now');
CREATE INDEX caption_archived ON caption (archived_at);
"""
# What rules remember is a row a camera, so that a caption writes its camera's alone. Recordings
# begin anew in each run.
_STATE_BY_CAMERA = """
INSERT INTO state SELECT 'rules:' || key, value
    FROM json_each((SELECT value FROM state WHERE name = 'rules'))
    WHERE json_extract(value, '$.last.position_s') IS NULL;
DELETE FROM state WHERE name = 'rules';
"""
# What rules ask of a caption beside its words; in a table of its own, so that searches read as few
# pages as before. A recording watched again, by another model, say, gives its captions anew.
_EVIDENCE = """
CREATE TABLE caption_evidence (id INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TRIGGER caption_evidence_removed AFTER DELETE ON caption BEGIN
    DELETE FROM caption_evidence WHERE id = old.id;
END;
CREATE TRIGGER caption_changed AFTER UPDATE OF text ON caption
WHEN old.text IS NOT new.text BEGIN
    INSERT INTO caption_text (caption_text, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO caption_text (rowid, text) VALUES (new.id, new.text);
END;
"""
_STEPS = (_FIRST, _SINKS, _STATE_BY_CAMERA, _EVIDENCE)
SCHEMA_VERSION = len(_STEPS)


def migrate(connection: sqlite3.Connection) -> bool:
    """Bring the file to :data:`SCHEMA_VERSION`, each step all or nothing.

    Returns:
        False when a newer version of the program has written the file; it is left as it is.

    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    for number, step in enumerate(_STEPS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version={number}; COMMIT;")
    return version <= SCHEMA_VERSION
