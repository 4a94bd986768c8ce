"""Multiplies the images and jobs of a catalogue that no server has open: `multiply.py DATA_DIR IMAGES JOBS`.

Each copy is a row as the server wrote it, with an id, a time, a name and a digest of its own, its labels and tags and the place
of its bytes, which lie there.
"""

import os
import sqlite3
import sys

# Copies lie so far apart, in microseconds: a million images within a year, a hundred thousand jobs within thirty days.
IMAGE_STEP, JOB_STEP = 30_000_000, 20_000_000
# Names that one file may have; the file system has a limit of its own above it.
LINKS_MAX = 30_000

UUID = (
    "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2)"
    " || '-8' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
)


def copy(db, table, changes, source):
    """Inserts the rows of `table` that `source` joins to `copies`, with some columns changed."""
    columns = [column[1] for column in db.execute(f"PRAGMA table_info({table})")]
    values = [changes.get(column, f"{table}.{column}") for column in columns]
    db.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table} {source}")


def choose(db, table, count, step):
    """The copies that are to be made of a table's rows."""
    db.execute("DROP TABLE IF EXISTS copies")
    db.execute("CREATE TEMP TABLE copies (former TEXT, id TEXT, number INTEGER, age INTEGER)")
    former = [row[0] for row in db.execute(f"SELECT id FROM {table} ORDER BY id")]
    for start in range(0, count, 10_000):
        numbers = range(start, min(count, start + 10_000))
        rows = [(former[number % len(former)], number + 1, (number + 1) * step) for number in numbers]
        db.executemany(f"INSERT INTO copies VALUES (?, {UUID}, ?, ?)", rows)
    db.execute("CREATE INDEX copies_by_former ON copies (former)")


def aged(*columns):
    return {column: f"{column} - copies.age" for column in columns}


def link_blobs(db, blobs):
    """Gives the bytes of each copy a name of their own in the store."""
    sources = {}
    for former, new in db.execute(
        "SELECT image_replicas.blob, copies.id FROM copies JOIN image_replicas ON image_replicas.image = copies.former"
    ):
        source, links = sources.get(former, (os.path.join(blobs, former), 1))
        target = os.path.join(blobs, new)
        if links < LINKS_MAX:
            os.link(source, target)
            sources[former] = (source, links + 1)
        else:
            with open(source, "rb") as old, open(target, "wb") as made:
                made.write(old.read())
            sources[former] = (target, 1)


def main():
    data_dir, images, jobs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    db = sqlite3.connect(os.path.join(data_dir, "catalogue.sqlite"))
    # Nothing else has the file, and the machine stays up.
    db.execute("PRAGMA synchronous = OFF")
    # In KiB. Ids and digests have no order: each index is written all over, and what does not stay in memory is written anew
    # with each row.
    db.execute("PRAGMA cache_size = -4000000")

    choose(db, "images", images, IMAGE_STEP)
    link_blobs(db, os.path.join(data_dir, "store", "blobs"))
    changes = aged("create_time", "update_time")
    changes |= {"id": "copies.id", "label": "label || '-' || copies.number", "sha256": "lower(hex(randomblob(32)))"}
    joined = "JOIN copies ON copies.former = images.id"
    db.execute(
        f"UPDATE usage SET images = images + {images}, bytes = bytes + (SELECT SUM(charged_bytes) FROM images {joined})"
    )
    of_image = "JOIN copies ON copies.former = {0}.image WHERE {0}.image <> copies.id"
    copy(db, "images", changes, joined)
    # Looked at a moment ago: no scrub is due.
    copy(
        db,
        "image_replicas",
        aged("create_time", "update_time") | {"image": "copies.id", "blob": "copies.id", "verify_time": "update_time"},
        of_image.format("image_replicas"),
    )
    copy(db, "image_texts", {"image": "copies.id"}, of_image.format("image_texts"))

    choose(db, "jobs", jobs, JOB_STEP)
    changes = aged("create_time", "start_time", "update_time", "end_time")
    changes |= {"id": "copies.id", "request_id": f"CASE WHEN request_id IS NULL THEN NULL ELSE {UUID} END"}
    copy(db, "jobs", changes, "JOIN copies ON copies.former = jobs.id")
    db.commit()
    counts = [db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("images", "jobs")]
    db.close()
    print(*counts)


main()
