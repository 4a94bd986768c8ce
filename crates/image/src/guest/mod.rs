//! What is inside the guest: partitions and file systems.
