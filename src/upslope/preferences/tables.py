"""The tables of a store of preferences and its longer questions to them, in SQL."""

from __future__ import annotations

VERSION, OURS = 1, 0x5550_5046  # of the tables; what says that a file is such a store
TABLES = """
CREATE TABLE texts (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, text TEXT NOT NULL);
CREATE TABLE problems (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, asked TEXT NOT NULL);
CREATE TABLE questions (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, problem INTEGER NOT NULL REFERENCES problems,
    name TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, wanted INTEGER NOT NULL,
    low REAL NOT NULL, high REAL NOT NULL, at REAL NOT NULL);
CREATE TABLE candidates (
    question INTEGER NOT NULL REFERENCES questions, place INTEGER NOT NULL,
    text INTEGER NOT NULL REFERENCES texts, source TEXT NOT NULL, PRIMARY KEY (question, place));
CREATE TABLE shown (
    question INTEGER NOT NULL REFERENCES questions, annotator TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (question, annotator));
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, question INTEGER NOT NULL REFERENCES questions,
    annotator TEXT NOT NULL, answer TEXT NOT NULL, why TEXT NOT NULL, at REAL NOT NULL,
    info TEXT NOT NULL, undone REAL);
CREATE UNIQUE INDEX once ON answers (question, annotator) WHERE undone IS NULL;
CREATE INDEX whose ON answers (annotator, id) WHERE undone IS NULL;
"""
# Questions that want more answers than they have: of those that stand, a skip says nothing.
OPEN = """
SELECT q.id FROM questions q WHERE q.wanted > (
    SELECT count(*) FROM answers a
    WHERE a.question = q.id AND a.undone IS NULL AND a.answer != '[]')"""
# Of these the ones that somebody never answered.
LEFT = f"""{OPEN} AND NOT EXISTS (
    SELECT 1 FROM answers a WHERE a.question = q.id AND a.annotator = :who AND a.undone IS NULL)"""
# Of these again the ones that others do not have before them, first what was shown before.
FREE = """
SELECT q.id FROM questions q WHERE NOT EXISTS (
    SELECT 1 FROM answers a WHERE a.question = q.id AND a.annotator = :who AND a.undone IS NULL)
AND q.wanted > (
    SELECT count(*) FROM answers a
    WHERE a.question = q.id AND a.undone IS NULL AND a.answer != '[]')
  + (SELECT count(*) FROM shown s
    WHERE s.question = q.id AND s.annotator != :who AND s.at > :since)
ORDER BY NOT EXISTS (SELECT 1 FROM shown s WHERE s.question = q.id AND s.annotator = :who), q.id
LIMIT 1
"""
QUESTION = """
SELECT q.key, p.asked, q.name, q.kind, q.reason, q.wanted, q.low, q.high
FROM questions q JOIN problems p ON p.id = q.problem WHERE q.id = ?
"""
CANDIDATES = """
SELECT t.text, c.source FROM candidates c JOIN texts t ON t.id = c.text
WHERE c.question = ? ORDER BY c.place
"""
LAST = """
SELECT id, question FROM answers WHERE annotator = ? AND undone IS NULL ORDER BY id DESC LIMIT 1
"""
