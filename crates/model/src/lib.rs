//! Ids, digests, states and state machines of imageops: no I/O, no clock, no async.
