//! Personal data where none may be: finding it ([`scan`]), and taking a user out of a dataset ([`forget`]).
//!
//! `prepare` and the accounts reader keep personal data out; this module is how anybody can check that they do, and how
//! a user who leaves is taken out of what was made before.

mod columns;
mod forget;
mod list;
mod patterns;
mod planted;
mod scan;

pub use forget::{ForgetOptions, Forgotten, Stale, forget};
pub use list::{FORGOTTEN_FILE, ForgottenList};
pub use patterns::Kind;
pub use planted::Planted;
pub use scan::{Finding, Place, ScanOptions, scan};
