//! The catalogue in an SQLite file.
