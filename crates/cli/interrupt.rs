//! Ctrl-C and SIGTERM: the first asks the work to stop where it can go on, the second ends the process.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

/// The flag a signal sets. Installs the handler at the first call; all calls share one flag.
pub(crate) fn stop_flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        let installed = ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(crate::INTERRUPTED));
            }
            eprintln!("stopping, with everything so far kept; once more to stop at once");
        });
        if let Err(error) = installed {
            tracing::warn!(%error, "Ctrl-C will end the process at once");
        }
        flag
    });
    Arc::clone(flag)
}
