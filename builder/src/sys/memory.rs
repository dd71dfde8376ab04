//! How the allocator of a process that lives long keeps what was freed.

/// Heaps that threads share: as many as there are processors on a small machine. Without a limit each thread that ever blocked gets one
/// of its own, and each keeps what was freed last in it.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// What may stay free at the end of a heap. Setting it also keeps the size from which on memory is mapped where it is, at 128 KiB: else
/// one large buffer raises it, and from then on large buffers tear holes into the heaps.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 512 << 10;

/// Makes the allocator give back what is free, instead of keeping it for every thread. To be called before there are further threads.
pub(crate) fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_ARENA_MAX, ARENAS), (libc::M_TRIM_THRESHOLD, KEPT_BYTES)] {
        // SAFETY: takes two numbers, and only changes how the allocator works; it is made to be called at any time.
        let accepted = unsafe { libc::mallopt(option, value) };
        if accepted == 0 {
            tracing::debug!(option, "the allocator keeps its own ways");
        }
    }
}
