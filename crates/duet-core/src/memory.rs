//! What the process does with memory that it frees.

/// Makes glibc keep blocks up to 32 MiB, and up to 64 MiB of free memory in all, for the next allocation.
///
/// Work in steps makes and drops blocks of megabytes, and glibc gives blocks of that size back to the system at once: page
/// faults were a third of a training step, and a fifth of `prepare`. Freeing one block just under its limit of 32 MiB is all
/// it takes (`mallopt(3)`, "dynamic mmap threshold"). Elsewhere it does nothing.
pub fn keep_freed() {
    const ALMOST_32_MIB: usize = (32 << 20) - (64 << 10);
    drop(std::hint::black_box(Vec::<u8>::with_capacity(ALMOST_32_MIB)));
}
